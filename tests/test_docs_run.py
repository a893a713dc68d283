"""Every Python block of the pages runs, those of a page one after the other, and the site is built of them."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from documents import DOCS, PAGES, ROOT, Snippet, name, snippets
from gguf_models import write_model
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.exporting.snippets import ONNX
from remodeler.runs.records import Record, write_json
from remodeler.runs.units import Block
from tiny import TEXT, tiny_model, tiny_tokenizer, tiny_vision_model

FETCHED = re.compile(r'<(?:script|img|link|iframe|source)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"')
"""What a browser would fetch from elsewhere to show a page."""
WITH_CODE = [page for page in PAGES if snippets(page)]


def runs(snippet: Snippet) -> bool:
    return not snippet.mark.startswith("not run: ")


def write_tiny(folder: Path, seed: int) -> Path:
    """A tiny random model with its tokenizer."""
    tiny_model("llama", seed, num_hidden_layers=4, max_position_embeddings=128).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the blocks name: models, texts, answers. Hub ids are folders here."""
    folder = tmp_path_factory.mktemp("docs")
    model = write_tiny(folder / "model", 0)
    for same in ("Qwen/Qwen3-0.6B", "org/model", "pretrained"):
        shutil.copytree(model, folder / same)
    for seed, other in enumerate(("chat", "math", "large", "other"), 1):
        write_tiny(folder / other, seed)
    for small in (folder / "small", folder / "better", folder / "pruned"):
        small.mkdir()
        save_pruned(load(model, device="cpu"), [Block(1, "attention"), Block(2, "mlp")], small)
        write_record(small)
    write_model(folder / "smollm2.Q4_K_M.gguf", tiny_model("llama"), tiny_tokenizer())
    tiny_vision_model(folder / "vision-model")
    (folder / "corpus.txt").write_text("\n<|endoftext|>\n".join(f"{number} {TEXT}" for number in range(24)))
    (folder / "prompts.txt").write_text("the cat\nthe dog\n")
    (folder / "questions.jsonl").write_text('{"query": "the cat sat on", "choices": ["the mat", "a log"], "gold": 0}\n')
    for file, answer in (("outputs.json", "Yes."), ("baseline.json", "Yes, certainly.")):
        (folder / file).write_text(json.dumps([{"instruction": "Is it?", "output": answer, "generator": file}]))
    return folder


def write_record(folder: Path) -> None:
    """A record as of a verb, for pages that show many."""
    results = {"checkpoints": [{"name": folder.name, "parameters": 1, "perplexity": 2.0}]}
    write_json(folder / "record.json", asdict(Record("evaluate", {}, {}, 0, results=results)))


def few_rows(name: str, *_: Any, **__: Any) -> list[dict[str, str]]:
    """Instead of a data set of the Hub."""
    keys = ("instruction", "output") if "alpaca" in name else ("text",)
    return [{key: f"{number} {key}: {TEXT[:200]}" for key in keys} for number in range(110)]


def written(code: str) -> list[str]:
    """Names that a block writes to: they must not be there."""
    return re.findall(r'(?:save\(|out=|recover\(\w+, |recover\("small", )"([^"]+)"', code)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in WITH_CODE if any(map(runs, snippets(page)))], ids=name)
def test_python_blocks_run(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("remodeler.data.hub.load", few_rows)
    monkeypatch.setattr("remodeler.data.sources.load", few_rows)
    names: dict[str, Any] = {"__name__": "__main__"}
    for snippet in filter(runs, snippets(page)):
        for place in written(snippet.code):
            shutil.rmtree(tmp_path / place, ignore_errors=True)
        exec(compile("\n" * (snippet.line - 1) + snippet.code, str(page), "exec"), names)


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    """The comment above a block is ``not run:`` with a reason."""
    assert all(not each.mark or len(each.mark) > len("not run: ") + 10 for each in snippets(page))


def test_the_guide_shows_the_lines_of_a_graphs_card() -> None:
    """These lines run where ONNX Runtime is installed, by the test of the card."""
    assert ONNX.strip() in [each.code.strip() for each in snippets(DOCS / "guides" / "export.md")]


# The site -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """The script that writes the page of the command line."""
    spec = importlib.util.spec_from_file_location("command_line_page", ROOT / "scripts" / "command_line_page.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_has_every_verb_and_option(hook: ModuleType) -> None:
    page = hook.on_page_markdown((DOCS / "reference" / "cli.md").read_text(encoding="utf-8"))
    verbs = hook.commands()
    assert {"prune", "cut", "align evolve", "audit run", "publish"} <= {verb.name for verb in verbs}
    assert [verb for verb in verbs if f"\n## remodel {verb.name}\n" not in page] == []
    sections = dict(zip([verb.name for verb in verbs], page.split("\n## ")[1:], strict=True))
    missing = [
        (verb.name, option)
        for verb in verbs
        for parameter in verb.options
        for option in parameter.names
        if f"`{option}`" not in sections[verb.name]
    ]
    assert missing == []


def test_defaults_on_the_command_line_page_are_those_of_the_code(hook: ModuleType) -> None:
    prune = next(verb for verb in hook.commands() if verb.name == "prune")
    found = {parameter.names[0]: parameter for parameter in prune.options}
    assert (found["--samples"].kind, found["--samples"].default) == ("integer", "`256`")
    assert (found["--out"].kind, found["--out"].required) == ("path", True)
    assert (found["--protect"].kind, found["--protect"].default) == ("", "`--protect`")


def test_another_source_of_options_needs_another_list_only(hook: ModuleType) -> None:
    option = hook.Parameter(("--ratio",), "text", "Share [of] a | b", "`25%`", panel="How much")
    page = hook.reference([hook.Command("trim", "Trim it.", (), (option,))])
    assert "## remodel trim" in page
    assert r"| `--ratio` | text | `25%` | Share \[of] a \| b |" in page


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    for page in PAGES:
        if page.is_relative_to(DOCS):
            text = (tmp_path / page.relative_to(DOCS)).with_suffix(".html").read_text(encoding="utf-8")
            assert FETCHED.findall(text) == [], page

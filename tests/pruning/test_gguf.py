"""A GGUF file pruned: to a folder, and to a GGUF file whose bytes are those of the source less the blocks that went."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader

import remodeler as rm
from commands import invoke
from gguf_models import parts_of, write_model, write_split
from llama_cpp_reference import logits as computed_by_llama_cpp
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import in_memory
from remodeler.errors import InputError
from remodeler.model.files.gguf.header import read_header
from remodeler.pruning import job
from remodeler.pruning.config import PruneConfig
from remodeler.pruning.gguf import refuse_file
from remodeler.runs.options import build
from remodeler.runs.records import load_record
from remodeler.runs.removals import read_changes
from remodeler.runs.units import Block
from tiny import TEXT, tiny_model, tiny_tokenizer

SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64}
TOKENS = list(range(3, 27))
GIVEN = ["--texts", "texts.txt", "--samples", "8", "--length", "16"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text(TEXT)
    return tmp_path


def quantised(name: str = "whole.gguf", family: str = "llama", kind: str = "Q4_0", **options: Any) -> Path:
    return write_model(Path(name), tiny_model(family, **SMALL, **options), tiny_tokenizer(), GGMLQuantizationType[kind])


def remodel(*words: object) -> str:
    """What a command says that works."""
    ended = invoke(words)
    assert ended.exit_code == 0, ended.stderr
    return ended.output


def refused(*words: object) -> str:
    ended = invoke(words)
    assert (ended.exit_code, ended.stderr.count("remodel: ")) == (2, 1), ended.stderr
    return ended.stderr


def removed(folder: str) -> list[Block]:
    return [Block.parse(name) for name in load_record(Path(folder)).results["removed"]]


@torch.no_grad()
def without(checkpoint: Checkpoint, gone: list[Block]) -> np.ndarray:
    """Logits of a model in memory without some blocks."""
    with in_memory(checkpoint.anatomy, gone, {}, masks=False):
        found: np.ndarray = checkpoint.model(torch.tensor([TOKENS])).logits[0].numpy()
    return found


# Files ----------------------------------------------------------------------------------------------------------------


def test_what_is_left_keeps_its_bytes_and_computes_what_the_search_measured() -> None:
    source = quantised()
    said = remodel("prune", source, *GIVEN, "--remove", 3, "--out", "small.gguf")
    assert "small.gguf: the model; small.gguf.run: report.html, removals.jsonl, record.json" in said
    gone = removed("small.gguf.run")
    found = computed_by_llama_cpp(Path("small.gguf"), TOKENS)
    assert np.allclose(found, without(load(source), gone), atol=1e-4)
    whole = {each.data.tobytes() for each in GGUFReader(source).tensors}
    for raw in GGUFReader("small.gguf").tensors:
        stand_in = not raw.data.any() or (raw.data == 1).all()
        turned = ".attn_q." in raw.name or ".attn_k." in raw.name
        assert stand_in or turned or raw.data.tobytes() in whole, raw.name


def test_export_with_the_log_writes_the_same_file() -> None:
    source = quantised()
    remodel("prune", source, *GIVEN, "--remove", 2, "--out", "small.gguf")
    remodel("export", "--gguf", source, "--removals", "small.gguf.run", "--out", "again.gguf")
    assert Path("again.gguf").read_bytes() == Path("small.gguf").read_bytes()


def test_whole_layers_leave_a_file_that_is_read_here_too() -> None:
    source = quantised()
    remodel("prune", source, *GIVEN, "--remove", 1, "--unit", "layer", "--out", "small.gguf")
    small = load("small.gguf")
    assert small.model.config.num_hidden_layers == 3
    with torch.no_grad():
        found = small.model(torch.tensor([TOKENS])).logits[0].numpy()
    assert np.array_equal(found, without(load(source), removed("small.gguf.run")))


def test_a_split_set_becomes_one_file() -> None:
    keys, tensors = parts_of(tiny_model("llama", **SMALL), tiny_tokenizer(), GGMLQuantizationType.Q8_0)
    first = write_split(Path(), 3, keys, tensors)[0]
    quantised(kind="Q8_0")
    for name, source in (("one.gguf", "whole.gguf"), ("parts.gguf", first)):
        remodel("prune", source, *GIVEN, "--remove", 2, "--out", name)
    assert Path("one.gguf").read_bytes() == Path("parts.gguf").read_bytes()


def test_the_record_says_what_the_source_is_stored_in() -> None:
    source = quantised()
    remodel("prune", source, *GIVEN, "--remove", 1, "--out", "small.gguf")
    told = load_record(Path("small.gguf.run"))
    stored = told.inputs["model"]["gguf"]["stored"]
    assert set(stored) == {"Q4_0", "F32"}
    assert told.results["form"] == "gguf"
    assert told.results["dense"]["weight_bytes"] == sum(stored.values())
    written = sum(raw.data.nbytes for raw in read_header(Path("small.gguf")).tensors.values())
    assert told.results["pruned"]["weight_bytes"] == written
    card = Path("small.gguf.run/README.md").read_text()
    assert "llama-cli -m path/to/this/file.gguf" in card
    assert "llama-cli -m small.gguf" in Path("small.gguf.run/report.html").read_text()


# Folders --------------------------------------------------------------------------------------------------------------


def test_a_file_and_its_folder_are_pruned_alike() -> None:
    source = quantised()
    checkpoint = load(source)
    checkpoint.model.save_pretrained("folder")
    checkpoint.tokenizer.save_pretrained("folder")
    for name in (source, "folder"):
        remodel("prune", name, *GIVEN, "--remove", 3, "--out", f"{Path(name).stem}-small")
    assert removed("whole-small") == removed("folder-small")
    one, two = (Path(f"{name}-small/model.safetensors").read_bytes() for name in ("whole", "folder"))
    assert one == two


def test_a_log_is_cut_with_the_file_and_with_the_folder_that_it_converts_to() -> None:
    source = quantised()
    remodel("prune", source, *GIVEN, "--remove", 3, "--out", "small")
    checkpoint = load(source)
    checkpoint.model.save_pretrained("folder")
    checkpoint.tokenizer.save_pretrained("folder")
    remodel("cut", "small", source, "--remove", 1, "--out", "one")
    remodel("cut", "small", "folder", "--remove", 1, "--out", "two")
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()
    remodel("cut", "small", source, "--remove", 1, "--out", "one.gguf")
    remodel("export", "one", "--out", "two.gguf")
    assert Path("one.gguf").read_bytes() == Path("two.gguf").read_bytes()


def test_layers_from_the_disk_end_in_the_same_file() -> None:
    source = quantised()
    for name, more in (("whole", ["--search", "exact"]), ("streamed", ["--stream"])):
        remodel("prune", source, *GIVEN, "--remove", 2, *more, "--out", f"{name}.small.gguf")
    assert Path("whole.small.gguf").read_bytes() == Path("streamed.small.gguf").read_bytes()


# Export ---------------------------------------------------------------------------------------------------------------


def test_export_knows_which_file_a_folder_was_pruned_from(messages: pytest.LogCaptureFixture) -> None:
    source = quantised()
    remodel("prune", source, *GIVEN, "--remove", 2, "--out", "small")
    said = remodel("export", "small", "--out", "known.gguf")
    assert "small was pruned from whole.gguf: it is cut out of that" in said
    remodel("export", "--gguf", source, "--removals", "small", "--out", "told.gguf")
    assert Path("known.gguf").read_bytes() == Path("told.gguf").read_bytes()
    assert load_record_of("known.gguf")["inputs"]["gguf"]["name"] == "whole.gguf"


def load_record_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{name}.record.json").read_text())
    return found


def test_export_stores_anew_where_that_is_asked_for_or_the_file_is_another() -> None:
    source = quantised()
    remodel("prune", source, *GIVEN, "--remove", 2, "--out", "small")
    assert "cut out of that" not in remodel("export", "small", "--store", "f32", "--out", "asked.gguf")
    assert {raw.kind.name for raw in read_header(Path("asked.gguf")).tensors.values()} == {"F32"}
    quantised("other.gguf", seed=1)
    Path("other.gguf").replace(source)
    said = remodel("export", "small", "--out", "changed.gguf")
    assert "whole.gguf, which it was pruned from, is not there any more" in said
    source.unlink()
    assert "is not there any more" in remodel("export", "small", "--out", "gone.gguf")


def test_a_tokenizer_is_copied_from_the_file_that_it_is_of() -> None:
    """Its way to cut words has a name in llama.cpp, which the tokenizer that is made of it may not show."""
    source = quantised()
    remodel("export", source, "--store", "q8_0", "--out", "again.gguf")
    one, two = read_header(source).keys, read_header(Path("again.gguf")).keys
    words = [name for name in one if name.startswith("tokenizer.")]
    assert [two[name].packed for name in words] == [one[name].packed for name in words]


# Kills ----------------------------------------------------------------------------------------------------------------

WORDS = ["prune", "whole.gguf", *GIVEN, "--remove", "2", "--out", "small.gguf"]


def from_python() -> Any:
    return rm.prune("whole.gguf", "small.gguf", texts="texts.txt", samples=8, length=16, remove=2)


def test_a_kill_before_the_file_comes_to_its_place_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quantised()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(job, "place_file", killed)
        with pytest.raises(KeyboardInterrupt):
            from_python()
    assert not Path("small.gguf").exists()
    assert "holds small.gguf of other options" in refused(*WORDS[:-3], "3", *WORDS[-2:])
    with monkeypatch.context() as patched:
        patched.setattr(job, "prepare", killed)  # all is done
        remodel(*WORDS)
    made = Path("small.gguf").read_bytes()
    assert not Path("small.gguf.run/small.gguf").exists()
    remodel(*WORDS[:-1], "never.gguf")
    assert Path("never.gguf").read_bytes() == made


def test_a_kill_in_the_work_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    quantised()

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("remodeler.pruning.complete.write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            from_python()
    log = Path("small.gguf.run.partial/removals.jsonl")
    assert len(read_changes(log)[1]) == 2
    assert "going on with" in remodel(*WORDS)
    remodel(*WORDS[:-1], "never.gguf")
    assert Path("never.gguf").read_bytes() == Path("small.gguf").read_bytes()


# Python and errors ----------------------------------------------------------------------------------------------------


def test_from_python() -> None:
    source = quantised()
    found = rm.prune(load(source), "small.gguf", texts="texts.txt", samples=8, length=16, remove=2)
    assert Path("small.gguf").is_file()
    assert found.removed == removed("small.gguf.run")
    with pytest.raises(InputError, match=r"again\.gguf names a GGUF file, a folder was expected"):
        found.save("again.gguf")


def test_what_can_not_end_in_a_file_is_refused_before_the_search() -> None:
    source, gemma = quantised(), quantised("gemma.gguf", "gemma2")
    untied = quantised("untied.gguf", "qwen3")
    checkpoint = load(source)
    checkpoint.model.save_pretrained("folder")
    rows: list[tuple[list[object], str]] = [
        (["folder"], "--out x.gguf names a GGUF file, which is cut out of another one"),
        ([gemma], "is of the architecture 'gemma2', llama.cpp leaves out blocks of llama, qwen2, qwen3 only"),
        ([untied], "blocks of a Qwen3 with tied embeddings only"),
        ([source, "--form", "packed"], "--form packed was given, and x.gguf is a GGUF file"),
        ([source, "--then", "width"], "heads and channels can't be taken out of a GGUF file"),
    ]
    for words, told in rows:
        given = ["prune", *words, *GIVEN, "--ratio", "20%", "--out", "x.gguf"]
        assert told in refused(*given), words
    config = build(PruneConfig, {"model": str(source), "out": Path("x.gguf"), "remove": 1, "push_to_hub": "me/x"})
    with pytest.raises(InputError, match=r"`push_to_hub` sends folders, and x\.gguf is a GGUF file"):
        refuse_file(config, whole=False)
    Path("x.gguf").touch()
    assert "x.gguf exists already" in refused("prune", source, *GIVEN, "--remove", "1", "--out", "x.gguf")


def test_an_untied_qwen3_loses_whole_layers() -> None:
    source = quantised("untied.gguf", "qwen3")
    remodel("prune", source, *GIVEN, "--remove", 1, "--unit", "layer", "--out", "small.gguf")
    assert load("small.gguf").model.config.num_hidden_layers == 3


def test_nothing_is_lost_on_the_way(caplog: pytest.LogCaptureFixture) -> None:
    """A folder pruned from a file is trained and measured like any other."""
    quantised()
    with caplog.at_level(logging.WARNING):
        remodel("prune", "whole.gguf", *GIVEN, "--remove", 1, "--out", "small")
        told = remodel("evaluate", "small", "--against", "whole.gguf", "--texts", "texts.txt", "--no-speed")
    assert "whole.gguf" in told

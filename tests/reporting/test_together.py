"""One page from many records: what is on it, that nothing is fetched, and that its script runs."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from remodeler.cli.results import results_of
from remodeler.errors import InputError
from remodeler.reporting.together import entries, measured_checkpoints, memory, names, render, write_together
from remodeler.runs.records import Record, save_record

ASKED = {"context": 8000, "batch": 2}
BROWSER = shutil.which("chromium")


def made(folder: Path, verb: str = "prune", model: str = "source", **results: Any) -> Path:
    folder.mkdir(parents=True)
    save_record(folder, Record(verb, {"out": folder.name}, {"model": {"name": model}}, 1, {}, results))
    return folder


def figures(parameters: int, perplexity: float) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "heldout_perplexity": perplexity,
        "weight_bytes": 4 * parameters,
        "kv_bytes_per_token": 1000,
    }


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    one = made(
        tmp_path / "a" / "blocks", dense=figures(1000, 8.0), pruned=figures(800, 9.0), removed=["mlp.1"], layers=3
    )
    lines = [
        {"step": 0, "perplexity": 8.0, "parameters": 1000},
        {"step": 1, "perplexity": 9.0, "parameters": 800, "removed": ["mlp.1"]},
    ]
    (one / "removals.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    two = made(tmp_path / "b" / "blocks", dense=figures(1000, 8.0), pruned=figures(700, 9.5))
    three = made(tmp_path / "<i>fused", "fuse", "other", student=figures(10, 5.0), fused=figures(10, 4.0))
    return [one, two, three]


def test_names_are_as_long_as_they_must_be(folders: list[Path]) -> None:
    assert names(folders[:1]) == ["blocks"]
    assert names(folders[:2]) == ["a/blocks", "b/blocks"]
    with pytest.raises(InputError, match="given twice"):
        names([folders[0], folders[0]])


def test_a_source_is_listed_once_and_every_result_after_it(folders: list[Path]) -> None:
    assert [name for name, _ in measured_checkpoints(entries(folders, results_of))] == [
        "source",
        "a/blocks",
        "b/blocks",
        "other",
        f"{folders[2].parent.name}/<i>fused",
    ]


def test_memory_is_that_of_weights_and_cache(folders: list[Path]) -> None:
    row = memory(measured_checkpoints(entries(folders, results_of)))[1]
    assert (row["weights"], row["cache"]) == (3200, 1000)
    assert row["cache_text"] == "4.10 MB"


def test_the_page_says_it_all_and_fetches_nothing(folders: list[Path], tmp_path: Path) -> None:
    page = render(entries(folders, results_of), tmp_path / "page.html")
    assert "&lt;i&gt;fused" in page
    assert "<i>fused" not in page
    assert 'class="tradeoffs"' in page
    assert "removed at step" in page
    assert not re.search(r'(?:src|href)="?https?:', page)
    assert page == render(entries(folders, results_of), tmp_path / "page.html"), "the same bytes"


def test_what_is_refused(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_together(folders, tmp_path / "page.html", results_of)
    with pytest.raises(InputError, match="record"):
        write_together([tmp_path], tmp_path / "new.html", results_of)
    assert not (tmp_path / "new.html").exists()


@pytest.mark.browser
def test_the_script_computes_memory_for_another_context(folders: list[Path], tmp_path: Path) -> None:
    page = write_together(folders, tmp_path / "page.html", results_of)
    values = "".join(f'document.getElementById("{name}").value = {value};' for name, value in ASKED.items())
    page.write_text(page.read_text().replace("</body>", f"<script>{values} told();</script></body>"))
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        f"--user-data-dir={tmp_path}/u",
    ]
    drawn = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120).stdout
    assert "16.0 MB" in drawn
    assert "8,000 tokens and 2 texts" in drawn
    assert 'class="no-script"' not in drawn

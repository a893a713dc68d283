"""The report page: every number that was given is on it, it stands alone, and it is the same for the same input."""

import json
import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pages import BROWSER, HOSTILE, QUIET, Page, assert_stands_alone, page_of
from remodeler.errors import InputError
from remodeler.evaluation.results import EvaluateResults
from remodeler.pruning.results import PruneResults
from remodeler.reporting.figures import change, decimal
from remodeler.reporting.page import write_report
from remodeler.runs.records import Record, append_line, save_record

LAYERS, STEPS, CHOSEN = 12, 8, 6
PARAMETERS = {"attention": 65_537, "mlp": 196_613}
Step = dict[str, Any]


def prune_page(record: Record, steps: Sequence[Step]) -> str:
    return page_of(record, PruneResults, removals=steps)


def evaluate_page(record: Record) -> str:
    return page_of(record, EvaluateResults)


def importance(layer: int, kind: str, step: int) -> float:
    """Ends matter most, and more the more is gone."""
    ends = math.exp(-layer) + math.exp(layer - LAYERS)
    return 9.5 + 0.037 * layer + (ends + 0.4 * (kind == "mlp")) * (3 + step)


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    left = {f"{kind}.{layer}": (layer, kind) for layer in range(LAYERS) for kind in PARAMETERS}
    lines: list[Step] = [
        {"step": 0, "perplexity": 9.4371, "parameters": 5_264_064, "candidates": len(left), "seconds": 1.25}
    ]
    lines[0] |= {"model": {"path": "stories"}, "texts": {"name": "tales", "samples": 257}, "options": {"unit": "block"}}
    for step in range(1, STEPS + 1):
        scores = {name: importance(*block, step) for name, block in left.items()}
        gone = min(scores, key=lambda name: scores[name])
        parameters = lines[-1]["parameters"] - PARAMETERS[left.pop(gone)[1]]
        line = {"step": step, "removed": [gone], "importance": scores, "perplexity": scores[gone]}
        lines.append(line | {"parameters": parameters, "seconds": 3.5 - step / 8})
    return lines


@pytest.fixture(scope="module")
def record(steps: list[Step]) -> Record:
    dense: Step = {
        "parameters": 5_264_064,
        "perplexity": 9.4371,
        "heldout_perplexity": 10.412,
        "weight_bytes": 21_056_256,
    }
    dense |= {"kv_bytes_per_token": 12_288, "decode": {"median": 412.3, "low": 398.1, "high": 420.9}}
    pruned: Step = {"parameters": steps[CHOSEN]["parameters"], "heldout_perplexity": 12.987, "weight_bytes": 18_000_123}
    pruned |= {"kv_bytes_per_token": 6_144, "decode": {"median": 561.8, "low": 540.2, "high": 570.5}}
    removed = [name for line in steps[1 : CHOSEN + 1] for name in line["removed"]]
    results = {
        "dense": dense,
        "pruned": pruned,
        "removed": removed,
        "layers": LAYERS,
        "form": "packed",
        "seconds": 22.4,
    }
    results["check"] = {"max_difference": 0.0, "cached": True}
    options = {"ratio": 0.25, "samples": 257, "out": "small model", "shape": None, "trust_remote_code": True}
    inputs = {"model": {"path": "models/stories", "sha256": "3f9c1a77"}, "texts": {"name": "tales", "windows": 118}}
    return Record("prune", options, inputs, 7, {"torch": "2.13.0", "python": "3.11.9"}, results)


@pytest.fixture(scope="module")
def html(record: Record, steps: list[Step]) -> str:
    return prune_page(record, steps)


@pytest.fixture(scope="module")
def evaluated() -> Record:
    first: Step = {"name": "big", "perplexity": 10.41, "bits_per_byte": 0.8431, "parameters": 7_241_732_096}
    first |= {"weight_bytes": 14_483_464_192, "kv_bytes_per_token": 131_072}
    first |= {"prefill": {"median": 9120.0, "low": 8801.0, "high": 9333.0}}
    first["tasks"] = {"arc": {"acc": 0.4125, "acc_norm": 0.3981, "stderr": 0.0123}}
    second = {"name": "small", "perplexity": 12.49, "tasks": {"arc": {"acc": 0.4011}, "swag": {"acc_norm": 0.2871}}}
    return Record("evaluate", {"against": "small"}, {"model": "big"}, 0, {}, {"checkpoints": [first, second]})


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_prune_page_holds_every_number_given(html: str, record: Record, steps: list[Step]) -> None:
    words = set(re.split(r"[\s()]+", Page(html).text))
    given = set(numbers([record.results["dense"], record.results["pruned"], steps])) - {412.3, 561.8}
    assert {decimal(value) for value in given} <= words
    assert {"412", "562", "22.4", "0.25", "257", "3f9c1a77", "2.13.0", "118"} <= words  # a speed has three digits


def test_evaluate_page_holds_every_number_given(evaluated: Record) -> None:
    page = Page(evaluate_page(evaluated))
    for value in numbers(evaluated.results):
        assert decimal(value) in page.text
    assert "7.24 B" in page.text
    assert "14.5 GB" in page.text
    assert "0.4125 ± 0.0123" in page.text
    assert change(10.41, 12.49) == "+20.0%"
    assert "+20.0%" in page.text
    assert_stands_alone(page)


def test_one_checkpoint_has_no_change_column(evaluated: Record) -> None:
    alone = replace(evaluated, results={"checkpoints": evaluated.results["checkpoints"][:1]})
    assert "change" in Page(evaluate_page(evaluated)).text
    assert "change" not in Page(evaluate_page(alone)).text


def test_page_stands_alone_and_describes_its_figures(html: str) -> None:
    page = Page(html)
    assert_stands_alone(page)
    assert {"svg", "title", "desc", "caption", "th", "figcaption"} <= page.tags
    assert not re.search(r"url\((?!#)|@import", html)


def test_figures_are_whole_svg(html: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(figures) == 2
    for figure in figures:
        ElementTree.fromstring(re.sub(r"xlink:", "", figure))
        assert "var(--accent)" in figure or "var(--heat)" in figure
        assert "#00000" not in figure  # every placeholder colour became a variable


def test_heat_map_has_a_cell_a_candidate_and_outlines_the_removed(html: str) -> None:
    heat = re.findall(r'<svg style="[^"]*" class="heat".*?</svg>', html, flags=re.DOTALL)[0]
    cells = len(re.findall(r"fill: var\(--(?:heat|gain)\)", heat))
    assert cells == sum(2 * LAYERS - step for step in range(STEPS))
    assert heat.count("stroke: var(--mark)") == STEPS


def test_block_map_numbers_the_removed_blocks(html: str) -> None:
    table = re.findall(r'<table class="map">.*?</table>', html, flags=re.DOTALL)[0]
    assert re.findall(r"removed at step </span>(\d+)", table)
    assert table.count('class="removed"') == CHOSEN
    assert table.count('class="kept"') == 2 * LAYERS - CHOSEN


def test_command_and_loading(html: str, record: Record) -> None:
    text = Page(html).text
    expected = "remodel prune models/stories --ratio 0.25 --samples 257 --out 'small model' --trust-remote-code"
    assert expected in text
    assert "import remodeler.packed" in text
    assert "from_pretrained('small model')" in text
    stock = replace(record, results=record.results | {"form": "stock", "command": "remodel prune x --ratio 1"})
    assert "import remodeler.packed" not in prune_page(stock, [])
    assert "remodel prune x --ratio 1" in Page(prune_page(stock, [])).text


def test_layer_units_and_other_kinds_of_block() -> None:
    units = {f"attention.{layer}+mlp.{layer}": 10.0 + layer for layer in range(3)}
    line = {"step": 1, "removed": ["attention.0", "mlp.0"], "importance": units, "perplexity": 10.0, "parameters": 90}
    intact = {"step": 0, "perplexity": 9.0, "parameters": 100}
    page = prune_page(Record("prune", {}, {}, 0), [intact, line])
    assert page.count('class="removed"') == 3
    assert "attention + MLP" in page
    other = prune_page(Record("prune", {}, {}, 0), [intact, line | {"importance": {"decoder.cross.1": 9.5}}])
    assert "decoder.cross" in other


# What may go wrong --------------------------------------------------------------------------------------------------


def test_any_key_may_be_missing(record: Record, steps: list[Step]) -> None:
    some: list[list[Step]] = [[], steps[:1], steps[:2], [{"removed": line.get("removed")} for line in steps], [{}]]
    for log in some:
        Page(prune_page(Record("prune", {}, {}, 0), log))
    for key in record.results:
        rest = {name: each for name, each in record.results.items() if name != key}
        Page(prune_page(replace(record, results=rest), [{key: 1} for key in ("step", "perplexity")]))
    for key in steps[1]:
        Page(prune_page(record, [{name: each for name, each in line.items() if name != key} for line in steps[:2]]))
    odd: list[Step] = [
        {"dense": {}},
        {"pruned": {"decode": {}}},
        {"checkpoints": [{}]},
        {"checkpoints": []},
        {"x": [1, "a"]},
    ]
    for results in odd:
        Page(prune_page(Record("prune", {}, {}, 0, {}, results), []))
        Page(evaluate_page(Record("evaluate", {}, {}, 0, {}, results)))


def test_hostile_words_are_escaped(record: Record, steps: list[Step]) -> None:
    intact, first = steps[0] | {"model": {HOSTILE: HOSTILE}}, steps[1] | {"removed": [HOSTILE]}
    first["importance"] = first["importance"] | {f"{HOSTILE}.3": 11.0}
    hostile = replace(record, verb=HOSTILE, options={HOSTILE: HOSTILE}, inputs={"model": HOSTILE, HOSTILE: HOSTILE})
    hostile = replace(
        hostile, versions={HOSTILE: HOSTILE}, results=record.results | {"form": HOSTILE, "auto_class": HOSTILE}
    )
    page = Page(prune_page(hostile, [intact, first]))
    assert_stands_alone(page)
    assert HOSTILE in page.text
    checkpoint = {"name": HOSTILE, "perplexity": 3, "tasks": {HOSTILE: {HOSTILE: 1}}}
    assert_stands_alone(Page(evaluate_page(Record("evaluate", {}, {}, 0, {}, {"checkpoints": [checkpoint]}))))


def test_same_input_gives_the_same_bytes(html: str, record: Record, steps: list[Step]) -> None:
    assert html == prune_page(Record(**json.loads(json.dumps(asdict(record)))), json.loads(json.dumps(steps)))
    assert html != prune_page(record, steps[:-1])  # the control


def test_write_report_reads_the_folder(tmp_path: Path, html: str, record: Record, steps: list[Step]) -> None:
    with pytest.raises(InputError, match=r"record\.json"):
        write_report(tmp_path, PruneResults)
    save_record(tmp_path, record)
    assert write_report(tmp_path, PruneResults).read_text(encoding="utf-8") == prune_page(record, [])
    for line in steps:
        append_line(tmp_path / "removals.jsonl", line)
    assert write_report(tmp_path, PruneResults).read_text(encoding="utf-8") == html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["record.json", "removals.jsonl", "report.html"]


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("wide", [1200, 500])
def test_browser_draws_the_page(tmp_path: Path, html: str, wide: int) -> None:
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    assert BROWSER is not None
    flags = [
        f"--{flag}" for flag in (*QUIET.split(), f"user-data-dir={tmp_path / 'profile'}", f"window-size={wide},900")
    ]
    picture, page = tmp_path / "page.png", (tmp_path / "report.html").as_uri()
    subprocess.run([BROWSER, *flags, f"--screenshot={picture}", page], check=True, capture_output=True, timeout=60)
    head = picture.read_bytes()
    assert int.from_bytes(head[16:20]) == wide
    assert len(head) > 20_000  # an empty page is a tenth of that

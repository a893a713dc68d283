"""The removal log as a reader sees it."""

import re
from typing import Any

from pages import page_of
from remodeler.pruning.results import PruneResults
from remodeler.reporting.steps import (
    block_map,
    chosen_step,
    curve_points,
    known_blocks,
    removal_steps,
    step_rows,
    steps_with_widths,
    width_map,
)
from remodeler.runs.records import Record
from remodeler.runs.removals import LogLine

LINES: list[dict[str, Any]] = [
    {"step": 0, "perplexity": 5.0, "parameters": 200},
    {"step": 1, "removed": ["mlp.1"], "perplexity": 6.0, "parameters": 150, "importance": {"mlp.1": 6.0, "mlp.2": 7.0}},
    {"step": 2, "removed": ["attention.0", "mlp.0"], "perplexity": 7.5},
]
LOG = list(map(LogLine, LINES))


def test_chosen_step_is_where_the_removals_are_those_of_the_model() -> None:
    assert [chosen_step(LOG, names) for names in ([], ["mlp.1"], ["mlp.1", "attention.0", "mlp.0"])] == [0, 1, 2]
    assert chosen_step(LOG, None) == 2


def test_removals_carry_the_number_of_their_step() -> None:
    assert removal_steps(LOG, None) == {("mlp", 1): "1", ("attention", 0): "2", ("mlp", 0): "2"}
    assert removal_steps(LOG, ["mlp.1"]) == {("mlp", 1): "1"}
    assert removal_steps([], ["mlp.1", "mlp.0"]) == {("mlp", 1): "1", ("mlp", 0): "2"}


def test_known_blocks_come_from_the_record_or_the_log() -> None:
    assert known_blocks([], 4, {}) == (["attention", "mlp"], [0, 1, 2, 3])
    assert known_blocks(LOG, None, {}) == (["attention", "mlp"], [0, 1, 2])
    assert known_blocks([], None, {("decoder.mlp", 1): "1"}) == (["decoder.mlp"], [0, 1])
    assert known_blocks([], None, {}) == ([], [])


def test_block_map_breaks_deep_models_into_even_groups() -> None:
    groups = block_map(["mlp"], list(range(36)), {("mlp", 13): "4"})
    assert [len(group["layers"]) for group in groups] == [12, 12, 12]
    assert groups[1]["rows"] == [{"name": "MLP", "cells": [None, "4", *[None] * 10]}]


def test_curve_is_the_share_of_parameters_removed() -> None:
    assert curve_points(LOG) == [(0.0, 5.0), (0.25, 6.0), None]


def test_step_rows_give_the_cost_of_the_step_and_of_all() -> None:
    rows = step_rows(LOG, 1)
    assert [(row["change"], row["in_all"]) for row in rows] == [("", ""), ("+20.0%", "+20.0%"), ("+25.0%", "+50.0%")]
    assert [row["chosen"] for row in rows] == [False, True, False]


def test_swaps_are_told_and_what_was_put_back_is_kept() -> None:
    swap = {"step": 3, "removed": ["attention.1"], "restored": ["mlp.1"], "perplexity": 9.0, "parameters": 70}
    log = [*LOG, LogLine(swap)]
    left = [name for step in LOG for name in step.removed if name != "mlp.1"]
    assert chosen_step(log, [*left, "attention.1"]) == 3
    assert step_rows(log, 3)[3]["removed"] == "attention.1, mlp.1 put back"


def test_heads_and_channels_are_the_last_step_and_the_model() -> None:
    """Without them the marked point and the highlighted row would be a model that is not in the folder."""
    pruned = {"perplexity": 6.6, "parameters": 120}
    results = {"removed": ["mlp.1"], "widths": {"mlp.0": [3, 4]}, "pruned": pruned}
    page = page_of(Record("prune", {}, {}, 0, {}, results), PruneResults, removals=LINES)
    whole = steps_with_widths(LOG, 1, {"mlp.0": [3, 4]}, pruned)
    assert [(row["step"], row["removed"], row["chosen"]) for row in step_rows(whole, 2)] == [
        ("0", "", False),
        ("1", "mlp.1", False),
        ("2", "heads and channels", True),
    ]
    assert re.findall(r'class="chosen"><th scope="row">(\d)</th><td>([^<]*)', page) == [("2", "heads and channels")]
    assert "40.0% removed, perplexity 6.6" in page
    assert steps_with_widths(LOG, 1, None, {}) == LOG


def test_widths_are_shown_by_layer() -> None:
    groups = width_map({"mlp.0": [3, 4], "mlp.2": [1, 4], "attention.2": [2, 2]}, {})
    assert [group["layers"] for group in groups] == [[0, 2]]
    heads, channels = groups[0]["rows"]
    assert [cell and cell["text"] for cell in heads["cells"]] == [None, "2 of 2"]
    assert [cell["share"] for cell in channels["cells"]] == [0.75, 0.25]
    assert width_map({}, {}) == []

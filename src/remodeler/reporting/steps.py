"""The removal log as a reader sees it: the trade-off curve, the map of blocks, importances and the table of steps.

A line of the log (:class:`remodeler.runs.removals.LogLine`) is shown as far as it goes: any part may be missing. A
block's text form is ``attention.12``; a unit of several blocks joins them with ``+``. Importances are shown as the
increase of perplexity that removal would bring, relative to the step before, unless the options name another criterion:
then as they are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from remodeler.reporting.figures import change, decimal, number
from remodeler.reporting.plot_levels import level_edges, level_opacity
from remodeler.reporting.plots import Panel, heat_map_svg, tradeoff_svg
from remodeler.runs.removals import LogLine, names_gone
from remodeler.runs.units import loose_blocks

WIDEST_GROUP = 16  # layers side by side in the map
KINDS = {"attention": "attention", "mixer": "mixer", "cross": "cross-attention", "mlp": "MLP"}
OFTEN = ("attention", "mlp")
"""Kinds that nearly all models have."""
HEADS_AND_CHANNELS = "heads and channels"

Values = Mapping[str, Any]
Removed = Mapping[tuple[str, int], str]  # (kind, layer) -> the step that removed the block
Scored = Sequence[tuple[LogLine, Mapping[str, float]]]  # a step and its importances as they are coloured


def _optional(value: Any) -> str:
    return "" if number(value) is None else decimal(value)


# Blocks -------------------------------------------------------------------------------------------------------------


def _panel_name(unit: str) -> str:
    return " + ".join(dict.fromkeys(KINDS.get(kind, kind) for kind, _ in loose_blocks(unit)))


def chosen_step(steps: Sequence[LogLine], removed: Sequence[str] | None) -> int:
    """The place of the step whose removals so far are those of the model that was written: else the last one."""
    for place, gone in enumerate(names_gone(steps)):
        if removed is not None and gone == set(removed):
            return place
    return len(steps) - 1


def removal_steps(steps: Sequence[LogLine], removed: Sequence[str] | None) -> Removed:
    """The step that took each removed block; without a log, its place in the order."""
    kept = steps[: chosen_step(steps, removed) + 1]
    numbers = {name: str(step.number(place)) for place, step in enumerate(kept) for name in step.removed}
    order = list(numbers) if removed is None else [str(name) for name in removed]
    return {block: numbers.get(name, str(place)) for place, name in enumerate(order, 1) for block in loose_blocks(name)}


def known_blocks(steps: Sequence[LogLine], layers: Any, removed: Removed) -> tuple[list[str], list[int]]:
    """The kinds and layers of the model, as far as the record and the log name them."""
    units = {str(unit) for step in steps for unit in step.importance}
    seen = {block for unit in units for block in loose_blocks(unit)} | set(removed)
    if not seen and not layers:
        return [], []
    depth = max([int(number(layers) or 0), *(layer + 1 for _, layer in seen)])
    named = {kind for kind, _ in seen}
    usual = [kind for kind in KINDS if kind in named or kind in OFTEN]
    return (usual if named <= set(usual) else sorted(named)), list(range(depth))


def block_map(kinds: Sequence[str], layers: Sequence[int], removed: Removed) -> list[dict[str, Any]]:
    """Groups of layers, each with a row a kind: the step that removed the block, or None."""
    if not removed or not layers:
        return []
    wide = math.ceil(len(layers) / math.ceil(len(layers) / WIDEST_GROUP))
    groups = [layers[start : start + wide] for start in range(0, len(layers), wide)]
    return [{"layers": group, "rows": [_map_row(kind, group, removed) for kind in kinds]} for group in groups]


def _map_row(kind: str, layers: Sequence[int], removed: Removed) -> dict[str, Any]:
    return {"name": KINDS.get(kind, kind), "cells": [removed.get((kind, layer)) for layer in layers]}


def width_map(widths: Mapping[str, Sequence[int]], removed: Removed) -> list[dict[str, Any]]:
    """Groups of layers, each with a row a kind: heads or channels that were kept, of how many, and as a share."""
    counts = {block: of for name, of in widths.items() for block in loose_blocks(name)}
    layers = sorted({layer for _, layer in {*counts, *removed}}) if counts else []
    kinds = [kind for kind in KINDS if any(kind == each for each, _ in counts)]
    groups = [layers[start : start + WIDEST_GROUP // 2] for start in range(0, len(layers), WIDEST_GROUP // 2)]
    return [{"layers": group, "rows": [_width_row(kind, group, counts) for kind in kinds]} for group in groups]


def _width_row(kind: str, layers: Sequence[int], counts: Mapping[tuple[str, int], Sequence[int]]) -> dict[str, Any]:
    cells = [counts.get((kind, layer)) for layer in layers]
    return {
        "name": {"attention": "heads", "mlp": "channels"}[kind],
        "cells": [{"text": f"{of[0]} of {of[1]}", "share": of[0] / of[1]} if of else None for of in cells],
    }


# Importances --------------------------------------------------------------------------------------------------------


def _shown_importance(value: Any, before: float | None, relative: bool) -> float | None:
    importance = number(value)
    if importance is None or not relative:
        return importance
    return importance / before - 1 if before else None


def _steps_with_scores(steps: Sequence[LogLine], relative: bool) -> Iterator[tuple[LogLine, dict[str, float]]]:
    """Every step that has importances, with those importances as they are coloured."""
    for place, step in enumerate(steps):
        before = number(steps[place - 1].get("perplexity")) if place else None
        given = step.importance.items()
        shown = {str(unit): _shown_importance(value, before, relative) for unit, value in given}
        usable = {unit: value for unit, value in shown.items() if value is not None and loose_blocks(unit)}
        if usable:
            yield step, usable


def panels(scored: Scored) -> list[Panel]:
    """One panel a kind of unit, in the order in which the log names them."""
    units = list(dict.fromkeys(unit for _, values in scored for unit in values))
    return [_panel(name, scored) for name in dict.fromkeys(_panel_name(unit) for unit in units)]


def _panel(name: str, scored: Scored) -> Panel:
    values, winners = {}, set()
    for column, (step, importances) in enumerate(scored):
        for unit, value in importances.items():
            if _panel_name(unit) == name:
                place = (loose_blocks(unit)[0][1], column)
                values[place] = value
                winners |= {place} if set(unit.split("+")) <= set(step.removed) else set()
    return Panel(name, values, frozenset(winners))


def importances(steps: Sequence[LogLine], relative: bool) -> dict[str, Any] | None:
    """The heat map with its legend, and the same numbers as a table."""
    scored = list(_steps_with_scores(steps, relative))
    if not scored:
        return None
    drawn, names = panels(scored), [str(step.number(place)) for place, (step, _) in enumerate(scored, 1)]
    every = [value for panel in drawn for value in panel.values.values()]
    edges = level_edges(every)
    words = "how much perplexity rises when the block is removed" if relative else "importance of the block"
    return {
        "svg": heat_map_svg(drawn, edges, names),
        "caption": f"Colour: {words}. A column is a step of the search; a block that is gone leaves its place empty.",
        "legend": legend(edges, min(every) < 0, relative),
        "steps": names,
        "rows": _importance_rows(scored),
    }


def legend(edges: Sequence[float], negative: bool, relative: bool) -> list[dict[str, Any]]:
    """A swatch a level."""
    written = [_edge(edge, relative) for edge in edges]
    texts = [f"{low} to {high}" for low, high in pairwise(written)]
    texts = [f"under {written[0]}", *texts, f"over {written[-1]}"] if edges else ["any"]
    levels = [("heat", level_opacity(level, len(texts)), text) for level, text in enumerate(texts)]
    below = [("gain", 0.6, "below 0")] if negative else []
    return [{"name": name, "opacity": opacity, "text": text} for name, opacity, text in below + levels]


def _edge(edge: float, relative: bool) -> str:
    return f"{100 * edge:,.0f}%" if relative and edge >= 1 else f"{100 * edge:.3g}%" if relative else f"{edge:.3g}"


def _importance_rows(scored: Scored) -> list[dict[str, Any]]:
    units = sorted({unit for _, shown in scored for unit in shown}, key=lambda unit: (loose_blocks(unit)[0][1], unit))
    return [{"name": unit, "cells": [_importance_cell(unit, step) for step, _ in scored]} for unit in units]


def _importance_cell(unit: str, step: LogLine) -> tuple[str, bool]:
    return _optional(step.importance.get(unit)), set(unit.split("+")) <= set(step.removed)


# The page's part ----------------------------------------------------------------------------------------------------


def curve_points(steps: Sequence[LogLine]) -> list[tuple[float, float] | None]:
    """Share of parameters removed and perplexity, a step; None where the log lacks one."""
    whole = number(steps[0].get("parameters")) if steps else None
    pairs = [(number(step.get("parameters")), number(step.get("perplexity"))) for step in steps]
    return [(1 - left / whole, cost) if whole and left is not None and cost else None for left, cost in pairs]


def tradeoff(steps: Sequence[LogLine], chosen: int) -> str | None:
    """The trade-off curve, if the log has two points and the chosen one."""
    points = curve_points(steps)
    drawn = [point for point in points if point is not None]
    if len(drawn) < 2 or points[chosen] is None:
        return None
    return tradeoff_svg(drawn, sum(point is not None for point in points[:chosen]))


def step_rows(steps: Sequence[LogLine], chosen: int) -> list[dict[str, Any]]:
    """The table of steps, each with its cost alone and since the intact model."""
    costs = [number(step.get("perplexity")) for step in steps]
    return [
        {
            "step": str(step.number(place)),
            "removed": ", ".join([*step.removed, *(f"{name} put back" for name in step.restored)]),
            "perplexity": _optional(costs[place]),
            "change": change(costs[place - 1], costs[place]) if place else "",
            "in_all": change(costs[0], costs[place]) if place else "",
            "parameters": _optional(step.get("parameters")),
            "seconds": _optional(step.get("seconds")),
            "chosen": place == chosen and place > 0,
        }
        for place, step in enumerate(steps)
    ]


def steps_with_widths(
    steps: Sequence[LogLine], chosen: int, widths: Mapping[str, Any] | None, pruned: Values
) -> list[LogLine]:
    """The steps to the one that was written, and the heads and channels that went after it; without any, all steps."""
    if not steps or not widths:
        return list(steps)
    last = {"step": steps[chosen].number(chosen) + 1, "removed": [HEADS_AND_CHANNELS]}
    last |= {key: pruned.get(key) for key in ("perplexity", "parameters")}
    return [*steps[: chosen + 1], LogLine(last)]

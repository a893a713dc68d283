"""Tables and trade-off curves from the rows of ``quality.py``."""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import Row, spread
from measurements import Column, Table

from remodeler.reporting.plots import plot_tradeoff

METHODS = ("blockpruner", "size-weighted", "one-shot", "layer", "random", "mlp", "blockpruner*")
ORDERED = ("blockpruner", "size-weighted", "one-shot", "layer", "mlp")
COLUMNS = (0.15, 0.25, 0.35)
MEASURES = (
    ("perplexity", "perplexity (parameters removed)", "{value:~2} ({share:.1%})"),
    ("bits_per_byte", "bits per byte", "{value:~3}"),
)
GAP = "{gap:+.3f} ± {error:.3f}"
ORDER = "{method} ({share:.1%}): {blocks}"
REFERENCE = "blockpruner"
MATCHED = "blockpruner*"
OUTSIDE = ("mlp", MATCHED)
"""Explanations, not contestants: never the best of a column."""


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """All tables of one model."""
    for text in dict.fromkeys(row["text"] for row in rows):
        yield from text_tables([row for row in rows if row["text"] == text])
    yield "orders", Table((), tuple(orders(rows)), "Removal order:", line=ORDER)


def text_tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """Perplexity, bits per byte and paired differences on one text."""
    dense, text = pick(rows, "dense", 0.0)[0], rows[0]["text"]
    ratios, name = [ratio for ratio in COLUMNS if pick(rows, REFERENCE, ratio)], Path(text).stem
    for measure, words, cell in MEASURES:
        caption = f"{text}, {dense['tokens']:,} scored tokens: {words}"
        columns = columns_of(ratios, cell, words, Column("dense", "dense", cell.partition(" ")[0], words))
        cells = tuple(
            {"method": method, "dense": dense[measure], **figures(rows, method, ratios, measure)} for method in METHODS
        )
        yield f"{name}-{measure.replace('_', '-')}", Table(columns, cells, caption)
    caption = f"{text}: loss above blockpruner's, nats a token ± 2 standard errors"
    gaps = tuple(
        {"method": name} | {percent(ratio): difference(rows, name, ratio) for ratio in ratios} for name in METHODS[1:-1]
    )
    yield f"{name}-loss", Table(columns_of(ratios, GAP, "nats per token"), gaps, caption)


def columns_of(ratios: Sequence[float], cell: str, unit: str, *more: Column) -> tuple[Column, ...]:
    """A method a line, a ratio a column."""
    return (
        Column("method", "method"),
        *more,
        *(Column(percent(ratio), percent(ratio), cell, unit) for ratio in ratios),
    )


def percent(ratio: float) -> str:
    """A ratio as the name of its column."""
    return f"{ratio:.0%}"


def figures(rows: Sequence[Row], method: str, ratios: Sequence[float], measure: str) -> Row:
    """Cells of a method by ratio."""
    return {percent(ratio): cell(rows, method, ratio, measure) for ratio in ratios}


def pick(rows: Sequence[Row], method: str, ratio: float) -> list[Row]:
    """The rows of a cell: one, or one a seed."""
    return [row for row in rows if row["method"] == method and row["ratio"] == ratio]


def cell(rows: Sequence[Row], method: str, ratio: float, measure: str) -> Any:
    """A figure with what was removed, the best of its column marked; mean and range over seeds."""
    found = pick(rows, method, ratio)
    if not found:
        return None
    if found[0]["perplexity"] is None:
        return f"not reached (at most {found[0]['share']:.1%})"
    figure = spread([row[measure] for row in found], statistics.fmean)
    if method in best(rows, ratio):
        figure = (figure if isinstance(figure, dict) else {"value": figure}) | {"best": True}
    return {"value": figure, "share": statistics.fmean(row["share"] for row in found)}


def best(rows: Sequence[Row], ratio: float) -> list[str]:
    """The methods of lowest mean perplexity: several, where they removed the same."""
    means = {}
    for method in METHODS:
        found = [row["perplexity"] for row in pick(rows, method, ratio)]
        if found and None not in found and method not in OUTSIDE:
            means[method] = statistics.fmean(found)
    return [method for method, mean in means.items() if math.isclose(mean, min(means.values()), rel_tol=1e-6)]


def difference(rows: Sequence[Row], method: str, ratio: float) -> list[Row] | None:
    """Mean difference of the losses of the same windows: each seed's from blockpruner's, the layers' from its star."""
    against = pick(rows, MATCHED if method == "layer" else REFERENCE, ratio)
    found = pick(rows, method, ratio)
    if not found or not against or None in (found[0]["perplexity"], against[0]["perplexity"]):
        return None
    return [gap(row["losses"], against[0]["losses"]) for row in found]


def gap(mine: Sequence[float], theirs: Sequence[float]) -> Row:
    """Mean and two standard errors of paired differences."""
    gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
    return {"gap": statistics.fmean(gaps), "error": 2 * statistics.stdev(gaps) / math.sqrt(len(gaps))}


def orders(rows: Sequence[Row]) -> Iterator[Row]:
    """What every method removed on the way to the largest ratio, in order."""
    for method in ORDERED:
        found = [row for row in rows if row["method"] == method and row.get("removed")]
        if found:
            longest = max(found, key=lambda row: row["share"])
            yield {"method": method, "share": longest["share"], "blocks": list(map(short, longest["removed"]))}


def short(unit: str) -> str:
    """``a5`` for ``attention.5``, ``m5`` for ``mlp.5``, ``5`` for a layer."""
    return unit.partition(".")[2].partition("+")[0] if "+" in unit else unit[0] + unit.partition(".")[2]


def plot(rows: Sequence[Row], text: str, path: Path) -> None:
    """Perplexity on a text against the share removed, a curve a method; of random orders, the middle one."""
    mine = [row for row in rows if row["text"] == text and row["perplexity"] is not None]
    start = (0.0, pick(mine, "dense", 0.0)[0]["perplexity"])
    curves = {name: curve(mine, name) for name in METHODS[:4]} | {"random (median of 3)": middle(mine)}
    plot_tradeoff({name: [start, *points] for name, points in curves.items()}, path)


def curve(rows: Sequence[Row], method: str) -> list[tuple[float, float]]:
    """The points of a method, each size once."""
    return sorted({(row["share"], row["perplexity"]) for row in rows if row["method"] == method})


def middle(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """The median over the seeds at every ratio: one bad order would bend a mean out of sight."""
    ratios = sorted({row["ratio"] for row in rows if row["method"] == "random"})
    found = [pick(rows, "random", ratio) for ratio in ratios]
    return [(_median(each, "share"), _median(each, "perplexity")) for each in found]


def _median(rows: Sequence[Row], part: str) -> float:
    return float(statistics.median(row[part] for row in rows))

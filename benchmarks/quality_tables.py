"""Tables and trade-off curves from the rows of ``quality.py``."""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from remodeler.reporting.plots import plot_tradeoff

METHODS = ("blockpruner", "size-weighted", "one-shot", "layer", "random", "mlp", "blockpruner*")
ORDERED = ("blockpruner", "size-weighted", "one-shot", "layer", "mlp")
COLUMNS = (0.15, 0.25, 0.35)
MEASURES = (("perplexity", "perplexity (parameters removed)", 2), ("bits_per_byte", "bits per byte", 3))
REFERENCE = "blockpruner"
MATCHED = "blockpruner*"
OUTSIDE = ("mlp", MATCHED)
"""Explanations, not contestants: never the best of a column."""
Row = dict[str, Any]


def page(rows: Sequence[Row]) -> Iterator[str]:
    """All tables of one model, as Markdown."""
    yield f"\n## {rows[0]['model']}"
    for text in dict.fromkeys(row["text"] for row in rows):
        yield from text_tables([row for row in rows if row["text"] == text])
    yield from orders(rows)


def text_tables(rows: Sequence[Row]) -> Iterator[str]:
    """Perplexity, bits per byte and paired differences on one text."""
    dense = pick(rows, "dense", 0.0)[0]
    columns = [ratio for ratio in COLUMNS if pick(rows, REFERENCE, ratio)]
    names = [f"{ratio:.0%}" for ratio in columns]
    for measure, words, digits in MEASURES:
        yield f"\n{rows[0]['text']}, {dense['tokens']:,} scored tokens: {words}\n"
        cells = {method: [cell(rows, method, ratio, measure) for ratio in columns] for method in METHODS}
        yield from table(["dense", *names], {name: [shown(dense[measure], digits), *cells[name]] for name in METHODS})
    yield f"\n{rows[0]['text']}: loss above blockpruner's, nats a token ± 2 standard errors\n"
    yield from table(names, {name: [difference(rows, name, ratio) for ratio in columns] for name in METHODS[1:-1]})


def table(columns: Sequence[str], rows: dict[str, list[str]]) -> Iterator[str]:
    """A Markdown table, a row a method."""
    yield f"| method | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for method, cells in rows.items():
        yield f"| {method} | {' | '.join(cells)} |"


def pick(rows: Sequence[Row], method: str, ratio: float) -> list[Row]:
    """The rows of a cell: one, or one a seed."""
    return [row for row in rows if row["method"] == method and row["ratio"] == ratio]


def cell(rows: Sequence[Row], method: str, ratio: float, measure: str) -> str:
    """A figure, the best of its column in bold; mean and range over seeds."""
    found = pick(rows, method, ratio)
    if not found:
        return "–"
    if found[0]["perplexity"] is None:
        return f"not reached (at most {found[0]['share']:.1%})"
    figures = [row[measure] for row in found]
    digits = 2 if measure == "perplexity" else 3
    text = shown(statistics.fmean(figures), digits)
    if len(figures) > 1:
        text += f" [{shown(min(figures), digits)}, {shown(max(figures), digits)}]"
    text = f"**{text}**" if method in best(rows, ratio) else text
    return f"{text} ({statistics.fmean(row['share'] for row in found):.1%})" if measure == "perplexity" else text


def shown(value: float, digits: int) -> str:
    """A figure with decimals where they say something."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}f}"


def best(rows: Sequence[Row], ratio: float) -> list[str]:
    """The methods of lowest mean perplexity: several, where they removed the same."""
    means = {}
    for method in METHODS:
        found = [row["perplexity"] for row in pick(rows, method, ratio)]
        if found and None not in found and method not in OUTSIDE:
            means[method] = statistics.fmean(found)
    return [method for method, mean in means.items() if math.isclose(mean, min(means.values()), rel_tol=1e-6)]


def difference(rows: Sequence[Row], method: str, ratio: float) -> str:
    """Mean difference of the losses of the same windows: each seed's from blockpruner's, the layers' from its star."""
    against = pick(rows, MATCHED if method == "layer" else REFERENCE, ratio)
    found = pick(rows, method, ratio)
    if not found or not against or None in (found[0]["perplexity"], against[0]["perplexity"]):
        return "–"
    return "; ".join(gap(row["losses"], against[0]["losses"]) for row in found)


def gap(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """Mean and two standard errors of paired differences."""
    gaps = [a - b for a, b in zip(mine, theirs, strict=True)]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    return f"{statistics.fmean(gaps):+.3f} ± {2 * error:.3f}"


def orders(rows: Sequence[Row]) -> Iterator[str]:
    """What every method removed on the way to the largest ratio, in order."""
    yield "\nRemoval order:\n"
    for method in ORDERED:
        found = [row for row in rows if row["method"] == method and row.get("removed")]
        if found:
            longest = max(found, key=lambda row: row["share"])
            yield f"- {method} ({longest['share']:.1%}): {', '.join(map(short, longest['removed']))}"


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

"""Measurements of checkpoints side by side: what each is called, how its number is written, and the change between two.

A number may come alone, or as the median, low and high of repeated runs. Whatever is missing leaves its place empty.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

Values = Mapping[str, Any]
Measured = list[tuple[str, Values]]
"""What was measured of checkpoints, side by side: the name of each, and its numbers."""
MINUS = "\N{MINUS SIGN}"


# Numbers ------------------------------------------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """The value if it is a finite number."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def decimal(value: float) -> str:
    """Whole numbers in full, others in four digits."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def percent(ratio: float) -> str:
    """A signed change: +12.3%."""
    return f"{ratio:+.1%}".replace("-", MINUS) if abs(ratio) < 10 else f"{ratio:+,.0%}"


def change(before: float | None, after: float | None) -> str:
    """How much a number grew, relative to what it was; nothing where that has no meaning."""
    return percent(after / before - 1) if before and after is not None else ""


# Measurements -------------------------------------------------------------------------------------------------------


def difference(before: float | None, after: float | None) -> str:
    """How much a score between 0 and 1 moved, in its own unit."""
    return f"{after - before:+.4f}".replace("-", MINUS) if before is not None and after is not None else ""


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def short(value: float) -> str:
    """A count in three digits: 5.26 M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{_three_digits(value / size)} {letter}"
    return decimal(value)


def size(value: float) -> str:
    """Bytes in three digits, as all figures: 21.1 MB. ``rich.filesize`` counts decimal places, and says 12 bytes."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= power:
            return f"{_three_digits(value / power)} {unit}"
    return f"{decimal(value)} B"


def speed(value: float) -> str:
    """Tokens in a second."""
    return f"{value:,.0f} tokens/s" if value >= 100 else f"{_three_digits(value)} tokens/s"


@dataclass(frozen=True)
class Metric:
    """A key of a checkpoint's results: its words and how its number is written."""

    label: str
    written: Callable[[float], str]
    changed: Callable[[float | None, float | None], str] = change


METRICS = {
    "parameters": Metric("Parameters", short),
    "text_parameters": Metric("Parameters of the text part", short),
    "weight_bytes": Metric("Weights", size),
    "memory_bytes": Metric("Weights in memory, as computed", size),
    "kv_bytes_per_token": Metric("KV cache per token", size),
    "calibration_perplexity": Metric("Calibration perplexity", decimal),
    "perplexity": Metric("Perplexity", decimal),
    "bits_per_byte": Metric("Bits per byte", decimal),
    "heldout_perplexity": Metric("Held-out perplexity", decimal),
    "heldout_bits_per_byte": Metric("Held-out bits per byte", decimal),
    "pairs_right": Metric("Better answer is likelier", decimal, difference),
    "answer_quality": Metric("Quality of its answers", decimal, difference),
    "answer_characters": Metric("Characters of its answers", decimal),
    "answer_ended": Metric("Answers that end", decimal, difference),
    "prefill": Metric("Prefill speed", speed),
    "decode": Metric("Decode speed", speed),
}
OWN_PERPLEXITY = ("calibration_perplexity", "perplexity")
"""Perplexities that are no headline where there is one on held-out text."""
HEADLINES = ("parameters", "heldout_perplexity", *OWN_PERPLEXITY, "kv_bytes_per_token", "decode")


def by_name(checkpoints: Sequence[Values]) -> Measured:
    """What was measured of checkpoints, by the names that they hold."""
    return [(str(each.get("name", f"checkpoint {place}")), each) for place, each in enumerate(checkpoints, 1)]


def central(value: Any) -> float | None:
    """The number itself, or the median of repeated runs."""
    return number(value.get("median") if isinstance(value, Mapping) else value)


@dataclass(frozen=True)
class Tile:
    """A headline figure."""

    label: str
    value: str
    note: str = ""
    unit: str = ""


def tiles(measured: Sequence[tuple[str, Values]]) -> list[Tile]:
    """The headline figures of the last checkpoint, with those of the first for comparison."""
    if not measured:
        return []
    first, last = measured[0][1], measured[-1][1]
    keys = [key for key in HEADLINES if central(last.get(key)) is not None]
    left_out = OWN_PERPLEXITY if "heldout_perplexity" in keys else ()
    return [_tile(key, first if len(measured) > 1 else {}, last) for key in keys if key not in left_out]


def _tile(key: str, first: Values, last: Values) -> Tile:
    metric, before, after = METRICS[key], central(first.get(key)), central(last.get(key))
    assert after is not None
    note = f"from {metric.written(before)}, {change(before, after)}" if before is not None else ""
    value, _, unit = metric.written(after).partition(" ")
    return Tile(metric.label, value, note, unit)


def comparison(measured: Sequence[tuple[str, Values]]) -> dict[str, Any] | None:
    """The table of all measurements: a column a checkpoint and, for two, the change between them."""
    if not measured:
        return None
    values = [each for _, each in measured]
    rows = [_row(metric, [each.get(key) for each in values]) for key, metric in METRICS.items()]
    for label, cells in _task_rows(values):
        changed = _question_counts if label.endswith(", questions") else difference
        rows.append(_row(Metric(label, decimal, changed), cells))
    rows = [row for row in rows if any(cell["main"] for cell in row["cells"])]
    if not rows:
        return None
    return {"names": [name for name, _ in measured], "rows": rows, "changes": len(measured) == 2}


def written(drawn: Values) -> tuple[list[str], list[list[str]]]:
    """The table of a comparison as text: its head and its rows, the change in the last column."""
    rows = [[row["label"], *(cell["main"] for cell in row["cells"]), row["change"]] for row in drawn["rows"]]
    return ["", *drawn["names"], "change"], rows


def text_table(drawn: Values) -> str:
    """A comparison in lines of aligned columns."""
    names, rows = written(drawn)
    last = len(names) if drawn["changes"] else -1
    lines = [names[:last], *(row[:last] for row in rows)]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    cells = [[line[0].ljust(first), *map(str.rjust, line[1:], others)] for line in lines]
    return "\n".join("  ".join(each).rstrip() for each in cells)


def _row(metric: Metric, values: Sequence[Any]) -> dict[str, Any]:
    numbers = [central(value) for value in values]
    cells = [_cell(metric, value) for value in values]
    return {"label": metric.label, "cells": cells, "change": metric.changed(numbers[0], numbers[-1])}


def _cell(metric: Metric, value: Any) -> dict[str, str]:
    middle = central(value)
    if middle is None:
        return {"main": "", "note": ""}
    main = metric.written(middle)
    if isinstance(value, Mapping):
        return {"main": main, "note": _spread(value)}
    exact = decimal(middle)
    return {"main": main, "note": "" if main.split()[0] == exact else exact}


def _spread(value: Values) -> str:
    if (error := number(value.get("stderr"))) is not None:
        return f"± {decimal(error)}"
    low, high = number(value.get("low")), number(value.get("high"))
    return f"{decimal(low)} to {decimal(high)}" if low is not None and high is not None else ""


def task_name(task: str) -> str:
    """A task's name, or that of the local file it was read from."""
    return PurePath(task).stem if task.endswith((".json", ".jsonl")) else task


def _question_counts(before: float | None, after: float | None) -> str:
    """Numbers of questions differ only where something went wrong."""
    return "" if before == after else difference(before, after)


def _task_rows(values: Sequence[Values]) -> Iterator[tuple[str, list[Any]]]:
    """A row a task and measure; the standard error stands beside the measure it belongs to."""
    tasks = [each.get("tasks") or {} for each in values]
    for task in dict.fromkeys(name for each in tasks for name in each):
        scores = [each.get(task) or {} for each in tasks]
        for measure in dict.fromkeys(name for each in scores for name in each if not name.endswith("stderr")):
            yield f"{task_name(task)}, {measure}", [_score(each, measure) for each in scores]


def _score(scores: Values, measure: str) -> dict[str, Any]:
    error = scores.get(f"{measure}_stderr", scores.get("stderr") if measure == "acc" else None)
    return {"median": scores.get(measure), "stderr": error}


# Intervals ----------------------------------------------------------------------------------------------------------


def interval(value: Values, write: Callable[[float], str]) -> str:
    """Its ends, as far as they are known."""
    low, high = number(value.get("low")), number(value.get("high"))
    if low is None or high is None:
        return ""
    last = write(high)
    unit = last.partition(" ")[2]
    return f"{write(low).removesuffix(f' {unit}')} to {last}"


def between(value: Values, write: Callable[[float], str]) -> str:
    """A number with its interval."""
    ends = interval(value, write)
    return f"{write(value['value'])} ({ends})" if ends else write(value["value"])


def format_shift(value: Values, write: Callable[[float], str]) -> str:
    """A difference with its interval and its p."""
    p = probability(value["p"])
    return f"{between(value, write)}, p {p if p.startswith('<') else f'= {p}'}"


def probability(p: float) -> str:
    """In two digits, or that it is tiny."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def share_of(value: float) -> str:
    """Of all texts: 12.3%."""
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


def hundredths(value: float) -> str:
    """With two digits behind the point."""
    return f"{value:,.2f}"


def points(value: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * value:+.2f} pp".replace("-", MINUS)


def format_signed(value: float) -> str:
    """A difference in its own unit."""
    return f"{value:+,.2f}".replace("-", MINUS)

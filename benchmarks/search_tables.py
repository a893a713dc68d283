"""Tables from the figures of ``prune_search.py`` and ``whole_search.py``."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import Row, spread
from measurements import Column, Table
from search_loops import LOOPS

# ---- one step (prune_search.py) --------------------------------------------------------------------------------------


STEPS = (
    Column("model", "model", once=True),
    Column("step", "step"),
    *(Column(loop, f"{loop}, s", "{value:.2f}", "s") for loop in LOOPS),
    Column("against_plain", "× plain", "{value:.2f}"),
    Column("against_official", "× official", "{value:.2f}"),
    Column("counted", "counted", "{value:.2f}"),
    Column("share", "share of the count", "{value:.1f %}"),
)
RUNS = (
    Column("step", "step"),
    Column("loop", "loop"),
    Column("size", "windows a batch"),
    Column("seconds", "seconds", "{value:.2f}", "s"),
    Column("against_plain", "× plain", "{value:.2f}"),
    Column("against_official", "× official", "{value:.2f}"),
    Column("share", "share of the count", "{value:.1%}", missing=""),
)
MEMORY = (
    Column("loop", "loop"),
    Column("size", "windows a batch"),
    Column("process", "peak memory, MiB", "{value:.0f}", "MiB"),
    Column("against_process", "× plain", "{value:.2f}"),
    Column("working", "beyond the loaded model, MiB", "{value:.0f}", "MiB"),
    Column("against_working", "× plain", "{value:.2f}"),
)


def step_tables(found: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """All models in short, then each with every loop and its memory."""
    rows = (_step_cells(each["model"], step) for each in found for step in each["steps"])
    yield "steps", Table(STEPS, tuple(rows), "One step, all candidates, each loop at its faster batch size")
    for each in found:
        name = Path(each["model"]).name
        size = f"{name}: {each['windows']} windows of {each['length']} tokens"
        yield f"{name}-runs", Table(RUNS, tuple(_runs(each["steps"])), f"{size}; {_differences(each['steps'])}")
        if each["memory"]:
            rows = (_memory(one, each["memory"][0]) for one in each["memory"])
            yield f"{name}-memory", Table(MEMORY, tuple(rows), f"{name}: the first step in a fresh process")


def _step_cells(model: str, step: Mapping[str, Any]) -> Row:
    """A step in one line; the sweep's ratios are those of its faster batch size."""
    best = {loop: min((row for row in step["rows"] if row["loop"] == loop), key=_median) for loop in LOOPS}
    ratios = {key: best["sweep"][key] for key in ("against_plain", "against_official", "share")}
    seconds = {loop: _median(row) for loop, row in best.items()}
    name = {"model": f"`{Path(model).name}`", "step": step["step"]}
    return name | seconds | ratios | {"counted": step["counted"]["by_cost"]}


def _median(row: Mapping[str, Any]) -> float:
    return float(row["median"])


def _runs(steps: Sequence[Row]) -> Iterator[Row]:
    for step in steps:
        for row in step["rows"]:
            yield row | {"step": step["step"], "seconds": spread(row["seconds"]), "share": row.get("share")}


def _differences(steps: Sequence[Row]) -> str:
    """How far the numbers of the loops are apart."""
    sweep, official = (max(step["differences"][loop] for step in steps) for loop in ("sweep", "official"))
    return f"largest difference from plain: sweep {sweep:g}, official {official:.1e} (relative)"


def _memory(row: Row, plain: Row) -> Row:
    sizes = {key: row[key] / 2**20 for key in ("process", "working")}
    ratios = {f"against_{key}": row[key] / plain[key] for key in sizes}
    return {"loop": row["loop"], "size": row["size"], **sizes, **ratios}


# ---- whole searches (whole_search.py) --------------------------------------------------------------------------------


def search_columns(base: str) -> tuple[Column, ...]:
    """Columns of whole searches; ``base`` is the one that the others are compared with."""
    return (
        Column("scan", "search"),
        Column("seconds", "seconds", "{value:,.1f}", "s"),
        Column("processor", "of all threads", "{value:,.1f}", "s"),
        Column("faster", f"× {base}", "{value:.2f}"),
        Column("evaluations", "block evaluations", "{value:,}"),
        Column("fewer", f"× fewer than {base}", "{value:.2f}"),
        Column("than_sweep", "than sweep", "{value:.2f}"),
        Column("peak", "peak, MiB", "{value:.0f}", "MiB", missing=""),
        Column("same", "removals"),
        Column("held_out", "held out", "{value:.3f}", "perplexity"),
    )


def search_table(rows: Sequence[Row]) -> Table:
    """Whole searches."""
    return Table(search_columns(rows[0]["scan"]), tuple(_search_cells(row, rows) for row in rows))


def _search_cells(row: Row, rows: Sequence[Row]) -> Row:
    base, sweep = rows[0], next((each for each in rows if each["scan"] == "sweep"), None)
    faster = statistics.median(base["processor"]) / statistics.median(row["processor"])
    counts = {"fewer": base["evaluations"] / row["evaluations"]}
    counts["than_sweep"] = sweep["evaluations"] / row["evaluations"] if sweep else None
    peak = row["peak"] / 2**20 if row["peak"] else None
    times = {key: spread(row[key]) for key in ("seconds", "processor")}
    return row | times | {"faster": faster, "peak": peak, "same": _same(row, base)} | counts


def _same(row: Row, base: Row) -> str:
    if row is base:
        return ""
    same = sum(a == b for a, b in zip(row["removed"], base["removed"], strict=True))
    return "the same" if same == len(row["removed"]) else f"{same} of {len(row['removed'])} in place"


DEPTHS = (
    Column("layers", "layers"),
    Column("perplexity", "perplexity", "{value:.2f}"),
    *(Column(name, name, "{value:,}", "block evaluations") for name in ("plain", "sweep", "race")),
    Column("plain_race", "plain / race", "{value:.1f}"),
    Column("sweep_race", "sweep / race", "{value:.1f}"),
)


def depth_table(rows: Sequence[Row]) -> Table:
    """Models of several depths."""
    ratios = ({f"{name}_race": row[name] / row["race"] for name in ("plain", "sweep")} for row in rows)
    return Table(DEPTHS, tuple(row | more for row, more in zip(rows, ratios, strict=True)))

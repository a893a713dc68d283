"""Tables from the rows of ``align_tokens.py``."""

from collections.abc import Iterator, Sequence
from typing import Any

from common import Row
from measurements import Column, Table

PAIR = Column("pair", "student ← teacher")
CARRIERS = ("FuseLLM EM", "FuseLLM MinED", "FuseChat", "bytes")


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """Three tables with a line for each pair."""
    yield "times", Table(tuple(_time_columns()), tuple(map(_times, rows)), TIMES)
    yield "carried", Table(tuple(_carried_columns()), tuple(map(_carried, rows)), CARRIED)
    maps = tuple(Column(name, name, MAP) for name in rows[0]["maps"])
    yield "maps", Table((PAIR, *maps), tuple({"pair": row["pair"], **row["maps"]} for row in rows), MAPS)


def quartiles(values: Sequence[float]) -> Row:
    """A figure: the median between the quartiles."""
    low, middle, high = values
    return {"value": middle, "low": low, "high": high}


# ---- time ------------------------------------------------------------------------------------------------------------

TIMES = "Time a text in ms, and how many times faster bytes are; median (quartiles) over the texts."
MILLISECONDS = {
    "bytes": ("bytes", ".3f"),
    "lists": ("lists", ".1f"),
    "released": ("released", ".1f"),
    "align_dp": ("align_dp", ".2f"),
    "plain": ("tokenizing both", ".2f"),
    "cut": ("with bytes", ".2f"),
}
RATIOS = {
    "lists / bytes": "× lists",
    "released / bytes": "× released",
    "lists / bytes, with tokenizing": "with tokenizing: × lists",
}


def _time_columns() -> Iterator[Column]:
    yield from (PAIR, Column("tokens", "tokens", "{student:.0f}, {teacher:.0f}"))
    yield from (Column(key, name, f"{{value:{spec} to}}", "ms") for key, (name, spec) in MILLISECONDS.items())
    yield from (Column(key, name, "{value:.0f to}") for key, name in RATIOS.items())


def _times(row: Row) -> Row:
    sizes: Row = dict(zip(("student", "teacher"), row["tokens"], strict=True))
    found = {key: quartiles(row["time"][key]) for key in (*MILLISECONDS, *RATIOS)}
    return {"pair": row["pair"], "tokens": sizes, **found}


# ---- what is carried -------------------------------------------------------------------------------------------------

CARRIED = (
    "Share of the student's positions that carry a teacher's distribution; in brackets the share of these where the "
    "teacher has read other bytes than the student. Groups: tokens of the student to the teacher's."
)
GROUPS = ("1-1", "1-n", "n-1", "n-n")


def _carried_columns() -> Iterator[Column]:
    yield PAIR
    yield from (Column(name, name, "{carried:.1%} ({elsewhere:.2%})") for name in CARRIERS)
    yield from (Column(name, name, "{value:.1%}") for name in GROUPS)


def _carried(row: Row) -> Row:
    groups: dict[Any, int] = row["carried"]["groups"]
    shares = (number / sum(groups.values()) for number in groups.values())
    ways = {name: row["carried"][name] for name in CARRIERS}
    return {"pair": row["pair"], **ways, **dict(zip(GROUPS, shares, strict=True))}


# ---- maps ------------------------------------------------------------------------------------------------------------

MAPS = (
    "Share of the teacher's tokens, weighted by how often they occur, that have a counterpart; in brackets the share "
    "that has one which begins as the token does. Then the same of the vocabulary, and seconds."
)
MAP = (
    "{mapped occurrences:.1%} ({begins occurrences:.1%}); {mapped vocabulary:.1%} ({begins vocabulary:.1%}); "
    "{seconds:.1f} s"
)

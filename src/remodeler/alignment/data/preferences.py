"""Preference data: a prompt, the answer that was chosen and one that was rejected.

Rows come one at a time from a file of JSON lines, or from whatever else :mod:`remodeler.data.sources` reads. What can't
be used is left out and counted by its reason; prompts, not pairs, are held out, so that no prompt is on both sides.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from remodeler.alignment.data.shapes import EMPTY, SHAPES, RankedAnswers
from remodeler.data.chat import BadRow, refuse_beside
from remodeler.data.prompts import rows
from remodeler.errors import InputError, LeftOut, count_reasons
from remodeler.runs.records import digest

SAME, REPEATED, LEVEL, LONG = ("both sides the same", "repeated", "no better answer", "longer than the context")
"""Reasons for which triples are left out."""
SHAPELESS = "a row without the keys of a preference"
MOST = 4
"""Reasons that a sentence names."""
LEAST = 2
"""Prompts: one to learn from, one to hold out."""


@dataclass(frozen=True)
class Triple:
    """A prompt, the better answer and the worse one."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Preferences:
    """Triples to learn from and to judge by, and how many were left out, by reason."""

    train: tuple[Triple, ...]
    heldout: tuple[Triple, ...]
    dropped: dict[str, int]


def read_preferences(
    source: str, limit: int | None = None, pairs: int | None = None, gap: float = 0.0
) -> tuple[list[Triple], Counter[str]]:
    """Read the usable triples of a source, and count what was left out, by reason.

    Args:
        source: ``.jsonl``, ``.json``, ``.parquet``, or ``hf:NAME[:CONFIG][:SPLIT]``.
        limit: at most so many triples.
        pairs: of a list of answers, pair the best with so many of the others, the worst first; by default with all.
        gap: of a list of answers, the minimum difference in score.

    Raises:
        InputError: for a source that can't be read or holds no preferences.
    """
    dropped = LeftOut()
    found = list(islice(usable_triples(_read_pairs(source, limit, pairs, gap, dropped), dropped), limit))
    if not found:
        raise InputError(
            f"{source} holds no usable preference (left out: {count_reasons(dropped, MOST)}): give another file"
        )
    return found, dropped


def triples_digest(triples: Iterable[Triple]) -> str:
    """SHA-256 of triples in their order."""
    return digest(text for each in triples for text in asdict(each).values())


# Rows -----------------------------------------------------------------------------------------------------------------


def _read_pairs(
    source: str, limit: int | None, pairs: int | None, gap: float, dropped: LeftOut
) -> Iterator[tuple[int, Triple]]:
    """Every pair of a better and a worse answer, with the number of its row; rows that hold none are counted."""
    unknown, usable = None, 0
    for number, row in enumerate(rows(source, limit), 1):
        reader = next((read for keys, read in SHAPES.values() if isinstance(row, dict) and row.keys() >= {*keys}), None)
        if reader is None:
            unknown = unknown or _unknown_shape(source, number, row)
            dropped.add(SHAPELESS, number)
            continue
        usable += 1
        try:
            refuse_beside(row)
            found = pair_answers(reader(row), pairs, gap)
        except BadRow as reason:
            dropped.add(reason, number)
            continue
        if not found:
            dropped.add(LEVEL, number)
        yield from ((number, each) for each in found)
    if unknown and not usable:
        raise InputError(unknown)


def _unknown_shape(source: str, number: int, row: object) -> str:
    """A row of no known shape, in a sentence."""
    given = ", ".join(map(str, row)) or "no key" if isinstance(row, dict) else repr(row)[:40]
    wanted = "; ".join(", ".join(keys) for keys, _ in SHAPES.values())
    return f"row {number} of {source} has {given}: one of these was expected: {wanted}"


def pair_answers(row: RankedAnswers, pairs: int | None, gap: float) -> list[Triple]:
    """Pair the best answer of a row with the worse ones, the worst first."""
    best, top = max(row.answers, key=lambda each: each[1])
    worse = sorted((each for each in row.answers if each[1] < top and top - each[1] >= gap), key=lambda each: each[1])
    return [Triple(row.prompt, best, answer) for answer, _ in worse[:pairs]]


def usable_triples(triples: Iterable[tuple[int, Triple]], dropped: LeftOut) -> Iterator[Triple]:
    """Triples of which something can be learned; the others are counted, with their rows."""
    seen: set[bytes] = set()
    for number, each in triples:
        key = hashlib.sha256(json.dumps([each.prompt, each.chosen, each.rejected]).encode()).digest()
        reason = _fault(each) or (REPEATED if key in seen else None)
        seen.add(key)
        if reason:
            dropped.add(reason, number)
        else:
            yield each


def _fault(each: Triple) -> str | None:
    if not all(side.strip() for side in (each.prompt, each.chosen, each.rejected)):
        return EMPTY
    return SAME if each.chosen == each.rejected else None


# Held-out prompts -----------------------------------------------------------------------------------------------------


def split_prompts(triples: Sequence[Triple], share: float, seed: int) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Divide triples into those to learn from and those to hold out, in their order; no prompt is on both sides.

    Raises:
        InputError: when there are not two prompts.
    """
    prompts = sorted({each.prompt for each in triples}, key=lambda prompt: order_key(prompt, seed))
    if len(prompts) < LEAST:
        raise InputError(f"the preferences have {len(prompts)} prompt: at least {LEAST} are needed, give more")
    apart = set(prompts[: min(len(prompts) - 1, max(1, round(share * len(prompts))))])
    return (
        tuple(each for each in triples if each.prompt not in apart),
        tuple(each for each in triples if each.prompt in apart),
    )


def order_key(text: str, seed: int) -> bytes:
    """Key that sorts texts in an order that a seed decides and other texts do not change."""
    return hashlib.sha256(f"{seed}\n{text}".encode(errors="surrogatepass")).digest()

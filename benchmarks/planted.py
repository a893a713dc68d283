"""The planted task of ``align.py``, stories in which the letters of some words are turned round, and its tables."""

import random
import re
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from common import Row, spread
from measurements import Column, Table

GRADES = ("a few words", "a sentence", "everything")
FEW = 3
PROMPT_WORDS, RESPONSE_WORDS = 30, 18
SENTENCE, WORD = re.compile(r"[^.!?]*[.!?]+[\"']?\s*"), re.compile(r"[A-Za-z]{3,}")
Pair = tuple[str, str]


# ---- the task --------------------------------------------------------------------------------------------------------


def beginnings(stories: Sequence[str]) -> Iterator[Pair]:
    """The first sentences of a story, and those that come next."""
    for story in stories:
        sentences = SENTENCE.findall(" ".join(story.split()))
        prompt, response = "", ""
        for sentence in sentences:
            if len(prompt.split()) < PROMPT_WORDS:
                prompt += sentence
            elif len(response.split()) < RESPONSE_WORDS:
                response += sentence
        if len(response.split()) >= RESPONSE_WORDS and len(prompt.split()) < 2 * PROMPT_WORDS:
            yield prompt.strip(), " " + response.strip()


def turned(text: str) -> str:
    """The letters of a word the other way round; where they read alike, as they are."""
    return text[::-1]


def damaged(text: str, grade: str, dice: random.Random) -> str:
    """A text with damage of a grade."""
    found = list(WORD.finditer(text))
    if grade == GRADES[0]:
        chosen = dice.sample(found, min(FEW, len(found)))
    elif grade == GRADES[1]:
        spans = [(each.start(), each.end()) for each in SENTENCE.finditer(text) if WORD.search(each.group())]
        start, end = dice.choice(spans)
        chosen = [each for each in found if start <= each.start() < end]
    else:
        chosen = found
    for each in chosen:
        text = text[: each.start()] + turned(each.group()) + text[each.end() :]
    return text


def planted(text: str, known: set[str]) -> float:
    """Share of a text's words that are in no story, but are in one when they are turned round."""
    words = [each.lower() for each in WORD.findall(text)]
    return fmean(word not in known and turned(word) in known for word in words) if words else 0.0


def strange(text: str, known: set[str]) -> float:
    """Share of a text's words that are in no story, either way."""
    words = [each.lower() for each in WORD.findall(text)]
    return fmean(word not in known and turned(word) not in known for word in words) if words else 0.0


# ---- tables ----------------------------------------------------------------------------------------------------------

LEARNED, SPREAD, COUNT = "learned from", "{value:.3f to}", "{value:.0f to}"


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, Table]]:
    """Means over seeds with their spread."""
    yield "reviser", _by_figure([row for row in rows if row["arm"] == "reviser"])
    yield "policies", _by_policy([row for row in rows if row["arm"] != "reviser"])


def _by_figure(rows: Sequence[Row]) -> Table:
    """A figure a line."""
    lines = [{"figure": key, "reviser": _spread(rows, key)} for key in _figures(rows)]
    columns = Column("figure", ""), Column("reviser", "reviser", SPREAD)
    return Table(columns, tuple(lines), "The reviser on held-out responses")


def _by_policy(rows: Sequence[Row]) -> Table:
    """A policy a line."""
    keys, names = _figures(rows), dict.fromkeys(row["arm"] for row in rows)
    columns = [Column(key, key, COUNT if key == LEARNED else SPREAD, missing="") for key in keys]
    lines = [
        {"policy": name} | {key: _spread([row for row in rows if row["arm"] == name], key) for key in keys}
        for name in names
    ]
    return Table((Column("policy", ""), *columns), tuple(lines), "Policies on held-out prompts")


def _figures(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row["figures"]))


def _spread(rows: Sequence[Row], key: str) -> Any:
    found = [row["figures"][key] for row in rows if key in row["figures"]]
    return spread(found, fmean) if found else None

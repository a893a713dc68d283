"""A lexicon: words that are mostly inside toxic spans wherever they occur, learned from texts whose spans are known.

A word is a run of letters, digits, underscores and apostrophes, in lower case. It is listed when at least ``rate`` of
its occurrences lie wholly inside spans, and at least ``hits`` of them. Whatever it finds has that share as its score.
It reads no context: "silly" is as bad in a nursery rhyme as in an insult. Names of groups of people that posts insult
would be learned too: keep them out with ``without``.

The file can be read, or, as the one that travels along, hold a mark of each word (the start of its SHA-256) instead of
the word, so that nobody stumbles on a list of abuse. That is no secret: whoever tries a word finds it.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.spans import Span, mask
from remodeler.errors import InputError
from remodeler.runs.folders import refuse_existing
from remodeler.runs.records import read_json, write_json

SHIPPED = Path(__file__).parent / "lexicon.json"
"""Learned from the training posts of SemEval-2021 task 5 (CC0)."""
RATE, HITS = 0.6, 3
"""Share of a word's occurrences inside spans, and their number."""
WORD = re.compile(r"[\w']+")
MARK = 12
"""Hexadecimal digits of a mark: among a million words, none is likely to have another's."""


@dataclass(frozen=True)
class Lexicon:
    """Words, or marks of them, each with the share of its occurrences inside spans."""

    words: Mapping[str, float]
    hashed: bool = False
    facts: Mapping[str, Any] | None = None
    """Where it comes from, as its file says."""

    def score(self, word: str) -> float | None:
        """Of a word in lower case; None for one that is not listed."""
        return self.words.get(marked(word) if self.hashed else word)

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """The detector."""
        return [self.spans(text) for text in texts]

    def spans(self, text: str) -> list[Span]:
        """Every listed word of a text."""
        found = ((match, self.score(match.group().lower())) for match in WORD.finditer(text))
        return [Span(match.start(), match.end(), score) for match, score in found if score is not None]


@lru_cache(maxsize=2**16)
def marked(word: str) -> str:
    """What stands for a word in a hashed lexicon."""
    return hashlib.sha256(word.encode()).hexdigest()[:MARK]


def learn(
    texts: Iterable[tuple[str, Sequence[Span]]],
    rate: float = RATE,
    hits: int = HITS,
    without: Collection[str] = (),
) -> Lexicon:
    """A lexicon from texts with their spans.

    Args:
        texts: each with its spans.
        rate: least share of a word's occurrences that lie inside spans.
        hits: least number of them.
        without: words that are never listed.

    Raises:
        InputError: when no word is bad enough.
    """
    if not 0 < rate <= 1 or hits < 1:
        raise InputError(f"--rate {rate:g} and --hits {hits} were given: the first is above 0 to 1, the second from 1")
    seen: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for text, spans in texts:
        toxic = mask(spans, len(text))
        for match in WORD.finditer(text):
            word = match.group().lower()
            seen[word] += 1
            inside[word] += bool(toxic[match.start() : match.end()].all())
    kept = {word: count for word, count in inside.items() if count >= hits and count / seen[word] >= rate}
    words = {word: round(count / seen[word], 3) for word, count in sorted(kept.items()) if word not in set(without)}
    if not words:
        raise InputError(
            "no word is inside spans often enough to be listed: lower --rate or --hits, or give more texts"
        )
    return Lexicon(words)


# On disk --------------------------------------------------------------------------------------------------------------


def save(path: Path, lexicon: Lexicon, facts: Mapping[str, Any], hashed: bool = False) -> None:
    """Write a lexicon as JSON; ``hashed`` writes marks instead of words."""
    words = {marked(word): score for word, score in lexicon.words.items()} if hashed else dict(lexicon.words)
    write_json(path, {"lexicon": dict(facts), "hashed": hashed, "words": dict(sorted(words.items()))})


def load(path: Path) -> Lexicon:
    """Read one.

    Raises:
        InputError: when the file is none.
    """
    value = read_json(path)
    words = value.get("words") if isinstance(value, dict) else None
    if not isinstance(words, dict) or not all(_share(score) for score in words.values()):
        raise InputError(
            f"{path} is no lexicon: it has no words with a share from 0 to 1 each; make one with remodel audit lexicon"
        )
    return Lexicon(words, bool(value.get("hashed")), value.get("lexicon"))


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def make(
    texts: Path, out: Path, rate: float, hits: int, without: Collection[str], hashed: bool, skip_bad: bool = False
) -> int:
    """Learn a lexicon from a file of texts with their spans, and write it; the number of its words.

    Raises:
        InputError: for texts that can't be read or teach nothing, and when ``out`` is there already.
    """
    refuse_existing(out)
    reading = read_posts(texts, known=True, skip_bad=skip_bad)
    found = learn(zip(reading.texts, reading.spans, strict=True), rate, hits, without)
    facts = {"texts": texts.name, "posts": len(reading.posts), "bad_rows": len(reading.bad), "rate": rate, "hits": hits}
    save(out, found, facts, hashed)
    return len(found.words)

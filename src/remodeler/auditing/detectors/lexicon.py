"""A lexicon: words that are mostly inside toxic spans wherever they occur, learned from texts whose spans are known.

A word is a run of letters, digits, underscores and apostrophes, in lower case. It is listed if at least ``rate`` of its
occurrences, and at least ``hits`` of them, are completely inside spans. That share is the score of every span it finds.
A lexicon ignores context: "silly" counts in a nursery rhyme as in an insult. Names of groups of people that posts
insult would be learned too: leave them out with ``without``.

The file holds the words or, as the bundled one, a hash of each word (the start of its SHA-256), so that nobody stumbles
upon a list of abuse. The hash is no secret: anyone can look up a word.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from remodeler.auditing.config import LexiconConfig
from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.spans import Span, mask
from remodeler.errors import InputError, option
from remodeler.runs.folders import refuse_existing
from remodeler.runs.options import build
from remodeler.runs.records import read_json, write_json
from remodeler.runs.signatures import with_signature

BUNDLED = Path(__file__).parent / "lexicon.json"
"""Learned from the training posts of SemEval-2021 task 5 (CC0)."""
WORD = re.compile(r"[\w']+")
HASH_DIGITS = 12
"""Hexadecimal digits of a hash: a million words are unlikely to have a collision."""


@dataclass(frozen=True)
class Lexicon:
    """Words, or their hashes, each with the share of its occurrences inside spans."""

    words: Mapping[str, float]
    hashed: bool = False
    facts: Mapping[str, Any] | None = None
    """Facts about the texts that it was learned from, as in its file."""

    def score(self, word: str) -> float | None:
        """Score of a word in lower case; None for one that is not listed."""
        return self.words.get(word_hash(word) if self.hashed else word)

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """Find spans, as every detector."""
        return [self.spans(text) for text in texts]

    def spans(self, text: str) -> list[Span]:
        """Spans of all listed words of a text."""
        found = ((match, self.score(match.group().lower())) for match in WORD.finditer(text))
        return [Span(match.start(), match.end(), score) for match, score in found if score is not None]


@lru_cache(maxsize=2**16)
def word_hash(word: str) -> str:
    """Hash of a word in a hashed lexicon."""
    return hashlib.sha256(word.encode()).hexdigest()[:HASH_DIGITS]


def learn(
    texts: Iterable[tuple[str, Sequence[Span]]], rate: float, hits: int, without: Collection[str] = ()
) -> Lexicon:
    """Learn a lexicon from texts with their spans.

    Args:
        texts: each with its spans.
        rate: minimum share of a word's occurrences that are inside spans, above 0.
        hits: minimum number of them.
        without: words that are never listed.

    Raises:
        InputError: if no word qualifies.
    """
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
            f"no word is inside spans often enough to be listed: lower {option('rate')} or {option('hits')}, or give "
            f"more texts"
        )
    return Lexicon(words)


# On disk --------------------------------------------------------------------------------------------------------------


def save(path: Path, lexicon: Lexicon, facts: Mapping[str, Any], hashed: bool = False) -> None:
    """Write a lexicon as JSON; ``hashed`` writes hashes instead of words."""
    words = {word_hash(word): score for word, score in lexicon.words.items()} if hashed else dict(lexicon.words)
    write_json(path, {"lexicon": dict(facts), "hashed": hashed, "words": dict(sorted(words.items()))})


def load(path: Path) -> Lexicon:
    """Read a lexicon.

    Raises:
        InputError: if the file is not a lexicon.
    """
    value = read_json(path)
    words = value.get("words") if isinstance(value, dict) else None
    if not isinstance(words, dict) or not all(_is_share(score) for score in words.values()):
        raise InputError(
            f"{path} is not a lexicon: words with a share from 0 to 1 each are missing; make one with "
            f"`remodel audit lexicon`"
        )
    return Lexicon(words, bool(value.get("hashed")), value.get("lexicon"))


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


@with_signature(LexiconConfig)
def learn_lexicon(**options: Any) -> Lexicon:
    """Learn a lexicon from a file of texts with their spans; with ``out`` write it too.

    Raises:
        InputError: if the texts can't be read or teach nothing, or ``out`` exists.
    """
    return run_learning(build(LexiconConfig, options))


def run_learning(config: LexiconConfig) -> Lexicon:
    """Learn the lexicon of a config."""
    if config.out is not None:
        refuse_existing(config.out)
    posts = read_posts(config.texts, known=True, skip_bad=config.skip_bad)
    without = {word.lower() for word in config.without}
    found = learn(zip(posts.texts, posts.spans, strict=True), config.rate, config.hits, without)
    counts = {"texts": config.texts.name, "posts": len(posts.posts), "bad_rows": len(posts.bad)}
    lexicon = replace(found, facts=counts | {"rate": config.rate, "hits": config.hits})
    if config.out is not None:
        save(config.out, lexicon, lexicon.facts or {}, config.hashed)
    return lexicon

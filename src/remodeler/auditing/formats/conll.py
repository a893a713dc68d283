"""Tagged words, as CoNLL files have them: ``B-TOXIC``, ``I-TOXIC`` and ``O``, a word a line."""

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from remodeler.auditing.formats.span_lists import refuse_harmless
from remodeler.auditing.spans import Span
from remodeler.data.strict_json import parse_json
from remodeler.errors import InputError

LABEL = "TOXIC"
WORDS = re.compile(r"\w+|[^\w\s]+")
TAG = re.compile(r"O|[BIESLUM](-.+)?")
"""Of IO, BIO, BIOES, BILOU and BMES; other capital letters are parts of speech."""
DOCUMENT = re.compile(r"-DOCSTART-(\s.*)?")
"""A block that says that a document begins, and is no text."""
INSIDE = "IELM"
"""What goes on with the span before: inside, end, last, middle."""


def tagged_words(text: str, spans: Sequence[Span]) -> list[tuple[int, int, str]]:
    """Start, end and tag (``O``, ``B-TOXIC``, ``I-TOXIC``) of every word, cut where a span begins or ends."""
    edges = [place for span in spans for place in (span.start, span.end)]
    found: list[tuple[int, int, str]] = []
    last = -1  # the last span that has a word
    for word in WORDS.finditer(text):
        inner = edges[bisect_right(edges, word.start()) : bisect_left(edges, word.end())]
        for start, end in pairwise([word.start(), *inner, word.end()]):
            owner, inside = divmod(bisect_right(edges, start) - 1, 2)
            tag = "O" if inside or owner < 0 else f"I-{LABEL}" if owner == last else f"B-{LABEL}"
            last = last if tag == "O" else owner
            found.append((start, end, tag))
    return found


def of_words(words: Sequence[tuple[int, int, str]]) -> list[Span]:
    """The spans of tagged words: ``I`` (``E``, ``L``, ``M``) goes on with what is between, another begins."""
    found: list[Span] = []
    before = "O"
    for start, end, tag in words:
        if tag[0] in INSIDE and before != "O":
            found[-1] = Span(found[-1].start, end)
        elif tag != "O":
            found.append(Span(start, end))
        before = tag
    return found


def post_lines(number: int, text: str, spans: Sequence[Span]) -> Iterator[str]:
    """The lines of a post: its id and text, then its words with their places."""
    yield f"# id = {number}"
    yield f"# text = {json.dumps(text, ensure_ascii=False)}"
    for start, end, tag in tagged_words(text, spans):
        yield f"{text[start:end]}\t{start}\t{end}\t{tag}"


def read_post(block: str, where: str, number: int) -> tuple[int, str, list[Span]]:
    """Id, text and spans of the lines of a post; one without places (``word tag``) is joined by spaces."""
    identity, text = number, None
    words: list[tuple[str, int, int, str]] = []
    for line in block.split("\n"):
        if line.startswith("# id = "):
            identity = int(line[7:]) if line[7:].strip().isdigit() else number
        elif line.startswith("# text = "):
            text = _text(line.removeprefix("# text = "), where)
        elif not line.startswith("# ") or TAG.fullmatch(line[2:]):  # a lone # may be a word
            words.append(_word(line, words[-1][2] + 1 if words else 0, where))
    if len(words) > 1 and [word[0] for word in words] == [str(place) for place in range(1, len(words) + 1)]:
        raise InputError(f"{where} has numbers in the place of its words: leave that column out")
    spans = of_words([word[1:] for word in words])
    whole = " ".join(word[0] for word in words) if text is None else text
    _refuse_elsewhere(words, whole, where)
    return identity, whole, spans


def _refuse_elsewhere(words: Sequence[tuple[str, int, int, str]], text: str, where: str) -> None:
    """Raise where a word is not at its place in the text."""
    for word, start, end, _ in words:
        if text[start:end] != word:
            told = (
                f"{where} has the word {word[:40]!r} at {start} to {end}, where its text has {text[start:end][:40]!r}"
            )
            raise InputError(f"{told}: count code points from 0, ends excluded")


def _text(written: str, where: str) -> str:
    try:
        text = parse_json(written)
        if isinstance(text, str):
            return text
        raise ValueError("no text")
    except ValueError as error:
        raise InputError(f"{where} has a text that is no JSON string ({error}): correct it") from None


def _word(line: str, place: int, where: str) -> tuple[str, int, int, str]:
    """A word, where it is, and its tag."""
    # White space that is no space is part of a word.
    parts = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]
    if len(parts) > 1 and not TAG.fullmatch(parts[-1]):
        raise InputError(f"{where} has the line {line[:40]!r}: its last word is no tag, as O, B or I-name")
    try:
        refuse_harmless([parts[-1][2:]])
    except ValueError as error:
        raise InputError(f"{where} has the line {line[:40]!r}: {error}") from None
    if len(parts) == 4 and parts[1].isdigit() and parts[2].isdigit():
        return parts[0], int(parts[1]), int(parts[2]), parts[3]
    if len(parts) < 2:
        raise InputError(f"{where} has the line {line[:40]!r}: write word<TAB>start<TAB>end<TAB>tag")
    return parts[0], place, place + len(parts[0]), parts[-1]

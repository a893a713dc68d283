"""Tagged words of CoNLL files: ``B-TOXIC``, ``I-TOXIC`` and ``O``, one word per line."""

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
"""Tags of IO, BIO, BIOES, BILOU and BMES; other capital letters are parts of speech."""
DOCUMENT = re.compile(r"-DOCSTART-(\s.*)?")
"""A block that marks the begin of a document; not a text."""
INSIDE = "IELM"
"""Tags that continue a span: inside, end, last, middle."""


def tagged_words(text: str, spans: Sequence[Span]) -> list[tuple[int, int, str]]:
    """Start, end and tag (``O``, ``B-TOXIC``, ``I-TOXIC``) of every word, split where a span begins or ends."""
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


def from_words(words: Sequence[tuple[int, int, str]]) -> list[Span]:
    """Spans of tagged words: ``I`` (``E``, ``L``, ``M``) continues a span across the gap, other tags begin one."""
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
    """Lines of a post: its id and text, then its words with their offsets."""
    yield f"# id = {number}"
    yield f"# text = {json.dumps(text, ensure_ascii=False)}"
    for start, end, tag in tagged_words(text, spans):
        yield f"{text[start:end]}\t{start}\t{end}\t{tag}"


def read_post(block: str, where: str, number: int) -> tuple[int, str, list[Span]]:
    """Parse id, text and spans of a post; words without offsets (``word tag``) are joined by spaces."""
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
        raise InputError(f"{where} has numbers instead of words: leave that column out")
    spans = from_words([word[1:] for word in words])
    whole = " ".join(word[0] for word in words) if text is None else text
    _refuse_misplaced(words, whole, where)
    return identity, whole, spans


def _refuse_misplaced(words: Sequence[tuple[str, int, int, str]], text: str, where: str) -> None:
    """Raise where a word is not at its offsets in the text."""
    for word, start, end, _ in words:
        if text[start:end] != word:
            found = text[start:end][:40]
            fault = f"{where} has the word {word[:40]!r} at {start} to {end}, where its text has {found!r}"
            raise InputError(f"{fault}: count code points from 0, ends excluded")


def _text(written: str, where: str) -> str:
    try:
        text = parse_json(written)
        if isinstance(text, str):
            return text
        raise ValueError("not a text")
    except ValueError as error:
        raise InputError(f"{where} has a text that is not a JSON string ({error}): correct it") from None


def _word(line: str, place: int, where: str) -> tuple[str, int, int, str]:
    """Parse a word, its offsets and its tag."""
    # White space that is no space is part of a word.
    parts = line.split("\t") if "\t" in line else [part for part in line.split(" ") if part]
    if len(parts) > 1 and not TAG.fullmatch(parts[-1]):
        raise InputError(f"{where} has the line {line[:40]!r}: its last word is not a tag, as O, B or I-name")
    try:
        refuse_harmless([parts[-1][2:]])
    except ValueError as error:
        raise InputError(f"{where} has the line {line[:40]!r}: {error}") from None
    if len(parts) == 4 and parts[1].isdigit() and parts[2].isdigit():
        return parts[0], int(parts[1]), int(parts[2]), parts[3]
    if len(parts) < 2:
        raise InputError(f"{where} has the line {line[:40]!r}: write word<TAB>start<TAB>end<TAB>tag")
    return parts[0], place, place + len(parts[0]), parts[-1]

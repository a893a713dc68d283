"""Parse spans in the formats of people, tools and annotators into sorted and disjoint ones.

A list of characters, of ``[start, end]``, of ``[start, end, label]``, or of objects with ``start`` and ``end``, or the
text of such a list in JSON or in Python (as pandas writes it into a CSV). Integers may be written as ``4.0``. Ends are
excluded. What several annotators or several labels mark counts once: spans that overlap are merged, with the highest of
their scores. Anything else raises InputError, which names the row.
"""

import ast
import warnings
from collections.abc import Sequence
from typing import Any

from remodeler.auditing.spans import Span, from_characters
from remodeler.data.lines import format_names, short
from remodeler.data.strict_json import parse_json
from remodeler.errors import InputError

FARTHEST = 500_000
"""Characters: no text is longer, so a larger offset is not an offset."""
DESCRIBING = (
    *("label", "labels", "type", "category", "entity", "entity_group", "word", "text", "surface", "color", "rank"),
    *("id", "index", "span_id", "kb_id", "token_start", "token_end", "input_hash", "created_at", "updated_at"),
    *("annotator", "annotator_id", "annotators", "user", "username", "source"),
)
"""Keys of an object that do not change which characters it marks."""
UNKNOWN = "[UNK]"
"""The word that BERT's tokenizers report for one that they do not know."""
HARMLESS = (
    *("o", "label_0", "non-toxic", "non_toxic", "nontoxic", "not toxic", "not_toxic", "neutral", "normal", "safe"),
    *("none", "clean", "ok", "non-hate", "not-hate", "nothate", "non-offensive", "not-offensive", "acceptable"),
)
"""Labels, in lower case, of what is not toxic: they do not count unless named."""


def read_spans(value: Any, text: str | None, where: str) -> list[Span]:
    """Parse a list of spans, or the text of one, into sorted and disjoint spans.

    Args:
        value: the list, in a format described above.
        text: the text that the spans must be inside of, where it is known.
        where: the file and the row, for messages.

    Raises:
        InputError: if it is not such a list, or an offset is outside the text.
    """
    try:
        spans = _parse_spans(_as_spans(value), text)
    except (ValueError, OverflowError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{where} has spans {short(value)} ({reason}): write a list of character offsets") from None
    refuse_outside(where, spans, None if text is None else len(text))
    return merge_overlaps(spans)


def refuse_outside(where: str, spans: Sequence[Span], length: int | None) -> None:
    """Raise where a span is outside a text of so many characters; of an unknown text, beyond any."""
    end = FARTHEST if length is None else length
    outside = next((span for span in spans if span.start < 0 or span.end > end), None)
    if outside:
        fault = f"{where} has offsets {outside.start} to {outside.end - 1} outside its text"
        raise InputError(fault if length is None else f"{fault} of {length} characters: count code points from 0")


def merge_overlaps(spans: Sequence[Span]) -> list[Span]:
    """Merge spans that overlap; those that only touch stay two."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start < found[-1].end:
            last = found.pop()
            span = Span(last.start, max(last.end, span.end), max(last.score, span.score))
        found.append(span)
    return found


def _as_spans(value: Any) -> list[Any]:
    """A list as given, or parsed from the text of one."""
    if isinstance(value, str):
        value = _parse_text(value)
    if value is None:
        raise ValueError("nothing: where nothing is marked, [] is written")
    if isinstance(value, dict):
        raise ValueError(f"an object with {format_names(value)}, not a list: put the spans of all annotators in one")
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _parse_text(written: str) -> Any:
    """Parse a text in JSON, or in Python, as pandas writes lists into a CSV."""
    if not written.strip():
        raise ValueError("an empty cell: where nothing is marked, [] is written")
    try:
        return parse_json(written)
    except ValueError as error:
        fault = error
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(written.strip(), mode="eval")
        if not any(isinstance(node, ast.Dict) and _repeats(node) for node in ast.walk(tree)):
            return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError):
        pass
    raise ValueError(f"not a list in JSON: {fault}")


def _repeats(node: ast.Dict) -> bool:
    names = [name.value for name in node.keys if isinstance(name, ast.Constant)]
    return len({*names}) < len(names)


def _parse_spans(listed: Sequence[Any], text: str | None) -> list[Span]:
    if all(_is_number(each) for each in listed):
        return from_characters(_integer(each) for each in listed)
    return [_parse_span(each, text) for each in listed]


def _parse_span(each: Any, text: str | None) -> Span:
    if isinstance(each, dict):
        found = _parse_object(each, text)
    elif isinstance(each, list | tuple):
        found = _parse_pair(each)
    else:
        raise ValueError(f"{short(each)} is not a span: all must be numbers, or all [start, end] or objects")
    if found.start >= found.end:
        raise ValueError(f"[{found.start}, {found.end}] is empty: ends are excluded")
    return found


def _parse_pair(each: Sequence[Any]) -> Span:
    """Parse ``[start, end]`` or ``[start, end, label]``; there may be several labels, or none."""
    labels: Sequence[Any] = [name for name in each[2:] if name is not None]
    labels = labels[0] if labels and isinstance(labels[0], list | tuple) else labels
    if len(each) not in (2, 3) or not all(isinstance(name, str) for name in labels):
        raise ValueError(f"{short(each)} is neither [start, end] nor [start, end, label]")
    refuse_harmless(labels)
    return Span(_integer(each[0]), _integer(each[1]))


def _parse_object(each: dict[Any, Any], text: str | None) -> Span:
    """Parse an object with ``start``, ``end``, optionally a score, and keys that only describe it."""
    unknown = [str(name) for name in each if name not in (*DESCRIBING, "start", "end", "score")]
    if not each.keys() >= {"start", "end"}:
        raise ValueError(f"an object with {format_names(each)}, not start and end")
    if unknown:
        raise ValueError(f"an object with {format_names(unknown)}, which is unknown: leave it out")
    labels = [each.get(name) for name in ("label", "entity", "entity_group")] + _as_list(each.get("labels"))
    refuse_harmless([name for name in labels if isinstance(name, str)])
    span = Span(_integer(each["start"]), _integer(each["end"]), _score(each.get("score")))
    _refuse_misplaced(span, each.get("word", each.get("text")), text)
    return span


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _score(value: Any) -> float:
    if value is None:
        return 1.0
    if not _is_number(value):
        raise ValueError(f"the score {short(value)} is not a number")
    return float(value)


def refuse_harmless(labels: Sequence[str]) -> None:
    """Raise for a label that says that a span is not toxic."""
    found = next((label for label in labels if label.strip().lower() in HARMLESS), None)
    if found is not None:
        raise ValueError(f"a span is labelled {found!r}, which marks what is not toxic: leave such spans out")


def _refuse_misplaced(span: Span, word: Any, text: str | None) -> None:
    """Raise where an object quotes a word that is not at its offsets, as with inclusive ends."""
    if text is None or not isinstance(word, str) or not 0 <= span.start < span.end:
        return
    found = text[span.start : span.end]
    if found != word and text[span.start : span.end + 1] == word:
        raise ValueError(f"{word[:40]!r} ends at {span.end + 1}, not at {span.end}: ends are excluded, add 1 to them")
    # A tokenizer may fold case, accents and spaces of the word that it reports, and mark where words begin.
    if word.isascii() and found.isascii() and word != UNKNOWN and _letters(word) != _letters(found):
        raise ValueError(f"{word[:40]!r} is not at {span.start} to {span.end}, where {found[:40]!r} is")


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(value: Any) -> int:
    """Parse an integer, also one written as ``4.0``."""
    if not _is_number(value) or value != value or value in (float("inf"), float("-inf")) or int(value) != value:
        raise ValueError(f"{short(value)} is not an integer")
    return int(value)

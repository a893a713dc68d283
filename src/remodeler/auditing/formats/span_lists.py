"""Spans as people, tools and annotators write them, to sorted and disjoint ones.

A list of characters, of ``[start, end]``, of ``[start, end, label]``, or of objects with ``start`` and ``end``, or the
text of such a list in JSON or in Python (as pandas writes it into a CSV). Whole numbers may be written as ``4.0``. Ends
are excluded. What several annotators or several labels mark counts once: spans that overlap or come twice are united,
and the highest of their scores is kept. Whatever else is given is refused in words, with its row.
"""

import ast
import warnings
from collections.abc import Sequence
from typing import Any

from remodeler.auditing.spans import Span, of_characters
from remodeler.data.lines import listed, short
from remodeler.data.strict_json import parse_json
from remodeler.errors import InputError

FARTHEST = 500_000
"""Characters: no text is longer, so an offset behind it is none."""
DESCRIBING = (
    *("label", "labels", "type", "category", "entity", "entity_group", "word", "text", "surface", "color", "rank"),
    *("id", "index", "span_id", "kb_id", "token_start", "token_end", "input_hash", "created_at", "updated_at"),
    *("annotator", "annotator_id", "annotators", "user", "username", "source"),
)
"""Names in an object that do not change which characters it marks."""
UNKNOWN = "[UNK]"
"""The word that BERT's tokenizers quote for one that they do not know."""
HARMLESS = (
    *("o", "label_0", "non-toxic", "non_toxic", "nontoxic", "not toxic", "not_toxic", "neutral", "normal", "safe"),
    *("none", "clean", "ok", "non-hate", "not-hate", "nothate", "non-offensive", "not-offensive", "acceptable"),
)
"""Names of labels, in lower case, that say there is nothing: they never count by themselves."""


def read_spans(value: Any, text: str | None, where: str) -> list[Span]:
    """Sorted, disjoint spans of a list, or of the text of one.

    Args:
        value: the list, as this module says.
        text: that they must be inside of, where it is known.
        where: the file and the row, for the sentence.

    Raises:
        InputError: when it is no such list, or an offset is outside the text.
    """
    try:
        spans = _spans(_list(value), text)
    except (ValueError, OverflowError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{where} has spans {short(value)} ({told}): write a list of character offsets") from None
    refuse_outside(where, spans, None if text is None else len(text))
    return united(spans)


def refuse_outside(where: str, spans: Sequence[Span], length: int | None) -> None:
    """Raise where a span is not inside a text of so many characters; of a text that is not known, behind any."""
    end = FARTHEST if length is None else length
    outside = next((span for span in spans if span.start < 0 or span.end > end), None)
    if outside:
        told = f"{where} has offsets {outside.start} to {outside.end - 1} outside its text"
        raise InputError(told if length is None else f"{told} of {length} characters: count code points from 0")


def united(spans: Sequence[Span]) -> list[Span]:
    """Those that overlap as one; those that only touch stay two."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.start < found[-1].end:
            last = found.pop()
            span = Span(last.start, max(last.end, span.end), max(last.score, span.score))
        found.append(span)
    return found


def _list(value: Any) -> list[Any]:
    """A list as it is, or out of the text of one."""
    if isinstance(value, str):
        value = _parsed(value)
    if value is None:
        raise ValueError("nothing: where nothing is marked, [] is written")
    if isinstance(value, dict):
        raise ValueError(f"an object with {listed(value)}, not a list: put the spans of all annotators in one")
    if not isinstance(value, list):
        raise ValueError("not a list")
    return value


def _parsed(written: str) -> Any:
    """The value of a text in JSON or, as pandas writes lists into a CSV, in Python."""
    if not written.strip():
        raise ValueError("an empty cell: where nothing is marked, [] is written")
    try:
        return parse_json(written)
    except ValueError as error:
        told = error
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(written.strip(), mode="eval")
        if not any(isinstance(node, ast.Dict) and _repeats(node) for node in ast.walk(tree)):
            return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError):
        pass
    raise ValueError(f"no list in JSON: {told}")


def _repeats(node: ast.Dict) -> bool:
    names = [name.value for name in node.keys if isinstance(name, ast.Constant)]
    return len({*names}) < len(names)


def _spans(listed: Sequence[Any], text: str | None) -> list[Span]:
    if all(_is_number(each) for each in listed):
        return of_characters(_whole(each) for each in listed)
    return [_span(each, text) for each in listed]


def _span(each: Any, text: str | None) -> Span:
    if isinstance(each, dict):
        found = _of_object(each, text)
    elif isinstance(each, list | tuple):
        found = _of_pair(each)
    else:
        raise ValueError(f"{short(each)} is no span: all must be numbers, or all [start, end] or objects")
    if found.start >= found.end:
        raise ValueError(f"[{found.start}, {found.end}] is empty: ends are excluded")
    return found


def _of_pair(each: Sequence[Any]) -> Span:
    """``[start, end]`` or ``[start, end, label]``, of which there may be several, or none."""
    labels: Sequence[Any] = [name for name in each[2:] if name is not None]
    labels = labels[0] if labels and isinstance(labels[0], list | tuple) else labels
    if len(each) not in (2, 3) or not all(isinstance(name, str) for name in labels):
        raise ValueError(f"{short(each)} is neither [start, end] nor [start, end, label]")
    refuse_harmless(labels)
    return Span(_whole(each[0]), _whole(each[1]))


def _of_object(each: dict[Any, Any], text: str | None) -> Span:
    """An object with ``start`` and ``end``; its score, if it has one, and names that only describe it."""
    unknown = [str(name) for name in each if name not in (*DESCRIBING, "start", "end", "score")]
    if not each.keys() >= {"start", "end"}:
        raise ValueError(f"an object with {listed(each)}, not start and end")
    if unknown:
        raise ValueError(f"an object with {listed(unknown)}, which is not known: leave it out")
    labels = [each.get(name) for name in ("label", "entity", "entity_group")] + _as_list(each.get("labels"))
    refuse_harmless([name for name in labels if isinstance(name, str)])
    span = Span(_whole(each["start"]), _whole(each["end"]), _score(each.get("score")))
    _refuse_elsewhere(span, each.get("word", each.get("text")), text)
    return span


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _score(value: Any) -> float:
    if value is None:
        return 1.0
    if not _is_number(value):
        raise ValueError(f"the score {short(value)} is no number")
    return float(value)


def refuse_harmless(labels: Sequence[str]) -> None:
    """A span that says that something is not toxic is no toxic span."""
    found = next((label for label in labels if label.strip().lower() in HARMLESS), None)
    if found is not None:
        raise ValueError(f"a span is labelled {found!r}, which marks what is not toxic: leave such spans out")


def _refuse_elsewhere(span: Span, word: Any, text: str | None) -> None:
    """An object that quotes what it marks shows when its end is the last character, or when it counts otherwise."""
    if text is None or not isinstance(word, str) or not 0 <= span.start < span.end:
        return
    found = text[span.start : span.end]
    if found != word and text[span.start : span.end + 1] == word:
        raise ValueError(f"{word[:40]!r} ends at {span.end + 1}, not at {span.end}: ends are excluded, add 1 to them")
    # A tokenizer may fold case, accents and spaces of the word that it quotes, and mark where words begin.
    if word.isascii() and found.isascii() and word != UNKNOWN and _letters(word) != _letters(found):
        raise ValueError(f"{word[:40]!r} is not at {span.start} to {span.end}, where {found[:40]!r} is")


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> int:
    """A whole number, also one written as ``4.0``."""
    if not _is_number(value) or value != value or value in (float("inf"), float("-inf")) or int(value) != value:
        raise ValueError(f"{short(value)} is no whole number")
    return int(value)

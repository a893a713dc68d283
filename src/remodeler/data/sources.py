"""Where texts come from (named data sets, files, the hub) and which of them calibrate and which are held out.

Alpaca is split and sampled exactly as the released code of BlockPruner (arXiv 2406.10594) does it. Deviation: that code
calibrates on rows of the *test* part of WikiText-2, blank ones too, and measures on the same part; we calibrate on rows
of its train part that hold text, and keep the whole test part for measuring.
"""

import os
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.data import pydocs
from remodeler.data.hub import load, on_hub
from remodeler.data.lines import format_names, whole_text
from remodeler.data.rows import read_rows, source_rows
from remodeler.errors import InputError

NAMES = ("alpaca", "wikitext2", "c4", "python")
SEPARATOR = "<|endoftext|>"
TALKS = ("conversations", "messages")
LISTS = ("turns", "tokens", "words")  # columns of texts in parts, where they are lists
SYSTEM = (
    "system",
    "system_prompt",
    "system_message",
)  # beside Alpaca's columns: what stands in the place of the template's first words
ALPACA_COLUMNS = ("instruction", "output")
COLUMNS = ("content", "sentence", "document", "article", "story")  # tried after "text" and Alpaca's, before a lone one
ALPACA_SEED = 42  # the official split is fixed; only the drawing from it has a seed of the user's
SMALLEST_ALPACA = 100  # below this a tenth of the file is too little to calibrate on
STREAMED = 100  # of a hub data set of any size this many rows per wanted sample are looked at
# What the only column of texts is called where it only names or sorts the rows.
NO_TEXT = re.compile(r"(.*[_-])?(id|uuid|key|hash|url|file|filename|path|label|category|lang|language|source|date)")
NAME = re.compile(r"\S{1,40}")  # what the only column of a CSV is called, and a text is not
HELD_OUT = 5  # one text in so many is held out when the texts are too few for what was asked

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """One unit of conversation data."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Sampled:
    """Two disjoint choices from a source. Fewer texts than were asked for is no error: compare the lengths."""

    calibration: list[str]
    heldout: list[str]
    name: str
    available: int  # texts that the calibration texts were drawn from


def sample(source: str | Path | Sequence[str], samples: int, seed: int = 42, training: bool = False) -> Sampled:
    """Draw ``samples`` calibration texts and as many held-out ones; ``training`` draws from the train part instead.

    The source is one of ``NAMES``, a file, ``hf:NAME[:CONFIG][:SPLIT]`` on the hub, or the texts themselves. Where a
    data set comes in parts, each choice has its own; otherwise the held-out texts are drawn from what calibration left.
    At least a fifth of the texts (and one, if there are two) is always held out.
    """
    if samples < 1:
        raise InputError(f"{samples} samples were asked for, at least 1 is needed: raise `samples`")
    if source == "wikitext2":  # perplexity on it is by convention that of the whole test part
        train = [text for text in _wikitext("train") if text.strip()]
        return Sampled(_draw(train, samples, random.Random(seed)), _wikitext("test"), source, len(train))
    first, second = _pools(source, samples, training)
    name = str(source) if isinstance(source, str | Path) else "list"
    if second:
        chosen = _draw(first, samples, random.Random(seed)), _draw(second, samples, random.Random(seed))
    else:
        chosen = _draw_both(first, samples, random.Random(seed))
    return Sampled(*chosen, name, len(first))


def read_texts(path: str | Path) -> list[str]:
    """All texts of a file, in its order."""
    return _texts(_read(Path(path)), str(path))


def alpaca_example(row: Row) -> Example:
    """An instruction in the words of the official Alpaca template; prompt + response is its ``text`` column.

    Where a row has a ``system``, that stands in the place of the first words, as in LLaMA-Factory and axolotl.
    """
    given, system = row.get("input"), next((row[key] for key in SYSTEM if row.get(key)), None)
    more = ", paired with an input that provides further context" if given else ""
    start = f"Below is an instruction that describes a task{more}."
    parts = [
        system or f"{start} Write a response that appropriately completes the request.",
        f"### Instruction:\n{row['instruction']}",
        *([f"### Input:\n{given}"] if given else []),
        "### Response:\n",
    ]
    return Example("\n\n".join(parts), row["output"])


def _pools(source: str | Path | Sequence[str], samples: int, training: bool = False) -> tuple[list[str], list[str]]:
    """Texts to calibrate with and texts to hold out; the second is empty where one pool serves both."""
    if not isinstance(source, str | Path):
        return _texts([{"text": text} for text in source], "the list"), []
    if source == "python":
        return pydocs.texts("train" if training else "calibration"), pydocs.texts("heldout")
    rows = rows_of(source, samples)
    texts = _texts(rows, str(source))
    # An Alpaca file is the data of the name `alpaca` or a piece of it: the same double split keeps every calibration
    # text apart from what a model trained on the official train part, or measured on the validation part, has seen.
    if len(texts) >= SMALLEST_ALPACA and rows[0].keys() >= set(ALPACA_COLUMNS):
        return _alpaca_halves(texts, training)
    return texts, []


def rows_of(source: str | Path, samples: int) -> list[Row]:
    """The rows of a file, or of a data set on the hub, of which no more are read than are enough for some samples.

    Of a ``.txt`` a row is a text: a paragraph, or what stands between two lines ``<|endoftext|>``.
    """
    if not on_hub(str(source)):
        return _read(Path(source))
    return [row.checked() for row in source_rows(str(source), STREAMED * samples)]


def _read(path: Path) -> list[Row]:
    """The rows of a file; of ``.txt`` its texts."""
    if not os.path.isfile(path):
        found = f"{path} is a folder" if os.path.isdir(path) else f"there is no file {path}"
        raise InputError(f"{found}: give a file, {', '.join(NAMES)} or hf:NAME[:CONFIG][:SPLIT]")
    if path.suffix.lower() == ".txt":
        return _split(whole_text(path))
    return [row.checked() for row in read_rows(path)]


def _draw(texts: list[str], samples: int, generator: random.Random) -> list[str]:
    return [texts[row] for row in generator.sample(range(len(texts)), min(samples, len(texts)))]


def _draw_both(texts: list[str], samples: int, generator: random.Random) -> tuple[list[str], list[str]]:
    apart = max(len(texts) // HELD_OUT, min(len(texts) - 1, 1))
    chosen = generator.sample(range(len(texts)), min(samples, len(texts) - apart))
    taken = set(chosen)
    rest = [text for row, text in enumerate(texts) if row not in taken]
    return [texts[row] for row in chosen], _draw(rest, samples, generator)


def _alpaca_halves(texts: list[str], training: bool) -> tuple[list[str], list[str]]:
    """The tenth that the official code calls "test" (it calibrates on it), or the train part; and "validation"."""
    import datasets  # takes a second to import

    rows = datasets.Dataset.from_dict({"row": range(len(texts))}).train_test_split(test_size=0.2, seed=ALPACA_SEED)
    halves = rows["test"].train_test_split(test_size=0.5, seed=ALPACA_SEED)
    first, second = (rows["train"] if training else halves["train"])["row"], halves["test"]["row"]
    return [texts[row] for row in first], [texts[row] for row in second]


def _texts(rows: list[Row], name: str) -> list[str]:
    """The text of every row that has one; null and blank ones are left out."""
    if not rows:
        raise InputError(f"{name} holds no text: give a source with at least one")
    column = _text_column(name, rows)
    numbered = [(f"row {number} of {name}", row) for number, row in enumerate(rows, 1)]
    texts = [_alpaca_text(where, row) if column is None else _cell(where, row, column) for where, row in numbered]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError(f"{name} holds no text, only {len(rows)} blank rows: give a source with at least one")
    return texts


def _text_column(name: str, rows: list[Row]) -> str | None:
    """The column that holds the text; None for Alpaca's columns, which make one together."""
    first = rows[0]
    if "text" in first:
        return "text"
    if first.keys() >= set(ALPACA_COLUMNS):
        return None
    strings = list(dict.fromkeys(column for row in rows for column, value in row.items() if isinstance(value, str)))
    usual = [column for column in COLUMNS if column in strings]
    named = len(strings) == 1 and not NO_TEXT.fullmatch(strings[0].lower())
    lone = strings if named and not any(map(_in_parts, rows)) else []
    if not usual and lone and name.lower().endswith(".csv") and not NAME.fullmatch(lone[0]):
        raise InputError(f"the first line of {name}, {lone[0][:40]!r}, names no column: put a line 'text' before it")
    if usual or lone:
        return (usual or lone)[0]
    raise InputError(
        f"{name} has the columns {format_names(first)}: it is not clear which holds the text, name that one 'text'"
    )


def _in_parts(row: Row) -> bool:
    """Whether it is a conversation or a text in parts, or around either, as ``{"name": ..., "data": [{...}, ...]}``."""
    inner = [value[0] if isinstance(value, list) and value else value for value in row.values()]
    objects = [(value, each) for value, each in zip(row.values(), inner, strict=True) if isinstance(each, dict)]
    parted = not row.keys().isdisjoint(TALKS) or any(isinstance(row.get(column), list) for column in LISTS)
    return parted or any(isinstance(value, list) or "text" in each for value, each in objects)


def _cell(where: str, row: Row, column: str, needed: bool = True) -> str:
    if needed and column not in row:
        raise InputError(f"{where} has {format_names(row)} and no {format_names([column])}, as the first has: add it")
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(
            f"column {format_names([column])} of {where} holds {value!r:.40}, a text was expected: give texts there"
        )
    return value


def _alpaca_text(where: str, row: Row) -> str:
    cells = {column: _cell(where, row, column) for column in ALPACA_COLUMNS}
    cells |= {column: _cell(where, row, column, needed=False) for column in ("input", *SYSTEM)}
    if row.get("history"):
        told = f"{where} has a history beside its instruction, which Alpaca's template has no place for"
        raise InputError(f"{told}: give such rows as messages")
    example = alpaca_example(cells)
    return example.prompt + example.response if cells["instruction"] else ""


def _split(whole: str) -> list[Row]:
    """A text between two lines ``<|endoftext|>``; without any such line a text is a paragraph (blank lines between)."""
    marked = re.split(rf"^{re.escape(SEPARATOR)}[ \t]*$", whole, flags=re.MULTILINE)
    pieces = marked if len(marked) > 1 else re.split(r"\n(?:[^\S\n]*\n)+", whole)
    return [{"text": piece.strip()} for piece in pieces]


def _wikitext(split: str) -> list[str]:
    return [row["text"] for row in load("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)]

"""Where texts come from (named data sets, files, the hub) and which of them calibrate and which are held out.

Alpaca is split and sampled exactly as the released code of BlockPruner (arXiv 2406.10594) does it. Deviation: that code
calibrates on rows of the *test* part of WikiText-2, blank ones too, and measures on the same part; we calibrate on rows
of its train part that hold text, and keep the whole test part for measuring.
"""

import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from remodeler import pydocs
from remodeler.errors import InputError

NAMES = ("alpaca", "wikitext2", "c4", "python")
SEPARATOR = "<|endoftext|>"
ALPACA_COLUMNS = ("instruction", "output")
COLUMNS = ("content", "sentence", "document", "article", "story")  # tried after "text" and Alpaca's, before a lone one
ALPACA_SEED = 42  # the official split is fixed; only the drawing from it has a seed of the user's
SMALLEST_ALPACA = 100  # below this a tenth of the file is too little to calibrate on
STREAMED = 100  # of a hub data set of any size this many rows per wanted sample are looked at
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
        raise InputError(f"{samples} samples were asked for, at least 1 is needed: raise --samples")
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
    """An instruction in the words of the official Alpaca template; prompt + response is its ``text`` column."""
    given = row.get("input")
    more = ", paired with an input that provides further context" if given else ""
    start = f"Below is an instruction that describes a task{more}."
    parts = [
        f"{start} Write a response that appropriately completes the request.",
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
    """The rows of a file, or of a data set on the hub, of which no more are read than are enough for some samples."""
    wanted = STREAMED * samples
    if source == "alpaca":
        return _hub("tatsu-lab/alpaca", split="train")
    if source == "c4":
        shard = {"validation": "en/c4-validation.00000-of-00008.json.gz"}
        return _hub("allenai/c4", split="validation", first=wanted, data_files=shard)
    if isinstance(source, str) and source.startswith("hf:"):
        name, config, split = _hub_name(source)
        return _hub(name, config, split=split, first=wanted)
    return _read(Path(source))


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
    """The text of every row that has one."""
    if not rows:
        raise InputError(f"{name} holds no text: give a source with at least one")
    column = _text_column(name, rows[0])
    texts = [_alpaca_text(name, row) if column is None else _cell(name, row, column) for row in rows]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError(f"{name} holds no text, only {len(rows)} blank rows: give a source with at least one")
    return texts


def _text_column(name: str, first: Row) -> str | None:
    """The column that holds the text; None for Alpaca's columns, which make one together."""
    if "text" in first:
        return "text"
    if first.keys() >= set(ALPACA_COLUMNS):
        return None
    strings = [column for column, value in first.items() if isinstance(value, str)]
    usual = [column for column in COLUMNS if column in strings]
    if usual or len(strings) == 1:
        return (usual or strings)[0]
    raise InputError(
        f"{name} has the columns {', '.join(first)}: it is not clear which holds the text, name that one 'text'"
    )


def _cell(name: str, row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"column {column} of {name} holds {value!r:.40}, a text was expected: give texts there")
    return value


def _alpaca_text(name: str, row: Row) -> str:
    cells = {column: _cell(name, row, column) for column in (*ALPACA_COLUMNS, "input")}
    example = alpaca_example(cells)
    return example.prompt + example.response if cells["instruction"] else ""


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        found = f"{path} is a folder" if path.is_dir() else f"there is no file {path}"
        raise InputError(f"{found}: give a file, {', '.join(NAMES)} or hf:NAME[:CONFIG][:SPLIT]")
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: texts are read from {', '.join(READERS)}")
    try:
        return READERS[path.suffix.lower()](path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as {path.suffix} ({_line(error)}): check the file") from None


def _read_text(path: Path) -> list[Row]:
    """A text between two lines ``<|endoftext|>``; without any such line a text is a paragraph (blank lines between)."""
    whole = path.read_text(encoding="utf-8-sig")
    marked = re.split(rf"^{re.escape(SEPARATOR)}$", whole, flags=re.MULTILINE)
    pieces = marked if len(marked) > 1 else re.split(r"\n(?:[^\S\n]*\n)+", whole)
    return [{"text": piece.strip()} for piece in pieces]


def _read_json(path: Path) -> list[Row]:
    """A JSON array or one JSON value a line, of objects or of plain texts: all go by either ending."""
    whole = path.read_text(encoding="utf-8-sig")
    values = json.loads(whole) if whole.lstrip().startswith("[") else list(_json_lines(path, whole))
    rows = [{"text": value} if isinstance(value, str) else value for value in values]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"entry {number} of {path} is {row!r:.40}: an object with a text in it was expected")
    return rows


def _json_lines(path: Path, whole: str) -> Iterator[Any]:
    for number, line in enumerate(whole.split("\n"), 1):
        try:
            if line.strip():
                yield json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number} of {path} is not valid JSON ({error}): restore or remove it") from None


def _read_csv(path: Path) -> list[Row]:
    import pandas  # takes half a second to import

    # As strings: "NA" and "1.0" are texts, not numbers.
    rows: list[Row] = pandas.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig").to_dict("records")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet  # takes half a second to import

    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _wikitext(split: str) -> list[str]:
    return [row["text"] for row in _hub("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)]


def _hub_name(source: str) -> tuple[str, str | None, str]:
    """The parts of ``hf:NAME[:CONFIG][:SPLIT]``; a lone train, validation or test is a split."""
    name, *rest = source.removeprefix("hf:").split(":")
    if not name or len(rest) > 2:
        raise InputError(f"{source} was given, hf:NAME[:CONFIG][:SPLIT] was expected: write it like that")
    if len(rest) == 1 and rest[0] in ("train", "validation", "test"):
        return name, None, rest[0]
    config, split = [*rest, "", ""][:2]
    return name, config or None, split or "train"


def _hub(name: str, config: str | None = None, *, split: str, first: int | None = None, **options: Any) -> list[Row]:
    """Rows of a hub data set: all, downloaded and kept in the cache, or streamed up to ``first``."""
    import datasets

    try:
        with _quiet():
            found = datasets.load_dataset(name, config, split=split, streaming=first is not None, **options)
            return list(islice(found, first))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        advice = "check the name, the split and the network, or give a local file"
        raise InputError(f"the data set {name} can't be read from the hub ({_line(error)}): {advice}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no retry warnings of the hub libraries; their settings come back."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging

    shown, level = not datasets.are_progress_bars_disabled(), hub_logging.get_verbosity()
    datasets.disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")

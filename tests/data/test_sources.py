"""Facts about where texts come from and which of them calibrate."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from places import SHARED
from remodeler.data import sources
from remodeler.data.sources import read_texts, sample
from remodeler.errors import InputError

DATA = SHARED / "data"
STORIES = [
    "Once there was a cat. It sat on the mat, and the mat was warm.",
    "Zwölf Äpfel fielen vom Baum: 日本語 too.",
    "The dog ran to the park and the dog found a ball.",
    "A bird sang.",
]


def alpaca_rows(count: int) -> list[dict[str, str]]:
    return [{"instruction": f"Do {n}.", "input": "x" if n % 3 else "", "output": f"Done {n}."} for n in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    frame = pandas.DataFrame(rows)
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            frame.to_parquet(path)
        case ".txt":
            path.write_text("\n\n".join(row["text"] for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", [".txt", ".json", ".jsonl", ".csv", ".parquet"])
def test_every_file_format_gives_the_same_texts(tmp_path: Path, ending: str) -> None:
    stories = [*STORIES, "NA", "12", 'He said "no",\nand left.']
    path = write(tmp_path / f"stories{ending}", [{"text": text, "id": str(n)} for n, text in enumerate(stories)])
    assert read_texts(path) == stories
    drawn = sample(str(path), 3, seed=1)
    direct = sample(stories, 3, seed=1)
    assert (drawn.calibration, drawn.heldout) == (direct.calibration, direct.heldout)
    assert drawn.name == str(path)
    assert drawn.available == len(stories)


def test_json_of_plain_texts_and_json_lines_by_either_ending(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(STORIES))
    (tmp_path / "b.json").write_text("\n".join(json.dumps({"content": text}) for text in STORIES))
    assert read_texts(tmp_path / "a.json") == read_texts(tmp_path / "b.json") == STORIES


def test_a_text_file_with_separator_lines_keeps_its_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("One.\n\nStill one.\n<|endoftext|>\nTwo, not <|endoftext|> here.\n<|endoftext|>\n")
    assert read_texts(path) == ["One.\n\nStill one.", "Two, not <|endoftext|> here."]
    path.write_text("One.\n \n\nTwo.\nStill two.\n")
    assert read_texts(path) == ["One.", "Two.\nStill two."]


@pytest.mark.parametrize("columns", [["text", "content"], ["content", "title"], ["sentence", "title"], ["lyrics"]])
def test_the_text_column_is_found(tmp_path: Path, columns: list[str]) -> None:
    rows = [{columns[0]: text, **dict.fromkeys(columns[1:], "no")} for text in STORIES]
    assert read_texts(write(tmp_path / "a.jsonl", rows)) == STORIES


def test_alpaca_columns_become_the_official_template(tmp_path: Path) -> None:
    first, second = read_texts(write(tmp_path / "a.json", alpaca_rows(2)))
    assert first == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nDo 0.\n\n### Response:\nDone 0."
    )
    assert second == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nDo 1.\n\n### Input:\nx\n\n### Response:\nDone 1."
    )


def official_alpaca(rows: list[dict[str, str]]) -> tuple[list[str], list[str]]:
    tenths = datasets.Dataset.from_list(rows).train_test_split(test_size=0.2, seed=42)["test"]
    halves = tenths.train_test_split(test_size=0.5, seed=42)
    return list(halves["train"]["text"]), list(halves["test"]["text"])


@pytest.mark.parametrize("samples", [4, 12, 10_000])
def test_alpaca_is_split_and_sampled_as_the_official_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    path = write(tmp_path / "alpaca.json", alpaca_rows(250))
    rows = [{"text": text} for text in read_texts(path)]
    test, validation = official_alpaca(rows)
    state = random.getstate()
    random.seed(42)
    expected = [test[row] for row in random.sample(range(len(test)), min(samples, len(test)))]
    random.setstate(state)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(alpaca_hub(path)))
    for source in (path, "alpaca"):
        drawn = sample(source, samples, seed=42)
        assert drawn.calibration == expected
        assert set(drawn.heldout) <= set(validation)
        assert len(drawn.heldout) == len(drawn.calibration)
    assert sample(path, samples, seed=43).calibration != expected


def alpaca_hub(path: Path) -> list[dict[str, str]]:
    return [{**row, "text": text} for row, text in zip(alpaca_rows(250), read_texts(path), strict=True)]


def test_a_small_alpaca_file_is_drawn_from_as_a_whole(tmp_path: Path) -> None:
    drawn = sample(write(tmp_path / "a.json", alpaca_rows(99)), 60)
    assert (len(drawn.calibration), len(drawn.heldout), drawn.available) == (60, 39, 99)


@pytest.mark.parametrize(
    ("count", "samples", "sizes"), [(100, 10, (10, 10)), (100, 70, (70, 30)), (100, 90, (80, 20)), (2, 9, (1, 1))]
)
def test_calibration_and_heldout_texts_are_disjoint(count: int, samples: int, sizes: tuple[int, int]) -> None:
    numbered = [f"text {n}" for n in range(count)]
    drawn = sample(numbered, samples, seed=3)
    assert (len(drawn.calibration), len(drawn.heldout)) == sizes
    assert not set(drawn.calibration) & set(drawn.heldout)
    assert drawn == sample(numbered, samples, seed=3)
    assert any(drawn != sample(numbered, samples, seed) for seed in range(9))


def test_the_only_text_calibrates() -> None:
    assert sample(["only"], 5).calibration == ["only"]


def test_python_documentation_has_its_own_parts() -> None:
    drawn = sample("python", 20)
    assert len(drawn.calibration) == len(drawn.heldout) == 20
    assert not set(drawn.calibration) & set(drawn.heldout)


def test_wikitext_is_calibrated_on_train_and_held_out_as_the_whole_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        split: [{"text": text} for text in ["", *(f"{split} {n}" for n in range(9))]] for split in ("train", "test")
    }
    asked = []

    def load_dataset(name: str, config: str, *, split: str, streaming: bool) -> datasets.Dataset:
        asked.append((name, config, streaming))
        return datasets.Dataset.from_list(parts[split])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    drawn = sample("wikitext2", 5)
    assert len(drawn.calibration) == 5
    assert set(drawn.calibration) < {f"train {n}" for n in range(9)}
    assert drawn.heldout == ["", *(f"test {n}" for n in range(9))]
    assert set(asked) == {("Salesforce/wikitext", "wikitext-2-raw-v1", False)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:a/b", ("a/b", None, "train")),
        ("hf:a/b:test", ("a/b", None, "test")),
        ("hf:a/b:en", ("a/b", "en", "train")),
        ("hf:a/b:en:extra", ("a/b", "en", "extra")),
        ("hf:a/b::extra", ("a/b", None, "extra")),
        ("c4", ("allenai/c4", None, "validation")),
    ],
)
def test_hub_data_sets_are_streamed_and_read_no_further_than_needed(
    monkeypatch: pytest.MonkeyPatch, source: str, expected: tuple[str, str | None, str]
) -> None:
    read = []

    def stream() -> Iterator[dict[str, str]]:
        for number in range(10_000):
            read.append(number)
            yield {"text": f"text {number}", "url": "no"}

    def load_dataset(
        name: str, config: str | None, *, split: str, streaming: bool, **_: Any
    ) -> Iterator[dict[str, str]]:
        assert (name, config, split) == expected
        assert streaming
        assert datasets.are_progress_bars_disabled()
        return stream()

    shown = datasets.are_progress_bars_disabled()
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    drawn = sample(source, 3)
    assert len({*drawn.calibration, *drawn.heldout}) == 6
    assert len(read) <= 3 * sources.STREAMED + 1
    assert datasets.are_progress_bars_disabled() == shown


# --- bad input


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", b"", "holds no text"),
        ("a.json", b"[]", "holds no text"),
        ("a.txt", b" \n\n \n", "holds no text"),
        ("a.csv", b"", "holds no text"),
        ("a.csv", b"text\n", "holds no text"),
        ("a.parquet", b"PAR1", "can't be read as .parquet"),
        ("a.txt", b"\xff\xfe", "is not UTF-8 text but UTF-16"),
        ("a.txt", b"one\ntw\xf6", "row 2 of .* is not UTF-8 text .the byte 0xf6 at character 2, after 'tw'"),
        ("a.docx", b"x", "ends in .docx: texts are read from .txt, .jsonl"),
        ("a", b"x", "ends in nothing"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', "row 2 of .* .line 3. is not valid JSON .it breaks off"),
        ("a.json", b'[{"text": "x"}, ', "is not valid JSON .behind row 1"),
        ("a.json", b'["x", 5]', "row 2 of .* is '5': an object"),
        ("a.jsonl", b'{"text": 5}', "column text of row 1 of"),
        ("a.jsonl", b'{"text": "x"}\n{"content": "y"}', "row 2 of .* has content and no text, as the first has"),
        ("a.json", b'{"name": "x", "data": [{"text": "y"}]}', "has the columns name, data"),
        ("a.csv", b"A first text\nAnother\n", "the first line of .* names no column"),
        ("a.csv", b"text,label\nhello, world,1\n", "row 1 of .* .line 2. has 3 columns, the header 2"),
        ("a.jsonl", b'{"title": "x", "url": "y"}', "has the columns title, url"),
        ("a.jsonl", b'{"label": 5}', "has the columns label"),
    ],
)
def test_bad_files_are_named_in_one_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        sample(path, 2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_counts(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"there is no file alpacca: give a file, alpaca, wikitext2, c4, python or hf:"
    ):
        sample("alpacca", 2)
    with pytest.raises(InputError, match="is a folder"):
        sample(tmp_path, 2)
    with pytest.raises(InputError, match="0 samples"):
        sample(STORIES, 0)
    with pytest.raises(InputError, match="the list holds no text"):
        sample([], 2)
    with pytest.raises(InputError, match="was expected"):
        sample("hf:", 2)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'a/b' on the Hub\nmore"),
        datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"),
        ValueError("Unknown split 'x'. Should be one of ['train']."),
        RuntimeError("Dataset scripts are no longer supported, but found b.py"),
    ],
)
def test_hub_trouble_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"the data set a/b can't be read from the hub \(") as caught:
        sample("hf:a/b", 2)
    assert str(error).splitlines()[0].rstrip(".") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.shared
@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared")
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("tinystories/part_a.txt", 3000),
        ("wikitext2/test.txt", 1000),
        ("alpaca/alpaca_5000.json", 4999),
        ("alpaca/alpaca_en_demo.json", 900),
        ("c4/c4_demo.jsonl", 250),
        ("c4/c4_demo_llmdrop.json", 250),
        ("toxic_spans/tsd_train.csv", 7900),
    ],
)
def test_real_files_are_read(name: str, least: int) -> None:
    assert len(read_texts(DATA / name)) >= least
    drawn = sample(DATA / name, 64)
    assert len(drawn.calibration) == len(drawn.heldout) == 64

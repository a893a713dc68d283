"""Bytes of a checkpoint: those of its files, whatever it is computed in; and the disk that a result goes to."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from remodeler.checkpoint import sizes
from remodeler.checkpoint.load import load
from remodeler.checkpoint.sizes import announce_space, announce_training_space, memory, sizes_in_words, stored_size
from remodeler.errors import InputError
from remodeler.runs.folders import existing_parent, free_space, refuse_existing
from tiny import tiny_model, tiny_tokenizer

Usage = namedtuple("Usage", "free")


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 checkpoint in three files and an index."""
    folder = tmp_path_factory.mktemp("models") / "halves"
    tiny_model("llama").to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def bytes_in(folder: Path) -> int:
    return sum(tensor.nbytes for file in folder.glob("*.safetensors") for tensor in load_file(file).values())


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_weights_are_the_bytes_of_the_files(halves: Path, dtype: str) -> None:
    figures = memory(load(halves, dtype=dtype, device="cpu"))
    assert figures["weight_bytes"] == bytes_in(halves) == 2 * figures["parameters"]
    assert figures["kv_bytes_per_token"] == 4 * 2 * 2 * 8 * 2, "layers, keys and values, heads, their size, bytes"
    wide = {"memory_bytes": 4 * figures["parameters"], "computed_in": "float32"}
    assert {key: figures[key] for key in wide if key in figures} == (wide if dtype == "float32" else {})


def test_what_is_in_memory_is_told_where_it_differs(halves: Path) -> None:
    assert "in memory" not in sizes_in_words(memory(load(halves, device="cpu")))
    words = sizes_in_words(memory(load(halves, dtype="float32", device="cpu")))
    assert words.endswith("of weights; computed in float32: 201 kB in memory")


def test_a_file_that_is_not_loaded_does_not_count(halves: Path, tmp_path: Path) -> None:
    shutil.copytree(halves, tmp_path / "more")
    save_file({"other": torch.zeros(10_000)}, tmp_path / "more" / "other.safetensors")
    assert stored_size(load(tmp_path / "more", device="cpu")) == stored_size(load(halves, device="cpu"))


def test_a_model_of_the_hub_is_measured_in_its_cache(
    halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "models--org--halves"
    shutil.copytree(halves, place / "snapshots" / "0123")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = replace(load(halves, dtype="float32", device="cpu"), name="org/halves")
    assert stored_size(found).bytes == bytes_in(halves)
    assert stored_size(found).dtype == torch.bfloat16


def test_space_is_that_of_the_disk_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(1000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.chdir("/")
    announce_space(tmp_path / "new" / "deep" / "out", 1000)
    assert asked == [tmp_path]
    assert not messages.text
    announce_space(tmp_path / "new" / "deep" / "out", 1001)
    assert "about 1.00 kB will be written, the disk of" in messages.text


def test_space_that_an_unfinished_result_has_already_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sizes, "free_space", lambda _: 0)
    work = tmp_path / "out.partial"
    work.mkdir()
    (work / "half").write_bytes(bytes(8192))
    announce_space(tmp_path / "out", 8000)
    assert not messages.text
    announce_space(tmp_path / "out", 80_000)
    assert "0 B left" in messages.text


def test_training_of_everything_needs_room_for_its_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sizes, "free_space", lambda _: 300)
    figures = {"parameters": 100, "weight_bytes": 200}
    announce_training_space(tmp_path / "out", figures, everything=False)
    assert not messages.text
    announce_training_space(tmp_path / "out", figures, everything=True)
    assert "about 2.60 kB" in messages.text, "weights, and twice a number with its two moments"


def test_the_nearest_folder_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert existing_parent(Path("a/b/c")) == tmp_path
    assert free_space(Path("a")) == shutil.disk_usage(tmp_path).free


@pytest.mark.parametrize(
    ("place", "message"),
    [("file/out", "Not a directory"), ("x" * 250, "File name too long"), ("z\udcff", "not valid UTF-8")],
)
def test_a_place_that_can_not_hold_a_result_is_refused_before_there_is_work(
    place: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        refuse_existing(tmp_path / place)


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # for whoever may write everywhere
    with pytest.raises(InputError, match="choose a place you may write to"):
        refuse_existing(tmp_path / "out")

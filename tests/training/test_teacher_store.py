"""A store of predictions: small, exact up to float16, whole after a kill, and the same lesson as the live teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from remodeler.data.windows import IGNORED, Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import TopK, sparse
from remodeler.model.minibatches import to_batch
from remodeler.runs.progress import silent
from remodeler.training import teacher_store as predictions
from remodeler.training.losses import distillation, teacher
from remodeler.training.teacher_store import Store, group_bytes, make, pack, read_from, unpack
from tiny import tiny_anatomy, tiny_windows

PLAIN = tiny_windows(count=10, seed=4)
TARGETS = PLAIN.targets.clone()
TARGETS[::3, 5:] = IGNORED
WINDOWS = Windows(PLAIN.ids, TARGETS)


@pytest.fixture(scope="module")
def original() -> Anatomy:
    return tiny_anatomy("llama", seed=2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "SHARD_TOKENS", 30)


def made(original: Anatomy, folder: Path, k: int = 6) -> Store:
    return make(original, "digest", WINDOWS, k, folder, silent)


def random_top(size: int, k: int, tokens: int = 50) -> TopK:
    generator = torch.Generator().manual_seed(size)
    ids = torch.stack([torch.randperm(size, generator=generator)[:k] for _ in range(tokens)])
    top = sparse(torch.randn(tokens, k + 5, generator=generator) * 4, k)
    return TopK(ids, top.logprobs, top.rest)


@pytest.mark.parametrize(
    ("size", "k", "most"),
    [
        (300, 10, 42),
        (65_536, 10, 42),
        (65_537, 10, 44),
        (128_256, 10, 44),
        (151_936, 10, 44),
        (262_144, 10, 45),
        (151_936, 7, 34),
    ],
)
def test_packing_keeps_every_id_in_so_many_bytes(size: int, k: int, most: int) -> None:
    top = random_top(size, k)
    top.ids[0, 0], top.ids[1, k - 1] = size - 1, size - 1
    packed = pack(top, size)
    again = unpack(packed, size)
    assert torch.equal(again.ids, top.ids)
    assert sum(tensor.numel() * tensor.itemsize for tensor in packed.values()) / len(top.ids) <= most
    assert torch.cat([again.logprobs, again.rest[:, None]], 1).logsumexp(1).abs().max() < 1e-6
    error = (again.logprobs - top.logprobs).abs() - 2**-10 * top.logprobs.abs()
    assert error.max() < 2**-10


def test_high_halves_take_as_few_bytes_as_they_can() -> None:
    assert [group_bytes(size) for size in (65_536, 65_537, 131_072, 196_608, 196_609, 2**20)] == [0, 2, 2, 2, 3, 5]


def test_a_stored_teacher_says_what_the_live_one_says(original: Anatomy, tmp_path: Path) -> None:
    teach, live = read_from(made(original, tmp_path)), teacher(original, 6)
    numbers = (7, 0, 3, 9)
    batch = to_batch(WINDOWS[torch.tensor(numbers)], torch.device("cpu"))
    batch = type(batch)(batch.inputs, batch.places, batch.targets, batch.rows, numbers)
    found, wanted = teach(batch), live(batch)
    assert torch.equal(found.ids, wanted.ids)
    torch.testing.assert_close(found.logprobs, wanted.logprobs, rtol=1e-3, atol=2e-3)
    student = tiny_anatomy("llama", seed=5)
    losses = [distillation(each)(student, batch).item() for each in (teach, live)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_store_goes_on_where_it_stopped(original: Anatomy, tmp_path: Path) -> None:
    def stop(share: float, words: str) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(original, "digest", WINDOWS, 6, tmp_path / "cut", stop)
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.safetensors")}
    store, whole = made(original, tmp_path / "cut"), made(original, tmp_path / "whole")
    assert 0 < len(done) < len(store.bounds) - 1
    for number in range(len(store.bounds) - 1):
        first, second = load_file(store.shard(number)), load_file(whole.shard(number))
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert all((tmp_path / "cut" / name).stat().st_mtime_ns == stamp for name, stamp in done.items())


def test_damage_is_seen_and_mended(original: Anatomy, tmp_path: Path) -> None:
    store = made(original, tmp_path)
    shard = store.shard(1)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="missing or damaged"):
        read_from(store)
    shard.unlink()
    read_from(made(original, tmp_path))


@pytest.mark.parametrize("other", [{"k": 5}, {"digest": "else"}, {"windows": PLAIN}])
def test_a_store_of_something_else_is_refused(other: dict[str, Any], original: Anatomy, tmp_path: Path) -> None:
    made(original, tmp_path)
    given = {"digest": "digest", "windows": WINDOWS, "k": 6} | other
    with pytest.raises(InputError, match="another"):
        make(original, folder=tmp_path, progress=silent, **given)

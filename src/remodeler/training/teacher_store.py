"""What a teacher predicts for some windows, stored once: its k likeliest tokens at every scored position, and the rest.

A store is a folder of shards in safetensors and a header. A position takes 2 bytes for each log-probability, 2 for that
of the rest, 2 for the low half of each id, and for the high halves of ten ids together as few bytes as they can have:
with k = 10 that is 42 bytes for up to 65,536 tokens, 44 for up to 196,608. Log-probabilities are float16 (relative
error up to 2^-11) and made to sum to 1 again when they are read. A store may also hold other facts of a position by
name, such as the log-probability of the token that really came (``gold``, 2 bytes more). A shard is written beside its
place and renamed; its SHA-256 and its size stand in a file beside it, so a run that was killed goes on with the shards
that are missing, and several processes share them out.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed

from remodeler.checkpoint.save import weight_errors
from remodeler.data.windows import IGNORED, Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import TopK, concatenate, scored_topk, vocabulary
from remodeler.model.minibatches import Batch, batch_size, batches, device_of
from remodeler.runs import processes
from remodeler.runs.progress import Progress
from remodeler.runs.records import disk_errors, read_json, sha256, write_json
from remodeler.training.losses import Teach

SHARD_TOKENS = 2**18
"""Scored positions of a shard, at least: about 11 MB at k = 10."""
LOW = 2**16
GROUP = 10
"""Ids whose high halves are one number."""
HEADER = "predictions.json"


# Packing --------------------------------------------------------------------------------------------------------------


def group_bytes(size: int) -> int:
    """Bytes of the high halves of ten ids below ``size``."""
    return math.ceil(math.log2(math.ceil(size / LOW)) * GROUP / 8)


def pack(top: TopK, size: int) -> dict[str, Tensor]:
    """The tensors of a shard; ``size`` is the vocabulary's."""
    packed = {
        "low": (top.ids % LOW).to(torch.uint16),
        "logprobs": top.logprobs.half(),
        "rest": top.rest.half(),
    }
    width = group_bytes(size)
    if width:
        groups = torch.nn.functional.pad(top.ids // LOW, (0, -top.ids.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
        codes = (groups * math.ceil(size / LOW) ** torch.arange(GROUP, device=groups.device)).sum(2)  # [tokens, groups]
        bytes_ = torch.stack([codes >> 8 * place & 255 for place in range(width)], 2)
        packed["high"] = bytes_.to(torch.uint8).flatten(1)
    return packed


def unpack(packed: dict[str, Tensor], size: int) -> TopK:
    """What was packed, up to float16; the probabilities of a position sum to 1."""
    ids, width = packed["low"].long(), group_bytes(size)
    if width:
        bytes_ = packed["high"].long().unflatten(1, (-1, width))
        codes = sum(bytes_[:, :, place] << 8 * place for place in range(width))  # [tokens, groups]
        base = math.ceil(size / LOW)
        high = torch.stack([codes // base**place % base for place in range(GROUP)], 2).flatten(1)
        ids = ids + LOW * high[:, : ids.shape[1]]
    logprobs, rest = packed["logprobs"].float(), packed["rest"].float()
    whole = torch.cat([logprobs, rest[:, None]], 1).logsumexp(1)
    return TopK(ids, logprobs - whole[:, None], rest - whole)


# A store --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """A folder of predictions for some windows."""

    folder: Path
    windows: Windows
    header: dict[str, Any]
    """``teacher`` (digest of its weights), ``windows`` (digest), ``k``, ``vocabulary``."""

    @property
    def bounds(self) -> list[int]:
        """First window of every shard, and the number of windows."""
        per_window = max(1, self.windows.tokens // len(self.windows))
        size = max(1, SHARD_TOKENS // per_window)
        return [*range(0, len(self.windows), size), len(self.windows)]

    @cached_property
    def ends(self) -> list[int]:
        """Scored positions up to the end of every window."""
        return [int(end) for end in (self.windows.targets != IGNORED).sum(1).cumsum(0)]

    def shard(self, number: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"{number:05d}.safetensors"


Extras = dict[str, Tensor]
"""What else is known of every position, by name: [tokens]."""
GOLD = "gold"
"""Log-probability of the token that came."""
Compute = Callable[[int, int], tuple[TopK, Extras]]


def make(
    teacher: Anatomy,
    digest: str,
    windows: Windows,
    k: int,
    folder: Path,
    progress: Progress,
    gold: bool = False,
) -> Store:
    """The store of a teacher's predictions; what is there already is used.

    Args:
        teacher: the model that predicts.
        digest: of its weights.
        windows: what it reads.
        k: tokens a position.
        folder: a new one, or one that an earlier call left.
        progress: is told the share done, and a few words.
        gold: store the log-probability of the token that came, too.

    Raises:
        InputError: when the folder holds other predictions, or the teacher predicts NaN.
    """
    size = vocabulary(teacher.model)
    k = min(k, size)
    header = {"teacher": digest, "windows": windows.fingerprint(), "k": k, "vocabulary": size}
    store = Store(folder, windows, header | ({"gold": True} if gold else {}))
    return fill(store, lambda start, stop: _predict(teacher, windows[start:stop], k, gold), progress)


def fill(store: Store, compute: Compute, progress: Progress) -> Store:
    """Make those shards of a store that are not there yet, shared out over the processes.

    Args:
        store: where, and of what.
        compute: what stands at the scored positions of some windows: the first, and the one behind the last.
        progress: is told the share done, and a few words.
    """
    processes.first_does(lambda: _begin(store))
    starts = store.bounds
    for number in range(processes.rank(), len(starts) - 1, processes.world()):
        progress(number / (len(starts) - 1), f"shard {number + 1} of {len(starts) - 1}")
        if not whole(store.shard(number)):
            _write(store, number, *compute(starts[number], starts[number + 1]))
    if processes.world() > 1:
        distributed.barrier()
    return store


def _begin(store: Store) -> None:
    path = store.folder / HEADER
    with disk_errors(store.folder):
        store.folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, store.header)
    elif (found := read_json(path)) != store.header:
        names = ", ".join(name for name, value in store.header.items() if found.get(name) != value)
        raise InputError(f"{store.folder} holds predictions of another {names}: choose another `teacher_store`")


def _predict(teacher: Anatomy, windows: Windows, k: int, gold: bool) -> tuple[TopK, Extras]:
    device = device_of(teacher.model)
    parts = [scored_topk(teacher, batch, k) for batch in batches(windows, batch_size(teacher, windows), device)]
    top = concatenate([each for each, _ in parts]).to("cpu")
    came = torch.cat([each for _, each in parts]).cpu()
    if not came.isfinite().all():
        raise InputError("a teacher predicts NaN or infinity: its weights are damaged, or `dtype` is too narrow for it")
    return top, {GOLD: came.half()} if gold else {}


def _write(store: Store, number: int, top: TopK, extras: Extras) -> None:
    path = store.shard(number)
    beside = path.with_name(path.name + ".partial")
    with disk_errors(path), weight_errors(store.folder):
        save_file(pack(top, store.header["vocabulary"]) | extras, beside)
        facts = {"sha256": sha256(beside), "tokens": len(top.ids)}
        beside.replace(path)
        write_json(path.with_suffix(".json"), facts)


def whole(path: Path) -> bool:
    """Whether a shard was written to its end."""
    return path.exists() and path.with_suffix(".json").exists()


def refuse_damaged(store: Store) -> None:
    """Raise for a shard that is missing, or whose bytes are not those that were written."""
    for number in range(len(store.bounds) - 1):
        path = store.shard(number)
        if not whole(path) or read_json(path.with_suffix(".json"))["sha256"] != sha256(path):
            raise InputError(f"{path} is missing or damaged: delete it, and the same command makes it again")


def gold_logprobs(store: Store) -> Tensor:
    """Log-probabilities of the tokens that came, at all scored positions: [tokens] float32."""
    return extras(store, [GOLD], 0, len(store.windows))[GOLD].float()


def extras(store: Store, names: Sequence[str], start: int, stop: int) -> Extras:
    """Facts of the scored positions of some windows, by name."""
    parts = [read(names) for read in _stretches(store, start, stop)]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def between(store: Store, start: int, stop: int) -> TopK:
    """What stands at the scored positions of some windows: the first, and the one behind the last."""
    size = store.header["vocabulary"]
    names = ["low", "logprobs", "rest", *(["high"] if group_bytes(size) else [])]
    return concatenate([unpack(read(names), size) for read in _stretches(store, start, stop)])


def _stretches(store: Store, start: int, stop: int) -> Iterator[Callable[[Sequence[str]], Extras]]:
    """By shard what reads tensors at the scored positions of some windows, by their names."""
    starts, ends = store.bounds, [0, *store.ends]
    for place in range(bisect_right(starts, start) - 1, len(starts) - 1):
        if starts[place] >= stop:
            break
        first = ends[starts[place]]
        part = slice(ends[max(start, starts[place])] - first, ends[min(stop, starts[place + 1])] - first)
        with safe_open(store.shard(place), framework="pt") as file:
            yield partial(_slices, file, part)


def _slices(file: Any, part: slice, names: Sequence[str]) -> Extras:
    return {name: file.get_slice(name)[part] for name in names}


def read_from(store: Store) -> Teach:
    """A teacher that is read from a store, by the numbers of a batch's windows.

    Raises:
        InputError: when a shard is missing, or its bytes are not those that were written.
    """
    refuse_damaged(store)

    def teach(batch: Batch) -> TopK:
        return concatenate([between(store, number, number + 1) for number in batch.numbers]).to(batch.targets.device)

    return teach

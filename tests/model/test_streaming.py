"""Layers read from disk as a pass reaches them: the bits of a model in memory, each weight read once for a group."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from forks import found_by_two
from remodeler.checkpoint import save as saving
from remodeler.checkpoint.load import Checkpoint, fingerprint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.checkpoint.sizes import memory
from remodeler.data.sources import read_texts
from remodeler.errors import InputError
from remodeler.evaluation.metrics import model_windows
from remodeler.model import streaming
from remodeler.model.blocks import bypassed
from remodeler.model.files.shards import write_shards
from remodeler.model.files.weights import INDEX, tensor_files
from remodeler.model.layerwise import group_size, replaying, through
from remodeler.model.logprobs import mean_nll
from remodeler.pruning.config import Budget
from remodeler.pruning.criteria.sweep import window_scores
from remodeler.pruning.methods import METHODS
from remodeler.pruning.search.loop import Search, prune
from remodeler.pruning.search.racing import race
from remodeler.runs.records import read_lines
from remodeler.runs.units import Block, Kind, Unit
from tiny import LAYERS, tiny_model, tiny_tokenizer, tiny_windows

A: Kind = "attention"
M: Kind = "mlp"
COUNT, SIZE = 7, 2
"""Windows, and windows a mini-batch: the last one is smaller."""
BATCHES = 4
FAMILIES = [
    *("llama", "llama-tied", "qwen3", "gemma2", "gemma3_text", "gpt2", "mixtral", "qwen3_moe-mixed", "phi"),
    *("opt", "opt-post-norm", "falcon", "bloom-post-norm", "bert", "t5"),
]


def written(folder: Path, name: str, **options: Any) -> Path:
    """A tiny model as a checkpoint on disk."""
    model: Any = tiny_model(name, **options)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def both(folder: Path, name: str, **options: Any) -> tuple[Checkpoint, Checkpoint]:
    """The same checkpoint in memory and on disk."""
    source = written(folder / "source", name)
    return load(source, **options), load(source, stream=True, **options)


def weights_of(checkpoint: Checkpoint) -> streaming.Weights:
    weights = streaming.streamed_weights(checkpoint.model)
    assert isinstance(weights, streaming.Weights)
    return weights


@contextmanager
def allowed(checkpoint: Checkpoint, memory: int) -> Iterator[None]:
    """The model with so many bytes for the states of a pass; how much it read goes on being counted."""
    model, weights = checkpoint.model, weights_of(checkpoint)
    model.streamed_weights = replace(weights, memory=memory)
    yield
    model.streamed_weights = weights


def candidates(checkpoint: Checkpoint, removed: Sequence[Block]) -> list[Unit]:
    """Every block that is left, and two that lie in different layers."""
    left = [block for block in checkpoint.anatomy.blocks() if block not in removed]
    return [*((block,) for block in left), (left[1], left[-1])]


def layer_bytes(checkpoint: Checkpoint, without: Sequence[Block] = ()) -> int:
    """Bytes of the layers' weights, less those of some blocks."""
    model, anatomy = checkpoint.model, checkpoint.anatomy
    total = sum(value.nbytes for path in weights_of(checkpoint).paths for value in _values(model.get_submodule(path)))
    return total - sum(value.nbytes for block in without for value in anatomy.branches[block].parameters())


def _values(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return list(module.parameters())


def nothing_held(checkpoint: Checkpoint) -> bool:
    """Whether no layer is in memory."""
    model, weights = checkpoint.model, weights_of(checkpoint)
    empty = all(value.is_meta for path in weights.paths for value in model.get_submodule(path).parameters())
    return empty and not weights.empty and not any(weights.holders.values())


# The same model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_scores_of_a_sweep_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, stream = both(tmp_path, name)
    assert fingerprint(stream.model) == fingerprint(whole.model)
    assert [branch.names for branch in stream.anatomy.branches.values()] == [
        branch.names for branch in whole.anatomy.branches.values()
    ]
    windows, removed = tiny_windows(whole.anatomy.family.task, COUNT), [whole.anatomy.blocks()[1]]
    units = candidates(whole, removed)
    wanted = window_scores(whole.anatomy, windows, removed, units, SIZE)
    assert torch.equal(window_scores(stream.anatomy, windows, removed, units, SIZE), wanted)
    with bypassed(whole.anatomy, removed), bypassed(stream.anatomy, removed):
        assert mean_nll(stream.anatomy, windows, SIZE) == mean_nll(whole.anatomy, windows, SIZE)
    assert nothing_held(stream)


def test_the_allowance_is_what_was_asked_for_or_what_is_free(tmp_path: Path) -> None:
    source = written(tmp_path, "llama")
    assert streaming.allowance(load(source, stream=True, stream_memory=12345).model) == 12345
    free = streaming.room(torch.device("cpu"))
    assert free / 4 < streaming.allowance(load(source, stream=True).model) < free


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "mixtral", "t5"])
def test_weights_are_cast_as_they_are_for_a_model_in_memory(name: str, dtype: str, tmp_path: Path) -> None:
    """T5 keeps one projection in float32 when the rest is float16."""
    whole, stream = both(tmp_path, name, dtype=dtype)
    for (wanted_name, wanted), (found_name, found) in zip(
        streaming.tensors_by_name(whole.model), streaming.tensors_by_name(stream.model), strict=True
    ):
        assert (found_name, found.dtype) == (wanted_name, wanted.dtype)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("method", ["blockpruner", "size-weighted", "finercut"])
def test_the_log_of_a_search_and_every_byte_of_what_is_written(method: str, tmp_path: Path) -> None:
    results: list[Any] = []
    for checkpoint in both(tmp_path, "llama"):
        out = tmp_path / f"out{len(results)}"
        out.mkdir()
        search = Search(checkpoint.anatomy, tiny_windows(count=COUNT), Budget(remove=2), METHODS[method], size=SIZE)
        steps = prune(search, out / "log", {"weights": fingerprint(checkpoint.model)})
        log = [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(out / "log")]
        saved = save_pruned(checkpoint, [block for step in steps for block in step.removed], out)
        names = ("model.safetensors", "config.json", "generation_config.json", "packed.py")
        results.append((log, saved.form, saved.check.one_pass, [(out / name).read_bytes() for name in names]))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["llama-tied", "mixtral", "bert"])
def test_a_packed_model_streams_too(name: str, tmp_path: Path) -> None:
    whole, _ = both(tmp_path, name)
    packed = tmp_path / "packed"
    packed.mkdir()
    save_pruned(whole, [Block(0, A), Block(2, M)], packed, form="packed")
    whole, stream = load(packed), load(packed, stream=True)
    windows, units = tiny_windows(whole.anatomy.family.task, COUNT), candidates(whole, [])
    wanted = window_scores(whole.anatomy, windows, [], units, SIZE)
    assert torch.equal(window_scores(stream.anatomy, windows, [], units, SIZE), wanted)


def test_the_portable_form_is_written_with_its_zeros(tmp_path: Path) -> None:
    whole, stream = both(tmp_path, "gpt2")
    for name, checkpoint in {"a": whole, "b": stream}.items():
        (tmp_path / name).mkdir()
        save_pruned(checkpoint, [Block(1, A), Block(3, M)], tmp_path / name, form="portable")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("limit", [1, 40_000])
def test_every_tensor_is_written_into_one_shard(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "write_shards", partial(write_shards, limit=limit))
    files: list[list[dict[str, torch.Tensor]]] = []
    for number, checkpoint in enumerate(both(tmp_path, "llama")):
        (tmp_path / str(number)).mkdir()
        save_pruned(checkpoint, [Block(1, A)], tmp_path / str(number))
        files.append([load_file(file) for file in sorted((tmp_path / str(number)).glob("*.safetensors"))])
    (whole,), shards = files
    assert len(shards) > 2
    assert sorted(name for shard in shards for name in shard) == sorted(whole)
    assert all(torch.equal(value, whole[name]) for shard in shards for name, value in shard.items())


def test_a_streamed_model_generates(tmp_path: Path) -> None:
    whole, stream = both(tmp_path, "llama")
    ids = torch.arange(3, 9)[None]
    wanted = whole.model.generate(ids, max_new_tokens=8, do_sample=False)
    assert torch.equal(stream.model.generate(ids, max_new_tokens=8, do_sample=False), wanted)
    assert memory(stream) == memory(whole)


@pytest.mark.shared
def test_a_real_model_gives_the_same_log(shared: Path, tmp_path: Path) -> None:
    texts = read_texts(shared / "data" / "tinystories" / "part_a.txt")[:20]
    logs: list[Any] = []
    for stream in (False, True):
        checkpoint = load(shared / "models" / "stories12l", stream=stream)
        windows = model_windows(checkpoint, texts, 48)[:6]
        steps = prune(Search(checkpoint.anatomy, windows, Budget(remove=2), size=SIZE))
        logs.append([(step.removed, step.importance, step.perplexity, step.parameters) for step in steps])
    assert logs[0] == logs[1]


# What is read, and when it is let go ----------------------------------------------------------------------------------


def test_a_step_reads_every_weight_once_and_none_that_is_removed(tmp_path: Path) -> None:
    _, stream = both(tmp_path, "llama")
    read, removed = weights_of(stream).read, [Block(1, M), Block(2, A)]
    read.clear()
    window_scores(stream.anatomy, tiny_windows(count=COUNT), removed, candidates(stream, removed), SIZE)
    assert read.total() == layer_bytes(stream, removed)


def test_each_group_reads_them_once(tmp_path: Path) -> None:
    """Room for the states of two mini-batches makes two groups of the four."""
    whole, stream = both(tmp_path, "llama")
    windows, units = tiny_windows(count=COUNT), candidates(stream, [])
    state = SIZE * windows.ids.shape[1] * stream.model.config.hidden_size * 4
    room = 2 * state * (len(units) + 1)
    weights_of(stream).read.clear()
    with allowed(stream, room):
        assert group_size(stream.anatomy, SIZE * windows.ids.shape[1], len(units) + 1) == 2
        found = window_scores(stream.anatomy, windows, [], units, SIZE)
    assert weights_of(stream).read.total() == 2 * layer_bytes(stream)
    with allowed(stream, room - 1):
        window_scores(stream.anatomy, windows, [], units, SIZE)
    assert weights_of(stream).read.total() == (2 + BATCHES) * layer_bytes(stream)
    assert torch.equal(found, window_scores(whole.anatomy, windows, [], units, SIZE))


def test_the_plain_loop_reads_them_for_every_candidate_and_batch(tmp_path: Path) -> None:
    """The control: accelerate's offloading reads as much."""
    _, stream = both(tmp_path, "llama")
    windows, units = tiny_windows(count=COUNT), [(block,) for block in stream.anatomy.blocks()]
    weights_of(stream).read.clear()
    with allowed(stream, 0):
        for unit in units:
            with bypassed(stream.anatomy, unit):
                mean_nll(stream.anatomy, windows, SIZE)
    assert weights_of(stream).read.total() == BATCHES * sum(layer_bytes(stream, unit) for unit in units)


def test_perplexity_reads_them_once_a_group(tmp_path: Path) -> None:
    _, stream = both(tmp_path, "llama")
    weights_of(stream).read.clear()
    mean_nll(stream.anatomy, tiny_windows(count=COUNT), SIZE)
    assert weights_of(stream).read.total() == layer_bytes(stream)


def test_a_measure_against_the_intact_model_reads_the_removed_blocks_too_but_once(tmp_path: Path) -> None:
    _, stream = both(tmp_path, "llama")
    windows, removed = tiny_windows(count=COUNT), [Block(1, M)]
    weights_of(stream).read.clear()
    METHODS["finercut"].criterion(stream.anatomy, windows, removed, candidates(stream, removed), size=SIZE)
    assert weights_of(stream).read.total() == layer_bytes(stream)


def test_only_the_held_layer_has_numbers(tmp_path: Path) -> None:
    _, stream = both(tmp_path, "llama")
    layers = stream.model.model.layers
    meta = list(stream.model.parameters())
    with streaming.held(stream.model, 2):
        with streaming.held(stream.model, 2):
            pass
        assert [any(value.is_meta for value in layer.parameters()) for layer in layers] == [True, True, False, True]
    assert nothing_held(stream)
    assert all(a is b for a, b in zip(meta, stream.model.parameters(), strict=True))


def test_a_failure_lets_go(tmp_path: Path) -> None:
    _, stream = both(tmp_path, "llama")

    def stop(share: float, words: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        window_scores(stream.anatomy, tiny_windows(), [], candidates(stream, []), SIZE, stop)
    with pytest.raises(IndexError):
        stream.model(torch.full((1, 1), 10**6))
    assert nothing_held(stream)


def test_progress_grows_to_one(tmp_path: Path) -> None:
    _, stream = both(tmp_path, "llama")
    shares: list[float] = []
    with allowed(stream, 0):
        window_scores(
            stream.anatomy,
            tiny_windows(count=COUNT),
            [],
            candidates(stream, []),
            SIZE,
            lambda share, words: shares.append(share),
        )
    assert shares == sorted(set(shares))
    assert len(shares) == BATCHES * (LAYERS + 1)
    assert shares[-1] == pytest.approx(1)


def test_a_race_decides_alike(tmp_path: Path) -> None:
    whole, stream = both(tmp_path, "llama")
    windows, units = tiny_windows(count=24), [(block,) for block in whole.anatomy.blocks()]
    wanted, found = (race(each.anatomy, windows, [], units, size=SIZE) for each in (whole, stream))
    assert (found.losses, found.seen) == (wanted.losses, wanted.seen)


def test_replayed_layers_are_not_read(tmp_path: Path) -> None:
    whole, stream = both(tmp_path, "t5")
    ids = torch.arange(3, 9)[None]
    run = partial(stream.model, input_ids=ids, decoder_input_ids=ids)
    with torch.no_grad():
        known = through(stream.anatomy, [run])[0]
        weights_of(stream).read.clear()
        with replaying(stream.anatomy, known):
            found = run().logits
        assert torch.equal(found, whole.model(input_ids=ids, decoder_input_ids=ids).logits)
    assert not weights_of(stream).read


def test_room_keeps_to_the_limit_of_the_address_space() -> None:
    resource = pytest.importorskip("resource")
    before, cpu, more = resource.getrlimit(resource.RLIMIT_AS), torch.device("cpu"), 2**30
    wide = streaming.room(cpu)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, before[1]))
    try:
        assert 0 < streaming.room(cpu) <= min(more, wide)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert streaming.room(cpu) > more


# Files ----------------------------------------------------------------------------------------------------------------


def parts(count: int) -> list[dict[str, torch.Tensor]]:
    return [{f"{part}.a": torch.full((4,), float(part)), f"{part}.b": torch.zeros(2)} for part in range(count)]


@pytest.mark.parametrize(("limit", "files"), [(1000, 1), (48, 2), (24, 3), (1, 3)])
def test_shards_hold_what_fits_and_come_back(limit: int, files: int, tmp_path: Path) -> None:
    write_shards(iter(parts(3)), tmp_path, limit)
    found = sorted(tmp_path.glob("*.safetensors"))
    assert len(found) == files
    assert (tmp_path / INDEX).exists() == (files > 1)
    assert tensor_files(tmp_path).keys() == {f"{part}.{name}" for part in range(3) for name in "ab"}
    assert all(name in load_file(file) for name, file in tensor_files(tmp_path).items())


def test_a_sharded_checkpoint_streams(tmp_path: Path) -> None:
    whole, _ = both(tmp_path, "qwen3")
    whole.model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path / "many")
    stream = load(tmp_path / "many", stream=True)
    assert len(set(weights_of(stream).files.values())) > 4
    assert fingerprint(stream.model) == fingerprint(whole.model)


def drop(folder: Path, name: str, instead: torch.Tensor | None = None) -> None:
    file = folder / "model.safetensors"
    tensors = {key: value for key, value in load_file(file).items() if key != name}
    save_file(tensors | ({} if instead is None else {name: instead}), file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "model.norm.weight"])
def test_a_missing_weight_is_refused_when_it_is_loaded(name: str, tmp_path: Path) -> None:
    source = written(tmp_path, "llama")
    drop(source, name)
    with pytest.raises(InputError, match=f"1 weights that the model needs are not in .*{name}"):
        load(source, stream=True)


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path, "llama")
    drop(source, "model.layers.2.mlp.up_proj.weight", torch.zeros(3, 3))
    with pytest.raises(InputError, match=r"layers\.2 are not in the checkpoint or of another shape .*up_proj"):
        load(source, stream=True)


def test_weights_that_went_away_are_one_sentence(tmp_path: Path) -> None:
    _, stream = both(tmp_path, "llama")
    (tmp_path / "source" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="can't be read again"):
        mean_nll(stream.anatomy, tiny_windows())
    assert nothing_held(stream)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path, "llama")
    (source / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no weights, neither"):
        load(source, stream=True)


# Several processes ----------------------------------------------------------------------------------------------------


def one_of_two(rank: int, folder: str) -> tuple[list[list[float]], int]:
    """What one of two processes returns, and how many bytes it read."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    stream = load(Path(folder) / "source", stream=True)
    weights_of(stream).read.clear()
    with allowed(stream, 0):
        scores = window_scores(stream.anatomy, tiny_windows(count=COUNT), [], candidates(stream, []), SIZE)
    distributed.destroy_process_group()
    return scores.tolist(), weights_of(stream).read.total()


@pytest.mark.skipif(not distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_share_the_batches(tmp_path: Path) -> None:
    whole, stream = both(tmp_path, "llama")
    found = found_by_two(__file__, tmp_path)
    wanted = window_scores(whole.anatomy, tiny_windows(count=COUNT), [], candidates(whole, []), SIZE).tolist()
    assert found == [[wanted, 2 * layer_bytes(stream)]] * 2

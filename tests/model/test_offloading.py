"""Models over several devices, and offloaded ones: the bits of a model on one device, whatever asks for them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks

from remodeler.checkpoint.device_maps import outside
from remodeler.checkpoint.load import Checkpoint, fingerprint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.checkpoint.sizes import memory
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.evaluation.metrics import compare_speed
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.model.minibatches import device_of, devices_of, to_batch
from remodeler.model.offloading import hold_whole_layers, layer_paths
from remodeler.model.streaming import streamed_weights
from remodeler.model.widths import why_not
from remodeler.pruning.config import Budget
from remodeler.pruning.criteria.sweep import window_scores
from remodeler.pruning.methods import CRITERIA, METHODS
from remodeler.pruning.search.loop import Search, prune
from remodeler.pruning.search.racing import race
from remodeler.pruning.search.refine import refine
from remodeler.pruning.width.width import thin
from remodeler.runs.units import Unit
from remodeler.training import losses
from remodeler.training.adapters import merge
from remodeler.training.loop import train
from remodeler.training.lora import Lora
from remodeler.training.model import trainable
from remodeler.training.plan import Training
from tiny import tiny_anatomy, tiny_checkpoint, tiny_model, tiny_tokenizer, tiny_windows
from two_devices import MAIN, Devices, OnTwoDevices, lay_out

TASKS = {"llama-tied": "causal", "gpt2": "causal", "gemma2": "causal", "falcon": "causal", "t5": "seq2seq"}
"""By family."""
COUNT, SIZE = 5, 2


def written(folder: Path, name: str) -> Path:
    model: Any = tiny_model(name)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def on_disk(folder: Path, name: str) -> tuple[Checkpoint, Checkpoint]:
    """The same checkpoint in memory, and with two of its layers on the disk."""
    whole = load(written(folder / "source", name))
    paths = layer_paths(whole.model, whole.anatomy.family)
    return whole, load(folder / "source", device_map={"": "cpu", paths[1]: "disk", paths[2]: "disk"})


def on_host(name: str) -> Anatomy:
    """A model whose layers are fetched for each call, as those are that a GPU has no room for."""
    anatomy = tiny_anatomy(name)
    model, paths = anatomy.model, layer_paths(anatomy.model, anatomy.family)
    parts = outside(model, [stack.layers for stack in anatomy.family.stacks])
    offload = dict.fromkeys(parts, False) | dict.fromkeys(paths, True)
    held = dict(model.state_dict())
    attach_align_device_hook_on_blocks(model, dict.fromkeys(["", *offload], "cpu"), offload, held)
    hold_whole_layers(model, anatomy.family)
    return anatomy


def candidates(anatomy: Anatomy) -> list[Unit]:
    """Every block but one, and two that lie in different layers."""
    left = [block for block in anatomy.blocks() if block != anatomy.blocks()[1]]
    return [*((block,) for block in left), (left[0], left[-1])]


# Offloaded ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "t5"])
def test_layers_on_the_disk_give_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, away = on_disk(tmp_path, name)
    assert fingerprint(away.model) == fingerprint(whole.model)
    branches = [{block: branch.names for block, branch in each.anatomy.branches.items()} for each in (whole, away)]
    assert branches[0] == branches[1]
    windows, removed = tiny_windows(whole.anatomy.family.task, COUNT), [whole.anatomy.blocks()[1]]
    units = candidates(whole.anatomy)
    wanted = window_scores(whole.anatomy, windows, removed, units, SIZE)
    assert torch.equal(window_scores(away.anatomy, windows, removed, units, SIZE), wanted)
    with bypassed(whole.anatomy, removed), bypassed(away.anatomy, removed):
        assert mean_nll(away.anatomy, windows, SIZE) == mean_nll(whole.anatomy, windows, SIZE)
    weights = streamed_weights(away.model)
    assert weights is not None
    away_again = [all(value.is_meta for value in away.model.get_submodule(path).parameters()) for path in weights.paths]
    assert away_again == [number in (1, 2) for number in range(len(weights.paths))]


@pytest.mark.parametrize("name", ["block-influence", "gradient", "magnitude", "js"])
def test_criteria_of_layers_that_are_fetched(name: str) -> None:
    whole, away = tiny_anatomy("llama"), on_host("llama")
    windows, units = tiny_windows(count=COUNT), candidates(whole)
    wanted = CRITERIA[name](whole, windows, whole.blocks()[1:2], units, size=SIZE)
    assert CRITERIA[name](away, windows, whole.blocks()[1:2], units, size=SIZE) == wanted


def test_what_needs_all_weights_refuses_offloaded_ones() -> None:
    away = on_host("llama")
    with pytest.raises(InputError, match="they are offloaded: allow a device more of them"):
        CRITERIA["taylor"](away, tiny_windows(count=COUNT), [], candidates(away))


def test_a_race_and_every_byte_of_what_is_written(tmp_path: Path) -> None:
    found: list[Any] = []
    for number, checkpoint in enumerate(on_disk(tmp_path, "llama")):
        raced = race(checkpoint.anatomy, tiny_windows(count=8), [], candidates(checkpoint.anatomy), size=SIZE)
        out = tmp_path / f"out{number}"
        out.mkdir()
        saved = save_pruned(checkpoint, checkpoint.anatomy.blocks()[:2], out)
        files = {file.name: file.read_bytes() for file in out.glob("*.safetensors")}
        found.append((raced.losses, raced.seen, saved.form, saved.check, files, memory(checkpoint)))
    assert found[0][:-1] == found[1][:-1]
    assert found[0][-1] == found[1][-1] | {"parameters": found[0][-1]["parameters"]}


def test_a_held_layer_has_numbers_that_a_dropped_one_lacks() -> None:
    """The control: without holding, whoever reads a weight finds none."""
    away = on_host("llama")
    weights = streamed_weights(away.model)
    assert weights is not None
    layer = away.model.model.layers[0]
    assert layer.mlp.up_proj.weight.is_meta
    weights.acquire(0)
    assert torch.equal(layer.mlp.up_proj.weight, tiny_anatomy("llama").model.model.layers[0].mlp.up_proj.weight)
    weights.release(0)
    assert layer.mlp.up_proj.weight.is_meta


# Several devices ------------------------------------------------------------------------------------------------------


def laid_out(name: str) -> Anatomy:
    anatomy = tiny_anatomy(name)
    with Devices():
        lay_out(anatomy)
    return anatomy


def test_the_devices_of_these_tests_tell_a_mixture() -> None:
    anatomy = laid_out("llama")
    with Devices():
        assert [str(device) for device in devices_of(anatomy.model)] == [MAIN, "cpu:1", "cpu:2"]
        first, second = (anatomy.model.model.layers[number].mlp.up_proj.weight for number in (0, 1))
        with pytest.raises(OnTwoDevices):
            first + second
        assert torch.equal(first + second.to(first.device), first + second.detach().to("cpu:1"))


@pytest.mark.parametrize("name", TASKS)
def test_the_scores_of_a_sweep_over_several_devices(name: str) -> None:
    one, several, windows = tiny_anatomy(name), laid_out(name), tiny_windows(TASKS[name], COUNT)
    units, removed = candidates(one), one.blocks()[1:2]
    wanted = window_scores(one, windows, removed, units, SIZE)
    with Devices():
        assert torch.equal(window_scores(several, windows, removed, units, SIZE), wanted)


@pytest.mark.parametrize("strategy", ["exact", "race", "lazy", "propose"])
def test_searches_over_several_devices(strategy: str) -> None:
    def found(anatomy: Anatomy) -> list[Any]:
        given: Any = anatomy, tiny_windows(count=8, length=24), Budget(remove=2), METHODS["blockpruner"]
        search = Search(*given, size=2, strategy=strategy)
        return [(step.removed, step.restored, step.perplexity) for step in refine(search, prune(search))]

    several = laid_out("llama")
    wanted = found(tiny_anatomy("llama"))
    with Devices():
        assert found(several) == wanted


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
def test_criteria_over_several_devices(name: str) -> None:
    one, several, windows = tiny_anatomy("llama"), laid_out("llama"), tiny_windows(count=COUNT)
    units, removed = candidates(one), one.blocks()[1:2]
    wanted = CRITERIA[name](one, windows, removed, units, size=SIZE)
    with Devices():
        assert CRITERIA[name](several, windows, removed, units, size=SIZE) == wanted


@pytest.mark.parametrize("method", ["hybrid-grained", "policy-gradient"])
def test_heads_and_channels_over_several_devices(method: str) -> None:
    one, several, windows = tiny_anatomy("llama"), laid_out("llama"), tiny_windows(count=8)
    options = {"steps": 4, "batch": 2} if method == "policy-gradient" else {}
    wanted = thin(one, windows, [], 0.3, method, options=options).widths
    with Devices():
        assert [why_not(several, block) for block in several.blocks()] == [""] * len(several.blocks())
        assert thin(several, windows, [], 0.3, method, options=options).widths == wanted


def trained(anatomy: Anatomy, lora: Lora | None, windows: Windows, folder: Path) -> tuple[Any, str]:
    plan = Training(3, 4, micro=2, learning_rate=1e-3)
    with trainable(anatomy, lora, 1) as wrapper:
        lines = train(anatomy, losses.cross_entropy, windows, plan, folder, {}, windows[:2])
        if wrapper is not None:
            merge(wrapper)
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], fingerprint(anatomy.model)


@pytest.mark.parametrize("lora", [None, Lora(4, 8.0)], ids=["full", "lora"])
def test_training_over_several_devices(lora: Lora | None, tmp_path: Path) -> None:
    windows = tiny_windows(count=8)
    wanted = trained(tiny_anatomy("llama"), lora, windows, tmp_path / "one")
    several = laid_out("llama")
    with Devices():
        assert trained(several, lora, windows, tmp_path / "several") == wanted


def test_a_teacher_over_several_devices() -> None:
    def loss(anatomy: Anatomy) -> torch.Tensor:
        taught = losses.distillation(losses.teacher(anatomy, 4), 0.5)
        return taught(anatomy, to_batch(tiny_windows(count=3), device_of(anatomy.model))).detach()

    wanted = loss(tiny_anatomy("llama"))
    several = laid_out("llama")
    with Devices():
        assert torch.equal(loss(several), wanted)


def test_decoding_over_several_devices() -> None:
    checkpoint = tiny_checkpoint("llama")
    with Devices():
        lay_out(checkpoint.anatomy)
        assert compare_speed([checkpoint], 8, 4, 1)[0].keys() == {"prefill", "decode"}
        assert checkpoint.where() == {"device": MAIN}

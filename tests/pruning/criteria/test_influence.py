"""How much blocks and layers change the stream, against states read by hand in every kind of layer."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.data.windows import IGNORED, Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import trunk_states
from remodeler.model.minibatches import to_batch
from remodeler.pruning.criteria.influence import block_influence, relative_magnitude
from remodeler.runs.units import Block
from tiny import EVERY, tiny_anatomy, tiny_checkpoint, tiny_windows

A, M = "attention", "mlp"
LAYER = (Block(2, A), Block(2, M))


def states(anatomy: Anatomy, windows: Windows, paths: dict[str, str]) -> dict[str, Tensor]:
    """By name, what modules of layer 2 are given ("in:path"), the second thing ("second:"), or what they return."""
    layer = anatomy.branches[LAYER[0]].site.layer
    found: dict[str, Tensor] = {}
    hooks = []
    for name, path in paths.items():
        side, _, module = path.rpartition(":")

        def hook(_: nn.Module, args: Any, kwargs: Any, outputs: Any, name: str = name, side: str = side) -> None:
            values = [*args, *kwargs.values()]
            output = outputs[0] if isinstance(outputs, tuple) else outputs
            found[name] = {"in": values[0], "second": values[-1], "": output}[side].clone()

        hooks.append(layer.get_submodule(module).register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        trunk_states(anatomy, to_batch(windows, torch.device("cpu")).inputs)
    for each in hooks:
        each.remove()
    return {name: value.reshape(len(windows), -1, value.shape[-1]) for name, value in found.items()}


SEQUENTIAL = {"x": "in:", "y": "in:post_attention_layernorm", "z": ":"}
PARALLEL = {"x": "in:", "a": "self_attn", "m": "mlp", "z": ":"}
BY_HAND = {
    "llama": SEQUENTIAL,
    "granite": SEQUENTIAL,
    "mixtral": SEQUENTIAL,
    "gemma2": {**SEQUENTIAL, "y": "in:pre_feedforward_layernorm"},
    "olmo2": {**SEQUENTIAL, "y": "in:mlp"},
    "gpt2": {**SEQUENTIAL, "y": "in:ln_2"},
    "opt": {**SEQUENTIAL, "y": "in:final_layer_norm"},
    "mpt": {**SEQUENTIAL, "y": "in:norm_2"},
    "bloom": {**SEQUENTIAL, "y": "self_attention"},
    "bert": {**SEQUENTIAL, "y": "attention"},
    "phi": PARALLEL,
    "cohere": PARALLEL,
    "gptj": {**PARALLEL, "a": "attn"},
    "falcon": {**PARALLEL, "a": "self_attention"},
}


def three(anatomy: Anatomy, windows: Windows, name: str) -> list[tuple[Tensor, Tensor]]:
    """The stream before and after the attention, the MLP, and the layer."""
    seen = states(anatomy, windows, BY_HAND[name])
    if "y" in seen:
        return [(seen["x"], seen["y"]), (seen["y"], seen["z"]), (seen["x"], seen["z"])]
    mlp = seen["z"] - seen["x"] - seen["a"]  # Falcon adds the attention to what its MLP returned
    return [(seen["x"], seen["x"] + seen["a"]), (seen["x"], seen["x"] + mlp), (seen["x"], seen["z"])]


@pytest.mark.parametrize("name", BY_HAND)
def test_equals_states_read_by_hand(name: str) -> None:
    anatomy = tiny_anatomy(name)
    windows = tiny_windows(anatomy.family.task, count=3)
    removed, units = [Block(1, M)], [(LAYER[0],), (LAYER[1],), LAYER]
    with bypassed(anatomy, removed):
        pairs = three(anatomy, windows, name)
    turned = [1 - cosine_similarity(x, y, dim=-1).mean().item() for x, y in pairs]
    share = [((y - x).norm(dim=-1) / y.norm(dim=-1)).mean().item() for x, y in pairs]
    assert block_influence(anatomy, windows, removed, units, size=2) == pytest.approx(turned, rel=1e-4, abs=1e-6)
    assert relative_magnitude(anatomy, windows, removed, units, size=2) == pytest.approx(share, rel=1e-4)
    assert min(turned) > 1e-3


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "falcon", "phi"])
def test_of_layers_it_is_shortgpts_formula_on_the_models_own_hidden_states(name: str) -> None:
    anatomy, windows = tiny_anatomy(name), tiny_windows()
    with torch.no_grad():
        hidden = anatomy.model(windows.ids, output_hidden_states=True).hidden_states
    wanted = [1 - cosine_similarity(a, b, dim=-1).mean().item() for a, b in pairwise(hidden[:-1])]
    layers = [(Block(i, A), Block(i, M)) for i in range(len(wanted))]  # the last one's output is seen normed only
    assert block_influence(anatomy, windows, [], layers) == pytest.approx(wanted, rel=1e-4)


def test_neighbours_of_two_layers_are_taken_together() -> None:
    """From the MLP of one layer to the attention of the next: what a half-layer pair of ``--shape standard`` is."""
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    before = states(anatomy, windows, {"y": "in:post_attention_layernorm"})["y"]
    layer = anatomy.branches[Block(3, A)].site.layer
    kept: list[Tensor] = []
    hook = layer.post_attention_layernorm.register_forward_hook(lambda _, args, out: kept.append(args[0]))
    with torch.no_grad():
        trunk_states(anatomy, {"input_ids": windows.ids})
    hook.remove()
    wanted = 1 - cosine_similarity(before, kept[0], dim=-1).mean().item()
    assert block_influence(anatomy, windows, [], [(Block(2, M), Block(3, A))])[0] == pytest.approx(wanted, rel=1e-4)


def test_encoder_and_decoder_each_count_their_own_tokens() -> None:
    """T5 adds inside its sub-layers: each reads the stream and returns it."""
    anatomy, windows = tiny_anatomy("t5"), tiny_windows("seq2seq", length=8)
    longer = Windows(torch.cat([windows.ids, windows.ids], 1), windows.targets, decoder=windows.decoder)
    blocks = [Block(1, A), Block(1, M), Block(4, "cross"), Block(4, M)]
    pairs: dict[Block, tuple[Tensor, Tensor]] = {}
    hooks = []
    for block in blocks:
        path = anatomy.branches[block].names["modules"][-1]
        module = anatomy.branches[block].site.layer.get_submodule(path)

        def note(_: nn.Module, args: Any, outputs: Any, block: Block = block) -> None:
            pairs[block] = (args[0], outputs[0] if isinstance(outputs, tuple) else outputs)

        hooks.append(module.register_forward_hook(note))
    with torch.no_grad():
        trunk_states(anatomy, to_batch(longer, torch.device("cpu")).inputs)
    for hook in hooks:
        hook.remove()
    wanted = [1 - cosine_similarity(*pairs[block], dim=-1).mean().item() for block in blocks]
    found = block_influence(anatomy, longer, [], [(block,) for block in blocks], size=3)
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert pairs[blocks[0]][0].shape[1] == 2 * pairs[blocks[2]][0].shape[1]


@pytest.mark.parametrize("criterion", [block_influence, relative_magnitude])
def test_padding_does_not_count(criterion: Any) -> None:
    anatomy, plain = tiny_anatomy("llama"), tiny_windows(count=3)
    zeros = torch.zeros(3, 4, dtype=torch.long)
    ids, targets = torch.cat([plain.ids, zeros], 1), torch.cat([plain.targets, zeros + IGNORED], 1)
    padded = Windows(ids, targets, torch.cat([torch.ones_like(plain.ids), zeros], 1))
    units = [(block,) for block in anatomy.blocks()]
    wanted = criterion(anatomy, plain, [], units)
    assert criterion(anatomy, padded, [], units) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert criterion(anatomy, Windows(ids, targets), [], units) != pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("name", EVERY)
def test_every_family_gives_finite_numbers_with_and_without_removed_blocks(name: str) -> None:
    """What a block adds shrinks with its output projection: a zeroed one leaves the stream as it is."""
    anatomy = tiny_anatomy(name)
    windows, removed = tiny_windows(anatomy.family.task), [Block(1, M)]
    units = [(block,) for block in anatomy.blocks() if block not in removed]
    for gone in ([], removed):
        for criterion in (block_influence, relative_magnitude):
            values = criterion(anatomy, windows, gone, units, size=3)
            assert all(1e-6 < value < 10 for value in values), (criterion, values)


@pytest.mark.parametrize("name", ["llama", "phi"])
def test_a_packed_model_with_orphans_gives_the_sources_numbers(name: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(name)
    removed = [Block(0, A), Block(2, A), Block(1, M)]
    save_pruned(checkpoint, removed, tmp_path / "packed", "packed")
    packed, windows = load(tmp_path / "packed", device="cpu").anatomy, tiny_windows()
    units = [(block,) for block in packed.blocks()]
    for criterion in (block_influence, relative_magnitude):
        wanted = criterion(checkpoint.anatomy, windows, removed, units)
        assert criterion(packed, windows, [], units) == pytest.approx(wanted, rel=1e-5)


def test_a_block_that_adds_nothing_has_no_influence() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    torch.nn.init.zeros_(anatomy.model.model.layers[2].mlp.down_proj.weight)
    assert relative_magnitude(anatomy, windows, [], [(Block(2, M),)]) == [0]
    assert block_influence(anatomy, windows, [], [(Block(2, M),)]) == pytest.approx([0], abs=1e-6)

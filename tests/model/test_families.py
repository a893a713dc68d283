"""Every row of the family table: its defining equation, the shared-prefix pass, the forms it can be saved in."""

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from remodeler.checkpoint.forms import Form, refusal
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed, projection
from remodeler.model.families import FAMILIES, family
from remodeler.model.logprobs import batch_nll, head_logits, mean_nll, trunk_states
from remodeler.model.minibatches import to_batch
from remodeler.model.tracing import probe, trace
from remodeler.pruning.criteria.sweep import sweep
from remodeler.runs.units import Block
from tiny import CAUSAL, CONFIGS, EVERY, LAYERS, decode, row_of, tiny_anatomy, tiny_checkpoint, tiny_windows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")

A, M = "attention", "mlp"
PATTERNS = {
    "middle": [Block(2, A), Block(1, M)],
    "first and last attention": [Block(0, A), Block(3, A), Block(1, M)],
    "first layer": [Block(0, A), Block(0, M), Block(2, M)],
    "half-layer pair": [Block(1, M), Block(2, A)],
}
# Elsewhere norms on the stream stay behind, or layers are told apart by number.
SEQ2SEQ = [name for name in EVERY if row_of(name).task == "seq2seq"]
"""More of them in ``test_encoder_decoders.py``."""
WHOLE = [name for name in EVERY if name not in SEQ2SEQ and not name.endswith(("post-norm", "mixed"))]
POST_NORM = ["bert", "roberta", "bart-encoder-decoder"]
CPU = torch.device("cpu")


def logits(anatomy: Anatomy, **more: object) -> torch.Tensor:
    with torch.no_grad():
        return anatomy.model(**probe(anatomy.family, CPU), **more).logits


def zeroed(anatomy: Anatomy, block: Block) -> torch.Tensor:
    """Logits with the block's output projection zeroed."""
    with torch.no_grad():
        saved = {name: (p, p.clone()) for name, p in projection(anatomy.branches[block]).items()}
        for parameter, _ in saved.values():
            parameter.zero_()
        result = logits(anatomy)
        for parameter, old in saved.values():
            parameter.copy_(old)
    return result


def test_every_row_is_tested() -> None:
    """Types that are found by tracing, and those that share a row, are tried in ``test_model_types.py``."""
    alike = {id(FAMILIES[name]) for name in CONFIGS}
    untested = [name for name, row in FAMILIES.items() if id(row) not in alike and not row.traced]
    masked = {FAMILIES[name].stacks[0].attention for name in untested if FAMILIES[name].task == "masked"}
    assert masked <= {FAMILIES["bert"].stacks[0].attention}


@pytest.mark.parametrize("name", [name for name in EVERY if name not in POST_NORM])
def test_bypassing_a_block_equals_zeroing_its_output_projection(name: str) -> None:
    anatomy = tiny_anatomy(name)
    dense = logits(anatomy)
    for block in anatomy.blocks():
        with bypassed(anatomy, [block]):
            bypass = logits(anatomy)
        assert torch.equal(bypass, zeroed(anatomy, block)), block
        assert not torch.equal(bypass, dense), f"{block} made no difference"
    assert torch.equal(logits(anatomy), dense)


@pytest.mark.parametrize("name", POST_NORM)
def test_bypassing_a_post_norm_block_hands_its_input_on(name: str) -> None:
    """The norm lies behind the sum and goes too; with unit norms, normalising twice is normalising once."""
    anatomy = tiny_anatomy(name)
    for module in anatomy.model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
    for block in anatomy.blocks():
        with bypassed(anatomy, [block]):
            bypass = logits(anatomy)
        assert torch.allclose(bypass, zeroed(anatomy, block), atol=1e-4), block


@pytest.mark.parametrize("name", EVERY)
def test_trunk_then_head_is_the_model(name: str) -> None:
    anatomy = tiny_anatomy(name)
    with torch.no_grad():
        parts = head_logits(anatomy, trunk_states(anatomy, probe(anatomy.family, CPU)))
    assert torch.equal(parts, logits(anatomy))


@pytest.mark.parametrize("name", EVERY)
def test_sweep_equals_the_plain_loop_bit_for_bit(name: str) -> None:
    anatomy = tiny_anatomy(name)
    windows = tiny_windows(anatomy.family.task)
    removed = [Block(1, M)]
    units = [(block,) for block in anatomy.blocks() if block not in removed]
    units += [(Block(2, A), Block(2, M))]
    before = logits(anatomy)
    shared = sweep(anatomy, windows, removed, units, size=2)
    plain = []
    for unit in units:
        with bypassed(anatomy, [*removed, *unit]):
            plain.append(mean_nll(anatomy, windows, size=2))
    assert shared == plain
    assert len(set(shared)) > len(units) / 2, "the candidates do not differ: nothing was removed"
    assert torch.equal(logits(anatomy), before)


def saved(name: str, removed: list[Block], folder: Path, form: Form | None = None) -> tuple[Anatomy, Anatomy]:
    """The source, and what a save of it without some blocks loads as."""
    checkpoint = tiny_checkpoint(name)
    save_pruned(checkpoint, removed, folder, form)
    return checkpoint.anatomy, load(folder, device="cpu").anatomy


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", [name for name in EVERY if name != "t5"])
def test_packed_form_gives_the_same_logits(name: str, pattern: str, tmp_path: Path) -> None:
    source, packed = saved(name, PATTERNS[pattern], tmp_path, "packed")
    with bypassed(source, PATTERNS[pattern]):
        assert torch.equal(logits(packed), logits(source))
    attentions = LAYERS - sum(block.kind == A for block in PATTERNS[pattern])
    assert packed.model.config.num_hidden_layers == attentions
    assert packed.parameters() == source.parameters(PATTERNS[pattern])


@pytest.mark.parametrize("pattern", ["middle", "first and last attention"])
@pytest.mark.parametrize("name", CAUSAL)
def test_every_cache_gives_what_one_pass_gives(name: str, pattern: str, tmp_path: Path) -> None:
    _, packed = saved(name, PATTERNS[pattern], tmp_path, "packed")
    model = packed.model
    ids = tiny_windows(count=2, length=20).ids
    padding = torch.ones_like(ids)
    padding[0, :5] = 0
    greedy = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for split in ([1] * 20, [13, 7]):
            cache = DynamicCache(config=model.config)
            parts = decode(model, cache, ids.split(split, dim=1))
            torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)
        assert len(cache.layers) == model.config.num_hidden_layers
        for given in ({}, {"attention_mask": padding}):
            plain = model.generate(ids, use_cache=False, **greedy, **given)
            assert torch.equal(model.generate(ids, use_cache=True, **greedy, **given), plain)
        plain = model.generate(ids[:1], use_cache=False, **greedy)
        assert torch.equal(model.generate(ids[:1], prompt_lookup_num_tokens=3, use_cache=True, **greedy), plain)
        if model._can_compile_fullgraph:
            assert torch.equal(model.generate(ids[:1], cache_implementation="static", **greedy), plain)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_pairs_are_written_as_a_stock_model(name: str, tmp_path: Path) -> None:
    whole_layer = [Block(1, A), Block(1, M)]
    source, stock = saved(name, whole_layer, tmp_path)
    assert stock.model.config.model_type == source.model.config.model_type
    assert stock.model.config.num_hidden_layers == LAYERS - 1
    with bypassed(source, whole_layer):
        assert torch.equal(logits(stock), logits(source))


@pytest.mark.parametrize("name", WHOLE)
def test_pairs_across_layers_are_stock_unless_they_run_in_parallel(name: str, tmp_path: Path) -> None:
    pair = PATTERNS["half-layer pair"]
    source, loaded = saved(name, pair, tmp_path)
    assert hasattr(loaded.model.config, "packing") == source.parallel
    with bypassed(source, pair):
        assert torch.equal(logits(loaded), logits(source))


@pytest.mark.parametrize("name", EVERY)
def test_portable_form_keeps_the_shape_and_the_function(name: str, tmp_path: Path) -> None:
    removed = [Block(2, A), Block(1, M)]
    if name in POST_NORM:
        with pytest.raises(InputError, match="norm lies behind"):
            saved(name, removed, tmp_path, "portable")
        return
    source, portable = saved(name, removed, tmp_path, "portable")
    assert portable.parameters() == source.parameters()
    with bypassed(source, removed):
        assert torch.equal(logits(portable), logits(source))


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi", "bloom", "falcon", "bert"])
def test_a_packed_model_can_be_pruned_again(name: str, tmp_path: Path) -> None:
    once, more = [Block(0, A), Block(1, M)], [Block(0, M), Block(3, A)]
    checkpoint = tiny_checkpoint(name)
    save_pruned(checkpoint, once, tmp_path / "once", "packed")
    packed = load(tmp_path / "once", device="cpu")
    assert set(packed.anatomy.branches) == set(checkpoint.anatomy.branches) - set(once)
    units = [(block,) for block in packed.anatomy.blocks()]
    windows = tiny_windows(packed.anatomy.family.task)
    assert sweep(packed.anatomy, windows, [], units) == sweep(checkpoint.anatomy, windows, once, units)
    (tmp_path / "twice").mkdir(), (tmp_path / "direct").mkdir()
    save_pruned(packed, more, tmp_path / "twice", "packed")
    save_pruned(checkpoint, [*once, *more], tmp_path / "direct", "packed")
    twice, direct = load(tmp_path / "twice", device="cpu"), load(tmp_path / "direct", device="cpu")
    assert torch.equal(logits(twice.anatomy), logits(direct.anatomy))
    assert twice.model.config.to_diff_dict() | {"_name_or_path": ""} == direct.model.config.to_diff_dict() | {
        "_name_or_path": ""
    }


def test_t5_keeps_the_attention_that_owns_the_position_table() -> None:
    anatomy = tiny_anatomy("t5")
    assert set(anatomy.fixed) == {Block(0, A), Block(3, A)}
    assert set(anatomy.fixed).isdisjoint(anatomy.blocks())
    assert Block(3, "cross") in anatomy.blocks()
    assert "owns the relative position table" in (refusal(anatomy, frozenset([Block(3, A)]), "packed") or "")


def test_attention_scaled_by_layer_number_can_not_move() -> None:
    anatomy = tiny_anatomy("gpt2", scale_attn_by_inverse_layer_idx=True)
    assert "scale_attn_by_inverse_layer_idx" in (refusal(anatomy, frozenset([Block(1, A)]), "packed") or "")


def test_dense_layers_among_experts_are_numbered_anew(tmp_path: Path) -> None:
    gone = [Block(0, A), Block(0, M)]
    source, stock = saved("qwen3_moe-mixed", gone, tmp_path, "stock")
    assert (source.model.config.mlp_only_layers, stock.model.config.mlp_only_layers) == ([1], [0])
    with bypassed(source, gone):
        assert torch.equal(logits(stock), logits(source))


def test_a_layer_that_no_config_can_say_is_no_stock_model() -> None:
    anatomy = tiny_anatomy("gpt2", scale_attn_by_inverse_layer_idx=True)
    assert "scaled by their layer's number" in (refusal(anatomy, frozenset([Block(0, A), Block(0, M)]), "stock") or "")


def test_unknown_model_type_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match=r"'rwkv' is not known here, .*model_types\.md\): .*`family`"):
        family("rwkv")


def test_a_family_that_does_not_fit_is_refused() -> None:
    checkpoint = tiny_checkpoint("gpt2")
    with pytest.raises(InputError, match=r"no layer list at 'transformer\.blocks'"):
        trace(checkpoint.model, FAMILIES["mpt"], probe(FAMILIES["mpt"], CPU))


def test_loss_is_the_textbook_one() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows()
    with torch.no_grad():
        theirs = anatomy.model(windows.ids, labels=windows.ids).loss.item()
        summed = batch_nll(anatomy, to_batch(windows, CPU)).item()
    assert mean_nll(anatomy, windows) == pytest.approx(theirs, rel=1e-6)
    assert summed / windows.tokens == pytest.approx(theirs, rel=1e-6)


def test_padding_changes_nothing() -> None:
    anatomy, windows = tiny_anatomy("llama"), tiny_windows(count=1)
    tail = torch.zeros(1, 5, dtype=torch.long)
    mask = torch.cat([torch.ones_like(windows.ids), tail], 1)
    padded = Windows(torch.cat([windows.ids, tail], 1), torch.cat([windows.targets, tail - 100], 1), mask)
    assert mean_nll(anatomy, padded) == pytest.approx(mean_nll(anatomy, windows), rel=1e-6)

"""Heads and channels: what is masked is what is really narrower, for every family, in memory and on disk."""

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from remodeler.checkpoint.forms import Form, choose
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.model.structures import Structure, Widths, layout
from remodeler.model.tracing import probe
from remodeler.model.widths import group_weights, kept_masks, masked, narrowed, parameters_left, structures, why_not
from remodeler.runs.units import Block
from tiny import EVERY, LAYERS, decode, tiny_anatomy, tiny_checkpoint, tiny_windows

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")

A, M = "attention", "mlp"
CPU = torch.device("cpu")
ROUNDING = 2e-5
"""Of the largest logit: sums of float32 in another order."""
MULTI_QUERY = {"num_key_value_heads": 1}
MANY = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
FUSED = "query, key and value are one projection in which heads are shared"
REFUSED = {
    "phi3": {A: FUSED},
    "falcon": {A: FUSED},
    "olmo2": {A: "its self_attn.q_norm sees all heads at once"},
    "bitnet": {A: "its self_attn.attn_sub_norm sees all heads at once", M: "its mlp.ffn_sub_norm sees all channels"},
    "mixtral": {M: "it has no plain input and output projections, as a mixture of experts has none"},
    "bloom": {A: "its code refuses fewer heads"},
    "t5": {A: "its code refuses fewer heads", "cross": "what a cross-attention reads is made by the encoder"},
}
GROUPS = {  # heads and channels of a block, and the parameters of one
    "llama": ((2, 1536), (48, 96)),  # a key-value head of 8 with two query heads: (8 + 8 + 16 + 16) x 32
    "llama-tied": ((2, 1536 + 32), (48, 96 + 2)),  # with biases
    "gpt2": ((4, 4 * 8 * 32 + 24), (128, 65)),
    "gpt_neox": ((4, 4 * 8 * 32 + 24), (48, 65)),
    "opt": ((4, 4 * 8 * 32 + 24), (48, 65)),
    "bert": ((4, 4 * 8 * 32 + 24), (48, 65)),
}
STOCK = ("llama", "qwen3", "gemma2", "phi", "starcoder2")
DISK = (*STOCK, "gpt2", "gpt_neox", "opt", "bert")


def logits(anatomy: Anatomy) -> torch.Tensor:
    with torch.no_grad():
        return anatomy.model(**probe(anatomy.family, CPU)).logits


def uneven(found: dict[Block, Structure], first: int = 0) -> dict[Block, tuple[int, ...]]:
    """Half of the groups of every block but those of the first layer, and in odd layers a channel less."""
    kept: dict[Block, tuple[int, ...]] = {}
    for block, each in found.items():
        if block.layer:
            half = tuple(range((block.layer + first) % 2, each.groups, 2))
            kept[block] = half[block.layer % 2 :] if block.kind == M else half
    return kept


def even(found: dict[Block, Structure]) -> Widths:
    return {block: tuple(range(1, each.groups, 2)) for block, each in found.items()}


def near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= ROUNDING * wanted.abs().max())


@pytest.mark.parametrize("name", EVERY)
def test_narrower_is_masked_and_smaller(name: str) -> None:
    anatomy = tiny_anatomy(name)
    before, found = logits(anatomy), structures(anatomy)
    assert found or name == "bitnet"
    for block, groups in {block.kind: (block, groups) for block, groups in uneven(found).items()}.values():
        widths = {block: groups}
        others = tuple(i for i in range(found[block].groups) if i not in groups)[: len(groups)]
        with masked(anatomy, kept_masks(anatomy, widths)):
            wanted = logits(anatomy)
        with narrowed(anatomy, widths):
            assert near(logits(anatomy), wanted), block
            counted = anatomy.parameters()
        with narrowed(anatomy, {block: others}):
            assert not near(logits(anatomy), wanted), f"{block}: it does not matter which groups stay"
        assert counted == parameters_left(anatomy, [], widths) < anatomy.parameters()
    assert torch.equal(logits(anatomy), before)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_and_what_one_costs(name: str) -> None:
    found = structures(tiny_anatomy(name))
    assert len(found) == 2 * LAYERS
    for kind, wanted in zip((A, M), GROUPS[name], strict=True):
        assert {(each.groups, each.parameters) for block, each in found.items() if block.kind == kind} == {wanted}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_sliced_is_left_out_with_the_reason(name: str) -> None:
    anatomy = tiny_anatomy(name)
    found = structures(anatomy)
    for kind, reason in REFUSED[name].items():
        block = next(block for block in anatomy.blocks() if block.kind == kind)
        assert block not in found
        assert why_not(anatomy, block).startswith(reason)
    assert all(why_not(anatomy, block) == "" for block in found)


def test_query_heads_go_one_by_one_where_they_share_a_key_value_head() -> None:
    anatomy = tiny_anatomy("llama", **MULTI_QUERY)
    found = structures(anatomy)[Block(1, A)]
    assert (found.groups, found.columns, found.parameters) == (4, 8, 2 * 8 * 32)
    assert [cut.path for cut in found.cuts] == ["self_attn.q_proj.weight", "self_attn.o_proj.weight"]


def test_shares_by_number_are_found_out() -> None:
    """Norms per head, told apart by their place in a list: with fewer heads the wrong ones are taken."""
    anatomy = tiny_anatomy("stablelm", qk_layernorm=True)
    assert not isinstance(layout(anatomy, Block(0, A)), str), "shapes do not tell"
    assert set(structures(anatomy)) == {Block(layer, M) for layer in range(LAYERS)}
    assert "fewer heads" in why_not(anatomy, Block(0, A))


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "gpt_neox"])
def test_weights_by_group_are_views_of_all_that_goes_with_it(name: str) -> None:
    anatomy = tiny_anatomy(name)
    for block, each in structures(anatomy).items():
        views = group_weights(anatomy, each)
        assert sum(view[1].numel() for view in views) == each.parameters
        mask = torch.ones(each.groups)
        mask[1] = 0
        with masked(anatomy, {block: mask}):
            wanted = logits(anatomy)
        for view in views:
            view[1] = 0
        assert near(logits(anatomy), wanted)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_the_gradient_of_a_mask_is_weight_times_gradient_of_its_columns(name: str) -> None:
    """L(m) reads W diag(m): dL/dm_g is the sum of W * dL/dW over the columns of group g, at m = 1."""
    anatomy = tiny_anatomy(name)
    found = structures(anatomy)
    masks = {block: torch.ones(each.groups, requires_grad=True) for block, each in found.items()}
    with pytest.raises(ValueError, match="no gradients yet"):
        group_weights(anatomy, found[Block(0, M)], grad=True)
    with masked(anatomy, masks):
        anatomy.model(**probe(anatomy.family, CPU)).logits.logsumexp(-1).square().sum().backward()
    for block, each in found.items():
        weights, gradients = (group_weights(anatomy, each, grad=grad)[-1] for grad in (False, True))
        torch.testing.assert_close(masks[block].grad, (weights * gradients).flatten(1).sum(1), rtol=1e-3, atol=1e-4)


def test_a_mask_may_be_anything_between() -> None:
    anatomy = tiny_anatomy("llama")
    block, each = Block(2, M), structures(anatomy)[Block(2, M)]
    values = torch.linspace(0, 1, each.groups)
    with masked(anatomy, {block: values}):
        wanted = logits(anatomy)
    with torch.no_grad():
        group_weights(anatomy, each)[-1].mul_(values[:, None, None, None])
    assert near(logits(anatomy), wanted)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({Block(1, M): ()}, "nothing of mlp.1 is to be kept: remove the block instead"),
        ({Block(1, M): (3, 48)}, "mlp.1 has the channels 0 to 47"),
        ({Block(1, A): (1, 0)}, "attention.1 has the heads 0 to 1, and"),
        ({Block(9, A): (1,)}, "attention.9 is not a block of this model"),
    ],
)
def test_widths_that_make_no_sense_are_refused(widths: Widths, message: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    before = logits(checkpoint.anatomy)
    with pytest.raises(InputError, match=message), narrowed(checkpoint.anatomy, {Block(0, M): (1, 2), **widths}):
        pass
    assert torch.equal(logits(checkpoint.anatomy), before)
    with pytest.raises(InputError, match=message):
        save_pruned(checkpoint, [], tmp_path, widths=widths)


def test_blocks_that_can_not_be_sliced_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"attention\.1 can't be sliced: its self_attn\.q_norm sees all heads"):
        save_pruned(tiny_checkpoint("olmo2"), [], tmp_path, widths={Block(1, A): (1,)})
    assert not list(tmp_path.iterdir())


# On disk --------------------------------------------------------------------------------------------------------------


def saved(
    name: str, folder: Path, widths: Widths, removed: list[Block], form: Form | None = None, **options: object
) -> tuple[Anatomy, Anatomy]:
    """The source, and what a save of less of it loads as; their logits are equal."""
    checkpoint = tiny_checkpoint(name, **options)
    folder.mkdir(exist_ok=True)
    source = checkpoint.anatomy
    again = save_pruned(checkpoint, removed, folder, form, widths=widths).checkpoint.anatomy
    with narrowed(source, {b: kept for b, kept in widths.items() if b not in removed}), bypassed(source, removed):
        assert torch.equal(logits(again), logits(source))
    if form != "portable":
        assert again.parameters() == parameters_left(source, removed, widths)
    return source, again


@pytest.mark.parametrize("name", STOCK)
def test_layers_of_one_width_are_an_ordinary_model(name: str, tmp_path: Path) -> None:
    found = structures(tiny_anatomy(name))
    gone = [Block(1, A), Block(1, M)]
    _, stock = saved(name, tmp_path, even(found), gone)
    config = stock.model.config
    assert (config.model_type, config.num_hidden_layers) == (name, LAYERS - 1)
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)
    assert (config.head_dim, config.intermediate_size) == (8, 24)


@pytest.mark.parametrize(("name", "field"), [("gpt2", "n_inner"), ("opt", "ffn_dim"), ("falcon", "ffn_hidden_size")])
def test_channels_of_one_width_are_an_ordinary_model(name: str, field: str, tmp_path: Path) -> None:
    channels = {block: kept for block, kept in even(structures(tiny_anatomy(name))).items() if block.kind == M}
    _, stock = saved(name, tmp_path, channels, [])
    assert stock.model.config.model_type == name
    assert getattr(stock.model.config, field) == len(channels[Block(0, M)])


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert", "stablelm"])
def test_no_config_says_fewer_heads_of_the_same_size_where_that_is_computed(name: str) -> None:
    anatomy = tiny_anatomy(name)
    heads = {block: kept for block, kept in even(structures(anatomy)).items() if block.kind == A}
    assert choose(anatomy, [], heads) == "packed"


def test_three_heads_of_eight_do_not_fit_a_config_that_wants_a_multiple(tmp_path: Path) -> None:
    """Llama's config refuses 3 heads of 8 at a width of 32; the packed form takes them."""
    more = {"num_key_value_heads": 4}
    found = structures(tiny_anatomy("llama", **more))
    widths = {block: (0, 1, 3) for block in found if block.kind == A}
    _, packed = saved("llama", tmp_path, widths, [], **more)
    assert packed.model.config.model_type == "packed_llama"


@pytest.mark.parametrize("name", DISK)
def test_layers_of_different_widths_are_packed(name: str, tmp_path: Path) -> None:
    found = structures(tiny_anatomy(name))
    gone = [Block(2, A), Block(1, M)]
    widths = uneven(found)
    _, packed = saved(name, tmp_path, widths, gone)
    shapes = packed.model.config.packing["shapes"]
    assert set(shapes) == {"1", "2", "3"}
    for layer in packed.sites:
        for path, shape in shapes.get(str(layer.number), {}).items():
            assert list(layer.layer.get_parameter(path).shape) == shape
    again = structures(packed)
    for block in set(found) - set(gone):
        kept = len(widths.get(block, range(found[block].groups)))
        assert again[block].groups * again[block].columns == kept * found[block].columns


def test_blocks_that_keep_all_are_not_written_down(tmp_path: Path) -> None:
    whole = {block: tuple(range(each.groups)) for block, each in structures(tiny_anatomy("llama")).items()}
    _, stock = saved("llama", tmp_path / "stock", whole, [])
    _, packed = saved("llama", tmp_path / "packed", whole, [Block(1, A)])
    assert stock.model.config.model_type == "llama"
    assert "shapes" not in packed.model.config.packing


def test_what_is_zeroed_can_still_be_sliced(tmp_path: Path) -> None:
    """In the portable form half of the groups do nothing, and slicing them away is only rounding."""
    checkpoint = tiny_checkpoint("llama")
    found = structures(checkpoint.anatomy)
    portable = save_pruned(checkpoint, [], tmp_path, "portable", widths=even(found)).checkpoint
    assert structures(portable.anatomy) == found


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "t5"])
def test_portable_keeps_the_width_and_loses_the_function(name: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(name)
    widths, gone = uneven(structures(checkpoint.anatomy)), [] if name == "t5" else [Block(2, A)]
    saved = save_pruned(checkpoint, gone, tmp_path, "portable", widths=widths)
    assert saved.check.one_pass == 0.0
    assert saved.checkpoint.anatomy.parameters() == checkpoint.anatomy.parameters()
    with narrowed(checkpoint.anatomy, widths), bypassed(checkpoint.anatomy, gone):
        assert near(logits(saved.checkpoint.anatomy), logits(checkpoint.anatomy))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt"])
@pytest.mark.parametrize("options", [{}, MULTI_QUERY], ids=["", "multi-query"])
def test_every_cache_gives_what_one_pass_gives(name: str, options: dict[str, int], tmp_path: Path) -> None:
    if options and name not in ("llama", "gemma2"):
        pytest.skip("its heads are not shared")
    found = structures(tiny_anatomy(name, **options))
    _, packed = saved(name, tmp_path, uneven(found), [Block(2, A), Block(1, M)], **options)
    model, ids = packed.model, tiny_windows(count=2, length=20).ids
    padding = torch.ones_like(ids)
    padding[0, :5] = 0
    greedy = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        parts = decode(model, cache, ids.split([13, 7], dim=1))
        torch.testing.assert_close(torch.cat(parts, 1), model(ids, use_cache=False).logits, atol=2e-5, rtol=1e-4)
        for given in ({}, {"attention_mask": padding}):
            plain = model.generate(ids, use_cache=False, **greedy, **given)
            assert torch.equal(model.generate(ids, use_cache=True, **greedy, **given), plain)
            if model._can_compile_fullgraph:
                assert torch.equal(model.generate(ids, cache_implementation="static", **greedy, **given), plain)


@pytest.mark.parametrize(("name", "options"), [("llama", MANY), ("gpt2", {}), ("bert", {})])
def test_a_narrower_model_can_be_pruned_again(name: str, options: dict[str, int], tmp_path: Path) -> None:
    """Halves of halves, and more blocks gone, in two steps and in one."""
    source = tiny_anatomy(name, **options)
    widths, gone, more = uneven(structures(source)), [Block(2, A)], [Block(1, M)]
    _, once = saved(name, tmp_path / "once", widths, gone, **options)
    second = uneven(structures(once), first=1)
    (tmp_path / "twice").mkdir()
    packed = load(tmp_path / "once", device="cpu")
    twice = save_pruned(packed, more, tmp_path / "twice", widths=second).checkpoint.anatomy
    together = {block: tuple(widths[block][i] for i in second[block]) for block in second}
    _, direct = saved(name, tmp_path / "direct", together, [*gone, *more], **options)
    assert torch.equal(logits(twice), logits(direct))
    assert twice.model.config.packing == direct.model.config.packing


def test_what_was_uneven_can_become_an_ordinary_model(tmp_path: Path) -> None:
    """Two key-value heads in some layers and one in the others, then one in all."""
    found = structures(tiny_anatomy("llama"))
    checkpoint = tiny_checkpoint("llama")
    widths = {block: (1,) if block.kind == A else tuple(range(20)) for block in found if block.layer % 2}
    (tmp_path / "packed").mkdir(), (tmp_path / "stock").mkdir()
    packed = save_pruned(checkpoint, [], tmp_path / "packed", widths=widths).checkpoint
    rest = {block: (0,) if block.kind == A else tuple(range(20)) for block in found if not block.layer % 2}
    assert choose(packed.anatomy, [], {Block(0, A): (0,)}) == "packed"
    stock = save_pruned(packed, [], tmp_path / "stock", widths=rest).checkpoint
    config = stock.model.config
    assert (config.model_type, config.num_key_value_heads, config.intermediate_size) == ("llama", 1, 20)
    with narrowed(checkpoint.anatomy, {**widths, **rest}):
        assert torch.equal(logits(stock.anatomy), logits(checkpoint.anatomy))


@pytest.mark.shared
def test_a_real_model_keeps_its_function(shared: Path, tmp_path: Path) -> None:
    checkpoint = load(shared / "models" / "stories12l", device="cpu")
    anatomy, found = checkpoint.anatomy, structures(checkpoint.anatomy)
    assert {(each.groups, each.columns) for each in found.values()} == {(3, 64), (512, 1)}
    text = (shared / "data" / "tinystories" / "part_b.txt").read_text()[:4000]
    ids = torch.tensor(checkpoint.tokenizer(text)["input_ids"][:512]).view(4, 128)
    windows = Windows(ids, torch.cat([ids[:, 1:], torch.full((4, 1), -100)], 1))
    widths = {block: tuple(range(block.layer % 2, each.groups, 2)) for block, each in found.items() if block.layer > 6}
    with masked(anatomy, kept_masks(anatomy, widths)):
        wanted = mean_nll(anatomy, windows)
    result = save_pruned(checkpoint, [Block(3, A)], tmp_path, widths=widths)
    with masked(anatomy, kept_masks(anatomy, widths)), bypassed(anatomy, [Block(3, A)]):
        masked_nll = mean_nll(anatomy, windows)
    assert mean_nll(result.checkpoint.anatomy, windows) == pytest.approx(masked_nll, rel=1e-6)
    with narrowed(anatomy, widths):
        assert mean_nll(anatomy, windows) == pytest.approx(wanted, rel=1e-6)
    assert result.checkpoint.anatomy.parameters() == parameters_left(anatomy, [Block(3, A)], widths)

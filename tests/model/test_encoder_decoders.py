"""Encoder-decoder models: whole layers make a stock model, blocks a packed one, and generation is the intact model's.

What the intact model generates with some blocks bypassed is what the written model generates, with its caches and
without, greedily and by beams. ``test_families.py`` holds their rows to what every row is held to.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import small_model
from transformers import AutoModelForSeq2SeqLM

from remodeler.checkpoint.forms import choose, refusal
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.families import FAMILIES
from remodeler.model.tracing import probe, trace
from remodeler.pruning.criteria.sweep import sweep
from remodeler.pruning.search.candidates import candidates
from remodeler.runs.units import Block
from tiny import tiny_checkpoint, tiny_tokenizer, tiny_windows

TYPES = [name for name, row in FAMILIES.items() if row.task == "seq2seq"]
THOROUGHLY = ("t5", "bart-encoder-decoder")
"""Those that all patterns are tried on; of the others one is."""
CPU = torch.device("cpu")
IDS = torch.randint(4, 60, (2, 9), generator=torch.Generator().manual_seed(1))
GREEDY = {
    "max_new_tokens": 5,
    "min_new_tokens": 5,
    "do_sample": False,
    "decoder_start_token_id": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "forced_eos_token_id": None,
}


def blocks(names: str) -> list[Block]:
    return [Block.parse(name) for name in names.split()]


# The decoder's layers are 4 to 7.
PACKED = {
    "halves of both": "attention.1 mlp.2 attention.5 cross.6 mlp.4",
    "no cross-attention but one": "cross.4 cross.5 cross.7",
    "more cross-attentions than self-attentions": "attention.5 attention.6 attention.7 mlp.4",
    "firsts": "mlp.0 cross.4 mlp.4 attention.6",
}
ACROSS = "a layer across layers"
WHOLE = {
    "a layer of the decoder": ("attention.5 cross.5 mlp.5", (4, 3)),
    "a layer of each": ("attention.1 mlp.1 attention.6 cross.6 mlp.6", (3, 3)),
    ACROSS: ("mlp.1 attention.2 attention.5 cross.5 mlp.4", (3, 3)),
}


def anatomy_of(name: str) -> Anatomy:
    model = small_model(name.removesuffix("-encoder-decoder"), auto=AutoModelForSeq2SeqLM)
    return trace(model, FAMILIES[name], probe(FAMILIES[name], CPU))


def checkpoint_of(name: str) -> Checkpoint:
    return Checkpoint(anatomy_of(name), tiny_tokenizer(), name, stored_dtype=torch.float32)


def generated(model: Any, **how: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.generate(IDS, **GREEDY, **how)
    return found


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, decoder_input_ids=IDS, use_cache=False).logits
    return found


def depths(model: Any) -> tuple[int, int]:
    found = [int(getattr(model.config, stack.depth)) for stack in FAMILIES[kind_of(model)].stacks]
    return found[0], found[1]


def kind_of(model: Any) -> str:
    name = str(model.config.model_type)
    return name if name in TYPES else f"{name}-encoder-decoder"


# Forms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TYPES)
def test_a_packed_model_generates_what_the_intact_one_does_without_the_blocks(name: str, tmp_path: Path) -> None:
    source = checkpoint_of(name)
    for pattern, names in PACKED.items() if name in THOROUGHLY else list(PACKED.items())[:1]:
        gone, folder = blocks(names), tmp_path / pattern.replace(" ", "-")
        folder.mkdir()
        assert choose(source.anatomy, gone) == "packed"
        model = save_pruned(source, gone, folder).checkpoint.model
        ways: list[dict[str, Any]] = [{"num_beams": 1}, {"num_beams": 3}]
        with bypassed(source.anatomy, gone):
            assert torch.equal(logits(model), logits(source.model)), pattern
            wanted = [generated(source.model, use_cache=False, **how) for how in ways]
        for how, tokens in zip(ways, wanted, strict=True):
            assert torch.equal(generated(model, use_cache=True, **how), tokens), (pattern, how)
        if name in THOROUGHLY:
            assert torch.equal(generated(model, cache_implementation="static"), wanted[0]), pattern
        assert sum(p.numel() for p in model.parameters()) == source.anatomy.parameters(gone)


def test_the_comparison_would_tell_a_block_that_stayed(tmp_path: Path) -> None:
    source = checkpoint_of("bart-encoder-decoder")
    gone = blocks(PACKED["halves of both"])
    model = save_pruned(source, gone, tmp_path).checkpoint.model
    with bypassed(source.anatomy, gone[:-1]):
        assert not torch.equal(logits(model), logits(source.model))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [*((name, pattern) for name in THOROUGHLY for pattern in WHOLE), ("umt5", ACROSS), ("m2m_100", ACROSS)],
)
def test_whole_layers_are_written_as_a_stock_model(name: str, pattern: str, tmp_path: Path) -> None:
    names, wanted = WHOLE[pattern]
    source, gone = checkpoint_of(name), blocks(names)
    save_pruned(source, gone, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "packing" not in config
    assert not list(tmp_path.glob("*.py"))
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(model) is type(source.model)
    assert depths(model) == wanted
    with bypassed(source.anatomy, gone):
        assert torch.equal(logits(model), logits(source.model))
        tokens = generated(source.model, use_cache=False)
    assert torch.equal(generated(model, use_cache=True), tokens)


def test_a_t5_deeper_behind_than_in_front_is_packed_so_that_it_generates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers counts the encoder's layers to make the decoder's caches."""
    source, gone = checkpoint_of("t5"), blocks("attention.1 mlp.1")
    assert choose(source.anatomy, gone) == "packed"
    assert choose(checkpoint_of("mbart-encoder-decoder").anatomy, gone) == "stock"
    for form in ("stock", "packed"):
        (tmp_path / form).mkdir()
    stock = save_pruned(source, gone, tmp_path / "stock", "stock").checkpoint.model
    assert "generate fails in stock transformers" in caplog.text
    with pytest.raises(IndexError):
        generated(stock, use_cache=True)
    packed = save_pruned(source, gone, tmp_path / "packed").checkpoint.model
    assert torch.equal(generated(packed, use_cache=True), generated(stock, use_cache=False))


def test_a_norm_behind_the_sum_goes_with_its_block() -> None:
    """So a layer that goes is the one that DistilBART leaves out, and zeros in its projections are no such thing."""
    bart, mbart = anatomy_of("bart-encoder-decoder"), anatomy_of("mbart-encoder-decoder")
    gone = blocks("attention.1 mlp.1")
    assert all(branch.post_norm for branch in bart.branches.values())
    assert not any(branch.post_norm for branch in mbart.branches.values())
    assert "norm lies behind" in (refusal(bart, frozenset(gone), "portable") or "")
    assert refusal(mbart, frozenset(gone), "portable") is None
    layers = bart.model.model.encoder.layers
    with bypassed(bart, gone):
        states = torch.randn(1, 3, 32)
        assert torch.equal(layers[1](states, None), states)


@pytest.mark.parametrize("name", ["t5", "bart-encoder-decoder"])
def test_a_packed_model_is_pruned_again_as_its_source(name: str, tmp_path: Path) -> None:
    once, more = blocks("mlp.0 mlp.1 attention.5 cross.4"), blocks("attention.2 cross.6 mlp.7 mlp.2")
    source = checkpoint_of(name)
    for folder in ("once", "twice", "direct"):
        (tmp_path / folder).mkdir()
    packed = save_pruned(source, once, tmp_path / "once").checkpoint
    assert packed.anatomy.fixed == source.anatomy.fixed
    assert set(packed.anatomy.blocks()) == set(source.anatomy.blocks()) - set(once)
    units = [(block,) for block in packed.anatomy.blocks()]
    windows = tiny_windows("seq2seq")
    windows = type(windows)(windows.ids % 60, windows.targets % 60, decoder=windows.decoder % 60)  # type: ignore[operator]
    assert sweep(packed.anatomy, windows, [], units) == sweep(source.anatomy, windows, once, units)
    twice = save_pruned(packed, more, tmp_path / "twice").checkpoint.model
    direct = save_pruned(source, [*once, *more], tmp_path / "direct").checkpoint.model
    assert torch.equal(logits(twice), logits(direct))
    assert twice.config.packing == direct.config.packing


def test_a_packed_model_that_loses_the_rest_of_its_layers_is_stock(tmp_path: Path) -> None:
    source = checkpoint_of("marian-encoder-decoder")
    for folder in ("packed", "stock"):
        (tmp_path / folder).mkdir()
    packed = save_pruned(source, blocks("attention.5 mlp.2"), tmp_path / "packed").checkpoint
    rest = blocks("cross.5 mlp.5 attention.2")
    saved = save_pruned(packed, rest, tmp_path / "stock")
    assert (saved.form, depths(saved.checkpoint.model)) == ("stock", (3, 3))


# Elsewhere ------------------------------------------------------------------------------------------------------------

ALONE = """
import sys
import torch
from transformers import AutoModelForSeq2SeqLM

for folder in sys.argv[1:]:
    try:
        AutoModelForSeq2SeqLM.from_pretrained(folder)
        raise SystemExit("it was loaded without trust")
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
    logits = model(input_ids=torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([[2, 8]])).logits
    torch.save(logits.detach(), folder + "/logits.pt")
assert "remodeler" not in sys.modules
"""


def test_the_code_beside_the_weights_is_all_that_transformers_needs(tmp_path: Path) -> None:
    models = {}
    for name in THOROUGHLY:
        (tmp_path / name).mkdir()
        models[name] = save_pruned(checkpoint_of(name), blocks(PACKED["halves of both"]), tmp_path / name)
    command = [sys.executable, "-I", "-c", ALONE, *(str(tmp_path / name) for name in models)]
    place = {"HF_HOME": str(tmp_path / "hub"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=place, check=False)
    assert done.returncode == 0, done.stderr
    for name, saved in models.items():
        with torch.no_grad():
            wanted = saved.checkpoint.model(torch.tensor([[5, 6, 7]]), decoder_input_ids=torch.tensor([[2, 8]])).logits
        torch.testing.assert_close(torch.load(tmp_path / name / "logits.pt"), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("saved_as", "task"), [("conditional", "seq2seq"), ("causal", "causal")])
def test_a_type_with_both_is_read_by_its_class(saved_as: str, task: str, tmp_path: Path) -> None:
    model = tiny_checkpoint("bart-encoder-decoder").model if task == "seq2seq" else small_model("bart")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path, device="cpu").anatomy.family.task == task


@pytest.mark.parametrize("named", [True, False])
def test_an_encoder_decoder_of_which_only_the_decoder_is_known_is_refused(named: bool, tmp_path: Path) -> None:
    config = {"model_type": "mvp", "architectures": ["MvpForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config | ({"is_encoder_decoder": True} if named else {})))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is a MvpForConditionalGeneration: of mvp only decoders by themselves are"):
        load(tmp_path, device="cpu")


def test_streamed_layers_give_the_same_and_are_written_the_same(tmp_path: Path) -> None:
    source = tiny_checkpoint("bart-encoder-decoder")
    source.model.save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    streamed = load(tmp_path / "source", device="cpu", stream=True)
    gone = blocks(PACKED["halves of both"])
    (tmp_path / "small").mkdir()
    small = save_pruned(streamed, gone, tmp_path / "small").form
    assert small == "packed"
    with bypassed(source.anatomy, gone):
        assert torch.equal(logits(load(tmp_path / "small", device="cpu").model), logits(source.model))


# What must stay -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t5", "bart-encoder-decoder"])
def test_an_attention_of_each_list_stays(name: str) -> None:
    anatomy = anatomy_of(name)
    gone: list[Block] = []
    while units := [unit for unit in candidates(anatomy, "attention", "free", gone)]:
        gone += units[0]
    kept = [block for block in sorted(anatomy.branches) if block.kind == "attention" and block not in gone]
    assert [block.layer >= 4 for block in kept] == [False, True]


def test_a_list_that_would_lose_all_its_layers_is_refused() -> None:
    anatomy = anatomy_of("bart-encoder-decoder")
    gone = [block for block in anatomy.branches if block.layer >= 4]
    with pytest.raises(InputError, match=r"no form can hold this model: stock, a list of layers would be empty"):
        choose(anatomy, gone)
    why = refusal(anatomy, frozenset(gone), "packed")
    assert why == "no attention is left in model.decoder.layers to build layers from"


def test_a_depth_that_the_files_do_not_have_is_refused(tmp_path: Path) -> None:
    tiny_checkpoint("bart-encoder-decoder").model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for depth in (3, 5):
        (tmp_path / "config.json").write_text(json.dumps(config | {"decoder_layers": depth}))
        with pytest.raises(InputError, match=rf"has {depth} layers in config\.json and 4 in the files: get"):
            load(tmp_path, device="cpu")


def test_skips_of_a_model_with_two_lists_are_refused(tmp_path: Path) -> None:
    tiny_checkpoint("t5").model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"per_layer_config": {"1": {"skip": ["mlp"]}}}))
    with pytest.raises(InputError, match="does not say of which list, encoder or decoder"):
        load(tmp_path, device="cpu")


def test_a_decoder_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"no layers in 'decoder\.block'"):
        tiny_checkpoint("t5", num_decoder_layers=0)

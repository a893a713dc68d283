"""Every causal model type of transformers: what the docs say of it is so, and mixers are blocks like any other."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import model_types
import pytest
import torch
import transformers
from small_models import small_model
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from remodeler.checkpoint.forms import refusal
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.data.windows import IGNORED, Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.families import BOTH, FAMILIES
from remodeler.model.tracing import probe, trace
from remodeler.pruning.criteria.sweep import sweep
from remodeler.pruning.search.candidates import candidates
from remodeler.runs.units import Block
from tiny import plain_losses, tiny_tokenizer

RECORD: dict[str, Any] = json.loads(model_types.RECORD.read_text(encoding="utf-8"))
TYPES: dict[str, dict[str, Any]] = RECORD["types"]
WORK = [name for name, each in TYPES.items() if not each["problem"]]
HYBRIDS = {"qwen3_next": "linear_attn", "jamba": "mamba", "lfm2": "conv", "falcon_h1": "mamba"}
CPU = torch.device("cpu")
TRIED_AGAIN = ("blip-2", "granite_docling", "lfm2_vl", "mllama")
"""Some of each sort of the models of text and images."""
SAME_LIBRARY = pytest.mark.skipif(
    transformers.__version__ != RECORD["transformers"], reason="the page tells of another transformers"
)


def anatomy_of(name: str) -> Anatomy:
    model = small_model(name)
    row = FAMILIES[model.config.model_type]
    return trace(model, row, probe(row, CPU))


def checkpoint_of(name: str) -> Checkpoint:
    return Checkpoint(anatomy_of(name), tiny_tokenizer(), name, stored_dtype=torch.float32)


def windows_of(count: int = 3, length: int = 12) -> Windows:
    ids = torch.randint(4, 60, (count, length), generator=torch.Generator().manual_seed(0))
    return Windows(ids, torch.cat([ids[:, 1:], torch.full((count, 1), IGNORED)], 1))


def logits(anatomy: Anatomy, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = anatomy.model(ids, use_cache=False).logits
    return found


# The page -------------------------------------------------------------------------------------------------------------


def test_the_page_is_made_of_the_record() -> None:
    assert model_types.PAGE.read_text(encoding="utf-8") == model_types.page(RECORD)


def test_the_table_holds_the_types_that_work() -> None:
    assert {name for name, row in FAMILIES.items() if row.task != "seq2seq"} == set(WORK)
    assert len(WORK) >= 100


@SAME_LIBRARY
def test_the_record_has_every_causal_type() -> None:
    assert list(TYPES) == list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@SAME_LIBRARY
@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_as_the_page_says(name: str) -> None:
    with model_types.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert asdict(model_types.verdict_of(name)) == TYPES[name]


@SAME_LIBRARY
def test_the_record_has_every_type_of_models_of_text_and_images() -> None:
    assert list(RECORD["wrappers"]) == list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    assert sum(not each["problem"] for each in RECORD["wrappers"].values()) >= 50


@SAME_LIBRARY
@pytest.mark.parametrize("name", TRIED_AGAIN)
def test_a_model_of_text_and_images_is_as_the_page_says(name: str) -> None:
    with model_types.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert asdict(model_types.verdict_of_wrapper(name)) == RECORD["wrappers"][name]


@SAME_LIBRARY
def test_the_record_has_every_encoder_decoder_type() -> None:
    found = RECORD["encoder_decoders"]
    works = {name for name, each in found.items() if not each["problem"]}
    assert list(found) == list(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    assert works == {name.removesuffix(BOTH) for name, row in FAMILIES.items() if row.task == "seq2seq"}
    assert works.isdisjoint(model_types.NO_ENCODER_DECODER)


@SAME_LIBRARY
@pytest.mark.parametrize("name", ["t5", "bart-encoder-decoder", "m2m_100"])
def test_an_encoder_decoder_type_is_as_the_page_says(name: str) -> None:
    """One of each sort; ``test_encoder_decoders.py`` writes and reads a model of every other."""
    row = FAMILIES[name]
    with model_types.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = asdict(model_types.examine(name.removesuffix(BOTH), row))
    assert found == RECORD["encoder_decoders"][name.removesuffix(BOTH)]


# Mixers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_mixer_is_a_block_named_by_its_kind(name: str) -> None:
    anatomy = anatomy_of(name)
    mixers = {str(block): branch for block, branch in anatomy.branches.items() if block.kind == "mixer"}
    assert "mixer.0" in mixers
    assert {branch.names["modules"][-1] for branch in mixers.values()} == {HYBRIDS[name]}
    assert Block.parse("mixer.0") in anatomy.branches


@pytest.mark.parametrize("name", [*HYBRIDS, "nemotron_h", "deepseek_v3"])
def test_a_sweep_over_mixers_equals_the_plain_loop_bit_for_bit(name: str) -> None:
    anatomy, windows = anatomy_of(name), windows_of()
    units = [(block,) for block in anatomy.blocks()]
    assert sweep(anatomy, windows, [], units, size=2) == plain_losses(anatomy, windows, units)


@pytest.mark.parametrize("name", [*HYBRIDS, "nemotron_h"])
def test_a_packed_hybrid_decodes_with_its_cache_and_can_be_pruned_again(name: str, tmp_path: Path) -> None:
    source = checkpoint_of(name)
    mixers = [block for block in source.anatomy.blocks() if block.kind == "mixer"]
    mlps = [block for block in source.anatomy.blocks() if block.kind == "mlp"]
    once, more = [mixers[0], mlps[-1]], [mlps[0]]
    for folder in ("once", "twice"):
        (tmp_path / folder).mkdir()
    packed = save_pruned(source, once, tmp_path / "once", "packed").checkpoint
    ids = windows_of(1, 10).ids
    greedy = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        plain = packed.model.generate(ids, use_cache=False, **greedy)
        assert torch.equal(packed.model.generate(ids, use_cache=True, **greedy), plain)
    assert set(packed.anatomy.branches) == set(source.anatomy.branches) - set(once)
    again = save_pruned(packed, more, tmp_path / "twice", "packed").checkpoint
    with bypassed(source.anatomy, [*once, *more]):
        torch.testing.assert_close(logits(again.anatomy, ids), logits(source.anatomy, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["qwen3_next", "nemotron_h", "deepseek_v3"])
def test_streamed_layers_have_the_same_blocks(name: str, tmp_path: Path) -> None:
    source = checkpoint_of(name)
    source.model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    streamed = load(tmp_path, device="cpu", stream=True).anatomy
    assert {block: branch.names for block, branch in streamed.branches.items()} == {
        block: branch.names for block, branch in source.anatomy.branches.items()
    }
    ids = windows_of(1).ids
    assert torch.equal(logits(streamed, ids), logits(source.anatomy, ids))


def test_a_zeroed_mixer_is_a_mixer_still(tmp_path: Path) -> None:
    """As in the portable form: no number tells then that it mixes tokens."""
    source = checkpoint_of("qwen3_next")
    save_pruned(source, [Block(0, "mixer")], tmp_path, "portable")
    assert load(tmp_path, device="cpu").anatomy.branches.keys() == source.anatomy.branches.keys()


# What must stay -------------------------------------------------------------------------------------------------------


def test_the_last_attention_of_a_hybrid_stays() -> None:
    anatomy = anatomy_of("qwen3_next")
    attentions = [block for block in anatomy.blocks() if block.kind == "attention"]
    left = [unit for unit in candidates(anatomy, "block", "free", attentions[:-1])]
    assert (attentions[-1],) not in left
    assert "no attention is left" in (refusal(anatomy, frozenset(attentions), "packed") or "")


def test_an_attention_whose_keys_other_layers_read_stays() -> None:
    """The last layer of this Gemma 4 reads the keys and values of layer 1."""
    anatomy = anatomy_of("gemma4_unified_text")
    assert anatomy.fixed == {Block(1, "attention"): "layer 3 reads what it computes for itself"}
    assert Block(1, "attention") not in anatomy.blocks()
    for form in model_types.FORMS:
        why = refusal(anatomy, frozenset([Block(1, "attention")]), form)
        assert why == "attention.1 can't go, layer 3 reads what it computes for itself"


def test_layers_that_are_no_sum_are_refused_by_name_with_what_was_found() -> None:
    with pytest.raises(InputError, match=r"layer 0 of model type 'deepseek_v4' can't be told, .*no sum.*must run once"):
        trace(small_model("deepseek_v4"), FAMILIES["llama"], probe(FAMILIES["llama"], CPU))

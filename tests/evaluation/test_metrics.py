"""Facts about what a checkpoint is measured to be worth."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.sizes import kv_bytes_per_token, memory
from remodeler.data import pydocs
from remodeler.data.windows import IGNORED, windows
from remodeler.errors import InputError
from remodeler.evaluation import metrics as evaluation
from remodeler.evaluation.metrics import (
    compare_speed,
    evaluation_texts,
    generation_speed,
    measure,
    model_windows,
    text_scores,
)
from remodeler.model.caches import cache_keyword
from tiny import LAYERS, LLAMA, VOCABULARY, tiny_checkpoint

TEXTS = ["the cat sat on the mat and the dog on the log", "Zwölf Äpfel fielen vom Baum, und der Hund saß da."] * 4


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    return tiny_checkpoint("llama")


def uniform(name: str) -> Checkpoint:
    """A model to which all tokens are equally likely."""
    checkpoint = tiny_checkpoint(name)
    with torch.no_grad():
        for parameter in checkpoint.model.get_output_embeddings().parameters():
            parameter.zero_()
    return checkpoint


# --- texts


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_perplexity_is_exp_of_the_loss_of_transformers(name: str) -> None:
    checkpoint = tiny_checkpoint(name)
    ids = windows(TEXTS, checkpoint.tokenizer, 16).ids
    with torch.no_grad():
        losses = [checkpoint.model(row[None], labels=row[None]).loss.item() for row in ids]
    scores = text_scores(checkpoint, TEXTS, 16)
    assert scores["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert (scores["windows"], scores["tokens"], scores["length"]) == (len(ids), 15 * len(ids), 16)


@pytest.mark.parametrize("packing", ["paper", "per-text"])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(packing: evaluation.Packing) -> None:
    scores = text_scores(uniform("llama"), TEXTS, 64, packing)
    assert scores["perplexity"] == pytest.approx(VOCABULARY, rel=1e-6)


def test_bits_per_byte_of_a_uniform_model_count_the_bytes_of_whole_texts() -> None:
    scores = text_scores(uniform("llama"), TEXTS[:2], 64, "per-text")
    size = sum(len(text.encode()) for text in TEXTS[:2])
    assert scores["bits_per_byte"] == pytest.approx(scores["tokens"] * math.log2(VOCABULARY) / size, rel=1e-6)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_other_kinds_of_models_are_scored_in_their_own_way(name: str) -> None:
    scores = text_scores(uniform(name), TEXTS, 32)
    assert scores["perplexity"] == pytest.approx(VOCABULARY, rel=1e-6)
    assert scores["bits_per_byte"] is None


def test_a_masked_model_is_asked_for_every_token_of_the_text_once() -> None:
    checkpoint = tiny_checkpoint("bert")
    plain, chosen = windows(TEXTS, checkpoint.tokenizer, 32), model_windows(checkpoint, TEXTS, 32)
    start, mask = checkpoint.tokenizer.bos_token_id, checkpoint.tokenizer.mask_token_id
    assert sorted(chosen.targets[chosen.targets != IGNORED].tolist()) == sorted(plain.ids[plain.ids != start].tolist())
    assert (chosen.ids[chosen.targets != IGNORED] == mask).all()


def test_the_decoder_starts_from_the_token_the_model_names() -> None:
    checkpoint = tiny_checkpoint("t5")
    checkpoint.model.config.decoder_start_token_id = 7
    decoder = model_windows(checkpoint, TEXTS, 32).decoder
    assert decoder is not None
    assert (decoder[:, 0] == 7).all()


def test_a_window_longer_than_the_context_is_refused(llama: Checkpoint) -> None:
    with pytest.raises(InputError, match="llama reads at most 64: lower `length`"):
        text_scores(llama, TEXTS, 65)


def test_a_masked_model_needs_a_mask_token() -> None:
    checkpoint = tiny_checkpoint("bert")
    checkpoint.tokenizer.mask_token = None
    with pytest.raises(InputError, match="has no mask token"):
        text_scores(checkpoint, TEXTS, 32)


def test_a_file_is_measured_as_a_whole_and_a_data_set_by_its_held_out_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("first\n\nsecond")
    assert evaluation_texts(tmp_path / "a.txt") == ["first", "second"]
    monkeypatch.setattr(pydocs, "texts", lambda part: [f"{part} {number}" for number in range(9)])
    held_out = evaluation_texts("python", samples=5)
    assert len(held_out) == 5
    assert all(text.startswith("heldout") for text in held_out)


@pytest.mark.shared
def test_bits_per_byte_of_a_published_model_are_the_listed_ones(shared: Path) -> None:
    checkpoint = load(shared / "models/stories260k", device="cpu")
    stories = evaluation_texts(shared / "data/tinystories/part_b.txt")[:150]
    assert text_scores(checkpoint, stories, 512, "per-text")["bits_per_byte"] == pytest.approx(0.917, abs=0.001)


# --- memory


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_the_cache_holds_keys_and_values_of_every_layer(name: str) -> None:
    heads, size = LLAMA["num_key_value_heads"], tiny_checkpoint(name).model.config.head_dim
    assert kv_bytes_per_token(tiny_checkpoint(name)) == 2 * LAYERS * heads * size * 4


def test_an_encoder_has_no_cache_and_a_decoder_with_an_encoder_has_two() -> None:
    assert kv_bytes_per_token(tiny_checkpoint("bert")) == 0
    assert kv_bytes_per_token(tiny_checkpoint("t5")) == 2 * 2 * LAYERS * 4 * 8 * 4


def test_tied_weights_count_once_and_half_precision_halves_the_bytes() -> None:
    tied, free = (memory(tiny_checkpoint(name, attention_bias=True, mlp_bias=True)) for name in ("llama-tied", "llama"))
    assert free["parameters"] - tied["parameters"] == VOCABULARY * LLAMA["hidden_size"]
    assert tied["weight_bytes"] == 4 * tied["parameters"]
    half = tiny_checkpoint("llama-tied")
    half.model.bfloat16()
    assert memory(half)["weight_bytes"] == 2 * tied["parameters"]
    assert memory(half)["kv_bytes_per_token"] == tied["kv_bytes_per_token"] / 2


# --- speed


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2", "bloom", "mpt"])
def test_speeds_are_positive_and_in_order(name: str) -> None:
    speeds = generation_speed(tiny_checkpoint(name), prompt=8, new=4, repeats=3, batch=2)
    assert speeds.keys() == {"prefill", "decode"}
    for speed in speeds.values():
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
    assert [(speed["repeats"], speed["tokens"]) for speed in speeds.values()] == [(3, 16), (3, 8)]


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_models_that_do_not_decode_have_a_forward_speed_only(name: str) -> None:
    assert generation_speed(tiny_checkpoint(name), prompt=8, new=4, repeats=1).keys() == {"prefill"}


def test_decoding_reads_one_token_at_a_time_behind_the_prompt(llama: Checkpoint) -> None:
    seen: list[tuple[int, int]] = []

    def hook(_: nn.Module, args: tuple[torch.Tensor], kwargs: dict[str, object]) -> None:
        cache = kwargs.get(cache_keyword(llama.model))
        seen.append((args[0].shape[1], cache.get_seq_length() if cache is not None else 0))  # type: ignore[attr-defined]

    handle = llama.model.register_forward_pre_hook(hook, with_kwargs=True)
    generation_speed(llama, prompt=5, new=3, repeats=1)
    handle.remove()
    assert seen == [(5, 0), (1, 5), (1, 6), (1, 7)] * 2  # the first time to warm up


def test_checkpoints_take_turns(monkeypatch: pytest.MonkeyPatch, llama: Checkpoint) -> None:
    turns: list[str] = []

    def run(checkpoint: Checkpoint, *_: int) -> dict[str, float]:
        turns.append(checkpoint.name)
        return {"prefill": len(turns)}

    monkeypatch.setattr(evaluation, "_run", run)
    first, second = compare_speed([replace(llama, name="a"), replace(llama, name="b")], prompt=60, new=1, repeats=3)
    assert "".join(turns) == "ab" + "ab" * 3
    assert (first["prefill"]["median"], second["prefill"]["median"]) == (60 / 5, 60 / 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prompt": 60, "new": 5}, "60 \\+ 5 tokens were given, llama reads at most 64"), ({"repeats": 0}, "at least 1")],
)
def test_a_speed_that_cannot_be_measured_is_refused(llama: Checkpoint, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generation_speed(llama, **options)


# --- side by side


def test_checkpoints_are_measured_side_by_side(llama: Checkpoint) -> None:
    first, second = measure([llama, tiny_checkpoint("llama", 1)], TEXTS)
    assert first.keys() == second.keys()
    assert first["parameters"] == second["parameters"]
    assert first["perplexity"] != second["perplexity"]
    still = {"name": "llama"} | memory(llama) | text_scores(llama, TEXTS, 64)
    assert {key: value for key, value in first.items() if key not in ("prefill", "decode")} == still
    assert first["prefill"]["tokens"] + first["decode"]["tokens"] == llama.context  # 128 + 64 would not fit


def test_what_is_not_asked_for_is_not_measured(llama: Checkpoint) -> None:
    (scores,) = measure([llama], speed=False)
    assert scores == {"name": "llama"} | memory(llama)


def test_a_length_that_fits_only_one_of_two_is_refused_before_anything_is_measured(llama: Checkpoint) -> None:
    longer = tiny_checkpoint("llama", max_position_embeddings=128)
    with pytest.raises(InputError, match="reads at most 64"):
        measure([longer, llama], TEXTS, length=100)

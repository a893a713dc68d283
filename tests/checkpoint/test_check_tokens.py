"""What written models are compared on: tokens from all over a vocabulary, and for GGUF in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch

from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.exporting.gguf.job import in_float32
from remodeler.model.logprobs import spread_tokens
from remodeler.runs.units import Block
from tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize(("rows", "length"), [(49152, 16), (300, 16), (17, 16), (16, 16), (5, 16), (1, 4)])
def test_tokens_come_from_all_over_the_vocabulary(rows: int, length: int) -> None:
    found = spread_tokens(rows, length)
    assert len(found) == length
    assert all(0 <= each < rows for each in found)
    if rows > length:
        assert len(set(found)) == length
        assert max(found) - min(found) >= rows * (length - 1) // (length + 1) - length


def test_reserved_tokens_that_were_never_trained_do_not_hinder(tmp_path: Path) -> None:
    """Their rows may hold anything; the first ones of SmolLM2's lead to numbers that hang on every rounding."""
    model: Any = tiny_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[3:17] = float("inf")
    model.save_pretrained(tmp_path / "in")
    tiny_tokenizer().save_pretrained(tmp_path / "in")
    (tmp_path / "out").mkdir()
    check = save_pruned(load(tmp_path / "in", device="cpu"), [Block(1, "mlp")], tmp_path / "out").check
    assert check.one_pass == 0
    assert check.cached is not None
    assert check.cached < 1e-4


@pytest.mark.parametrize("name", ["llama-tied", "qwen3"])
def test_a_narrow_model_computes_in_float32_for_a_while(name: str) -> None:
    ids = torch.tensor([spread_tokens(300, 16)])
    model = tiny_model(name).to(torch.bfloat16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        with in_float32(model):
            found = model(ids).logits
        rounded, wanted = model(ids).logits, tiny_model(name).to(torch.bfloat16).float()(ids).logits
    assert torch.equal(found, wanted)
    assert not torch.equal(rounded.float(), wanted)  # the control
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}

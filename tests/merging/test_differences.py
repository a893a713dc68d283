"""Models with equal tensors whose configs say something else of them: other heads are refused, the rest is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from merges import written
from remodeler.errors import InputError
from remodeler.merging.config import MergeConfig
from remodeler.merging.differences import differences
from remodeler.merging.plan import plan_merge


def pair(folder: Path, **fields: Any) -> MergeConfig:
    """A model, and another of the same shape with other fields in its config."""
    names = [written(folder / name, seed) for seed, name in enumerate(("one", "two"))]
    file = names[1] / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return MergeConfig(models=(str(names[0]), str(names[1])))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rope_theta": 5e5, "rope_parameters": None}, "rope_parameters ("),
        ({"rms_norm_eps": 0.01, "eos_token_id": [2, 7]}, "eos_token_id (2 and [2, 7]), rms_norm_eps (1e-06 and 0.01)"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "model_type ('llama' and 'mistral')"),
    ],
)
def test_what_changes_the_meaning_of_weights_is_said(
    fields: dict[str, Any], told: str, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    plan_merge(pair(tmp_path, **fields))
    words = " ".join(messages.text.split())
    assert f"differ, the result has the values of {tmp_path}/one: {told}" in words


def test_what_changes_nothing_is_not_said(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    names = {"torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": False, "attention_dropout": 0.1}
    plan_merge(pair(tmp_path, unsloth_version="2025.1", _name_or_path="/x", rope_theta=1e4, rope_scaling=None, **names))
    assert "differ" not in messages.text


def test_other_heads_are_refused(tmp_path: Path) -> None:
    """Two of 16 have as many rows as four of 8."""
    with pytest.raises(
        InputError, match=r"head_dim is 8 in .*one and 16 in .*two: their rows are split into different heads"
    ):
        plan_merge(pair(tmp_path, head_dim=16, num_attention_heads=2, num_key_value_heads=1))


def test_nested_configs_are_compared_field_by_field() -> None:
    one = {"text_config": {"rms_norm_eps": 1, "vocab_size": 3}, "a": 1}
    other = {"text_config": {"rms_norm_eps": 2, "vocab_size": 4}, "b": 1}
    assert dict(differences(one, other)) == {"text_config.rms_norm_eps": (1, 2)}

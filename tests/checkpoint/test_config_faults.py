"""Configs that transformers 5 stumbles over, or reads otherwise than older readers: refused by field, or kept right."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Mamba2Config, Mamba2ForCausalLM

from merges import written
from remodeler.checkpoint.compatibility import with_older_names
from remodeler.checkpoint.config_faults import refuse_config
from remodeler.checkpoint.load import load, look
from remodeler.errors import InputError
from remodeler.merging.inputs import inspect_model
from remodeler.merging.job import merge
from tiny import tiny_tokenizer

LONG = {"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no dtype": ({"dtype": "auto"}, "has dtype 'auto', which is no dtype: remove it"),
    "older name": ({"dtype": None, "torch_dtype": "torch.float16"}, r"has torch_dtype 'torch.float16', which is no"),
    "inside": ({"text_config": {"torch_dtype": "fp16"}}, "has torch_dtype 'fp16'"),
    "says nothing": ({"quantization_config": {}}, "has an empty quantization_config: remove it"),
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, r"is quantised \(awq\), which .*: give the un"),
    "kernel": ({"attn_implementation": "flash_attention_2"}, "asks for attn_implementation 'flash_attention_2', and"),
    "first name": ({"rope_scaling": LONG}, "has rope_scaling of type su, the first name of longrope"),
    "another type": (
        {"hidden_size": "32"},
        r"(?s)the config of .*expected int, got str.*: correct that in config.json",
    ),
    "no such function": ({"hidden_act": "sillu"}, "can't be loaded"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("plain") / "model", 0)


def changed(folder: Path, **fields: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_field_that_can_not_be_read_is_named_by_every_reader(fault: str, tmp_path: Path) -> None:
    fields, words = FAULTS[fault]
    folder = str(changed(written(tmp_path / "model", 0), **fields))
    for read in (load, lambda name: load(name, stream=True), inspect_model):
        with pytest.raises(InputError, match=words):
            read(folder)


def test_a_quantised_teacher_is_refused_before_another_is_asked(tmp_path: Path) -> None:
    folder = str(changed(written(tmp_path / "model", 0), quantization_config={"quant_method": "awq"}))
    with pytest.raises(InputError, match=re.escape(f"{folder} is quantised (awq)")):
        look(folder, "causal")


def test_what_can_be_read_is_not_refused() -> None:
    for fields in ({"dtype": None}, {"torch_dtype": "half"}, {"dtype": {"text_config": "bfloat16"}}):
        refuse_config("m", fields)
    for more in ({"quantization_config": None}, {"attn_implementation": "sdpa"}, {"rope_scaling": None}):
        refuse_config("m", more)


def test_a_merge_that_would_not_load_ends_before_it_is_written(tmp_path: Path) -> None:
    names = [str(changed(written(tmp_path / f"m{seed}", seed), hidden_act="sillu")) for seed in range(2)]
    with pytest.raises(InputError, match=r"the model of .* can't be loaded"):
        merge(tuple(names), out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1"]


def test_an_infinity_in_a_config_stays(tmp_path: Path) -> None:
    """As ``time_step_limit`` of Mamba 2, in the form that Python's JSON has for it."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1}
    for seed in range(2):
        torch.manual_seed(seed)
        Mamba2ForCausalLM(Mamba2Config(vocab_size=300, **sizes)).save_pretrained(tmp_path / f"m{seed}")
        tiny_tokenizer().save_pretrained(tmp_path / f"m{seed}")
        changed(tmp_path / f"m{seed}", time_step_limit=[0.0, float("inf")])
    merge((str(tmp_path / "m0"), str(tmp_path / "m1")), out=tmp_path / "out")
    assert '"time_step_limit": [\n    0.0,\n    Infinity\n  ]' in (tmp_path / "out" / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path / "out").time_step_limit == [0.0, float("inf")]


# For older readers ----------------------------------------------------------------------------------------------------


def test_a_scaling_at_the_top_is_the_one_that_counts(plain: Path, tmp_path: Path) -> None:
    """Where a config has both, transformers 5 takes ``rope_scaling``, with ``rope_theta`` beside it."""
    fields = {"rope_theta": 777.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    names = [str(changed(written(tmp_path / f"m{seed}", 0), **fields)) for seed in range(2)]
    merge(tuple(names), out=tmp_path / "out")
    before, after = (AutoConfig.from_pretrained(name).rope_parameters for name in (names[0], tmp_path / "out"))
    assert before == after != AutoConfig.from_pretrained(plain).rope_parameters
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        one, two = (AutoModelForCausalLM.from_pretrained(name)(ids).logits for name in (names[0], tmp_path / "out"))
    assert torch.equal(one, two)


def test_sections_of_rotary_positions_are_told_to_older_readers() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    found = with_older_names({"model_type": "qwen2_vl_text", "rope_parameters": rope})
    assert found["rope_scaling"] == {"rope_type": "default", "mrope_section": [1, 1, 2]}
    assert found["rope_theta"] == 1e6


def test_no_quantisation_is_no_entry() -> None:
    """transformers 4 refuses a null there."""
    assert with_older_names({"model_type": "gpt2", "quantization_config": None}) == {"model_type": "gpt2"}

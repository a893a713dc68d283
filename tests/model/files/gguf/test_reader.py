"""Models in GGUF files: numbers of every kind, names of every architecture, and what a file says of its config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFValueType, dequantize
from transformers import AutoConfig, AutoModelForCausalLM

from gguf_models import REAL, TEXT, WHOLE, parts_of, write, write_model, write_split
from remodeler.errors import InputError
from remodeler.model.files.gguf.config import ROWS, settings_of
from remodeler.model.files.gguf.header import read_header
from remodeler.model.files.gguf.numbers import has_numbers, numbers
from remodeler.model.files.gguf.reader import open_gguf
from remodeler.model.files.gguf.rope import llama3_factors
from remodeler.model.files.gguf.values import Key, Raw
from tiny import tiny_model, tiny_tokenizer

Keys, Tensors = dict[str, Key], dict[str, Raw]
SAID: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"norm_topk_prob": True},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8},
}
"""What llama.cpp takes for given, where the tiny configs have another value."""
FAMILIES = [
    *("llama", "llama-tied", "mistral-full", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "phi3"),
    *("starcoder2", "stablelm", "stablelm-parallel", "falcon", "bloom", "gpt2"),
]
READ_ALIKE = ["llama", "qwen2", "phi3", "starcoder2", "stablelm", "falcon", "bloom"]
"""Of the tiny models those of which transformers' own reading is right."""


def model_of(path: Path) -> Any:
    """The model of a file, in float32."""
    weights = open_gguf(path)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**weights.settings), dtype=torch.float32)
    state = {name: weights.read(name) for name in weights.keys()}  # noqa: SIM118 - the library's own protocol
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= set(model.all_tied_weights_keys)
    assert not unexpected
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.arange(3, 35)[None]).logits
    return found


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_gguf(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names and config -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_is_the_model_that_it_was_made_from(name: str, tmp_path: Path) -> None:
    model = tiny_model(name, **SAID.get(name, {}))
    found = model_of(write_model(tmp_path / "x.gguf", model))
    assert torch.equal(logits(found), logits(model))


def test_every_architecture_is_tried() -> None:
    assert {ROWS[row].model_type for row in ROWS} == {tiny_model(name).config.model_type for name in FAMILIES} - {
        "mistral"
    }


@pytest.mark.parametrize("name", READ_ALIKE)
def test_logits_equal_transformers_own_reading(name: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", tiny_model(name), tiny_tokenizer(), GGMLQuantizationType.Q8_0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    assert torch.equal(logits(model_of(path)), logits(theirs))


def test_biases_are_read_that_transformers_leaves_out(tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", tiny_model("llama-tied"), tiny_tokenizer())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    assert not torch.allclose(logits(model_of(path)), logits(theirs), atol=0.1)


ROPE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": (
        {"rope_type": "linear", "factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "linear, old": ({"rope_type": "linear", "factor": 2.0}, {"rope.scale_linear": 2.0}),
    "yarn": (
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 2.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_beta_fast": 32.0,
        },
    ),
    "yarn, ranges": (
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32, "beta_fast": 8.0},
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 2.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_beta_fast": 8.0,
        },
    ),
}


@pytest.mark.parametrize("way", ROPE)
def test_stretched_positions_are_as_the_model_has_them(way: str, tmp_path: Path) -> None:
    rope, said = ROPE[way]
    model = tiny_model("llama", rope_parameters={"rope_theta": 1e4, **rope})
    keys = {f"llama.{name}": _key(value) for name, value in said.items()}
    found = model_of(write_model(tmp_path / "x.gguf", model, change=lambda every, _: every.update(keys)))
    plain = model_of(write_model(tmp_path / "plain.gguf", model))
    assert torch.allclose(logits(found), logits(model), atol=1e-5)
    assert not torch.allclose(logits(plain), logits(model), atol=1e-3)


def _key(value: Any) -> Key:
    kind = {str: TEXT, int: WHOLE, float: REAL}[type(value)]
    return Key(value, kind)


def test_llama_3s_frequencies_are_a_tensor_of_the_file(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 8192}
    model = tiny_model("llama", rope_parameters={"rope_theta": 5e5, **rope})
    factors = llama3_factors(rope, 5e5, 8).numpy()

    def add(keys: Keys, tensors: Tensors) -> None:
        tensors["rope_freqs.weight"] = Raw(factors, GGMLQuantizationType.F32)

    found = model_of(write_model(tmp_path / "x.gguf", model, change=add))
    assert torch.allclose(logits(found), logits(model), atol=1e-5)
    other = write_model(
        tmp_path / "y.gguf",
        model,
        change=lambda _, tensors: tensors.update(
            {"rope_freqs.weight": Raw(np.float32([1, 3, 2, 8]), GGMLQuantizationType.F32)}
        ),
    )
    assert "in another way than Llama 3" in refusal(other)


def test_phi_3s_factors_are_two_tensors_of_the_file(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.0, 2.0, 4.0, 8.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16, **factors}
    model = tiny_model("phi3", rope_parameters=rope, original_max_position_embeddings=16)

    def add(keys: Keys, tensors: Tensors) -> None:
        keys["phi3.rope.scaling.original_context_length"] = Key(16, WHOLE)
        for name, values in factors.items():
            stored = Raw(np.float32(values), GGMLQuantizationType.F32)
            tensors[f"rope_factors_{name.split('_')[0]}.weight"] = stored

    found = model_of(write_model(tmp_path / "x.gguf", model, change=add))
    assert torch.allclose(logits(found), logits(model), atol=1e-5)


def test_the_largest_gemmas_scale_their_queries_by_the_hidden_size(tmp_path: Path) -> None:
    header = read_header(write_model(tmp_path / "x.gguf", tiny_model("gemma3_text", head_dim=16)))
    assert settings_of(header)["query_pre_attn_scalar"] == 16
    header.keys["gemma3.block_count"] = Key(62, WHOLE)  # type: ignore[index]
    assert settings_of(header)["query_pre_attn_scalar"] == 32 // 4


# Numbers --------------------------------------------------------------------------------------------------------------

KINDS = [kind for kind in GGMLQuantizationType if has_numbers(kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_numbers_are_those_of_the_library(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    """Bit for bit, those that are no numbers too, whose bytes are random."""
    options = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "head_dim": 64}
    path = write_model(tmp_path / "x.gguf", tiny_model("qwen2", **options), kind=kind)
    weights, raw = open_gguf(path), read_header(path).tensors
    for name, stored in (
        ("model.embed_tokens.weight", "token_embd"),
        ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up"),
    ):
        with np.errstate(all="ignore"):
            wanted = dequantize(np.array(raw[f"{stored}.weight"].data), raw[f"{stored}.weight"].kind)
        assert weights.read(name).numpy().tobytes() == wanted.astype(np.float32).tobytes()
    assert kind.name in weights.bytes_by_kind()


def test_the_common_kinds_are_all_there() -> None:
    names = {kind.name for kind in KINDS}
    assert names > {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4", "IQ4_XS", "IQ1_M"}
    assert names > {f"Q{bits}_K" for bits in (2, 3, 4, 5, 6)}


def test_a_tensor_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (40, 34), np.uint8)
    raw = Raw(stored, GGMLQuantizationType.Q8_0)
    whole = numbers(raw)
    monkeypatch.setattr("remodeler.model.files.gguf.numbers.ELEMENTS", 100)
    assert numbers(raw).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("kind", "dtype"), [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q4_0", "float32")]
)
def test_the_narrowest_dtype_that_holds_all_numbers(kind: str, dtype: str, tmp_path: Path) -> None:
    half = tiny_model("llama").to(getattr(torch, dtype)).float()
    path = write_model(tmp_path / "x.gguf", half, kind=GGMLQuantizationType[kind])
    assert open_gguf(path).dtype() == getattr(torch, dtype)


def test_a_norm_that_half_precision_does_not_hold_makes_all_of_it_float32(tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", tiny_model("llama"), kind=GGMLQuantizationType.F16)
    assert open_gguf(path).dtype() == torch.float32


# Several files --------------------------------------------------------------------------------------------------------


def test_parts_are_read_as_one(tmp_path: Path) -> None:
    model = tiny_model("llama")
    first, second, _ = write_split(tmp_path, 3, *parts_of(model))
    assert torch.equal(logits(model_of(first)), logits(model))
    assert f"is one of 3 files and not the first: give {first}" in refusal(second)
    moved = first.rename(tmp_path / "first.gguf")
    assert "NAME-00001-of-00003.gguf" in refusal(moved)


def test_a_part_that_is_missing_or_another_is_named(tmp_path: Path) -> None:
    first, second, third = write_split(tmp_path, 3, *parts_of(tiny_model("llama")))
    third.unlink()
    assert f"{third} is not there, part 3 of 3" in refusal(first)
    third.write_bytes(second.read_bytes())
    assert f"{third} is not part 3 of 3" in refusal(first)


def test_parts_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    keys, tensors = parts_of(tiny_model("llama"))
    first, second = write_split(tmp_path, 2, keys, tensors)
    found = read_header(second)
    own = {name: Raw(np.array(raw.data), raw.kind) for name, raw in list(found.tensors.items())[1:]}
    second.unlink()  # it is mapped
    write(second, found.keys, own)
    assert f"have {len(tensors) - 1} tensors, {len(tensors)} were expected" in refusal(first)


# What is refused ------------------------------------------------------------------------------------------------------

Change = Callable[[Keys, Tensors], object]


def put(**given: Any) -> Change:
    return lambda keys, tensors: keys.update({name.replace("__", "."): _key(value) for name, value in given.items()})


def drop(name: str) -> Change:
    return lambda keys, tensors: [each.pop(name) for each in (keys, tensors) if name in each]


def add(name: str, kind: GGMLQuantizationType = GGMLQuantizationType.F32) -> Change:
    dtype = np.float32 if kind == GGMLQuantizationType.F32 else np.int32
    return lambda keys, tensors: tensors.update({name: Raw(np.zeros(8, dtype), kind)})


REFUSED: dict[str, tuple[Change, str]] = {
    "adapter": (put(general__type="adapter"), "is an adapter, which has to be merged"),
    "vision": (put(general__type="mmproj"), "is the vision or audio part of a model, and no language model"),
    "clip": (put(general__architecture="clip"), "is the vision or audio part of a model"),
    "matrix": (put(general__type="imatrix"), "is an importance matrix"),
    "architecture": (put(general__architecture="rwkv7"), "is of the architecture 'rwkv7', read are llama, qwen2"),
    "pruned": (put(general__architecture="deci"), "as pruned models are: give what it was made of"),
    "none": (drop("general.architecture"), "does not say of which architecture it is"),
    "vocabulary": (lambda keys, tensors: tensors.clear(), "holds a vocabulary and no weights"),
    "embedding": (drop("token_embd.weight"), "has no token_embd.weight"),
    "kind": (
        add("blk.0.odd.weight", GGMLQuantizationType.I32),
        "has blk.0.odd.weight stored as I32, which is not read",
    ),
    "tensor": (add("blk.0.attn_sinks.weight"), "has the tensor blk.0.attn_sinks.weight, which llama has no place for"),
    "key": (put(llama__attention__clamp_kqv=8.0), "has llama.attention.clamp_kqv = 8.0, which is not acted on"),
    "experts": (put(llama__expert_count=8), "has llama.expert_count = 8, which is not acted on"),
    "rotation": (put(llama__rope__dimension_count=4), "has llama.rope.dimension_count = 4"),
    "values": (put(llama__attention__value_length=4), "has llama.attention.value_length = 4"),
    "way": (put(llama__rope__scaling__type="su"), "has llama.rope.scaling.type = 'su'"),
    "depth": (drop("llama.block_count"), "has no llama.block_count"),
    "no number": (put(llama__block_count="four"), "has 'four' as llama.block_count"),
    "layers": (
        lambda keys, _: keys.update(
            {"llama.attention.head_count": Key([4, 4, 2, 4], GGUFValueType.ARRAY, GGUFValueType.INT32)}
        ),
        "has llama.attention.head_count = [4, 4, 2, 4]",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_not_acted_on_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    change, words = REFUSED[fault]
    assert words in refusal(write_model(tmp_path / "x.gguf", tiny_model("llama"), change=change))


def test_falcons_with_several_key_heads_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", tiny_model("falcon"), change=put(falcon__attention__head_count_kv=2))
    assert "has falcon.attention.head_count_kv = 2, which is not acted on" in refusal(path)


def test_a_list_of_equal_numbers_is_one_number(tmp_path: Path) -> None:
    every = {"llama.feed_forward_length": Key([48] * 4, GGUFValueType.ARRAY, GGUFValueType.INT32)}
    model = tiny_model("llama")
    path = write_model(tmp_path / "x.gguf", model, change=lambda keys, _: keys.update(every))
    assert torch.equal(logits(model_of(path)), logits(model))


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", tiny_model("llama"))
    first = open_gguf(path)
    assert open_gguf(path) is first
    write_model(path, tiny_model("llama", num_hidden_layers=2))
    assert open_gguf(path).settings["num_hidden_layers"] == 2
    path.unlink()
    assert "can't be read (No such file" in refusal(path)

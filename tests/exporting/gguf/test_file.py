"""GGUF files as llama.cpp reads them: what is not acted on is refused by name, all else is moved as it lies."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import invoke
from gguf_files import FORMS, HEAD, LAYERS, ROWS, Stored, T, array, built, dense, text, value, zeros
from remodeler.errors import InputError
from remodeler.exporting.gguf.job import copied_tokens, prune_gguf
from remodeler.model.gguf import check as llama_cpp_check
from remodeler.model.gguf import cut as gguf_cut
from remodeler.model.gguf.file import read_gguf
from remodeler.runs.removals import WIDTHS_FILE

ONE = ("mlp.1",)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def log_of(folder: Path, removed: tuple[str, ...] = ONE, **header: Any) -> Path:
    lines = [{"step": 0, **header}, *({"step": at, "removed": [name]} for at, name in enumerate(removed, 1))]
    path = folder / "removals.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def cut(folder: Path, content: bytes, removed: tuple[str, ...] = ONE) -> Path:
    """The file without some blocks."""
    out = folder / "cut.gguf"
    out.unlink(missing_ok=True)
    prune_gguf(written(folder / "whole.gguf", content), log_of(folder, removed), out, check=False)
    return out


def refusal(folder: Path, content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read_gguf(written(folder / "x.gguf", content))
    assert "\n" not in str(caught.value)
    assert "x.gguf" in str(caught.value)
    return str(caught.value)


# What is moved --------------------------------------------------------------------------------------------------------


def test_tensors_are_moved_as_they_lie(tmp_path: Path) -> None:
    keys, tensors = dense()
    found = {each.name: each.data for each in GGUFReader(cut(tmp_path, built(keys, tensors))).tensors}
    for name, stored in tensors.items():
        if not name.startswith("blk.1.ffn"):
            assert found[name].tobytes() == stored.data, name
    assert not found["blk.1.ffn_down.weight"].any(), "a stand-in"


ODD = {
    "general.tags": array(T.STRING, []),
    "general.languages": array(T.STRING, ["en", "", "日本"]),
    "general.description": value(T.STRING, b"caf\xe9"),
    "tokenizer.ggml.merges": array(T.STRING, []),
    "tokenizer.ggml.precompiled_charsmap": array(T.UINT8, [0, 255, 7]),
    "tokenizer.ggml.suppress_tokens": array(T.INT32, []),
    "general.odd.f64": value(T.FLOAT64, 0.1),
    "general.odd.nan": value(T.FLOAT32, float("nan")),
    "general.odd.flags": array(T.BOOL, [True, False]),
    "general.odd.u64": value(T.UINT64, 2**63),
    "general.odd.i8": value(T.INT8, -1),
    "quantize.imatrix.file": value(T.STRING, ""),
    "mradermacher.quantize_version": value(T.STRING, "2"),
}


def test_values_keep_their_bytes(tmp_path: Path) -> None:
    """Empty arrays too, whose type the library's reader forgets, and texts that are no UTF-8."""
    keys, tensors = dense()
    content = cut(tmp_path, built(keys | ODD, tensors)).read_bytes()
    for name, packed in ODD.items():
        assert text(name) + packed in content, name


def test_another_alignment_is_kept(tmp_path: Path) -> None:
    keys, tensors = dense()
    wide = built(keys | {"general.alignment": value(T.UINT32, 256)}, tensors, alignment=256)
    one, two = GGUFReader(cut(tmp_path, wide)), GGUFReader(cut(tmp_path, built(keys, tensors)))
    assert one.alignment == 256
    for wide_one, plain in zip(one.tensors, two.tensors, strict=True):
        assert wide_one.data_offset % 256 == 0
        assert np.array_equal(wide_one.data, plain.data), plain.name


def test_numbers_for_every_layer_are_as_one_for_all(tmp_path: Path) -> None:
    keys, tensors = dense()
    lists = {
        name: array(T.INT32, [number] * LAYERS)
        for name, number in {"attention.head_count": 4, "attention.head_count_kv": 2, "feed_forward_length": 32}.items()
    }
    listed = keys | {f"llama.{name}": packed for name, packed in lists.items()}
    plain = cut(tmp_path, built(keys, tensors)).read_bytes()
    assert cut(tmp_path, built(listed, tensors)).read_bytes() == plain


@pytest.mark.parametrize(
    ("more", "extra"),
    [
        ({"llama.rope.scaling.type": value(T.STRING, "yarn"), "llama.rope.scaling.factor": value(T.FLOAT32, 4)}, {}),
        ({}, {"rope_freqs.weight": zeros(HEAD // 2)}),
        (
            {"llama.rope.scaling.type": value(T.STRING, "longrope")},
            {f"rope_factors_{which}.weight": zeros(HEAD // 2) for which in ("long", "short")},
        ),
        ({"llama.rope.freq_base": value(T.FLOAT32, 5e5), "llama.rope.scaling.attn_factor": value(T.FLOAT32, 1.2)}, {}),
        (
            {},
            {
                f"blk.{n}.{name}.bias": zeros(16)
                for n in range(LAYERS)
                for name in ("attn_q", "attn_output", "ffn_down")
            },
        ),
    ],
    ids=["yarn", "llama3", "longrope", "base", "biases"],
)
def test_what_stretches_positions_goes_along(more: dict[str, bytes], extra: dict[str, Stored], tmp_path: Path) -> None:
    keys, tensors = dense()
    found = GGUFReader(cut(tmp_path, built(keys | more, tensors | extra), ("attention.0",)))
    assert str(found.fields["general.architecture"].contents()) == "deci"
    assert {name.replace("llama", "deci", 1) for name in more} <= found.fields.keys()
    left = {each.name for each in found.tensors}
    assert {name for name in extra if not name.startswith("blk.0.attn")} <= left


def test_what_a_file_tells_of_its_size_stays_true(tmp_path: Path) -> None:
    keys, tensors = dense()
    told = {"general.parameter_count": value(T.UINT64, 1), "general.size_label": value(T.STRING, "7B")}
    ended = {
        "split.no": value(T.UINT16, 0),
        "split.count": value(T.UINT16, 0),
        "split.tensors.count": value(T.INT32, 9),
    }
    found = GGUFReader(cut(tmp_path, built(keys | told | ended, tensors), ("attention.1", "mlp.1")))
    fields = {name: field.contents() for name, field in found.fields.items()}
    assert fields["general.parameter_count"] == sum(each.n_elements for each in found.tensors)
    assert fields["general.size_label"].endswith("K")
    assert fields["general.name"] == "whole without 2 blocks"
    assert fields["llama.block_count"] == LAYERS - 1
    assert not any(name.startswith("split.") for name in fields), "it is one file"
    same = GGUFReader(cut(tmp_path, built(keys | told, tensors), ())).fields
    assert [same[name].contents() for name in told] == [1, "7B"], "nothing went"


# What is refused ------------------------------------------------------------------------------------------------------

UNKNOWN_KEYS: dict[str, tuple[bytes, str]] = {
    "llama.expert_count": (value(T.UINT32, 8), "a mixture of experts"),
    "llama.expert_used_count": (value(T.UINT32, 2), "a mixture of experts"),
    "llama.nextn_predict_layers": (value(T.UINT32, 1), "predict further tokens"),
    "llama.attention.sliding_window": (value(T.UINT32, 4096), "a sliding window"),
    "llama.attention.sliding_window_pattern": (array(T.BOOL, [True] * LAYERS), "a sliding window"),
    "llama.attention.causal": (value(T.BOOL, False), "both directions"),
    "llama.attention.scale": (value(T.FLOAT32, 0.1), "attention.scale"),
    "llama.logit_scale": (value(T.FLOAT32, 0.1), "logit_scale"),
    "llama.rope.scaling.type": (value(T.STRING, "dynamic"), "'dynamic'"),
    "llama.rope.scaling.factor": (value(T.STRING, "4"), "'4'"),
    "llama.rope.dimension_sections": (array(T.INT32, [1, 1, 2, 0]), "dimension_sections"),
    "llama.hidden_activation": (value(T.STRING, "gelu"), "hidden_activation"),
    "llama.attention.key_length": (value(T.UINT32, 0), "key_length"),
    "llama.attention.value_length": (value(T.UINT32, 8), "heads of 4"),
    "llama.rope.dimension_count": (value(T.UINT32, 2), "heads of 4"),
    "llama.attention.head_count": (array(T.INT32, [4, 0, 4]), "head_count"),
    "llama.attention.head_count_kv": (array(T.INT32, []), "head_count_kv"),
    "llama.feed_forward_length": (array(T.INT32, [32, 32]), "3 layers"),
    "llama.block_count": (value(T.STRING, "3"), "block_count"),
    "llama.embedding_length": (value(T.FLOAT32, 16), "embedding_length"),
    "deci.block_count": (value(T.UINT32, 3), "deci.block_count"),
    "gemma.x": (value(T.UINT32, 3), "gemma.x"),
    "adapter.lora.alpha": (value(T.FLOAT32, 16), "adapter.lora.alpha"),
    "split.count": (value(T.UINT16, 2), "NAME-00001-of-00002.gguf"),
    "general.type": (value(T.STRING, "adapter"), "'adapter'"),
    "general.architecture": (value(T.UINT32, 1), "general.architecture"),
    ".block_count": (value(T.UINT32, 3), ".block_count"),
    "odd\nname": (value(T.UINT32, 3), "odd\\nname"),
}


@pytest.mark.parametrize("name", UNKNOWN_KEYS)
def test_a_key_that_is_not_acted_on_is_refused_by_name(name: str, tmp_path: Path) -> None:
    keys, tensors = dense()
    packed, words = UNKNOWN_KEYS[name]
    told = refusal(tmp_path, built(keys | {name: packed}, tensors))
    assert words in told
    assert name.partition(".")[2] in told or words.startswith(("heads", "3 layers", "NAME"))


@pytest.mark.parametrize("kind", ["mmproj", "imatrix", "vocab"])
def test_files_of_another_kind_are_refused_as_such(kind: str, tmp_path: Path) -> None:
    keys, tensors = dense()
    alone = {"general.type": value(T.STRING, kind), "general.architecture": value(T.STRING, "clip")}
    assert repr(kind) in refusal(tmp_path, built(alone, tensors))
    assert "clip" in refusal(tmp_path, built({"general.architecture": value(T.STRING, "clip")}, tensors))
    assert "no token_embd.weight" in refusal(
        tmp_path, built(keys | {"llama.block_count": value(T.UINT32, 1)}, {"x": zeros(1)})
    )
    assert "0 tensors" in refusal(tmp_path, built(keys, {}))


UNKNOWN_TENSORS = (
    *(
        "blk.0.attn_q_norm.weight",
        "blk.1.attn_post_norm.weight",
        "blk.1.ffn_post_norm.weight",
        "blk.2.attn_sinks.weight",
    ),
    *("blk.0.ffn_gate_exps.weight", "blk.0.attn_q.scale", "blk.0.attn_norm.bias", "blk.3.attn_q.weight", "cls.weight"),
    *("output.bias", "token_embd_norm.weight", "blk.0.attn_rot_embd.weight", "rope_factors_long.weight", "blk.x.y"),
)


@pytest.mark.parametrize("name", UNKNOWN_TENSORS)
def test_a_tensor_that_is_not_acted_on_is_refused_by_name(name: str, tmp_path: Path) -> None:
    keys, tensors = dense()
    assert f"the tensor {name}" in refusal(tmp_path, built(keys, tensors | {name: zeros(4)}))


@pytest.mark.parametrize(
    ("arch", "name"), [("qwen2", "attn_output.bias"), ("qwen2", "ffn_up.bias"), ("qwen3", "attn_q.bias")]
)
def test_a_bias_has_a_place_in_some_architectures_only(arch: str, name: str, tmp_path: Path) -> None:
    keys, tensors = dense(arch)
    read_gguf(written(tmp_path / "x.gguf", built(keys, tensors)))
    assert name in refusal(tmp_path, built(keys, tensors | {f"blk.0.{name}": zeros(16)}))
    assert "rope_freqs" in refusal(tmp_path, built(keys, tensors | {"rope_freqs.weight": zeros(2)})), (
        "read by llama only"
    )


@pytest.mark.parametrize("name", [*dense()[1]])
def test_a_tensor_that_is_missing_or_of_another_shape_is_named(name: str, tmp_path: Path) -> None:
    keys, tensors = dense()
    less = {each: stored for each, stored in tensors.items() if each != name}
    if name != "output.weight":  # then it is the embedding
        assert f"has no {name}" in refusal(tmp_path, built(keys, less))
    sizes = tensors[name].sizes
    wrong = tensors | {name: zeros(sizes[0] + 4, *sizes[1:])}
    assert name in refusal(tmp_path, built(keys, wrong)) or name == "token_embd.weight"
    assert "tokens" in refusal(tmp_path, built(keys | {"tokenizer.ggml.tokens": array(T.STRING, ["a"])}, tensors))


def test_what_llama_cpp_itself_would_not_read(tmp_path: Path) -> None:
    keys, tensors = dense()
    whole, pairs, stored = built(keys, tensors), list(keys.items()), list(tensors.items())
    nested = struct.pack("<IIQIQ", T.ARRAY, T.ARRAY, 1, T.UINT8, 0)
    huge = struct.pack("<IIQ", T.ARRAY, T.UINT64, 2**61)
    for content, words in {
        whole[:-1000]: "ends before the tensor",
        whole[:100]: "ends before its header",
        b"": "it is empty",
        b"GGUF": "does not begin with",
        b"GGML" + whole[4:]: "does not begin with",
        built(keys, tensors, version=1): "GGUF version 1",
        built(keys, tensors, version=4): "GGUF version 4",
        built(keys, tensors, version=3 << 24): "big-endian",
        built([*pairs, pairs[1]], tensors): "general.name is there twice",
        built(keys, [*stored, stored[0]]): "token_embd.weight is there twice",
        built(keys | {"general.a": nested}, tensors): "an array of arrays",
        built(keys | {"general.a": huge}, tensors): "ends before its header",
        built(keys | {"general.a": struct.pack("<I", 13)}, tensors): "unknown type 13",
        built([*pairs, (b"general.\xff", value(T.BOOL, True))], tensors): "no UTF-8",
        built(keys | {"general.alignment": value(T.UINT32, 48)}, tensors): "no power of two",
        built(keys | {"general.alignment": value(T.UINT64, 64)}, tensors, alignment=64): "no power of two",
        built(keys | {"general.alignment": value(T.UINT32, 256)}, tensors): "was expected|ends before",
        built(keys, tensors, shift=32): "begins at 32, 0 was expected",
        built(keys, tensors | {"x" * 64: zeros(1)}): "too long",
        built(keys, tensors | {"x": Stored((1, 1, 1, 1, 1), 0, bytes(4))}): "5 dimensions",
        built(keys, tensors | {"x": Stored((4,), 99, bytes(4))}): "unknown kind 99",
        built(keys, tensors | {"x": Stored((31,), 8, bytes(34))}): "Q8_0 can't hold",
        built(keys, tensors | {"x": Stored((2**40, 2**40), 0, b"")}): "ends before the tensor",
    }.items():
        told = refusal(tmp_path, content)
        assert any(word in told for word in words.split("|")), (words, told)
    for name, packed, words in [
        ("tokenizer.ggml.tokens", array(T.STRING, ["a"] * ROWS), "a token twice"),
        ("tokenizer.ggml.tokens", value(T.STRING, "a"), "no tokenizer.ggml.tokens"),
        ("tokenizer.ggml.token_type", array(T.INT32, [1, 1]), "2 tokenizer.ggml.token_type"),
        ("tokenizer.ggml.scores", array(T.FLOAT32, []), "0 tokenizer.ggml.scores"),
        ("general.alignment", value(T.UINT32, 16), "32 or more was expected"),
    ]:
        assert words in refusal(tmp_path, built(keys | {name: packed}, tensors))
    with pytest.raises(InputError, match="is no file"):
        read_gguf(tmp_path)
    with pytest.raises(InputError, match="check the path"):
        read_gguf(tmp_path / "none.gguf")


def test_the_command_refuses_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    keys, tensors = dense()
    source = written(tmp_path / "x.gguf", built(keys | {"llama.odd": value(T.BOOL, True)}, tensors))
    given_ = ["export", "--gguf", str(source), "--removals", str(log_of(tmp_path)), "--out", str(tmp_path / "o.gguf")]
    ended = invoke(given_)
    assert ended.exit_code == 2
    assert "llama.odd = True" in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["removals.jsonl", "x.gguf"]


def test_a_file_that_llama_cpp_does_not_load_is_named_and_not_what_was_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_model(**given: Any) -> Any:
        raise ValueError(f"failed to load {given['model_path']}")

    runtime = SimpleNamespace(Llama=no_model)
    for module in (gguf_cut, llama_cpp_check):
        monkeypatch.setattr(module, "import_llama_cpp", lambda: runtime)
    source = written(tmp_path / "x.gguf", built(*dense()))
    with pytest.raises(InputError, match=r"llama\.cpp does not load .*/x\.gguf as it is"):
        prune_gguf(source, log_of(tmp_path), tmp_path / "o.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["removals.jsonl", "x.gguf"]


# Logs and tokenizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"step": 0, "candidates": 8}], "8 blocks, here are 6"),
        ([{"step": 0, "candidates": 6, "parameters": 7}], "7 parameters"),
        ([{"step": 0}, {"step": 1, "removed": ["mlp.3"]}], "removes mlp.3 where there are 3 layers"),
        ([{"step": 0}, {"step": 2, "removed": ["mlp.1"]}], "step 1 was expected in line 2"),
        ([{"step": 0}, {"step": 1, "removed": "mlp.1"}], "lists of blocks"),
        ([{"step": 0}, {"step": 1, "removed": ["mlp.1"]}, {"step": 2, "removed": ["mlp.1"]}], "removes what is gone"),
        ([{"step": 0}, {"step": 1, "removed": ["mlp.1"], "restored": ["mlp.0"]}], "puts back what is there"),
        ([{"step": 0}, {"step": 1, "removed": ["mlp.-1"]}], "is not a block"),
        ([{"text": "a"}], "not a removal log"),
        ([[1]], "not a removal log"),
    ],
    ids=str,
)
def test_a_log_of_another_model_or_none_is_refused(lines: list[Any], words: str, tmp_path: Path) -> None:
    source, log = written(tmp_path / "x.gguf", built(*dense())), tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError) as caught:
        prune_gguf(source, log, tmp_path / "o.gguf", check=False)
    assert words in str(caught.value)


def test_a_log_of_this_model_is_known_by_its_size(tmp_path: Path) -> None:
    """Also where the file has a copy of a tied embedding as its output."""
    keys, tensors = dense()
    source = written(tmp_path / "x.gguf", built(keys, tensors))
    numbers = sum(len(each.data) // 4 for each in tensors.values())
    tied = numbers - len(tensors["output.weight"].data) // 4
    for count in (numbers, tied):
        prune_gguf(source, log_of(tmp_path, parameters=count, candidates=6), tmp_path / f"{count}.gguf", check=False)


def test_heads_and_channels_that_went_with_the_blocks_are_not_forgotten(tmp_path: Path) -> None:
    source, log = written(tmp_path / "x.gguf", built(*dense())), log_of(tmp_path)
    (tmp_path / WIDTHS_FILE).write_text('{"mlp.0": [0, 1]}')
    with pytest.raises(InputError, match=r"widths\.json says that heads and channels went too.*`removal_steps` 1"):
        prune_gguf(source, log, tmp_path / "o.gguf", check=False)
    prune_gguf(source, log, tmp_path / "blocks.gguf", steps=1, check=False)
    (tmp_path / WIDTHS_FILE).write_text("{}")
    prune_gguf(source, log, tmp_path / "o.gguf", check=False)


def test_a_tokenizer_is_copied_from_any_file_that_has_it(tmp_path: Path) -> None:
    keys, tensors = dense()
    words = {name: packed for name, packed in keys.items() if name.startswith("tokenizer.")}
    alone = {"general.architecture": value(T.STRING, "mamba"), "general.type": value(T.STRING, "vocab"), **words}
    path = written(tmp_path / "words.gguf", built(alone, {}))
    assert {name: key.packed for name, key in copied_tokens(path, ROWS).items()} == words
    with pytest.raises(InputError, match="20 tokens, the model has 21 rows"):
        copied_tokens(path, ROWS + 1)
    bare = {name: packed for name, packed in keys.items() if name not in words}
    with pytest.raises(InputError, match="no tokenizer"):
        copied_tokens(written(tmp_path / "bare.gguf", built(bare, tensors)), ROWS)


# Anything -------------------------------------------------------------------------------------------------------------

QUICK = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
RANGES = {kind: st.integers(0, 127) for kind in FORMS} | {
    T.BOOL: st.booleans(),
    T.FLOAT32: st.floats(width=32),
    T.FLOAT64: st.floats(),
    T.STRING: st.text(max_size=8),
}
values = st.sampled_from([*FORMS, T.STRING]).flatmap(
    lambda kind: st.one_of(
        RANGES[kind].map(lambda one: value(kind, one)),
        st.lists(RANGES[kind], max_size=4).map(lambda many: array(kind, many)),
    )
)
words = st.sampled_from(
    ["general.", "tokenizer.ggml.", "quantize.", "llama.", "llama.rope.scaling.", "deci.", "split.", ""]
)
names = st.tuples(words, st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6))


@QUICK
@given(name=names.map("".join), packed=values)
def test_any_key_is_copied_byte_by_byte_or_refused_by_name(tmp_path: Path, name: str, packed: bytes) -> None:
    keys, tensors = dense()
    told, content = tried(tmp_path, built({**keys, name: packed}, tensors))
    copied = name.startswith(("general.", "tokenizer.", "quantize."))
    assert text(name) + packed in content if copied and not told else name in told or ascii(name)[1:-1] in told
    assert copied <= (not told or name in keys)


def tried(folder: Path, content: bytes) -> tuple[str, bytes]:
    """Why a file is refused, and what becomes of one that is not."""
    try:
        return "", cut(folder, content).read_bytes()
    except InputError as error:
        return str(error), b""


WHOLE = built(*dense())
HEADER = len(WHOLE) - sum(-(-len(each.data) // 32) * 32 for each in dense()[1].values())


@QUICK
@given(
    changes=st.lists(st.tuples(st.integers(0, HEADER - 1), st.integers(0, 255)), max_size=4), end=st.integers(0, 2**20)
)
def test_a_damaged_header_is_refused_in_one_line(tmp_path: Path, changes: list[tuple[int, int]], end: int) -> None:
    content = bytearray(WHOLE)
    for place, byte in changes:
        content[place] = byte
    told, _ = tried(tmp_path, bytes(content[: end % len(WHOLE)] if end % 3 == 0 else content))
    assert "\n" not in told


@pytest.mark.parametrize("size", range(0, HEADER, 97))
def test_a_header_that_is_cut_off_anywhere_is_refused(size: int, tmp_path: Path) -> None:
    assert "no whole GGUF file" in refusal(tmp_path, WHOLE[:size])


def test_the_types_of_values_are_all_known() -> None:
    """The control of what is drawn above."""
    assert {*FORMS, T.STRING, T.ARRAY} == set(GGUFValueType)


@pytest.mark.parametrize("kind", ["longrope", "biases", "aligned"])
def test_llama_cpp_reads_what_was_moved(kind: str, tmp_path: Path) -> None:
    """Where it is installed: the file says what the whole one says with zeros in the place of what is gone."""
    pytest.importorskip("llama_cpp")
    keys, tensors = dense()
    del keys["tokenizer.ggml.tokens"]
    keys |= {"tokenizer.ggml.model": value(T.STRING, "no_vocab"), "llama.vocab_size": value(T.UINT32, ROWS)}
    if kind == "longrope":
        keys["llama.rope.scaling.type"] = value(T.STRING, kind)
        factors = Stored((HEAD // 2,), 0, np.array([1, 3], np.float32).tobytes())
        tensors |= {f"rope_factors_{which}.weight": factors for which in ("long", "short")}
    if kind == "biases":
        ones = Stored((16,), 0, np.ones(16, np.float32).tobytes())
        tensors |= {f"blk.{layer}.{name}.bias": ones for layer in range(LAYERS) for name in ("attn_q", "ffn_down")}
    wide = 128 if kind == "aligned" else 32
    whole = built(keys | {"general.alignment": value(T.UINT32, wide)}, tensors, alignment=wide)
    log = log_of(tmp_path, ("attention.0", "mlp.1"))
    told = prune_gguf(written(tmp_path / "whole.gguf", whole), log, tmp_path / "cut.gguf")
    assert told is not None
    assert told.difference < 1e-6

"""What of a GGUF file is acted on: by architecture, the keys and tensors of a dense model. All else is refused by name.

A key of the architecture may change what llama.cpp computes, and may mean another thing where layers are fewer, so one
that is not listed here is not copied in hope. What stands before an architecture (general, tokenizer, quantize) is the
same for any number of layers.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gguf import GGUFValueType

from remodeler.errors import InputError
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.parts import COUNT, NUMBER, TENSORS
from remodeler.model.files.gguf.values import ALIGNMENT, ALIGNMENT_KEY, Key, alignment_of, printable
from remodeler.model.gguf.plan import HOLED, Sizes

COPIED = ("general", "tokenizer", "quantize", "mradermacher")
"""First words of keys that hold for any number of layers; the last one's are a publisher's notes."""
SPLIT = (NUMBER, COUNT, TENSORS)
"""Of one of several files: what is written is one, so these are left out."""
WHOLE = "the file of a whole model"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_number(value: Any) -> bool:
    return _is_flag(value) is False and isinstance(value, int | float) and 0 <= value < float("inf")


def _are_counts(value: Any) -> bool:
    return all(map(_is_count, value)) and value != [] if isinstance(value, list) else _is_count(value)


def _is(wanted: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(wanted) and value == wanted


ACTED_ON: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("block_count", "context_length", "embedding_length", "vocab_size"), _is_count),
    **dict.fromkeys(("feed_forward_length", "attention.head_count", "attention.head_count_kv"), _are_counts),
    **dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), _is_count),
    **dict.fromkeys(("attention.layer_norm_rms_epsilon", "rope.freq_base"), _is_number),
    # what stretches positions is read alike in every architecture
    "rope.scaling.type": lambda value: value in ("none", "linear", "yarn", "longrope"),
    **dict.fromkeys(("rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"), _is_number),
    "rope.scaling.original_context_length": _is_count,
    "rope.scaling.finetuned": _is_flag,
    # what none of these architectures reads
    **dict.fromkeys([f"rope.scaling.yarn_{name}" for name in ("attn_factor", "beta_fast", "beta_slow")], _is_number),
    "rope.scaling.yarn_ext_factor": lambda value: isinstance(value, float),
    "tensor_data_layout": _is_text,
    # what adds nothing with this value
    "attention.causal": _is(True),
    **dict.fromkeys(("expert_count", "expert_used_count", "nextn_predict_layers", "pooling_type"), _is(0)),
}
"""Keys of an architecture, and which values they may have."""
NEEDED = (
    *("block_count", "embedding_length", "context_length", "feed_forward_length", "attention.head_count"),
    "attention.layer_norm_rms_epsilon",
)
REASONS = {
    "expert": "a mixture of experts",
    "_exps": "a mixture of experts",
    "nextn": "layers that predict further tokens",
    "sliding": "attention within a sliding window",
    "pooling": "a model that embeds texts",
    "causal": "attention in both directions",
}
"""Why some keys are there, by a part of their names."""


def refuse_other(header: Header) -> str:
    """The architecture of a file of one whole dense model.

    Raises:
        InputError: for any other file, by the key that says so.
    """
    path, keys = header.path, header.keys
    kind = keys.get("general.type")
    if kind is not None and kind.value != "model":
        raise InputError(f"{path} is of the type {_show(kind)} (general.type): give {WHOLE}")
    arch = keys.get("general.architecture")
    if arch is None or arch.kind != GGUFValueType.STRING:
        raise InputError(f"{path} does not say of which architecture it is (general.architecture): give {WHOLE}")
    if arch.value not in HOLED:
        raise InputError(
            f"{path} is of the architecture {_show(arch)}, llama.cpp leaves out blocks of {', '.join(HOLED)} only: "
            "prune it to a folder with `shape='standard'`, whose result its own converter takes"
        )
    if alignment_of(keys) < ALIGNMENT:  # llama.cpp would abort
        raise InputError(
            f"{path} has {ALIGNMENT_KEY} = {alignment_of(keys)}, {ALIGNMENT} or more was expected: get another"
        )
    _refuse_other_keys(header, str(arch.value))
    return str(arch.value)


def _show(key: Key) -> str:
    """A value on one line, and no longer than that."""
    return (repr(key.value) if key.kind == GGUFValueType.STRING else ascii(key.value))[:60]


def _refuse_other_keys(header: Header, arch: str) -> None:
    for name, key in header.keys.items():
        first, _, rest = name.partition(".")
        if first == arch:
            _refuse_value(header, name, rest, key)
        elif first not in COPIED and name not in SPLIT:
            raise InputError(_unknown(header, f"the key {printable(name)}", f" = {_show(key)}"))
    for rest in NEEDED:
        if f"{arch}.{rest}" not in header.keys:
            raise InputError(f"{header.path} has no {arch}.{rest}: give {WHOLE}")


def _refuse_value(header: Header, name: str, rest: str, key: Key) -> None:
    if rest not in ACTED_ON or not ACTED_ON[rest](key.value):
        raise InputError(_unknown(header, printable(name), f" = {_show(key)}"))


def _unknown(header: Header, what: str, value: str = "") -> str:
    reason = next((f" ({words})" for part, words in REASONS.items() if part in what), "")
    return (
        f"{header.path} has {what}{value}{reason}, which is not known to mean the same with fewer blocks: prune the "
        "folder that it was made from"
    )


# Tensors --------------------------------------------------------------------------------------------------------------

QUERIES = ("attn_q", "attn_k", "attn_v")
BIASES: Mapping[str, tuple[str, ...]] = {
    "llama": (*QUERIES, "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
    "qwen2": QUERIES,
    "qwen3": (),
}
"""Matrices that may have a bias, which both the architecture and the one that leaves out blocks have a place for."""
Shape = tuple[int, ...]


def refuse_other_tensors(header: Header, sizes: Sizes, hidden: int, head: int) -> None:
    """Raise for a tensor that is not known, is not there, or has another shape than the keys say."""
    needed = {name: shape for layer in sizes.heads for name, shape in _block(sizes, layer, hidden, head)}
    rows = _rows(header)
    needed |= {"token_embd.weight": (rows, hidden), "output_norm.weight": (hidden,)}
    allowed = needed | {"output.weight": (rows, hidden)} | dict(_biases(sizes, needed)) | _factors(header, sizes, head)
    for name, raw in header.tensors.items():
        if name not in allowed:
            raise InputError(_unknown(header, f"the tensor {printable(name)}"))
        if raw.shape != allowed[name]:
            raise InputError(
                f"{header.path} has {name} of {list(raw.shape)} where its keys say {list(allowed[name])}: get it again"
            )
    missing = [name for name in needed if name not in header.tensors]
    if missing:
        raise InputError(f"{header.path} has no {missing[0]}: give {WHOLE}")


def _block(sizes: Sizes, layer: int, hidden: int, head: int) -> Iterator[tuple[str, Shape]]:
    queries, shared, channels = sizes.heads[layer] * head, sizes.kv_heads[layer] * head, sizes.channels[layer]
    matrices = {
        "attn_q": (queries, hidden),
        "attn_k": (shared, hidden),
        "attn_v": (shared, hidden),
        "attn_output": (hidden, queries),
        "ffn_gate": (channels, hidden),
        "ffn_up": (channels, hidden),
        "ffn_down": (hidden, channels),
    }
    norms = {"attn_norm": (hidden,), "ffn_norm": (hidden,)}
    own = {"attn_q_norm": (head,), "attn_k_norm": (head,)} if sizes.arch == "qwen3" else {}
    for name, shape in {**matrices, **norms, **own}.items():
        yield f"blk.{layer}.{name}.weight", shape


def _biases(sizes: Sizes, needed: Mapping[str, Shape]) -> Iterator[tuple[str, Shape]]:
    for name, shape in needed.items():
        if name.startswith("blk.") and name.split(".")[2] in BIASES[sizes.arch]:
            yield f"{name.removesuffix('weight')}bias", shape[:1]


def _factors(header: Header, sizes: Sizes, head: int) -> dict[str, Shape]:
    """What frequencies are divided by: only these architectures read it, one tensor or two as the scaling says."""
    if sizes.arch != "llama":
        return {}
    kind = header.keys.get("llama.rope.scaling.type")
    names = ("rope_factors_long", "rope_factors_short") if kind and kind.value == "longrope" else ("rope_freqs",)
    return {f"{name}.weight": (head // 2,) for name in names}


def _rows(header: Header) -> int:
    """Of the vocabulary.

    Raises:
        InputError: when the tokenizer has another number of tokens.
    """
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(f"{header.path} has no token_embd.weight: give {WHOLE}")
    rows, tokens = embedding.shape[0], header.keys.get("tokenizer.ggml.tokens")
    for name in (f"tokenizer.ggml.{part}" for part in ("tokens", "token_type", "scores")):
        key = header.keys.get(name)
        if key is not None and (key.member is None or len(key.value) != rows):
            count = len(key.value) if key.member else "no"
            raise InputError(f"{header.path} has {rows} rows of embeddings and {count} {name}: get it again")
    named = [name for name in tokens.value if name != ""] if tokens else []  # it names empty ones itself
    if len(set(named)) < len(named):  # llama.cpp would abort
        raise InputError(f"{header.path} has a token twice in tokenizer.ggml.tokens: get it again")
    return rows

"""What llama.cpp computes for a file of the architectures llama, qwen2, deci and openelm, in NumPy, its traps included.

Read from its sources (models/deci.cpp, openelm.cpp, llama.cpp, qwen2.cpp): so that the tests can say what a file does
where llama.cpp is not installed. Where it is, `test_llama_cpp.py` holds the two against each other.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class File:
    """A file's keys and its tensors as numbers."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self.arch = str(reader.fields["general.architecture"].contents())
        self.keys: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        self.tensors = {
            each.name: dequantize(each.data, each.tensor_type).astype(np.float64) for each in reader.tensors
        }

    def of(self, name: str, layer: int | None = None) -> Any:
        """A key of the architecture, by layer where it is a list."""
        value = self.keys[f"{self.arch}.{name}"]
        return value[layer] if isinstance(value, list) and layer is not None else value

    def get(self, name: str) -> Floats | None:
        return self.tensors.get(name)


def norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def rotated(x: Floats, theta: float, neighbours: bool, factors: Floats | None) -> Floats:
    """[tokens, heads, head]: neighbours, or one half with the other."""
    size = x.shape[-1]
    angles = np.arange(len(x))[:, None] / theta ** (np.arange(0, size, 2) / size)
    if factors is not None:
        angles = angles / factors
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    one, two = (x[..., 0::2], x[..., 1::2]) if neighbours else (x[..., : size // 2], x[..., size // 2 :])
    found = np.empty_like(x)
    first, second = one * cos - two * sin, two * cos + one * sin
    if neighbours:
        found[..., 0::2], found[..., 1::2] = first, second
    else:
        found[..., : size // 2], found[..., size // 2 :] = first, second
    return found


def attended(file: File, x: Floats, layer: int) -> Floats:
    heads, shared = file.of("attention.head_count", layer), file.of("attention.head_count_kv", layer)
    head, blk = file.of("attention.key_length"), f"blk.{layer}."
    if file.arch == "openelm":
        q, k, v = np.split(x @ file.tensors[blk + "attn_qkv.weight"].T, [heads * head, (heads + shared) * head], axis=1)
    else:
        q, k, v = (x @ file.tensors[f"{blk}attn_{part}.weight"].T for part in "qkv")
        q, k, v = (
            each + (0 if (bias := file.get(f"{blk}attn_{part}.bias")) is None else bias)
            for each, part in zip((q, k, v), "qkv", strict=True)
        )
    q, k, v = q.reshape(len(x), heads, head), k.reshape(len(x), shared, head), v.reshape(len(x), shared, head)
    if (weight := file.get(blk + "attn_q_norm.weight")) is not None:
        epsilon = file.of("attention.layer_norm_rms_epsilon")
        q, k = norm(q, weight, epsilon), norm(k, file.tensors[blk + "attn_k_norm.weight"], epsilon)
    neighbours, theta = file.arch in ("llama", "deci"), file.of("rope.freq_base")
    q, k = (rotated(each, theta, neighbours, file.get("rope_freqs.weight")) for each in (q, k))
    k, v = (np.repeat(each, heads // shared, axis=1) for each in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(head)
    scores = np.where(np.tril(np.ones((len(x), len(x)), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hts,shd->thd", weights / weights.sum(-1, keepdims=True), v)
    out = mixed.reshape(len(x), -1) @ file.tensors[blk + "attn_output.weight"].T
    bias = file.get(blk + "attn_output.bias")
    return out if bias is None else out + bias


def mlp(file: File, x: Floats, layer: int) -> Floats:
    def part(name: str, given: Floats) -> Floats:
        bias = file.get(f"blk.{layer}.ffn_{name}.bias")
        found: Floats = given @ file.tensors[f"blk.{layer}.ffn_{name}.weight"].T
        return found if bias is None else found + bias

    opened = part("gate", x)
    return part("down", opened / (1 + np.exp(-opened)) * part("up", x))


def logits(path: Path, tokens: list[int]) -> Floats:
    """[tokens, vocabulary]

    Raises:
        ValueError: where llama.cpp would not load the file, or abort.
    """
    file = File(path)
    epsilon, depth, deci = file.of("attention.layer_norm_rms_epsilon"), file.of("block_count"), file.arch == "deci"
    if file.of("attention.head_count", 0) == 0:
        raise ValueError("no head size")
    if file.of("feed_forward_length", depth - 1) == 0:
        raise ValueError("it aborts")
    x = file.tensors["token_embd.weight"][tokens]
    for layer in range(depth):
        heads, channels = file.of("attention.head_count", layer), file.of("feed_forward_length", layer)
        if deci and channels == 0:
            continue  # and what the attention found is lost
        if heads:
            x = x + attended(file, norm(x, file.tensors[f"blk.{layer}.attn_norm.weight"], epsilon), layer)
        x = x + mlp(file, norm(x, file.tensors[f"blk.{layer}.ffn_norm.weight"], epsilon), layer)
    output = file.get("output.weight")
    x = norm(x, file.tensors["output_norm.weight"], epsilon)
    found: Floats = x @ (file.tensors["token_embd.weight"] if output is None else output).T
    return found


def pieces(path: Path, text: str) -> list[int]:
    """How llama.cpp's ``llama`` tokenizer cuts a text: the best pair of neighbours first, the left one of equals."""
    keys = File(path).keys
    names = keys["tokenizer.ggml.tokens"]
    places, scores = {name: place for place, name in enumerate(names)}, keys["tokenizer.ggml.scores"]
    text = (" " if keys["tokenizer.ggml.add_space_prefix"] else "") + text
    parts = list(text.replace(" ", "▁"))
    while True:
        pairs = [(scores[places[a + b]], -n) for n, (a, b) in enumerate(pairwise(parts)) if a + b in places]
        if not pairs:
            break
        n = -max(pairs)[1]
        parts[n : n + 2] = [parts[n] + parts[n + 1]]
    ids = []
    for part in parts:
        ids += [places[part]] if part in places else [places[f"<0x{byte:02X}>"] for byte in part.encode()]
    return ids

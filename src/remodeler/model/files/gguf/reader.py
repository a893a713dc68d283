"""The weights of a GGUF model under transformers' names, each computed from its file when it is asked for.

Names are the package gguf's, and what llama.cpp's converter does to a tensor (rows of queries and keys in another
order, norms one larger, matrices turned) is undone by transformers' own code for such files.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from remodeler.errors import InputError
from remodeler.model.files.gguf.config import Settings, architecture_of, settings_of
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.keys import INSTEAD
from remodeler.model.files.gguf.numbers import Floats, numbers
from remodeler.model.files.gguf.parts import read_whole
from remodeler.model.files.gguf.rope import TENSORS as ROPE_TENSORS
from remodeler.model.files.gguf.values import Raw, printable

SUFFIX = ".gguf"
HALVES = {GGMLQuantizationType.F16: torch.float16, GGMLQuantizationType.BF16: torch.bfloat16}
FUSED = "gate_up_proj"
"""Of a mixture of experts: two tensors of the file become one."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A model in a GGUF file."""

    header: Header
    arch: str
    settings: Settings
    sources: Mapping[str, tuple[str, ...]]
    """By transformers' names: the file's."""
    shapes: Mapping[str, tuple[int, ...]]
    """By transformers' names, as the model needs them."""

    def keys(self) -> list[str]:
        """transformers' names."""
        return list(self.sources)

    def get_slice(self, name: str) -> "Part":
        """A tensor that is computed when its numbers are asked for."""
        return Part(self, name)

    def read(self, name: str) -> Tensor:
        """The numbers of a tensor, in float32."""
        parsed: dict[str, Any] = {"tensors": {}}
        processor, found = _processor(self.arch, self.settings), None
        targets = {source.removesuffix(".weight"): name for source in self.sources[name]}
        for source in self.sources[name]:
            given: Floats = numbers(self.header.tensors[source])
            found = processor.process(given, source, tensor_key_mapping=targets, parsed_parameters=parsed).weights
        whole = parsed["tensors"].get(name)
        return whole if whole is not None else torch.from_numpy(np.ascontiguousarray(found))

    def raw(self, name: str) -> list[Raw]:
        """What a tensor is made of, as it is stored."""
        return [self.header.tensors[source] for source in self.sources[name]]

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes of the tensors, by what they are stored in."""
        found: dict[str, int] = {}
        for raw in (raw for name in self.sources for raw in self.raw(name)):
            found[raw.kind.name] = found.get(raw.kind.name, 0) + raw.data.nbytes
        return found

    def dtype(self) -> torch.dtype:
        """The narrowest dtype that holds every number: float16 or bfloat16 where the matrices are, else float32."""
        kinds = {raw.kind for name in self.sources for raw in self.raw(name)} - {GGMLQuantizationType.F32}
        half = HALVES.get(next(iter(kinds))) if len(kinds) == 1 else None
        if half is None:
            return torch.float32
        wide = [name for name in self.sources if any(raw.kind == GGMLQuantizationType.F32 for raw in self.raw(name))]
        exact = all(torch.equal(value.to(half).float(), value) for value in map(self.read, wide))
        return half if exact else torch.float32


@dataclass(frozen=True, eq=False)
class Part:
    """A tensor of such a model, as safetensors has them."""

    weights: Weights
    name: str

    def get_dtype(self) -> str:
        """As safetensors calls what its numbers are computed in."""
        return "F32"

    def get_shape(self) -> list[int]:
        """Of the tensor in transformers; of one that can't become that, its own."""
        needed, stored = self.weights.shapes[self.name], self.weights.raw(self.name)
        same = prod(needed) == sum(prod(raw.shape) for raw in stored)
        return list(needed if same else stored[0].shape)

    def __getitem__(self, part: Any) -> Tensor:
        found: Tensor = self.weights.read(self.name)[part]
        return found


def open_gguf(path: Path) -> Weights:
    """A model in a GGUF file; its tensors are neither read nor computed yet.

    Raises:
        InputError: when it holds none that is known here, or is not whole.
    """
    try:
        seen = path.stat()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path") from None
    return _open(path.absolute(), seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=8)
def _open(path: Path, size: int, date: int) -> Weights:
    header = read_whole(path)
    arch, settings = architecture_of(header), settings_of(header)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    sources = _sources(arch, settings, header, model)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name in sources}
    return Weights(header, arch, settings, sources, shapes)


def _processor(arch: str, settings: Settings) -> Any:
    made: Any = TENSOR_PROCESSORS.get(arch, TensorProcessor)
    return made(config=settings)


# Names ----------------------------------------------------------------------------------------------------------------


def _sources(arch: str, settings: Settings, header: Header, model: Any) -> dict[str, tuple[str, ...]]:
    """By the model's names what each is made of; every tensor of the file is there, or refused."""
    found: dict[str, tuple[str, ...]] = {}
    names = _names(arch, model)
    for name in model.state_dict():
        made = tuple(source for source in names(name) if source in header.tensors)
        if made:
            found[name] = made
    used = {source for made in found.values() for source in made}
    for source in header.tensors:
        if source not in used and source not in ROPE_TENSORS:
            raise InputError(
                f"{header.path} has the tensor {printable(source)}, which {settings['model_type']} has no place for "
                f"here: {INSTEAD}"
            )
    return found


def _names(arch: str, model: Any) -> Any:
    key = next(number for number, known in MODEL_ARCH_NAMES.items() if known == arch)
    table = get_tensor_name_map(key, model.config.num_hidden_layers)

    def names(name: str) -> Iterator[str]:
        """What the file may call a tensor of the model."""
        if name.endswith(FUSED):
            for part in ("gate", "up"):
                found = table.get_name(name.replace(FUSED, f"{part}_proj"))
                yield from [f"{found}.weight"] if found else []
            return
        path, dot, ending = name.rpartition(".")
        if ending not in ("weight", "bias"):
            path, dot, ending = name, ".", "weight"
        for start in (path, path.partition(".")[2]):  # some were converted from the class without a head
            if found := table.get_name(start):
                yield found + dot + ending
                return

    return names

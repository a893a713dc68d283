"""The keys of a GGUF file's architecture, each taken by whoever acts on it: one that nobody took is refused by name."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gguf import GGUFValueType

from remodeler.errors import InputError
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.values import Key, printable

WHOLE = "give the file of a whole language model"
INSTEAD = "give the folder that it was made from"


@dataclass
class Keys:
    """What a file says of its architecture."""

    header: Header
    arch: str

    @cached_property
    def left(self) -> dict[str, Key]:
        """Those that nobody took yet, without the name of the architecture."""
        start = f"{self.arch}."
        return {name.removeprefix(start): key for name, key in self.header.keys.items() if name.startswith(start)}

    def take(self, name: str, default: Any = None) -> Any:
        """A value, or the default where the file has none; one for every layer as the one that they all are."""
        key = self.left.pop(name, None)
        if key is None:
            return default
        value, kind = key.value, key.kind
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise self.refusal(name, value)
            value, kind = value[0], key.member or kind
        return float(str(np.float32(value))) if kind == GGUFValueType.FLOAT32 else value  # 1e-6, as it was written

    def need(self, name: str) -> Any:
        """A value that must be there, and above 0."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**40:
            said = "no" if value is None else f"{ascii(value)[:40]} as"
            raise InputError(f"{self.header.path} has {said} {self.arch}.{name}: {WHOLE}")
        return value

    @cached_property
    def context(self) -> int:
        """The longest window."""
        return int(self.need("context_length"))

    def has(self, ending: str) -> bool:
        """Whether the first layer has a tensor."""
        return f"blk.0.{ending}" in self.header.tensors

    def refusal(self, name: str, value: Any) -> InputError:
        """That a value is not acted on."""
        return InputError(
            f"{self.header.path} has {self.arch}.{printable(name)} = {ascii(value)[:60]}, which is not acted on here: "
            + INSTEAD
        )

    def refuse_left(self) -> None:
        """Raise for what nobody took."""
        for name, key in self.left.items():
            raise self.refusal(name, key.value)

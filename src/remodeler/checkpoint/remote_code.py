"""The modelling code of a source that brought its own, tied to the packed classes."""

from typing import Any

from remodeler.checkpoint.forms import Shape

REMOTE = '''"""Packed classes over the modelling code that came with the source model."""

from .packed import packed_class
from .{module} import {names}

{lines}
for packed in ({packed}):
    packed.__module__ = __name__  # where transformers looks when it saves them again
'''


def has_code(shape: Shape) -> bool:
    """Whether the source came with modelling code of its own."""
    told: Any = shape.config.packing if shape.form == "packed" else shape.config.to_dict()
    return bool(told.get("auto_map"))


def remote_code(shape: Shape) -> str:
    """A module that makes the packed classes of a source whose own modelling code lies beside the weights."""
    auto_map = shape.config.packing["auto_map"]
    module = auto_map["AutoConfig"].rpartition(".")[0]
    names = sorted({name.rpartition(".")[2] for name in auto_map.values()})
    lines = "\n".join(f"Packed{name} = packed_class({name})" for name in names)
    classes = ", ".join(f"Packed{name}" for name in names)
    return REMOTE.format(module=module, names=", ".join(names), lines=lines, packed=classes)

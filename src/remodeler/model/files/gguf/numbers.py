"""The numbers of a GGUF tensor, whatever it is stored in, as the package gguf computes them."""

from functools import cache

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from numpy.typing import NDArray

from remodeler.errors import InputError
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.values import PLAIN, Raw, printable

Floats = NDArray[np.float32]
ELEMENTS = 2**22
"""That are computed at a time: unpacking takes several times as much."""


def numbers(raw: Raw) -> Floats:
    """A tensor in float32, of its own shape."""
    if raw.kind in PLAIN:
        return np.array(raw.data, np.float32)
    found = np.empty(raw.shape, np.float32)
    rows, flat = raw.data.reshape(-1, raw.data.shape[-1]), found.reshape(-1, raw.shape[-1])
    step = max(1, ELEMENTS // raw.shape[-1])
    with np.errstate(all="ignore"):  # a scale that is infinite gives numbers that are none, as everywhere
        for start in range(0, len(rows), step):
            flat[start : start + step] = dequantize(rows[start : start + step], raw.kind)
    return found


@cache
def has_numbers(kind: GGMLQuantizationType) -> bool:
    """Whether a kind holds floating-point numbers that can be computed."""
    if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return True
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def refuse_other_kinds(header: Header) -> None:
    """Raise for a tensor whose numbers are not known how to compute."""
    for name, raw in header.tensors.items():
        if not has_numbers(raw.kind):
            raise InputError(
                f"{header.path} has {printable(name)} stored as {raw.kind.name}, which is not read: give a file of "
                "another quantisation"
            )

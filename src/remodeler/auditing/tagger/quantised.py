"""Linear layers in 8-bit integers on a CPU: much less time, for a change in the second digit of likelihoods.

Weights have a scale for each output, fixed once; what a layer reads has one scale a batch, found as it comes. So,
unlike in float32, a text's likelihoods depend a little on the texts that are read with it. The kernels are torch's own.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.errors import InputError

LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer with its weights in int8; reads and gives float32."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scales = (weight.abs().amax(1) / LARGEST).clamp(min=1e-12)
        with _quiet():
            rounded = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
            )
            bias = None if layer.bias is None else layer.bias.detach().float()
            self.packed: Any = torch.ops.quantized.linear_prepack(rounded, bias)

    def forward(self, given: Tensor) -> Tensor:
        """As the layer that it stands for, up to rounding."""
        # Activations in 7 bits: without VNNI the kernel adds products in 16 bits, which 8 would overflow.
        found: Tensor = torch.ops.quantized.linear_dynamic(given, self.packed, True)
        return found


def quantise(model: nn.Module) -> None:
    """Put int8 layers in the place of all linear ones inside a model, in place.

    Raises:
        InputError: when the model is not on a CPU, or this build of torch has no such kernels.
    """
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise InputError(f"--int8 was given on {device}: it is for a CPU, leave it out")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                try:
                    setattr(parent, name, Int8Linear(child))
                except RuntimeError as error:
                    raise InputError(f"--int8 can't be used here ({str(error)[:80]}): leave it out") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch says that quantised tensors move to another package one day; the kernels are what is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Linear layers in 8-bit integers on a CPU: much faster, for a change in the second digit of likelihoods.

Weights have one static scale per output, activations one dynamic scale per batch. So, unlike in float32, likelihoods of
a text depend slightly on the other texts of its batch. The kernels are torch's own.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.errors import InputError, option

LARGEST = 127


class Int8Linear(nn.Module):
    """A linear layer with weights in int8; inputs and outputs are float32."""

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
        """Output of the original layer, up to rounding."""
        # Activations in 7 bits: without VNNI the kernel adds products in 16 bits, which 8 would overflow.
        found: Tensor = torch.ops.quantized.linear_dynamic(given, self.packed, True)
        return found


def quantise(model: nn.Module) -> None:
    """Replace all linear layers of a model by int8 ones, in place.

    Raises:
        InputError: if the model is not on a CPU, or this build of torch has no such kernels.
    """
    device = next(model.parameters()).device
    if device.type != "cpu":
        raise InputError(f"{option('int8', True)} was given on {device}, but needs a CPU: leave it out")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                try:
                    setattr(parent, name, Int8Linear(child))
                except RuntimeError as error:
                    fault = f"{option('int8', True)} can't be used here ({str(error)[:80]})"
                    raise InputError(f"{fault}: leave it out") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's deprecation of quantised tensors; only the kernels are used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

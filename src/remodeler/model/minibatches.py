"""Windows as mini-batches on a device, how large these are by default, and what to do where they do not fit."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from remodeler.data.windows import IGNORED, Windows
from remodeler.model.blocks import Anatomy
from remodeler.model.streaming import main_device, room
from remodeler.runs import processes

CACHED_TOKENS = 2048
"""Tokens a mini-batch on a CPU: its cache, not its memory, is the limit."""
MOST_TOKENS = 32768
"""On a GPU: more make no device busier, and progress coarser."""
SHARE_OF_FREE = 0.25
"""Of a GPU's free memory, for the states inside a layer; attention scores, logits and recordings need some too."""
STATES_INSIDE = 16
"""Vectors as wide as a layer's widest that exist at once for every token, roughly; norms take float32."""


@dataclass(frozen=True)
class Batch:
    """Some windows, on the device."""

    inputs: dict[str, Tensor]
    places: Tensor
    """[scored] int64: flat positions whose next token is scored."""
    targets: Tensor
    """[scored] int64"""
    rows: Tensor
    """[scored] int64: the window that each scored position is in."""
    numbers: tuple[int, ...] = ()
    """Which windows of their text these are, where somebody looks something up by them."""

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.inputs["input_ids"])


def device_of(model: nn.Module) -> torch.device:
    """Where the model's inputs go."""
    return main_device(model)


def devices_of(model: nn.Module) -> list[torch.device]:
    """Where a model computes, the device of its inputs first."""
    others = (value.device for value in model.parameters() if not value.is_meta)
    return list(dict.fromkeys((device_of(model), *others)))


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """GPUs of CUDA that a model computes on, whose random numbers :func:`torch.random.fork_rng` can keep."""
    return [device for device in devices_of(model) if device.type == "cuda"]


def to_batch(windows: Windows, device: torch.device) -> Batch:
    """All of ``windows`` as one batch on the device; indices are found on the CPU, so that the device need not wait."""
    inputs = {"input_ids": windows.ids}
    if windows.attention is not None:
        inputs["attention_mask"] = windows.attention
    if windows.decoder is not None:
        inputs["decoder_input_ids"] = windows.decoder
    flat = windows.targets.flatten()
    places = (flat != IGNORED).nonzero().flatten()
    rows = places // windows.targets.shape[1]
    on_device = {name: value.to(device) for name, value in inputs.items()}
    return Batch(on_device, places.to(device), flat[places].to(device), rows.to(device))


def batches(windows: Windows, size: int, device: torch.device) -> Iterator[Batch]:
    """Windows in order, ``size`` at a time."""
    for start in range(0, len(windows), size):
        yield to_batch(windows[start : start + size], device)


# How many windows -----------------------------------------------------------------------------------------------------


def batch_size(anatomy: Anatomy, windows: Windows) -> int:
    """Windows a batch, when the user does not say: what stays in a CPU's cache, or fits a GPU's free memory."""
    device, tokens = device_of(anatomy.model), CACHED_TOKENS
    if device.type != "cpu":
        free = min(room(each) for each in devices_of(anatomy.model) if each.type != "cpu")
        tokens = fitting_tokens(free, widest(anatomy), anatomy.model.dtype.itemsize)
    return max(1, tokens // windows.ids.shape[1])


def agreed_batch_size(anatomy: Anatomy, windows: Windows) -> int:
    """The same for all processes, which share out mini-batches by their number: each must call it."""
    return processes.smallest(batch_size(anatomy, windows))


def fitting_tokens(free: int, width: int, itemsize: int) -> int:
    """Tokens of a mini-batch whose states fit into a part of the free bytes: a power of two, so that it is stable."""
    fit = int(free * SHARE_OF_FREE) // (STATES_INSIDE * width * itemsize)
    return min(MOST_TOKENS, 1 << max(0, fit.bit_length() - 1))


def widest(anatomy: Anatomy) -> int:
    """Numbers of the widest vector inside a layer; of experts that are kept as one tensor, a single one's."""
    layers, name = anatomy.top_layers()[0]
    shapes = [each.shape[-2:] for each in layers.get_submodule(name).parameters() if each.dim() > 1]
    return max((max(shape) for shape in shapes), default=1)

"""Devices and dtypes by their names, and what ``auto`` means."""

import logging
import time
from functools import cache
from pathlib import Path

import psutil
import torch

from remodeler.errors import InputError, one_line, option

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
HALVES = (torch.bfloat16, torch.float16)
SLOWER = 1.5
"""Times that a product in half precision takes, from which on a CPU counts as one without units for it."""
FREE_SHARE = 0.6
"""Of the free memory, for weights: texts, states and what is written need some too."""
SIDE, REPEATS = 256, 5
"""Of a trial: rows and columns of its matrices, which take a millisecond, and how often it is made."""


def pick_device(device: str) -> torch.device:
    """``auto`` is the accelerator if there is one."""
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        if device == "meta":
            raise RuntimeError("it holds no numbers")
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} can't be used here ({one_line(error)}): choose cpu, cuda or auto"
        ) from None


def pick_dtype(dtype: str) -> torch.dtype | str:
    """A torch dtype by name, or ``auto`` for the one the weights are stored in."""
    if dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known: choose auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def auto_dtype(stored: torch.dtype, device: torch.device, fits: bool = True) -> torch.dtype:
    """What a checkpoint is computed in where the user leaves that open: as stored, unless float32 is faster.

    Args:
        stored: what the checkpoint's config says.
        device: where it is computed.
        fits: whether its weights in float32 fit into memory.
    """
    if device.type != "cpu" or stored not in HALVES or not fits:
        return stored
    times = slowdown(stored)
    if times < SLOWER:
        return stored
    name = str(stored).removeprefix("torch.")
    logger.info(
        f"computing in float32: {name} is {times:.1f} times slower on this CPU ({option('dtype', name)} keeps it)"
    )
    return torch.float32


def fits_twice(folder: Path, growth: float = 1) -> bool:
    """Whether the weights of a folder fit into the free memory twice, as those in half precision do in float32.

    Args:
        folder: with the weights.
        growth: times that they take more in half precision than in their files.
    """
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    free: int = psutil.virtual_memory().available
    return 2 * growth * size < FREE_SHARE * free


@cache
def slowdown(dtype: torch.dtype) -> float:
    """How many times as long a matrix product takes in a dtype as in float32, on this CPU; found once a process."""
    return _fastest(dtype) / _fastest(torch.float32)


def _fastest(dtype: torch.dtype) -> float:
    """Seconds of a small product: the least of a few, which neighbours on the machine disturb least."""
    factor = torch.ones(SIDE, SIDE, dtype=dtype)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        factor @ factor
        seconds.append(time.perf_counter() - start)
    return min(seconds)

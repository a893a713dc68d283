"""Devices and dtypes by their names."""

import torch

from remodeler.errors import InputError, one_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


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

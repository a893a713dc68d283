"""A model that is trained: what it is computed in, which parameters change, and how it is written back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.save import Saved, save_pruned
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.training.adapters import adapted, everything
from remodeler.training.lora import Lora
from remodeler.training.state import latest, read_weights


def training_dtype(dtype: str, all_of_it: bool, device: torch.device) -> str:
    """float32 for weights that are all trained, and on a CPU; adapters and a teacher leave the others as stored."""
    return "float32" if dtype == "auto" and (all_of_it or device.type == "cpu") else dtype


def training_precision(given: str | None, device: torch.device) -> str:
    """Of matrix products: bfloat16 where a GPU has it, unless something else is asked for."""
    if given == "fp16" and device.type == "cpu":
        raise InputError("`precision` fp16 was given on a CPU, which has no use for it: choose bf16 or no")
    if given and given != "auto":
        return given
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the files, or the one computed in where that is narrower."""
    dtype: torch.dtype = checkpoint.model.dtype
    return min(dtype, checkpoint.stored_dtype or dtype, key=lambda each: each.itemsize)


@contextmanager
def trainable(anatomy: Anatomy, lora: Lora | None, seed: int) -> Iterator[Any]:
    """The model with what may change: adapters, whose peft model it yields, or everything."""
    if lora is None:
        with everything(anatomy):
            yield None
        return
    with adapted(anatomy, lora, seed) as wrapper:
        yield wrapper


def read_trained(folder: Path, anatomy: Anatomy) -> None:
    """Put what a run has trained into the same model, read again and made :func:`trainable`.

    Args:
        folder: with the states of the run.
        anatomy: the model.
    """
    last = latest(folder)
    assert last is not None  # a run that ends writes one
    read_weights(last, {name: value for name, value in anatomy.model.named_parameters() if value.requires_grad})


def write_trained(student: Checkpoint, work: Path) -> Saved:
    """Write the model in the form and the dtype it came in, and read it back."""
    dtype = stored_dtype(student)
    for parameter in student.model.parameters():
        parameter.data = parameter.data.to(dtype)
    return save_pruned(student, [], work, "packed" if getattr(student.model.config, "packing", None) else None)

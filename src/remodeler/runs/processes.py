"""Several processes on one job: started by ``torchrun`` or ``accelerate launch``, which set the environment.

Each holds the whole model on its own device, or its part of one that is trained sharded, and takes its share of the
mini-batches; only the first writes and talks.

Not accelerate's ``PartialState``: what it finds when it is first made is kept for the life of the process (a group that
begins or ends later is not seen), and it sets environment variables and the number of threads on the way.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

from remodeler.errors import InputError

T = TypeVar("T")


@contextmanager
def group(device: str) -> Iterator[str]:
    """Join the others, if this process was started as one of several; yields the device to use here."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield device
        return
    accelerated = device != "cpu" and torch.accelerator.is_available()
    if accelerated:
        device = f"{torch.accelerator.current_accelerator()}:{os.environ.get('LOCAL_RANK', '0')}"
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """This process's number; 0 when it is alone."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes and talks."""
    return rank() == 0


def is_started_first() -> bool:
    """Whether this process was started as the first, or alone: known before they join and after they part."""
    return os.environ.get("RANK", "0") == "0"


def from_first(value: T) -> T:
    """What the first process has, in all of them."""
    if world() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def smallest(value: int) -> int:
    """The least of what the processes have, in all of them."""
    if world() == 1:
        return value
    values: list[int] = [value] * world()
    distributed.all_gather_object(values, value)
    return min(values)


def first_does(action: Callable[[], object]) -> None:
    """Let the first process do something, and the others wait for it; what it refuses, all refuse."""
    problem = None
    if is_first():
        try:
            action()
        except InputError as error:
            problem = str(error)
    if problem := from_first(problem):
        raise InputError(problem)

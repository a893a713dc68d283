"""Weights, gradients and the optimiser's moments shared out among processes: FSDP2, torch's ``fully_shard``.

Every process holds a part of each parameter. A layer's parts are gathered when it runs, forwards and backwards, and
its gradients are summed where the parts are; what is in no layer is gathered for a whole mini-batch. Trunk and head are
called apart here (:mod:`remodeler.model.logprobs`), so the outermost module is one that runs a function.

Not accelerate's ``prepare``, which shards by the same function: it wants the model to be called as a whole, and its
states are those of ``torch.distributed.checkpoint``; those here are whole tensors by name, which any number of
processes goes on from, sharded or not.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from remodeler.errors import InputError, option
from remodeler.model.blocks import Anatomy
from remodeler.model.minibatches import device_of
from remodeler.runs import processes

T = TypeVar("T")
ROOT = "sharded_root"
"""Where a sharded model keeps its outermost module, which is no part of it."""


class Runs(nn.Module):
    """Runs a function for which the parameters outside of the layers are gathered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def wants_shards(asked: bool) -> bool:
    """Whether weights are to be sharded: as asked for, or as ``accelerate launch`` was told.

    Raises:
        InputError: for the first version of FSDP.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return asked
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise InputError(f"accelerate was told to use version {version} of FSDP: set its fsdp_version to 2")
    return True


def refuse_sharding(precision: str) -> None:
    """Raise where weights can't be sharded.

    Args:
        precision: of matrix products.
    """
    if processes.world() < 2:
        raise InputError(f"{option('fsdp')} shares a model out among processes, and there is one: start by torchrun")
    if precision == "fp16":
        raise InputError(f"{option('precision', 'fp16')} was given with {option('fsdp')}: choose bf16 or no")


def shard(anatomy: Anatomy) -> None:
    """Share the parameters of a model out among the processes, for good; each must call it."""
    model = anatomy.model
    mesh = init_device_mesh(device_of(model).type, (processes.world(),))
    for layers, name in anatomy.top_layers():
        fully_shard(layers.get_submodule(name), mesh=mesh)
    vars(model)[ROOT] = fully_shard(Runs(model), mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters of a model are shared out."""
    return ROOT in vars(model)


def gathered(model: nn.Module, function: Callable[[], T]) -> T:
    """What a function gives that runs parts of the model; of a sharded one, every process must call it alike."""
    root = vars(model).get(ROOT)
    found: T = function() if root is None else root(function)
    return found


def shares(count: int, alike: bool) -> Iterator[tuple[int, bool]]:
    """Numbers of this process's mini-batches, and whether each counts.

    Args:
        count: of the mini-batches of all processes.
        alike: all processes must run as many: who has fewer runs one of another's, which doesn't count.
    """
    mine = range(processes.rank(), count, processes.world())
    yield from ((number, True) for number in mine)
    if alike and len(mine) < math.ceil(count / processes.world()):
        yield count - 1, False


# Tensors --------------------------------------------------------------------------------------------------------------


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor: of a sharded one in the first process, in memory of the host; each must call it."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().contiguous()
    found: Tensor = tensor.full_tensor().detach()
    return found.cpu() if processes.is_first() else found.new_empty(0)


def number_of(tensor: Tensor) -> Tensor:
    """A number that was found of sharded tensors."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor where a parameter is: beside it, or shared out as it is."""
    if not isinstance(parameter, DTensor):
        return value.to(parameter.device)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

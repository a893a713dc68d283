"""Several devices on a CPU: every tensor has a place, and an operator that is given two of them fails as on GPUs.

:class:`Devices` intercepts every call of torch, for as long as it is entered. Numbers stay on the CPU, so they can be
held against those of one device, bit for bit; what is moved (``to``, ``copy_``, an assignment) is moved by name only.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from remodeler.checkpoint.device_maps import outside
from remodeler.model.blocks import Anatomy
from remodeler.model.offloading import layer_paths

MAIN = "cpu:0"
FACTORIES = {
    getattr(torch, name)
    for name in (
        *("zeros", "ones", "empty", "full", "arange", "tensor", "rand", "randn", "randint", "randperm", "linspace"),
        *("as_tensor", "from_numpy", "eye", "tril_indices", "scalar_tensor", "empty_strided"),
    )
}
MOVES = {Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.copy_, Tensor.__setitem__, Tensor.type_as}
GETTERS = {Tensor.device.__get__, Tensor.is_cuda.__get__, Tensor.get_device}  # type: ignore[attr-defined]


class OnTwoDevices(RuntimeError):
    """What torch says of it on GPUs."""


def place_of(value: Tensor) -> str | None:
    """Where a tensor is; None for what autograd made."""
    return vars(value).get("place")


def put(value: Any, place: str | None) -> None:
    """Say where the tensors of a value are."""
    for each in tree_leaves(value):
        if isinstance(each, Tensor) and place:
            vars(each)["place"] = place


class Devices(TorchFunctionMode):
    """Entered: tensors have places."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in GETTERS:
            place = place_of(args[0])
            found = torch.device(place) if place else func(*args)
            return found if isinstance(found, torch.device) else getattr(found, "type", found)
        told = kwargs.get("device")
        if func in MOVES:
            return self._moved(func, args, kwargs)
        if told is not None:
            kwargs["device"] = "meta" if torch.device(told).type == "meta" else "cpu"
        place = str(torch.device(told)) if told is not None else None
        if "_foreach" in str(func):  # called for the tensors of one device at a time
            return func(*args, **kwargs)
        given = list(_places([*args, *kwargs.values()]))
        if func in FACTORIES or (told is not None and "_like" in str(func)):
            place = place or "cpu"
        else:
            place = place or _common(func, given)
        found = func(*args, **kwargs)
        put(found, place)
        return found

    def _moved(self, func: Any, args: Any, kwargs: Any) -> Any:
        own = place_of(args[0])
        if func in (Tensor.copy_, Tensor.__setitem__):
            found = func(*args, **kwargs)
            put(args[0], own)
            return found
        target = kwargs.pop("device", None)
        words = []
        for each in args[1:]:
            if isinstance(each, Tensor):
                target = place_of(each)
                words.append(each.dtype)
            elif isinstance(each, torch.device | str | int) and not isinstance(each, bool):
                target = each
            elif isinstance(each, torch.dtype):
                words.append(each)
        if func is Tensor.cpu:
            target = "cpu"
        place = str(torch.device(target)) if target is not None else own
        found = args[0]
        if words or kwargs:
            found = Tensor.to(found, *words, **kwargs)
        if found is args[0] and place != own:
            found = found.clone()  # as a copy on another device is
            if isinstance(args[0], nn.Parameter):
                found = found.detach().requires_grad_(args[0].requires_grad) if not torch.is_grad_enabled() else found
        put(found, place)
        return found


def _places(values: Any) -> Iterator[tuple[str, bool]]:
    """Places of the tensors among some values, and whether each is a number by itself."""
    for each in tree_leaves(values):
        if isinstance(each, Tensor) and (place := place_of(each)):
            yield place, each.dim() == 0 and place == "cpu"


def _common(func: Any, given: list[tuple[str, bool]]) -> str | None:
    places = {place for place, alone in given if not alone} or {place for place, _ in given}
    if len(places) > 1:
        raise OnTwoDevices(f"{resolve_name(func) or func}: expected all tensors to be on the same device ({places})")
    return places.pop() if places else None


def lay_out(anatomy: Anatomy, count: int = 3) -> None:
    """Layers on devices in turn, so that each hands its states on to another, and all else on the first."""
    model = anatomy.model
    layers = layer_paths(model, anatomy.family)
    others = outside(model, [stack.layers for stack in anatomy.family.stacks])
    devices = dict.fromkeys(others, MAIN) | {path: f"cpu:{1 + i % (count - 1)}" for i, path in enumerate(layers)}
    for name, module in model.named_modules(remove_duplicate=False):
        for key, value in [*module._parameters.items(), *module._buffers.items()]:
            full = f"{name}.{key}" if name else key
            part = max((part for part in devices if full == part or full.startswith(f"{part}.")), key=len)
            put(value, devices[part])
    attach_align_device_hook_on_blocks(
        model,
        execution_device=devices | {"": MAIN},
        offload=dict.fromkeys(devices, False),
        skip_keys=model._skip_keys_device_placement,
    )
    model.hf_device_map = devices

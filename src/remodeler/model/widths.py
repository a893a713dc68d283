"""A model with fewer heads and channels: masked, or really narrower.

The coupled groups of a block (:class:`remodeler.model.structures.Structure`) meet at one place, the input of the output
projection: :func:`masked` multiplies there, which needs no other part of the model to know, and :func:`narrowed` puts
smaller parameters in, which gives the same function up to rounding. Where the projections are is named by the family's
row; whether the model's own forward runs with fewer groups, and means the same by them, is found out by doing both to
one block of each kind and comparing.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.hooks import add_hook_to_module
from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, LayerRef, swapped
from remodeler.model.minibatches import device_of
from remodeler.model.streaming import held
from remodeler.model.structures import Structure, Widths, counts_of, layout, structure_of
from remodeler.model.tracing import probe
from remodeler.packed_layers import narrow
from remodeler.runs.units import Block

__all__ = [
    "Structure",
    "Widths",
    "group_weights",
    "kept_masks",
    "masked",
    "narrowed",
    "parameters_left",
    "refuse_widths",
    "structures",
    "why_not",
]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""How far masking and narrowing may be apart, as a share of the block's output: sums are rounded in another order."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


# What can be sliced ---------------------------------------------------------------------------------------------------


def structures(anatomy: Anatomy) -> dict[Block, Structure]:
    """The blocks that can be sliced, in the order of ``anatomy.blocks()``; of the others :func:`why_not` tells.

    Runs the model on a few tokens, and one layer for each kind of block three times.
    """
    found = _examine(anatomy)
    return {block: each for block, each in found.items() if isinstance(each, Structure)}


def why_not(anatomy: Anatomy, block: Block) -> str:
    """Why a block can't be sliced, as the end of a sentence; empty where it can."""
    found = _examine(anatomy)[block]
    return found if isinstance(found, str) else ""


def refuse_widths(anatomy: Anatomy, widths: Widths) -> None:
    """Widths that the model can't have.

    Raises:
        InputError: for a block that can't be sliced, or groups that it does not have.
    """
    found = _examine(anatomy) if widths else {}
    for block, groups in widths.items():
        _sensible(structure_of(anatomy, block), groups)
        if isinstance(reason := found[block], str):
            raise InputError(f"{block} can't be sliced: {reason}; leave it whole")


# Trying it ------------------------------------------------------------------------------------------------------------


def _examine(anatomy: Anatomy) -> dict[Block, Structure | str]:
    """Every block's groups, or why it has none: one block of each kind stands for all."""
    found = {block: layout(anatomy, block) for block in anatomy.blocks()}
    kinds: dict[tuple[Any, ...], Structure] = {}
    for each in found.values():
        if isinstance(each, Structure):
            kinds.setdefault(_kind(anatomy, each), each)
    calls = _calls(anatomy, [anatomy.branches[each.block].site for each in kinds.values()])
    verdicts = {kind: _try_mask(anatomy, each, calls[each.block.layer]) for kind, each in kinds.items()}
    return {
        block: (verdicts[_kind(anatomy, each)] or each) if isinstance(each, Structure) else each
        for block, each in found.items()
    }


def _kind(anatomy: Anatomy, structure: Structure) -> tuple[Any, ...]:
    """Blocks of the same code, put together alike."""
    modules = anatomy.branches[structure.block].modules()
    return (structure.block.kind, *map(type, modules), tuple((cut.path, cut.parts) for cut in structure.cuts))


@torch.no_grad()
def _calls(anatomy: Anatomy, sites: Iterable[LayerRef]) -> dict[int, Call]:
    """What some layers are called with, by number, when the model reads a few tokens."""
    calls: dict[int, Call] = {}
    with ExitStack() as hooks:
        for site in sites:
            hook = partial(_note, calls, site.number)
            hooks.callback(site.layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        uncached = {} if anatomy.family.task == "masked" else {"use_cache": False}
        anatomy.model(**probe(anatomy.family, device_of(anatomy.model)), **uncached)
    return calls


def _note(calls: dict[int, Call], number: int, _: nn.Module, args: Any, kwargs: Any) -> None:
    calls[number] = args, kwargs


@torch.no_grad()
def _try_mask(anatomy: Anatomy, structure: Structure, call: Call) -> str:
    """Why narrowing a block is something else than masking it, if it is."""
    odd = {structure.block: tuple(range(1, structure.groups, 2))}
    with held(anatomy.model, anatomy.branches[structure.block].site.index):
        whole = _output_of(anatomy, structure, call)
        with masked(anatomy, kept_masks(anatomy, odd)):
            wanted = _output_of(anatomy, structure, call)
        try:
            with narrowed(anatomy, odd):
                found = _output_of(anatomy, structure, call)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            said = " ".join(str(error).split())[:120]
            return _spanning(anatomy, structure) or f"its code refuses fewer {structure.noun} ({said})"
    bound = TOLERANCE[anatomy.model.dtype] * whole.norm()
    if found.shape == wanted.shape and (found - wanted).norm() <= bound:
        return ""
    return _spanning(anatomy, structure) or f"its code means something else with fewer {structure.noun}"


def _output_of(anatomy: Anatomy, structure: Structure, call: Call) -> Tensor:
    """What the block's output projection gives."""
    args, kwargs = call
    layer = anatomy.branches[structure.block].site.layer
    with _watch(layer.get_submodule(structure.out)) as seen:
        layer(*args, **kwargs)
    return seen[-1].double()


def _spanning(anatomy: Anatomy, structure: Structure) -> str:
    """The part beside the projections that sees all groups at once, as a norm over the whole width does."""
    layer = anatomy.branches[structure.block].site.layer
    cuts = {cut.path: cut.rows * structure.groups for cut in structure.cuts}
    for place in {path.rsplit(".", 2)[0] for path in cuts if path.count(".") > 1}:
        for name, value in layer.get_submodule(place).named_parameters(place):
            if name not in cuts and not name.startswith(structure.out) and value.numel() in cuts.values():
                return f"its {name.removesuffix('.weight')} sees all {structure.noun} at once"
    return ""


@contextmanager
def _watch(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module returns while it is looked at."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _, args, outputs: seen.append(outputs))
    try:
        yield seen
    finally:
        handle.remove()


# Less of it -----------------------------------------------------------------------------------------------------------


@contextmanager
def masked(anatomy: Anatomy, masks: Mapping[Block, Tensor]) -> Iterator[None]:
    """The model with groups scaled: by 0 they are gone, by 1 they are whole.

    Args:
        anatomy: the model.
        masks: by block [groups], float, best on the block's device. Gradients reach them, and no device waits.
    """
    with ExitStack() as hooks:
        for block, mask in masks.items():
            structure = structure_of(anatomy, block)
            out = anatomy.branches[block].site.layer.get_submodule(structure.out)
            handle = out.register_forward_pre_hook(_scaling(mask, structure.columns))
            hooks.callback(handle.remove)
        yield


def kept_masks(anatomy: Anatomy, widths: Widths) -> dict[Block, Tensor]:
    """Masks that do what some widths do: 1 for a group that stays, 0 for one that goes."""
    masks = {}
    for block, groups in widths.items():
        structure = structure_of(anatomy, block)
        _sensible(structure, groups)
        mask = torch.zeros(structure.groups)
        mask[list(groups)] = 1
        masks[block] = mask.to(device_of(anatomy.model))
    return masks


def _scaling(mask: Tensor, columns: int) -> Any:
    def scale(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        groups = args[0].unflatten(-1, (-1, columns))  # [..., groups, columns]
        return ((groups * mask.to(groups.device, groups.dtype)[:, None]).flatten(-2), *args[1:])

    return scale


@contextmanager
def narrowed(anatomy: Anatomy, widths: Widths) -> Iterator[None]:
    """The model with some groups only: really smaller parameters, copies of what stays.

    Raises:
        InputError: for a block that can't be sliced, or groups that it does not have.
    """
    with ExitStack() as swaps:
        for block, groups in widths.items():
            structure, branch = structure_of(anatomy, block), anatomy.branches[block]
            _sensible(structure, groups)
            layer = branch.site.layer
            tensors = dict(structure.kept(layer, groups))
            for path in branch.names["modules"]:
                swaps.enter_context(swapped(layer, path, _twin(layer.get_submodule(path))))
            narrow(layer, tensors, counts_of(branch.site.stack))
        yield


def _sensible(structure: Structure, groups: Sequence[int]) -> None:
    """Some groups, of those that there are, each once, in order."""
    if not groups:
        raise InputError(f"nothing of {structure.block} is to be kept: remove the block instead")
    if list(groups) != sorted(set(groups)) or groups[0] < 0 or groups[-1] >= structure.groups:
        raise InputError(
            f"{structure.block} has the {structure.noun} 0 to {structure.groups - 1}, and {list(groups)[:8]} ... "
            "were to be kept: name some of them, ascending"
        )


def _twin(module: nn.Module) -> nn.Module:
    """The module once more, with the same parameters, hooks and buffers; what is set in it, its original keeps."""
    twin = copy.copy(module)
    for store in ("_parameters", "_buffers"):
        twin.__dict__[store] = dict(vars(module)[store])
    twin.__dict__["_modules"] = {name: child and _twin(child) for name, child in module._modules.items()}
    if hook := vars(twin).pop("_hf_hook", None):  # accelerate's forward is bound to the original
        vars(twin).pop("_old_forward"), vars(twin).pop("forward")
        add_hook_to_module(twin, hook)
    return twin


# Counting -------------------------------------------------------------------------------------------------------------


def parameters_left(anatomy: Anatomy, removed: Iterable[Block], widths: Widths) -> int:
    """Parameters of the model without some blocks, and of others only some groups."""
    gone = frozenset(removed)
    found = {block: structure_of(anatomy, block) for block in widths if block not in gone}
    dropped = sum((each.groups - len(widths[block])) * each.parameters for block, each in found.items())
    return anatomy.parameters(gone) - dropped


def group_weights(anatomy: Anatomy, structure: Structure, grad: bool = False) -> list[Tensor]:
    """A block's coupled weights as views [groups, ...], so that a sum over a group is one reduction.

    Args:
        anatomy: the model.
        structure: of the block.
        grad: the weights' gradients instead.

    Raises:
        ValueError: when there are no gradients yet.
    """
    layer = anatomy.branches[structure.block].site.layer
    weights = [layer.get_parameter(cut.path) for cut in structure.cuts]
    values = [weight.grad if grad else weight.detach() for weight in weights]
    if any(value is None for value in values):
        raise ValueError(f"{structure.block} has no gradients yet: run a backward pass first")
    return [cut.grouped(v, structure.groups) for cut, v in zip(structure.cuts, values, strict=True) if v is not None]

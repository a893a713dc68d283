"""Where a model's blocks are, found in what its layers add to the residual stream (:mod:`remodeler.model.residual`)."""

from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, Branch, LayerRef, first_attentions, handed_back
from remodeler.model.families import Family, config_names, unpacked_type
from remodeler.model.layer_calls import units_in
from remodeler.model.residual import Found, Term
from remodeler.model.watching import Watch
from remodeler.packed import text_of
from remodeler.packed_layers import BranchNames, Packing, branches_of
from remodeler.runs.units import KINDS, Block

USUAL = ("o_proj", "out_proj", "dense", "c_proj", "down_proj", "experts.down_proj", "fc2", "fc_out", "dense_4h_to_h")
"""Output projections of the families that folders were packed of before they named theirs."""
MEETS = "its layers must run once each and return their input with the branches' outputs added"


def found_parts(model: Any, family: Family, sites: list[LayerRef], inputs: dict[str, Tensor]) -> Anatomy:
    """Find the blocks of a model from one forward pass over ``inputs``.

    Raises:
        InputError: where they can't be told, with what was found.
    """
    watches = _watch(model, sites, inputs)
    found = [_checked(model, site, watch) for site, watch in zip(sites, watches, strict=True)]
    branches = {
        Block(site.number, term.kind): Branch(site, _names(term, _shared(each)), term.out)
        for site, each in zip(sites, found, strict=True)
        for term in each.terms
    }
    numbered = list(zip(sites, found, strict=True))
    return Anatomy(
        model,
        family,
        branches,
        tuple(sites),
        {site.number: _shared(each) for site, each in numbered},
        {site.number: each.rest for site, each in numbered},
        any(each.parallel for each in found),
        _read_elsewhere(sites, watches, branches) | _lent(text_of(model.config)),
    )


def recorded_parts(model: Any, family: Family, sites: list[LayerRef]) -> Anatomy:
    """The blocks of a packed model, as they were found before it was packed."""
    packing = model.config.packing
    kept = {number: kinds for number, kinds in packing["kept"]}
    branches: dict[Block, Branch] = {}
    for site in sites:
        every = branches_of(packing, site.number)
        for block in (Block(site.number, kind) for kind in KINDS if kind in every and kind in kept[site.number]):
            names = every[block.kind]
            branches[block] = Branch(site, names, tuple(names.get("out") or _usual_projections(site, names)))
    paths = {site.number: {path for path, _ in site.layer.named_modules()} for site in sites}
    shared = {number: tuple(path for path in packing["shared"] if path in known) for number, known in paths.items()}
    rest = {site.number: _rest(packing, site) for site in sites}
    fixed = first_attentions(family, sites)
    return Anatomy(model, family, branches, tuple(sites), shared, rest, packing["parallel"], fixed)


def _rest(packing: Packing, site: LayerRef) -> tuple[str, ...]:
    """Modules of a layer that are in no block; older folders do not say which."""
    if "had" in packing:
        return tuple(packing.get("rest", {}).get(str(site.number), ()))
    own = [path for names in packing["branches"].values() for path in [*names["modules"], *names["norms"]]]
    taken = (*own, *packing["shared"])
    return tuple(p for p, _ in units_in(site.layer) if p not in taken and not p.startswith(("pre.", "post.")))


def _usual_projections(site: LayerRef, names: BranchNames) -> list[str]:
    """Output projections in older folders, which do not say which they are."""
    last = names["modules"][-1]
    module = site.layer.get_submodule(last)
    if isinstance(module, nn.Linear):
        return [last]
    inside = {name.removesuffix(".weight") for name, _ in module.named_parameters()}
    return [f"{last}.{name}" for name in USUAL if name in inside]


def _watch(model: Any, sites: list[LayerRef], inputs: dict[str, Tensor]) -> list[Watch]:
    watches = [Watch(site.layer) for site in sites]
    with ExitStack() as hooks, torch.enable_grad():
        for watch in watches:
            layer = watch.layer
            for path, unit in units_in(layer):
                hooks.callback(unit.register_forward_hook(watch.note(path), with_kwargs=True).remove)
            hooks.callback(layer.register_forward_pre_hook(watch.before, with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(watch.after).remove)
        model(**inputs, use_cache=False)
    return watches


def _checked(model: Any, site: LayerRef, watch: Watch) -> Found:
    """What was found in a layer.

    Raises:
        InputError: where its blocks can't be told.
    """
    what, found = f"layer {site.number} of model type {unpacked_type(model.config.model_type)!r}", watch.found
    if found is None or watch.runs > 1:
        raise InputError(f"{what} runs {watch.runs} times in one pass, so its blocks can't be told: {MEETS}")
    if found.problem:
        raise InputError(f"the blocks of {what} can't be told, {found.problem}: {MEETS}")
    return found


def _shared(found: Found) -> tuple[str, ...]:
    """Norms that several blocks of a layer read."""
    names = [name for term in found.terms for name in term.norms]
    return tuple(dict.fromkeys(name for name in names if names.count(name) > 1))


def _names(term: Term, shared: tuple[str, ...]) -> BranchNames:
    last = term.chain[-1]
    names = BranchNames(
        modules=[unit.path for unit in term.chain],
        norms=[name for name in term.norms if name not in shared],
        outputs=handed_back(last.outputs, last.kwargs),
        stream=None,
        out=list(term.out),
    )
    if term.beside:
        names["beside"] = {unit.path: handed_back(unit.outputs, unit.kwargs) for unit in term.beside}
    return names


def _read_elsewhere(sites: list[LayerRef], watches: list[Watch], branches: dict[Block, Branch]) -> dict[Block, str]:
    """Blocks that later layers read something of besides the stream, as keys and values that they share."""
    fixed: dict[Block, str] = {}
    for site, watch in zip(sites, watches, strict=True):
        for number, name in _owners(watch, sites, watches):
            block = next((b for b, each in branches.items() if b.layer == number and _holds(each.names, name)), None)
            if block and site.number != number:
                fixed.setdefault(block, f"layer {site.number} reads what it computes for itself")
    return fixed


def _lent(config: Any) -> dict[Block, str]:
    """Attentions whose findings the next layers use."""
    fixed: dict[Block, str] = {}
    for name, own, used in config_names(config.model_type).lent:
        kinds = getattr(config, name, None) or []
        for number, (kind, after) in enumerate(pairwise(kinds)):
            if (kind, after) == (own, used):
                fixed[Block(number, "attention")] = f"layer {number + 1} uses what it selects ({name})"
    return fixed


def _owners(watch: Watch, sites: list[LayerRef], watches: list[Watch]) -> list[tuple[int, str]]:
    """(layer's number, name in it) of the parameters of other layers that a layer depends on beside the stream."""
    known = {
        key: (site.number, name) for site, each in zip(sites, watches, strict=True) for key, name in each.names.items()
    }
    return [known[id(value)] for value in watch.foreign if id(value) in known]


def _holds(names: BranchNames, parameter: str) -> bool:
    return any(parameter.startswith(f"{path}.") for path in [*names["modules"], *names.get("beside", {})])

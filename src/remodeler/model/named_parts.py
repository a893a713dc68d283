"""Where a model's blocks are, by the names in its family's row.

The row names the attention and the MLP of a layer. Which norms belong to which, what a branch returns and where its
residual is added is seen from who was fed with whose output: tensors are compared with ``is``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.model.blocks import NO_OPS, Anatomy, Branch, LayerRef, first_attentions, handed_back, projection
from remodeler.model.families import Family
from remodeler.model.streaming import held
from remodeler.packed_layers import BranchNames, Packing, first
from remodeler.runs.units import Block, Kind


@dataclass(frozen=True)
class Call:
    """What one module was given and what it returned: the tensors themselves, so that ``is`` tells who fed whom."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    @property
    def input(self) -> Tensor:
        value: Tensor = self.args[0] if self.args else self.kwargs["hidden_states"]
        return value

    @property
    def output(self) -> Tensor:
        value: Tensor = first(self.outputs)
        return value


def named_parts(model: Any, family: Family, sites: list[LayerRef], inputs: dict[str, Tensor]) -> Anatomy:
    """Find the blocks that a family's row names, from one forward pass over ``inputs``.

    Raises:
        InputError: where the row does not fit the model's layers.
    """
    calls = _record(model, sites, inputs)
    packing = getattr(model.config, "packing", None)
    branches: dict[Block, Branch] = {}
    shared, extras, parallel = {}, {}, bool(packing and packing["parallel"])
    for site in sites:
        seen = calls[site.number]
        chains = {kind: chain for kind, chain in _chains(site).items() if chain[-1] in seen}
        owners = _owners(seen, chains, site) if packing is None else _recorded_owners(seen, packing)
        with held(model, site.index):
            for kind, chain in chains.items():
                norms = [name for name, owner in owners.items() if owner == kind]
                branch = branches[Block(site.number, kind)] = _branch(site, kind, chain, norms, seen)
                if family.task == "seq2seq":  # a packed one is not looked at, its blocks are as they were recorded
                    branch.names["out"] = list(branch.out)
        shared[site.number] = tuple(name for name, owner in owners.items() if owner == "shared")
        extras[site.number] = tuple(name for name, owner in owners.items() if owner == "extra")
        parallel = parallel or _reads_layer_input(seen, chains)
    if not branches:
        raise InputError(
            "no attention or MLP was found in the layers: the family named with `family` does not fit this model"
        )
    return Anatomy(model, family, branches, tuple(sites), shared, extras, parallel, first_attentions(family, sites))


def _chains(site: LayerRef) -> dict[Kind, tuple[str, ...]]:
    stack = site.stack
    named: dict[Kind, tuple[str, ...]] = {"attention": (stack.attention,), "cross": (stack.cross,), "mlp": stack.mlp}
    return {kind: chain for kind, chain in named.items() if chain[0] and _has(site.layer, chain)}


def _has(layer: nn.Module, chain: tuple[str, ...]) -> bool:
    try:
        return not any(type(layer.get_submodule(path)).__name__ in NO_OPS for path in chain)
    except AttributeError:
        return False


def _record(model: Any, sites: list[LayerRef], inputs: dict[str, Tensor]) -> dict[int, dict[str, Call]]:
    """Calls by layer number and module name; the name ``""`` is the layer itself."""
    calls: dict[int, dict[str, Call]] = {site.number: {} for site in sites}
    hooks = []
    for site in sites:
        chained = [path for chain in _chains(site).values() for path in chain]
        plain = [name for name, child in site.layer.named_children() if next(child.parameters(), None) is not None]
        for name in dict.fromkeys(["", *chained, *(n for n in plain if n not in ("layer", "pre", "post"))]):

            def hook(
                _: nn.Module, args: Any, kwargs: Any, outputs: Any, to: Any = calls[site.number], name: str = name
            ) -> None:
                to[name] = Call(args, kwargs, outputs)

            hooks.append(site.layer.get_submodule(name).register_forward_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
    return calls


def _owners(seen: dict[str, Call], chains: dict[Kind, tuple[str, ...]], site: LayerRef) -> dict[str, str]:
    """Whose part every module of a layer is that is not in a block's chain."""
    chained = {path for chain in chains.values() for path in chain}
    named = dict(site.stack.norms)
    return {name: named.get(name) or _owner(name, seen, chains) for name in seen if name and name not in chained}


def _recorded_owners(seen: dict[str, Call], packing: Packing) -> dict[str, str]:
    """The same of a packed model, as they were before: a norm may have lost one of its two readers since."""
    owners = {name: kind for kind, names in packing["branches"].items() for name in names["norms"]}
    chained = {path for names in packing["branches"].values() for path in names["modules"]}
    owners |= dict.fromkeys(packing["shared"], "shared")
    return {name: owners.get(name, "extra") for name in seen if name and name not in chained}


def _owner(name: str, seen: dict[str, Call], chains: dict[Kind, tuple[str, ...]]) -> str:
    """Whose norm a module is: of the block it feeds (of several: shared), else of the block whose output it takes."""
    made, taken = seen[name].output, seen[name].input
    if any(made is value for chain in chains.values() for value in seen[chain[-1]].args[1:]):
        return "extra"  # its output is the residual stream, as in Bloom's post-layernorm variant
    feeds = [kind for kind, chain in chains.items() if seen[chain[0]].input is made]
    if feeds:
        return feeds[0] if len(feeds) == 1 else "shared"
    after = [kind for kind, chain in chains.items() if seen[chain[-1]].output is taken]
    return after[0] if after else "extra"


def _branch(site: LayerRef, kind: Kind, chain: tuple[str, ...], norms: list[str], seen: dict[str, Call]) -> Branch:
    call, last = seen[chain[-1]], chain[-1]
    stack = site.stack
    inside = {"attention": (stack.attention_out,), "cross": (stack.cross_out,), "mlp": stack.mlp_out}[kind]
    names = BranchNames(modules=list(chain), norms=norms, outputs=handed_back(call.outputs, call.kwargs), stream=None)
    out = tuple(f"{last}.{path}" if path else last for path in inside)
    branch = Branch(site, names, out, any(_on_stream(seen[norm], seen[chain[0]], call) for norm in norms))
    names["stream"] = _stream(branch, call)
    return branch


def _on_stream(norm: Call, start: Call, end: Call) -> bool:
    """Whether a norm neither feeds a block nor takes what it returns."""
    return norm.output is not start.input and norm.input is not end.output


def _stream(branch: Branch, call: Call) -> int | None:
    """Which argument the residual is; None for a bare branch, which with its output projection zeroed returns zeros."""
    last = branch.names["modules"][-1]
    zeros = {name.removeprefix(f"{last}."): torch.zeros_like(value) for name, value in projection(branch).items()}
    with torch.no_grad():
        outputs = first(torch.func.functional_call(branch.modules()[-1], zeros, call.args, call.kwargs, strict=False))
    if not outputs.any():
        return None
    places = [i for i, value in enumerate(call.args) if isinstance(value, Tensor) and value.shape == outputs.shape]
    return places[-1] if places else 0


def _reads_layer_input(seen: dict[str, Call], chains: dict[Kind, tuple[str, ...]]) -> bool:
    """Whether the MLP starts from the layer's own input although there is an attention before it."""
    if "attention" not in chains or "mlp" not in chains:
        return False
    start = seen[chains["mlp"][0]].input
    norm = next(
        (call for name, call in seen.items() if name and call.output is start and name not in sum(chains.values(), ())),
        None,
    )
    return (norm.input if norm else start) is seen[""].input

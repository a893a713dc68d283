"""Block; trace, list, bypass, replay and remove the residual blocks of a model.

A block is one residual branch, attention or MLP, with the norms that only it uses (BlockPruner, arXiv 2406.10594, section 3.1: "minimal
residual block"). Which norms those are, what a branch returns and where its residual is added is traced from one forward pass; the table in
:mod:`remodeler.families` only names parts. Every change to a model goes through :func:`swapped`, which always takes it back.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.families import Family, Stack
from remodeler.packed import BranchNames, Nothing, Packing, first, set_module

Kind = Literal["attention", "cross", "mlp"]
KINDS: tuple[Kind, ...] = ("attention", "cross", "mlp")


@dataclass(frozen=True, order=True)
class Block:
    """One residual branch of one layer; ``str()`` gives ``attention.12``. Layers keep the numbers they had in the source model."""

    layer: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Block":
        """The block that ``str()`` wrote."""
        kind, _, layer = text.partition(".")
        if kind not in KINDS or not layer.isdecimal():
            raise InputError(f"{text!r} is not a block: write attention.N or mlp.N, N the layer's number")
        return cls(int(layer), kind)


@dataclass(frozen=True)
class Site:
    """One layer of a live model: the module, its number in the source model, and its place in the order of computation."""

    layer: nn.Module
    number: int
    index: int
    """Place of the top-level layer that computes it (orphans of a packed layer share their host's)."""
    stack: Stack


@dataclass(frozen=True)
class Branch:
    """A block inside a live model."""

    site: Site
    names: BranchNames

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that go when the block is removed."""
        for path in [*self.names["modules"], *self.names["norms"]]:
            yield from self.site.layer.get_submodule(path).parameters()


@dataclass(frozen=True)
class Anatomy:
    """A model, and where its blocks are."""

    model: nn.Module
    family: Family
    branches: dict[Block, Branch]
    sites: tuple[Site, ...]
    shared: dict[int, tuple[str, ...]]
    """By layer number: norms that serve several blocks, removed only with the last of them."""
    extras: dict[int, tuple[str, ...]]
    """By layer number: other modules with parameters; they stay."""
    parallel: bool
    """Attention and MLP of a layer read the same input."""

    def blocks(self) -> list[Block]:
        """In the official code's order (all attention, then all MLP, ascending), which is how it breaks ties."""
        return sorted(self.branches, key=lambda block: (block.kind, block.layer))

    def top_layers(self) -> list[tuple[nn.Module, str]]:
        """The layer lists' entries as (list, name), in the order they are computed."""
        lists = [self.model.get_submodule(stack.layers) for stack in self.family.stacks]
        return [(layers, name) for layers in lists for name, _ in layers.named_children()]

    def parameters(self, removed: Iterable[Block] = ()) -> int:
        """Parameters left without some blocks; tied ones count once."""
        gone = {id(p) for p in self.removed_parameters(frozenset(removed))}
        return sum(p.numel() for p in self.model.parameters() if id(p) not in gone)

    def removed_parameters(self, removed: frozenset[Block]) -> Iterator[nn.Parameter]:
        """Parameters that go with some blocks: their own, and shared norms that nobody reads any more."""
        for block in removed:
            yield from self.branches[block].parameters()
        for site in self.sites:
            if all(block in removed for block in self.branches if block.layer == site.number):
                for path in self.shared[site.number]:
                    yield from site.layer.get_submodule(path).parameters()


@contextmanager
def swapped(parent: nn.Module, path: str, module: nn.Module) -> Iterator[None]:
    """Put a module in; whatever happens, put the old one back."""
    old = parent.get_submodule(path)
    set_module(parent, path, module)
    try:
        yield
    finally:
        set_module(parent, path, old)


@contextmanager
def bypassed(anatomy: Anatomy, removed: Iterable[Block]) -> Iterator[None]:
    """The model without some blocks: their branches contribute nothing to the residual stream, and are not computed."""
    with ExitStack() as swaps:
        for block in removed:
            branch = anatomy.branches[block]
            names, layer = branch.names, branch.site.layer
            for path in [*names["norms"], *names["modules"][:-1]]:
                swaps.enter_context(swapped(layer, path, nn.Identity()))
            swaps.enter_context(swapped(layer, names["modules"][-1], Nothing(names["outputs"], names["stream"])))
        yield


class Replay(nn.Module):
    """Stands where a module was and hands back what it returned before."""

    def __init__(self, outputs: Any, like: nn.Module) -> None:
        super().__init__()
        self.outputs = outputs
        if hasattr(like, "attention_type"):
            self.attention_type = like.attention_type  # some trunks ask their layers which mask they want

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.outputs


# ---- tracing -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What one module was given and what it returned. The tensors themselves are kept, so that ``is`` tells who fed whom."""

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


def trace(model: nn.Module, family: Family, inputs: dict[str, Tensor]) -> Anatomy:
    """Find the blocks of a model from one forward pass over ``inputs``.

    Raises:
        InputError: where the family's row does not fit the model's layers.
    """
    sites = _sites(model, family)
    calls = _record(model, sites, inputs)
    packing = getattr(model.config, "packing", None)
    branches: dict[Block, Branch] = {}
    shared, extras, parallel = {}, {}, bool(packing and packing["parallel"])
    for site in sites:
        seen = calls[site.number]
        chains = {kind: chain for kind, chain in _chains(site).items() if chain[-1] in seen}
        fixed = family.fixed_first_attention and site.number == _first_of_stack(sites, site)
        owners = _owners(seen, chains) if packing is None else _recorded_owners(seen, packing)
        for kind, chain in chains.items():
            if kind == "attention" and fixed:
                continue
            norms = [name for name, owner in owners.items() if owner == kind]
            branches[Block(site.number, kind)] = Branch(site, _names(site, kind, chain, norms, seen))
        shared[site.number] = tuple(name for name, owner in owners.items() if owner == "shared")
        extras[site.number] = tuple(name for name, owner in owners.items() if owner == "extra")
        parallel = parallel or _reads_layer_input(seen, chains)
    if not branches:
        raise InputError("no attention or MLP was found in the layers: the family named with --family does not fit this model")
    return Anatomy(model, family, branches, tuple(sites), shared, extras, parallel)


def _sites(model: nn.Module, family: Family) -> list[Site]:
    sites: list[Site] = []
    packing = getattr(model.config, "packing", None)
    numbers = iter([number for number, _ in packing["kept"]]) if packing else None
    for stack in family.stacks:
        for index, layer in enumerate(_layer_list(model, stack), start=sites[-1].index + 1 if sites else 0):
            for inner in [*getattr(layer, "pre", ()), layer, *getattr(layer, "post", ())]:
                sites.append(Site(inner, next(numbers) if numbers else index, index, stack))
    return sites


def _first_of_stack(sites: list[Site], site: Site) -> int:
    return next(other.number for other in sites if other.stack is site.stack)


def _layer_list(model: nn.Module, stack: Stack) -> nn.Module:
    try:
        return model.get_submodule(stack.layers)
    except AttributeError:
        raise InputError(
            f"the model has no layer list at {stack.layers!r}: the family named with --family does not fit it"
        ) from None


def _chains(site: Site) -> dict[Kind, tuple[str, ...]]:
    stack = site.stack
    named: dict[Kind, tuple[str, ...]] = {"attention": (stack.attention,), "cross": (stack.cross,), "mlp": stack.mlp}
    return {kind: chain for kind, chain in named.items() if chain[0] and _has(site.layer, chain)}


def _has(layer: nn.Module, chain: tuple[str, ...]) -> bool:
    try:
        return not any(isinstance(layer.get_submodule(path), Nothing) for path in chain)
    except AttributeError:
        return False


def _record(model: nn.Module, sites: list[Site], inputs: dict[str, Tensor]) -> dict[int, dict[str, Call]]:
    """Calls by layer number and module name; the name ``""`` is the layer itself."""
    calls: dict[int, dict[str, Call]] = {site.number: {} for site in sites}
    hooks = []
    for site in sites:
        chained = [path for chain in _chains(site).values() for path in chain]
        plain = [name for name, child in site.layer.named_children() if next(child.parameters(), None) is not None]
        for name in dict.fromkeys(["", *chained, *(n for n in plain if n not in ("layer", "pre", "post"))]):

            def hook(_: nn.Module, args: Any, kwargs: Any, outputs: Any, to: Any = calls[site.number], name: str = name) -> None:
                to[name] = Call(args, kwargs, outputs)

            hooks.append(site.layer.get_submodule(name).register_forward_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
    return calls


def _owners(seen: dict[str, Call], chains: dict[Kind, tuple[str, ...]]) -> dict[str, str]:
    """Whose part every module of a layer is that is not in a block's chain."""
    chained = {path for chain in chains.values() for path in chain}
    return {name: _owner(name, seen, chains) for name in seen if name and name not in chained}


def _recorded_owners(seen: dict[str, Call], packing: Packing) -> dict[str, str]:
    """The same of a packed model, as they were before: a norm may have lost one of its two readers since."""
    owners = {name: kind for kind, names in packing["branches"].items() for name in names["norms"]}
    chained = {path for names in packing["branches"].values() for path in names["modules"]}
    owners |= dict.fromkeys(packing["shared"], "shared")
    return {name: owners.get(name, "extra") for name in seen if name and name not in chained}


def _owner(name: str, seen: dict[str, Call], chains: dict[Kind, tuple[str, ...]]) -> str:
    """Whose norm a module is: of the block it feeds, else of the block whose output it takes; several, or the stream itself: shared."""
    made, taken = seen[name].output, seen[name].input
    if any(made is value for chain in chains.values() for value in seen[chain[-1]].args[1:]):
        return "extra"  # its output is the residual stream, as in Bloom's post-layernorm variant
    feeds = [kind for kind, chain in chains.items() if seen[chain[0]].input is made]
    if feeds:
        return feeds[0] if len(feeds) == 1 else "shared"
    after = [kind for kind, chain in chains.items() if seen[chain[-1]].output is taken]
    return after[0] if after else "extra"


def _names(site: Site, kind: Kind, chain: tuple[str, ...], norms: list[str], seen: dict[str, Call]) -> BranchNames:
    call = seen[chain[-1]]
    outputs = call.outputs
    handed = None if not isinstance(outputs, tuple) else [None, *(_keyword(value, call.kwargs) for value in outputs[1:])]
    return BranchNames(modules=list(chain), norms=norms, outputs=handed, stream=_stream(site, kind, chain, call))


def _keyword(value: Any, kwargs: dict[str, Any]) -> str | None:
    """The keyword argument that a module hands back as it is (T5's position bias), if any."""
    return next((name for name, given in kwargs.items() if given is value and isinstance(value, Tensor)), None)


def _stream(site: Site, kind: Kind, chain: tuple[str, ...], call: Call) -> int | None:
    """Where the residual comes in: with its output projection zeroed a bare branch returns zeros; what else comes out is the stream."""
    module = site.layer.get_submodule(chain[-1])
    zeros = {name: torch.zeros_like(value) for name, value in projection(module, site.stack, kind).items()}
    with torch.no_grad():
        outputs = first(torch.func.functional_call(module, zeros, call.args, call.kwargs, strict=False))
    if not outputs.any():
        return None
    places = [i for i, value in enumerate(call.args) if isinstance(value, Tensor) and value.shape == outputs.shape]
    return places[-1] if places else 0


def projection(module: nn.Module, stack: Stack, kind: Kind) -> dict[str, Tensor]:
    """Parameters of the output projection inside the last module of a block, by their names in it."""
    paths = {"attention": (stack.attention_out,), "cross": (stack.cross_out,), "mlp": stack.mlp_out}[kind]
    found = {
        name: value
        for path in paths
        for name, value in module.named_parameters()
        if path == "" or name == path or name.startswith(path + ".")
    }
    if not found:
        raise InputError(f"the {kind} has no output projection at {paths}: the family named with --family does not fit this model")
    return found


def _reads_layer_input(seen: dict[str, Call], chains: dict[Kind, tuple[str, ...]]) -> bool:
    """Whether the MLP starts from the layer's own input although there is an attention before it."""
    if "attention" not in chains or "mlp" not in chains:
        return False
    start = seen[chains["mlp"][0]].input
    norm = next((call for name, call in seen.items() if name and call.output is start and name not in sum(chains.values(), ())), None)
    return (norm.input if norm else start) is seen[""].input

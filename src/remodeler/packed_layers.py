"""Layers of a block-pruned model: what stands where a block was, and how what is left is arranged.

This file lies beside ``packed.py`` and the weights, and needs only torch.
"""

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from typing import Any, NotRequired, TypedDict

import torch
from torch import nn


class Counts(TypedDict):
    """What the modules of a family call how many heads or channels they have."""

    all: list[str]  # widths that are a multiple of it too
    queries: list[str]  # the same where all query heads share one key-value head, which stays


HEADS = ["num_heads", "num_attention_heads", "n_heads"]
WIDTHS = ["all_head_size", "inner_dim", "split_size", "intermediate_size", "ffn_dim"]
UNNAMED: Counts = {
    "all": [*HEADS, "num_key_value_heads", "num_kv_heads", *WIDTHS],
    "queries": [*HEADS, "num_key_value_groups"],
}
"""Of folders from before ``config.packing`` named them; it stays as it is, new names are a family's."""


NUMBERS = ("layer_idx", "layer_id")
"""What modules call the number of their layer."""


class BranchNames(TypedDict):
    """One kind of block, as it lies in a layer."""

    modules: list[str]  # run one after the other; the last one's output joins the residual stream
    norms: list[str]  # norms that only this block uses, removed with it
    outputs: list[str | None] | None  # None: a bare tensor; else per output the keyword handed back, or None
    stream: int | None  # None: a bare branch; else the positional argument it is added to inside
    beside: NotRequired[dict[str, list[str | None] | None]]  # modules that are added too, and what they return
    out: NotRequired[list[str]]  # output projections, by their paths in the layer


class Packing(TypedDict):
    """What ``config.packing`` holds."""

    source: str  # model_type before pruning
    family: str  # row of remodeler's family table, for pruning again
    layers: str  # path of the layer list in the model with its head
    num_hidden_layers: int  # source depth
    per_layer: dict[str, list[Any]]  # config lists with an entry per source layer
    branches: dict[str, BranchNames]
    had: NotRequired[list[list[str]]]  # by source layer, the kinds of its blocks, where layers are unlike
    unlike: NotRequired[dict[str, dict[str, BranchNames]]]  # by source layer, branches that differ from those above
    rest: NotRequired[dict[str, list[str]]]  # by source layer, modules that are in no block and stay
    whole: NotRequired[dict[str, Any]]  # config entries that a config of fewer layers would not keep
    overrides: NotRequired[dict[str, dict[str, Any]]]  # by source layer, what its config has otherwise
    derived: NotRequired[dict[str, list[Any]]]  # properties of the config with an entry per source layer
    shared: list[str]  # norms that several blocks of a layer read, removed with the last of them
    parallel: bool  # attention and MLP of a layer read the same input
    kept: list[list[Any]]  # [source layer, [kinds kept]], ascending
    shapes: NotRequired[dict[str, dict[str, list[int]]]]  # by source layer, of parameters narrower than the source's
    counts: NotRequired[Counts]  # beside shapes
    standard: NotRequired[dict[str, Any]]  # fields of a stock config with per_layer_config, for the day it is acted on
    auto_map: NotRequired[dict[str, str]]  # of a source that came with its own modelling code


class NoOp(nn.Module):
    """Stands where a block was and adds nothing to the residual stream."""

    def __init__(self, outputs: list[str | None] | None, stream: int | None) -> None:
        super().__init__()
        self.outputs, self.stream = outputs, stream

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = args[self.stream or 0] if args else kwargs["hidden_states"]
        hidden = torch.zeros_like(hidden) if self.stream is None else hidden
        if self.outputs is None:
            return hidden
        return (hidden, *(kwargs.get(name) if name else None for name in self.outputs[1:]))


def first(outputs: Any) -> Any:
    """The hidden states of what a layer returns, a tensor or a tuple that starts with one."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def set_module(parent: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path below its parent."""
    above, _, name = path.rpartition(".")
    setattr(parent.get_submodule(above), name, module)


def identity(module: nn.Module) -> nn.Identity:
    """Stands where a norm was; some layers ask theirs for the dtype of its weight."""
    same = nn.Identity()
    if isinstance(weight := getattr(module, "weight", None), torch.Tensor):
        vars(same)["weight"] = weight.new_empty(0, requires_grad=False)
    return same


def keep_buffers(module: nn.Module, noop: nn.Module) -> None:
    """Small buffers that are in no file stay: some models write into those of all their layers."""
    for name in module._non_persistent_buffers_set:
        buffer = getattr(module, name)
        if buffer is not None and buffer.numel() < 1 << 16:
            noop.register_buffer(name, buffer, persistent=False)


def strip(layer: nn.Module, names: BranchNames) -> None:
    """Take one block out of a layer, with the norms that only it uses."""
    for path in names["norms"]:
        set_module(layer, path, identity(layer.get_submodule(path)))
    for path in names["modules"][:-1]:
        set_module(layer, path, NoOp(None, 0))
    noop = NoOp(names["outputs"], names["stream"])
    keep_buffers(layer.get_submodule(names["modules"][-1]), noop)
    set_module(layer, names["modules"][-1], noop)
    for path, outputs in names.get("beside", {}).items():
        set_module(layer, path, NoOp(outputs, None))


def shorter(parameter: torch.Tensor, shape: Iterable[int]) -> torch.Tensor:
    """The first entries of a parameter along every dimension, in memory of their own."""
    return parameter.detach()[tuple(slice(length) for length in shape)].clone()


def narrow(layer: nn.Module, tensors: dict[str, torch.Tensor], counts: Counts) -> None:
    """Put narrower parameters into a layer, and give its modules the counts that go with them.

    ``tensors``: by path inside the layer. All of one block are narrower by the same share, that of its heads or
    channels, so what counts those in a module above them shrinks by that share too.
    """
    shares: dict[str, Fraction] = {}
    for path, tensor in tensors.items():
        place, _, name = path.rpartition(".")
        module, old = layer.get_submodule(place), layer.get_parameter(path)
        module.register_parameter(name, nn.Parameter(tensor, requires_grad=old.requires_grad))
        above = place.split(".")[:-1]
        shares |= {".".join(above[: i + 1]): Fraction(tensor.numel(), old.numel()) for i in range(len(above))}
        if name == "weight":
            count_features(module)
    for path, share in shares.items():
        module = layer.get_submodule(path)
        beside = [f"{path}.{name}.weight" for name, child in module.named_children() if isinstance(child, nn.Linear)]
        names = counts["all" if tensors.keys() >= set(beside) else "queries"]
        own = vars(module)
        own |= {name: int(own[name] * share) for name in names if isinstance(own.get(name), int)}


def count_features(linear: Any) -> None:
    """What a projection says of its own size: ``nn.Linear``, and the transposed one of GPT-2."""
    rows, columns = linear.weight.shape
    if hasattr(linear, "nf"):
        linear.nx, linear.nf = rows, columns
    else:
        linear.out_features, linear.in_features = rows, columns


class WithOrphans:
    """Mixed into a stock layer class: runs orphaned MLPs before and after the layer itself."""

    pre: nn.ModuleList
    post: nn.ModuleList

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        for orphan in self.pre:
            hidden_states = first(orphan(hidden_states, *args, **kwargs))
        outputs = super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        for orphan in self.post:
            hidden = first(orphan(first(outputs), *args, **kwargs))
            outputs = (hidden, *outputs[1:]) if isinstance(outputs, tuple) else hidden
        return outputs


@cache
def layer_class(stock: type) -> type:
    """The stock layer class with room for orphans."""
    return type(f"Packed{stock.__name__}", (WithOrphans, stock), {"__module__": __name__})


def adopt(layer: Any, pre: list[nn.Module], post: list[nn.Module]) -> Any:
    """Give a layer its orphans. Its own parameters keep their names; without orphans it stays as it is."""
    if pre or post:
        layer.__class__ = layer_class(layer.__class__)
        layer.pre, layer.post = nn.ModuleList(pre), nn.ModuleList(post)
    return layer


def is_main(kinds: Iterable[str]) -> bool:
    """Whether blocks of these kinds make a layer of the packed model: one of them has a state in the cache."""
    return "attention" in kinds or "mixer" in kinds


def branches_of(packing: Packing, number: int) -> dict[str, BranchNames]:
    """The blocks that a source layer had."""
    every = {**packing["branches"], **packing.get("unlike", {}).get(str(number), {})}
    had = packing["had"][number] if "had" in packing else every
    return {kind: names for kind, names in every.items() if kind in had}


def arrange(layers: nn.ModuleList, packing: Packing) -> nn.ModuleList:
    """Layers of the source depth to one a remaining attention; remodeler's ``pairing.py`` names tensors alike."""
    mains: list[tuple[nn.Module, list[nn.Module]]] = []
    lead: list[nn.Module] = []
    for number, kinds in packing["kept"]:
        layer = layers[number]
        for kind, names in branches_of(packing, number).items():
            if kind not in kinds:
                strip(layer, names)
        shapes = packing.get("shapes", {}).get(str(number), {})
        tensors = {path: shorter(layer.get_parameter(path), shape) for path, shape in shapes.items()}
        narrow(layer, tensors, packing.get("counts", UNNAMED))
        if is_main(kinds):
            mains.append((layer, []))
        else:
            (mains[-1][1] if mains else lead).append(layer)
    return nn.ModuleList(adopt(layer, lead if j == 0 else [], post) for j, (layer, post) in enumerate(mains))


def renumber(layers: Iterable[Any]) -> None:
    """Cache slots without holes: ``layer_idx`` of every module counts the layers that are left."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in NUMBERS:
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, index)


def main_layers(packing: Packing) -> list[int]:
    """Source layers that the layers of the packed model are."""
    return [number for number, kinds in packing["kept"] if is_main(kinds)]

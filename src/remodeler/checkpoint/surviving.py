"""Tensors of a pruned model: those of its source that survive, some groups of them only, by their new names."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from remodeler.model.blocks import Anatomy, LayerRef, own_modules
from remodeler.model.structures import Cut, Widths, structure_of
from remodeler.runs.units import KINDS, Block

Places = dict[tuple[int, str], str]
"""New path of a (source layer, part)."""


def source_tensors(anatomy: Anatomy) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model by name, without those tied to another."""
    tied = set(getattr(anatomy.model, "all_tied_weights_keys", None) or ())
    for name, tensor in anatomy.model.state_dict().items():
        if name not in tied:
            yield name, tensor


def cuts(anatomy: Anatomy, widths: Widths) -> dict[str, tuple[Cut, int, tuple[int, ...]]]:
    """By tensor: how the groups lie in it, how many there are, and those that stay."""
    paths = {id(module): name for name, module in anatomy.model.named_modules(remove_duplicate=False)}
    found: dict[str, tuple[Cut, int, tuple[int, ...]]] = {}
    for block, kept in widths.items():
        structure = structure_of(anatomy, block)
        layer = paths[id(anatomy.branches[block].site.layer)]
        found |= {f"{layer}.{cut.path}": (cut, structure.groups, kept) for cut in structure.cuts}
    return found


def slice_tensors(anatomy: Anatomy, widths: Widths, device: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the model by name, of some groups only; on the ``meta`` device nothing is read or copied."""
    cut_by_name = cuts(anatomy, widths)
    for name, tensor in source_tensors(anatomy):
        given = tensor if device is None else tensor.to(device)
        if name in cut_by_name:
            cut, groups, kept = cut_by_name[name]
            given = cut.kept(given, groups, kept)
        yield name, given


def rename_tensors(
    anatomy: Anatomy,
    removed: frozenset[Block],
    tensors: Iterable[tuple[str, Tensor]],
    places: Places,
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of what survives, by their new names."""
    paths = {id(module): name for name, module in anatomy.model.named_modules(remove_duplicate=False)}
    sites = {paths[id(site.layer)]: site for site in anatomy.sites}
    gone: set[tuple[int, str]] = {(block.layer, block.kind) for block in removed}
    for name, tensor in tensors:
        prefix = max((path for path in sites if name.startswith(path + ".")), key=len, default=None)
        if prefix is None:
            yield name, tensor
            continue
        site, local = sites[prefix], name[len(prefix) + 1 :]
        part = (site.number, _part(anatomy, site, local))
        if part in places and part not in gone:
            yield f"{places[part]}.{local}", tensor


def _part(anatomy: Anatomy, site: LayerRef, local: str) -> str:
    """Which part of a layer a tensor belongs to: a kind of block, ``shared`` or ``extra``."""
    for kind in KINDS:
        branch = anatomy.branches.get(Block(site.number, kind))
        if branch and any(local.startswith(path + ".") for path in own_modules(branch)):
            return kind
    return "shared" if any(local.startswith(path + ".") for path in anatomy.shared[site.number]) else "extra"

"""What a search may remove, and which blocks of a model are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

from remodeler.model.blocks import Anatomy
from remodeler.runs.units import Block, Unit


def candidates(anatomy: Anatomy, removed: list[Block]) -> list[Unit]:
    return [(block,) for block in anatomy.blocks() if block not in removed]


@contextmanager
def counting(anatomy: Anatomy) -> Iterator[list[Block]]:
    """Every evaluation of a block, in order."""
    ran: list[Block] = []
    hooks = []
    for block, branch in anatomy.branches.items():
        module = branch.site.layer.get_submodule(branch.names["modules"][-1])
        hooks.append(module.register_forward_hook(lambda *_, block=block: ran.append(block)))
    yield ran
    for hook in hooks:
        hook.remove()

"""Block: the name of one residual branch, as logs and records write it."""

from dataclasses import dataclass
from typing import Literal

from remodeler.errors import InputError

Kind = Literal["attention", "mixer", "cross", "mlp"]
KINDS: tuple[Kind, ...] = ("attention", "mixer", "cross", "mlp")
MIXING: tuple[Kind, ...] = ("attention", "mixer")
"""Kinds that mix tokens and so have a state in the cache; a mixer does it without a softmax over keys, as a linear
attention, a convolution or a state space does."""
DIGITS = 9
"""Of a layer's number, at most."""


@dataclass(frozen=True, order=True, repr=False)
class Block:
    """One residual branch of one layer; ``str()`` gives ``attention.12``.

    Layers keep the numbers they had in the source model.
    """

    layer: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    def __repr__(self) -> str:
        return f"<{self}>"

    @classmethod
    def parse(cls, text: str) -> "Block":
        """The block that ``str()`` wrote."""
        kind, _, layer = text.partition(".")
        if kind not in KINDS or not (layer.isascii() and layer.isdecimal()) or len(layer) > DIGITS:
            raise InputError(
                f"{text[:40]!r} is not a block: write attention.N, mixer.N, cross.N or mlp.N, N the layer's number"
            )
        return cls(int(layer), kind)


Unit = tuple[Block, ...]
"""Blocks that are removed together: one, or the attention and the MLP of a layer."""


def name(unit: Unit) -> str:
    """A unit's name in the log: ``attention.5`` or ``attention.5+mlp.5``."""
    return "+".join(map(str, unit))


def loose_blocks(unit: str) -> list[tuple[str, int]]:
    """``attention.5+mlp.5`` as (kind, layer) pairs, whatever the kinds are called; what has no number is left out."""
    pairs = [name.rpartition(".") for name in unit.split("+")]
    return [(kind, int(layer)) for kind, _, layer in pairs if layer.isdecimal()]

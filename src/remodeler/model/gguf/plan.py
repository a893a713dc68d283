"""Which architecture of llama.cpp can hold the rows of a pruned model, and what each of its layers then is.

Of the architectures there, ``deci`` leaves out halves of layers (Llama's shapes, Qwen2's biases), and ``openelm`` has
widths by layer and norms on queries and keys (Qwen3 with tied embeddings). Where ``deci`` goes wrong without a word
something that adds nothing stands in: an MLP 32 wide of zeros behind an attention without one (it would drop that
attention) and in the last layer (it would abort), a head of zeros in a first layer without attention (it would find no
head size). ``openelm`` has no holes at all: everything that is gone is such a stand-in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remodeler.errors import InputError
from remodeler.model.pairing import Row, plain

STAND_IN = 32
"""Channels of an MLP of zeros: a block of the common quantisations."""
PERMUTED = ("llama", "deci")
"""Architectures that rotate neighbours: rows of queries and keys lie in another order than in the others."""


@dataclass(frozen=True)
class Layer:
    """A layer of the file."""

    row: Row
    heads: int
    kv_heads: int
    channels: int

    @property
    def zero_attention(self) -> bool:
        """Whether its attention is a stand-in."""
        return self.row.attention is None and self.heads > 0

    @property
    def zero_mlp(self) -> bool:
        """Whether its MLP is a stand-in."""
        return self.row.mlp is None and self.channels > 0


@dataclass(frozen=True)
class Plan:
    """The file's architecture and its layers."""

    arch: str
    layers: tuple[Layer, ...]

    @property
    def uniform(self) -> bool:
        """Whether one number says how wide all layers are."""
        return len({(each.heads, each.kv_heads, each.channels) for each in self.layers}) == 1


@dataclass(frozen=True)
class Sizes:
    """How wide the blocks of a model are, by source layer."""

    arch: str
    """As llama.cpp calls the dense model: ``llama``, ``qwen2``, ``qwen3``."""
    heads: Mapping[int, int]
    kv_heads: Mapping[int, int]
    channels: Mapping[int, int]
    tied: bool
    """The output is the embedding."""


HOLED = {"llama": "deci", "qwen2": "deci", "qwen3": "openelm"}
"""The architecture that leaves out blocks of another one."""


def plan_layers(rows: Sequence[Row], sizes: Sizes) -> Plan:
    """The file's layers.

    Raises:
        InputError: when llama.cpp has no architecture for it, with the form to use instead.
    """
    if sizes.arch not in HOLED:
        raise InputError(
            f"llama.cpp leaves out blocks of {', '.join(HOLED)} only, this is {sizes.arch}: search with "
            "`shape='standard'`, whose result its own converter takes"
        )
    if not rows:
        raise InputError("every block is gone: nothing is left to export")
    layers = tuple(_native(row, sizes) for row in rows) if plain(rows) else ()
    if layers and Plan(sizes.arch, layers).uniform:
        return Plan(sizes.arch, layers)
    arch = HOLED[sizes.arch]
    if arch == "openelm" and not sizes.tied:
        raise InputError(
            "llama.cpp can leave out blocks of a Qwen3 with tied embeddings only, and this one has an output of its "
            "own: search with `shape='standard'`"
        )
    return Plan(arch, tuple(_fill_holes(arch, row, sizes, number, len(rows)) for number, row in enumerate(rows)))


def _native(row: Row, sizes: Sizes) -> Layer:
    return Layer(row, sizes.heads[row.attention or 0], sizes.kv_heads[row.attention or 0], sizes.channels[row.mlp or 0])


def _fill_holes(arch: str, row: Row, sizes: Sizes, number: int, count: int) -> Layer:
    """A layer with its stand-ins."""
    everywhere = arch == "openelm"
    heads = kv_heads = 1 if everywhere or number == 0 else 0
    if row.attention is not None:
        heads, kv_heads = sizes.heads[row.attention], sizes.kv_heads[row.attention]
    channels = STAND_IN if everywhere or row.attention is not None or number in (0, count - 1) else 0
    if row.mlp is not None:
        channels = sizes.channels[row.mlp]
    return Layer(row, heads, kv_heads, channels)

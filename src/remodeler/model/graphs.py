"""Walks over the graph that autograd keeps of a forward pass: who made a tensor, out of what."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

Node = tuple[Any, int]
"""An operator of autograd's graph, and which of its outputs."""

LAYOUT = frozenset(
    (
        *("View", "UnsafeView", "Reshape", "ReshapeAlias", "Expand", "Squeeze", "Unsqueeze", "Transpose", "T"),
        *("Permute", "MovedimInt", "AsStrided", "Clone", "Alias", "ToCopy", "NativeDropout"),
    )
)
"""Operators whose output is their input, laid out or rounded otherwise."""
PARTS = frozenset(
    (
        *("Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Chunk", "Index", "IndexSelect", "Gather"),
        *("Sum", "Mean"),
    )
)
SUMS = frozenset(("Add", "Sub", "IndexAdd", "IndexPut", "ScatterAdd", "CopySlices", "Cat", "Stack", "Where"))
"""With parts and layouts: what gives zeros where all that it is given is zeros."""
SCALES = frozenset(["Mul", "Div"])
PRODUCTS = frozenset(["Addmm", "Mm", "Bmm", "Baddbmm", "Addbmm", "Mv", "Matmul", "Linear", "GroupedMm", "Convolution"])
ATTENDS = ("ScaledDotProduct", "FlashAttention", "EfficientAttention", "FlexAttention")


def node_of(value: Any) -> Node | None:
    """Where a tensor was made; None for one that nothing was recorded of."""
    known = isinstance(value, Tensor) and value.grad_fn is not None
    return (value.grad_fn, value.output_nr) if known else None


def operator(node: Node) -> str:
    """The name of an operator, as ``Add`` for ``AddBackward0``."""
    return str(node[0].name()).rpartition("::")[2].partition("Backward")[0]


def inputs_of(node: Node) -> list[Node]:
    """What an operator was given, as far as it was recorded."""
    return [(given, index) for given, index in node[0].next_functions if given is not None]


def parameter_of(node: Node) -> nn.Parameter | None:
    """The parameter that a node returns, whole, in part or laid out otherwise; None for all else."""
    while not hasattr(node[0], "variable"):
        given = inputs_of(node)
        if len(given) != 1 or operator(node) not in LAYOUT | PARTS:
            return None
        node = given[0]
    found = node[0].variable
    return found if isinstance(found, nn.Parameter) else None


def behind(starts: Collection[Node], stops: Collection[Node]) -> Iterator[Node]:
    """Nodes that some are computed by, these first, without those where the walk stops."""
    seen, waiting = set(starts) - set(stops), [node for node in starts if node not in stops]
    while waiting:
        node = waiting.pop()
        yield node
        fresh = [given for given in inputs_of(node) if given not in seen and given not in stops]
        seen.update(fresh)
        waiting += fresh


def attends(node: Node, mixes: bool) -> bool:
    """Whether an operator is an attention, or the softmax inside one: over keys, for every head and query.

    Args:
        node: the operator.
        mixes: whether tokens are mixed around it; if not seen, heads must have a dimension of their own.
    """
    name = operator(node)
    if any(word in name for word in ATTENDS):
        return True
    result = getattr(node[0], "_saved_result", None) if name in ("Softmax", "SafeSoftmax") else None
    return isinstance(result, Tensor) and result.dim() >= (3 if mixes else 4)


def zeroing(node: Node, stops: Collection[Node], names: Mapping[int, str]) -> list[str] | None:
    """Names of the parameters whose zeros make a node return zeros, all operators behind them being linear.

    Args:
        node: what is to be zeros.
        stops: where the walk gives up.
        names: by the id of a parameter.

    Returns:
        None where there are none.
    """
    if node in stops:
        return None
    own, name, given = parameter_of(node), operator(node), inputs_of(node)
    if own is not None:
        return [names[id(own)]] if id(own) in names else None
    if name in PRODUCTS:
        weights = [
            names[id(value)] for each in given if (value := parameter_of(each)) is not None and id(value) in names
        ]
        return weights or _either(given, stops, names)
    if name in SCALES:
        return _either([each for each in given if parameter_of(each) is None], stops, names)
    if name not in SUMS | LAYOUT | PARTS or not given:
        return None
    found = [zeroing(each, stops, names) for each in given]
    return None if None in found else [each for several in found if several for each in several]


def _either(given: list[Node], stops: Collection[Node], names: Mapping[int, str]) -> list[str] | None:
    """Of one factor of a product."""
    return next((found for each in given if (found := zeroing(each, stops, names)) is not None), None)

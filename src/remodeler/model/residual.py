"""What a decoder layer adds to the residual stream, read off the graph that autograd keeps of one forward pass.

A layer's output is followed back through sums, scalings by constants, changes of layout and norms of the sum until its
input is met: that path is the *stream*. What is added to it on the way are *terms*; the modules that a term is computed
by, up to where it reads the stream, make a block. Nothing is known by name: a block that mixes tokens by a softmax over
keys is an attention, one that mixes them otherwise a mixer, and one that takes each token by itself an MLP. Its output
projection is found alike: the weights without which, all operators behind them being linear, it returns zeros.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from remodeler.model.graphs import (
    LAYOUT,
    PARTS,
    PRODUCTS,
    SCALES,
    SUMS,
    Node,
    attends,
    behind,
    inputs_of,
    node_of,
    operator,
    parameter_of,
    zeroing,
)
from remodeler.model.layer_calls import Unit, hands_on, keeps_shape, size_of
from remodeler.runs.units import Kind


@dataclass(frozen=True)
class Term:
    """The branches of one kind in a layer."""

    kind: Kind
    chain: tuple[Unit, ...]
    """Modules that run one after the other; the last gives what is added."""
    beside: tuple[Unit, ...]
    """Modules whose outputs are added too, or that feed those and can be left out with them."""
    norms: tuple[str, ...]
    """Norms on the way to them, and behind them."""
    out: tuple[str, ...]
    """Output projections, by their paths in the layer; none where they are not plain to see."""


@dataclass(frozen=True)
class Found:
    """What a layer is made of."""

    terms: tuple[Term, ...]
    rest: tuple[str, ...]
    """Modules that ran and are in no block; ``""`` is the layer itself, where it scales the stream or adds to it."""
    parallel: bool
    """Whether two of its blocks read the stream at one place."""
    problem: str = ""
    """Why its branches can't be told, as the end of a sentence."""


class Reading:
    """The graph of one layer, from the start of its input and what its modules were called with."""

    def __init__(self, layer: nn.Module, start: Node | None, units: list[Unit], names: dict[int, str]) -> None:
        self.layer, self.start, self.units, self.names = layer, start, units, names
        self.makers = {node: unit for unit in units for node in unit.made}
        self.known: dict[Node, bool] = {}
        self.stream = set[Node]()
        """Nodes on the way from the output to the input."""
        self.scaled = False
        self.alone = list[str]()
        """Parameters that the layer itself adds to the stream, as a module's bias that it is handed."""

    def found(self, output: Any) -> Found:
        """Terms and the rest, from what the layer returned."""
        end = node_of(output)
        if end is None or not self._carries(end):
            made = operator(end) if end else "nothing that was recorded"
            return _problem(f"what it returns is no sum that its input is part of (its last operator is {made})")
        roots = [each for root in self._added(end) for each in self._summands(root)]
        self.alone = [self.names.get(id(parameter_of(root)), "") for root in roots]
        groups = [_Branch(units, self._last(root)) for root in roots if (units := self._computed_by(root))]
        blocks = [each for each in groups if each.mains]
        if twice := _twice(blocks):
            return _problem(f"its {twice} is part of two sums")
        terms = tuple(self._by_kind(blocks))
        ours = [name for name in self.alone if any(name.startswith(f"{u.path}.") for t in terms for u in t.chain)]
        places = [frozenset(self._reads([*term.chain, *term.beside])) for term in terms]
        rest = tuple(self._rest(terms, own=len(blocks) + len(ours) < len(roots)))
        return Found(terms, rest, len(set(places)) < len(places))

    # The stream -------------------------------------------------------------------------------------------------------

    def _carries(self, node: Node) -> bool:
        """Whether the layer's input is a summand of what a node returns, or of what a norm there takes."""
        if node not in self.known:
            self.known[node] = False  # a graph has no circles
            self.known[node] = node == self.start or any([self._carries(each) for each in self._sources(node)])
        return self.known[node]

    def _sources(self, node: Node) -> list[Node]:
        """Where the stream may come from at a node."""
        if node == self.start:
            return []
        name, unit = operator(node), self.makers.get(node)
        if unit and unit.is_norm:
            return list(unit.taken)
        if name == "Add" or name in LAYOUT:
            return inputs_of(node)
        data = [each for each in inputs_of(node) if parameter_of(each) is None]
        return data if name in SCALES and len(data) == 1 else []

    def _added(self, node: Node) -> Iterator[Node]:
        """What is added to the stream up to a node on it, the last first."""
        self.stream.add(node)
        self.scaled |= operator(node) in SCALES and node not in self.makers
        for given in self._sources(node):
            if self._carries(given):
                yield from self._added(given)
            elif operator(node) == "Add":
                yield given

    def _summands(self, root: Node) -> Iterator[Node]:
        """What a term is the sum of, where a layer adds up branches before it adds them to the stream."""
        name, given = operator(root), inputs_of(root)
        data = [each for each in given if parameter_of(each) is None]
        if root not in self.makers and name == "Add":
            yield from (part for each in given for part in self._summands(each))
        elif root not in self.makers and name in LAYOUT | SCALES and len(data) == 1:
            yield from self._summands(data[0])
        else:
            yield root

    # Branches ---------------------------------------------------------------------------------------------------------

    def _computed_by(self, root: Node) -> list[Unit]:
        """Units that a node is computed by, up to the stream, in the order of their calls."""
        met = {self.makers[node].path for node in behind([root], self.stream) if node in self.makers}
        return [unit for unit in self.units if unit.path in met]

    def _last(self, node: Node) -> list[Unit] | None:
        """Units whose zeros make a node zeros: all of a sum, of a product the largest."""
        unit, name, given = self.makers.get(node), operator(node), inputs_of(node)
        if unit and not unit.is_norm:
            return [unit]
        if node in self.stream:
            return None
        found = [self._last(each) for each in (unit.taken if unit else given) if parameter_of(each) is None]
        told = [units for units in found if units]
        if not unit and name in SUMS | LAYOUT | PARTS and len(told) == len(found) and told:
            return [each for units in told for each in units]
        products = unit or name in SCALES | PRODUCTS
        return max(told, key=lambda units: sum(map(size_of, units))) if products and told else None

    def _by_kind(self, blocks: "list[_Branch]") -> Iterator[Term]:
        """One term for each kind of block, in the order in which they run."""
        kinds: dict[Kind, list[_Branch]] = {}
        for branch in sorted(blocks, key=lambda branch: self.units.index(branch.units[-1])):
            kinds.setdefault(self._kind(branch.mains), []).append(branch)
        for kind, several in kinds.items():
            yield self._term(kind, self._side_by_side(several))

    def _side_by_side(self, branches: "list[_Branch]") -> "list[_Branch]":
        """The largest of some branches that read the stream at one place: another, further on, is no part of it."""
        places: dict[frozenset[Node], list[_Branch]] = {}
        for branch in branches:
            places.setdefault(frozenset(self._reads(branch.mains)), []).append(branch)
        return max(places.values(), key=lambda each: sum(size_of(unit) for branch in each for unit in branch.mains))

    def _term(self, kind: Kind, several: "list[_Branch]") -> Term:
        mains = [unit for branch in several for unit in branch.mains]
        ends = [unit for branch in several for unit in branch.last]
        before = {path for unit in ends for path in self._before(unit)}
        plain = {unit.path for unit in mains if unit.path in before and hands_on(unit)}
        chain = tuple(unit for unit in mains if unit.path in plain or unit is ends[-1])
        spare = [unit for unit in mains if unit.path in before - plain and keeps_shape(unit)]
        norms = tuple(dict.fromkeys(unit.path for branch in several for unit in branch.units if unit.is_norm))
        return Term(kind, chain, (*spare, *ends[:-1]), norms, self._projections(ends))

    def _before(self, unit: Unit) -> Iterator[str]:
        """Units that one is fed by."""
        for node in behind(unit.taken, self.stream):
            if node in self.makers:
                yield self.makers[node].path

    def _kind(self, mains: list[Unit]) -> Kind:
        inside = {node for unit in mains for node in behind(unit.made, self.stream | unit.taken)}
        mixes = any(unit.mixes for unit in mains)
        if any(attends(node, mixes) for node in inside):
            return "attention"
        return "mixer" if mixes else "mlp"

    def foreign(self) -> list[nn.Parameter]:
        """Parameters of other layers that this one depends on, beside the stream."""
        given = {node for unit in self.units for node in (*unit.taken, *unit.made)}
        leaves = (getattr(node[0], "variable", None) for node in behind(given, self.stream))
        return [leaf for leaf in leaves if isinstance(leaf, nn.Parameter) and id(leaf) not in self.names]

    def _projections(self, ends: list[Unit]) -> tuple[str, ...]:
        """Paths of modules, or parameters, whose zeros make the branches zeros; none where that is not seen."""
        found = [zeroing(unit.made[0], self.stream | unit.taken, self.names) for unit in ends]
        if not all(found):
            return ()
        names = [name for several in found for name in several or ()]
        names += [name for name in self.alone if any(name.startswith(f"{unit.path}.") for unit in ends)]
        return tuple(dict.fromkeys(name.removesuffix(".weight").removesuffix(".bias") for name in names))

    def _reads(self, units: list[Unit]) -> Iterator[Node]:
        """Where some units read the stream."""
        given = {node for unit in units for node in unit.taken}
        for node in (*given, *behind(given, self.stream)):
            yield from (each for each in (node, *inputs_of(node)) if each in self.stream)

    def _rest(self, terms: tuple[Term, ...], own: bool) -> Iterator[str]:
        taken = {unit.path for term in terms for unit in (*term.chain, *term.beside)}
        taken |= {name for term in terms for name in term.norms}
        if own or self.scaled or next(self.layer.parameters(recurse=False), None) is not None:
            yield ""
        yield from dict.fromkeys(unit.path for unit in self.units if unit.path not in taken)


def _problem(what: str) -> Found:
    return Found((), (), False, what)


@dataclass(frozen=True)
class _Branch:
    """What one summand of a layer is computed by."""

    units: list[Unit]
    """In the order of their calls."""
    ends: list[Unit] | None
    """Those whose outputs are added, as far as that is seen."""

    @property
    def mains(self) -> list[Unit]:
        """All that are no norms."""
        return [unit for unit in self.units if not unit.is_norm]

    @property
    def last(self) -> list[Unit]:
        """Those whose outputs are added, or the last one, in the order of their calls."""
        return [unit for unit in self.units if unit in self.ends] if self.ends else self.mains[-1:]


def _twice(blocks: list[_Branch]) -> str:
    """A module that is no norm and that two branches are computed by; empty for none."""
    paths = [unit.path for branch in blocks for unit in branch.mains]
    return next((path for path in paths if paths.count(path) > 1), "")

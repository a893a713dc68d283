"""The arms of ``pruning_methods.py``: what each method removes of a model at a ratio, and what finding it cost.

An arm's ``find`` takes (setup, ratio, folder). A search is made once, to the largest ratio that it is asked for and can
reach, and cut for the others; refinements and widths are made for each ratio. What was found lies in the folder, and
the same call goes on from there.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import read_rows
from quality import Setup

from remodeler.checkpoint.load import fingerprint
from remodeler.errors import InputError
from remodeler.pruning.config import Budget
from remodeler.pruning.methods import CRITERIA, METHODS, Method, nothing
from remodeler.pruning.search.budget import share, steps_within
from remodeler.pruning.search.candidates import longest_path
from remodeler.pruning.search.loop import Search, prune
from remodeler.pruning.search.refine import refine
from remodeler.pruning.search.strategies import STRATEGIES
from remodeler.pruning.width.width import thin
from remodeler.runs.records import append_line
from remodeler.runs.removals import REMOVALS_FILE, Header, Step, blocks_of, copy_steps, read_log
from remodeler.runs.units import Block

Widths = Mapping[Block, tuple[int, ...]]
State = tuple[Block, ...]
SEED = 42
BLOCKS_FIRST = 0.44
"""Share of what is to go that blocks take, where widths follow: MultiPruner's."""


@dataclass(frozen=True)
class Cost:
    """What finding something took."""

    seconds: float = 0.0
    cpu: float = 0.0
    """Seconds of processor time, which a busy machine does not stretch as much."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.seconds + other.seconds, self.cpu + other.cpu)


@dataclass(frozen=True)
class Found:
    """What a method removes."""

    states: tuple[State, ...]
    """The blocks that are gone after each step, from the intact model to the result; empty where none reaches it."""
    cost: Cost = Cost()
    widths: Widths | None = None
    """Of blocks that stay, the groups that stay."""
    why: str = ""
    """Why it can't be had."""
    swaps: int | None = None
    """Of a refinement."""


Find = Callable[[Setup, float, Path], Found]


@dataclass(frozen=True)
class Arm:
    """One row of the tables."""

    name: str
    find: Find
    unit: str
    variant: bool = False
    """A version of a row, which explains it."""
    seed: int = 0


# ---- searches for blocks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How a search goes."""

    method: Method
    scan: str = "exact"
    seed: int = SEED

    def search(self, setup: Setup, ratio: float) -> Search:
        """The search to a ratio."""
        anatomy, method = setup.checkpoint.anatomy, self.method
        budget = Budget(ratio=ratio)
        return Search(anatomy, setup.calibration, budget, method, method.unit, seed=self.seed, strategy=self.scan)


def searched(name: str, way: Way, setup: Setup, ratio: float, folder: Path) -> Found:
    """The path of a search, cut at a ratio."""
    search = way.search(setup, ratio)
    reach = _reach(search)
    if reach < ratio:
        return Found((), why=f"at most {reach:.1%}")
    header, steps = _path(search, setup, folder / name)
    cut = steps_within(search.anatomy, search.budget, header["perplexity"], steps)
    return Found(_states(cut), spent(folder / name / "cost.jsonl", len(cut)))


def _reach(search: Search) -> float:
    path = longest_path(search.anatomy, search.unit, search.shape, search.method)
    return share(search.anatomy, [block for unit in path for block in unit])


def _path(search: Search, setup: Setup, folder: Path) -> tuple[Header, list[Step]]:
    """The log of a search that goes at least so far."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / REMOVALS_FILE
    if not (log.exists() and share(search.anatomy, blocks_of(read_log(log)[1])) >= (search.budget.ratio or 0)):
        meter = metered(folder / "cost.jsonl")
        prune(replace(search, on_step=lambda step: meter(step.step)), log, _identity(search, setup))
    return read_log(log)


def _identity(search: Search, setup: Setup) -> Header:
    return {
        "model": {"weights": fingerprint(setup.checkpoint.model)},
        "texts": {"sha256": setup.calibration.fingerprint()},
        "options": {"unit": search.unit, "scan": search.strategy, "seed": search.seed},
    }


def _states(steps: Sequence[Step]) -> tuple[State, ...]:
    return tuple(tuple(blocks_of(steps[:count])) for count in range(len(steps) + 1))


def refined(name: str, base: tuple[str, Way], setup: Setup, ratio: float, folder: Path) -> Found:
    """What a search found, and the swaps of ``refine`` behind it; before its last step the path is the search's.

    Swaps are raced: the winner's perplexity is exact all the same.
    """
    start = searched(*base, setup, ratio, folder)
    if not start.states:
        return start
    search, own = replace(base[1], scan="race").search(setup, ratio), folder / name / f"{ratio:g}"
    if not (own / "done").exists():
        _refine(search, folder / base[0] / REMOVALS_FILE, own)
    steps = read_log(own / REMOVALS_FILE)[1]
    swaps = sum(bool(step.restored) for step in steps)
    cost = start.cost + spent(own / "cost.jsonl")
    return Found((*start.states[:-1], tuple(blocks_of(steps))), cost, swaps=swaps)


def _refine(search: Search, source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log, meter = folder / REMOVALS_FILE, metered(folder / "cost.jsonl")
    if not log.exists():
        header, steps = read_log(source)
        cut = steps_within(search.anatomy, search.budget, header["perplexity"], steps)
        copy_steps(source, log, len(cut))
    steps = refine(replace(search, on_step=lambda step: meter(step.step)), read_log(log)[1], log)
    meter(len(steps))  # the trials that brought no swap
    (folder / "done").touch()


# ---- heads and channels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thinning:
    """How widths are chosen, after a search for blocks that takes a share of what is to go."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[str, Way] | None = None
    """The name of that search and how it goes."""
    part: float = 0.0
    """The share of what is to go that blocks take."""


def thinned(name: str, way: Thinning, setup: Setup, ratio: float, folder: Path) -> Found:
    """Heads and channels, chosen for each ratio anew."""
    start = searched(*way.blocks, setup, ratio * way.part, folder) if way.blocks else Found(((),))
    if not start.states:
        return start
    own = folder / name / f"{ratio:g}"
    own.mkdir(parents=True, exist_ok=True)
    anatomy, meter = setup.checkpoint.anatomy, metered(own / "cost.jsonl")
    try:
        result = thin(
            anatomy, setup.calibration, start.states[-1], ratio, way.method, own, SEED, options=dict(way.options)
        )
    except InputError as error:
        return Found((), why=str(error))
    meter(0)
    return Found((*start.states, tuple(result.removed)), start.cost + spent(own / "cost.jsonl"), result.widths)


# ---- what it costs ---------------------------------------------------------------------------------------------------


def metered(file: Path) -> Callable[[int], None]:
    """Told the number of every step, it writes down the time since the one before."""
    clock = [time.perf_counter(), time.process_time()]

    def tell(step: int) -> None:
        now = [time.perf_counter(), time.process_time()]
        append_line(file, {"step": step, "seconds": now[0] - clock[0], "cpu": now[1] - clock[1]})
        clock[:] = now

    return tell


def spent(file: Path, steps: float = math.inf) -> Cost:
    """The time of the first steps."""
    lines = [line for line in read_rows(file) if line["step"] <= steps]
    return Cost(sum(line["seconds"] for line in lines), sum(line["cpu"] for line in lines))


# ---- the table -------------------------------------------------------------------------------------------------------


def ways() -> Iterator[tuple[str, Way, bool]]:
    """Every search: name, way, and whether it is a variant of another row."""
    for name, method in METHODS.items():
        if name != "random":
            yield name, Way(method), False
    for name in ("finercut", "shortened-llama", "sleb"):
        yield f"{name} unprotected", Way(replace(METHODS[name], protect=nothing)), True
    for criterion in ("taylor", "magnitude"):
        yield f"shortened-llama {criterion}", Way(_measured_by("shortened-llama", criterion)), False
    for criterion in ("js-released", "kl", "norm", "angular"):
        yield f"finercut {criterion}", Way(_measured_by("finercut", criterion)), True
    yield "shortgpt relative-magnitude", Way(_measured_by("shortgpt", "relative-magnitude")), True
    for scan in STRATEGIES:
        yield f"blockpruner {scan}", Way(METHODS["blockpruner"], scan), True


def _measured_by(row: str, criterion: str) -> Method:
    return replace(METHODS[row], criterion=CRITERIA[criterion])


def thinnings() -> Iterator[tuple[str, Thinning, str, bool]]:
    """Every choice of heads and channels: name, way, unit, and whether it is a variant."""
    unit = "heads, channels"
    yield "policy-gradient", Thinning("policy-gradient"), unit, False
    for granularity in ("layer", "block"):
        options = {"granularity": granularity}
        yield f"policy-gradient {granularity}s", Thinning("policy-gradient", options), granularity, True
    yield "hybrid-grained", Thinning("hybrid-grained"), unit, False
    for fusion in ("fine", "coarse"):
        yield f"hybrid-grained {fusion}", Thinning("hybrid-grained", {"fusion": fusion}), unit, True
    for base in ("blockpruner", "size-weighted"):
        blocks = (base, Way(METHODS[base]))
        way = Thinning("hybrid-grained", {}, blocks, BLOCKS_FIRST)
        yield f"{base} then hybrid-grained", way, "block, then heads, channels", False


def arms() -> list[Arm]:
    """All rows, BlockPruner's first."""
    named = list(ways())
    found = [Arm(name, partial(searched, name, way), way.method.unit, variant) for name, way, variant in named]
    for row, base in (
        ("blockpruner", "blockpruner race"),
        ("size-weighted", "size-weighted"),
        ("one-shot", "one-shot"),
    ):
        way = next(way for name, way, _ in named if name == base)
        found.append(Arm(f"{row} refined", partial(refined, f"{row} refined", (base, way)), "block"))
    found += [Arm(name, partial(thinned, name, way), unit, variant) for name, way, unit, variant in thinnings()]
    for seed in (1, 2, 3):
        way = Way(METHODS["random"], seed=seed)
        found.append(Arm("random", partial(searched, f"random-{seed}", way), "block", seed=seed))
    return found

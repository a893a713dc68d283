"""Heads and channels: which of them stay, by any method, in one job that a kill does not cost. WIDTH_METHODS: the rows.

The job is the same for all: find what can be sliced, score it, keep the best groups of the budget. A method gives
scores; :mod:`remodeler.pruning.width.selection` makes widths of them, whatever the rules for widths. Policy gradient
can ask for whole blocks or layers too (``granularity``), which are then removed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from remodeler.checkpoint.load import fingerprint
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.minibatches import device_of
from remodeler.model.structures import Structure, Widths
from remodeler.model.widths import masked, structures, why_not
from remodeler.pruning.search.candidates import candidates
from remodeler.pruning.width.channel_groups import budgets, make_bunches
from remodeler.pruning.width.hybrid import Hybrid, estimates, fuse_estimates
from remodeler.pruning.width.initial import wanda
from remodeler.pruning.width.policy import Policy, learn
from remodeler.pruning.width.projection import Pool
from remodeler.pruning.width.selection import Pooling, Rules, kept_groups, removed_units, wanted_parameters
from remodeler.pruning.width.store import Line, Store
from remodeler.pruning.width.trials import feed, group_trial, unit_trial
from remodeler.runs.progress import Progress, part, silent
from remodeler.runs.units import Block

Granularity = Literal["groups", "heads", "channels", "block", "layer"]
"""Heads and channels, one of both, or whole blocks or layers."""
Groups = dict[Block, Structure]


@dataclass(frozen=True)
class Task:
    """What is to go, from what."""

    anatomy: Anatomy
    windows: Windows
    removed: tuple[Block, ...]
    """Blocks that are gone already."""
    ratio: float
    """Share of the whole model's parameters that is to be gone at the end, with those blocks."""
    granularity: Granularity
    rules: Rules
    seed: int
    size: int | None
    """Windows at once; by default chosen for the device."""
    store: Store
    progress: Progress = field(default=silent, repr=False)

    def wanted(self) -> int:
        """Parameters that must go."""
        return wanted_parameters(self.anatomy, self.removed, self.ratio)

    def groups(self) -> Groups:
        """What can be sliced and may be, in the order of the blocks.

        Raises:
            InputError: when it is nothing.
        """
        kinds = {"groups": ("attention", "mlp"), "heads": ("attention",), "channels": ("mlp",)}[self.granularity]
        left = [block for block in self.anatomy.blocks() if block not in self.removed and block.kind in kinds]
        found = structures(self.anatomy)
        if not any(block in found for block in left):
            why = f" ({left[0]}: {why_not(self.anatomy, left[0])})" if left else ""
            raise InputError(f"this model has no {self.granularity} that can be sliced{why}: remove blocks instead")
        return {block: found[block] for block in left if block in found}


@dataclass(frozen=True)
class WidthResult:
    """What stays."""

    widths: Widths
    """By block the groups that stay; a block that is not named keeps all."""
    removed: tuple[Block, ...]
    """Blocks that are gone: those that were before, then those of this job."""
    scores: Mapping[Block, Tensor]
    """[groups] of every block that could be sliced, or [1] of every block that could go: the lowest went."""
    history: Sequence[Line]
    """A line a step, as in ``width.jsonl``."""


Search = Callable[[Task, Any], WidthResult]


@dataclass(frozen=True)
class WidthMethod:
    """A way to choose heads and channels."""

    search: Search
    settings: type[Any]
    """Its options, a frozen dataclass."""
    pooling: Pooling
    summary: str


def thin(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    ratio: float,
    method: str = "hybrid-grained",
    folder: Path | None = None,
    seed: int = 42,
    size: int | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> WidthResult:
    """Choose the heads and channels that stay; the model is left as it was.

    Args:
        anatomy: the traced model.
        windows: the calibration text.
        removed: blocks that are gone already.
        ratio: share of the whole model's parameters that is to be gone at the end, with those blocks.
        method: a row of ``WIDTH_METHODS``.
        folder: where the state and the history are kept, and taken up again.
        seed: of masks and batches.
        size: windows at once; by default chosen for the device.
        options: ``granularity``, ``uniform``, ``multiple``, ``pooling``, and the fields of the method's settings.
        progress: told the share done, and a few words.

    Raises:
        InputError: for options that are not known, a ratio that is out of reach, the state of another search.
    """
    row = method_named(method)
    given = dict(options or {})
    granularity, rules = _granularity(given, method), _rules(given, row)
    settings = _settings(row, given, method)
    identity = {
        "weights": fingerprint(anatomy.model),
        "texts": windows.fingerprint(),
        **{"removed": [str(block) for block in removed], "ratio": ratio, "method": method, "seed": seed, "size": size},
        **{"granularity": granularity, **vars(rules), **vars(settings)},
    }
    task = Task(
        *(anatomy, windows, tuple(removed), ratio, granularity, rules, seed, size),
        *(Store(folder, identity), progress),
    )
    return row.search(task, settings)


def method_named(method: str) -> WidthMethod:
    """The row of a method's name."""
    if method not in WIDTH_METHODS:
        raise InputError(f"{method!r} is no way to choose widths: choose one of {', '.join(WIDTH_METHODS)}")
    return WIDTH_METHODS[method]


def _granularity(given: dict[str, Any], method: str) -> Granularity:
    value: Any = given.pop("granularity", "groups")
    known = get_args(Granularity) if method == "policy-gradient" else get_args(Granularity)[:3]
    if value not in known:
        raise InputError(f"{value!r} is no granularity of {method}: choose one of {', '.join(known)}")
    chosen: Granularity = value
    return chosen


def _rules(given: dict[str, Any], row: WidthMethod) -> Rules:
    rules = Rules(given.pop("pooling", row.pooling), given.pop("multiple", 1), given.pop("uniform", False))
    if rules.multiple < 1:
        raise InputError(f"a multiple of {rules.multiple} channels was asked for: give 1 or more")
    return rules


def _settings(row: WidthMethod, given: Mapping[str, Any], method: str) -> Any:
    known = [each.name for each in fields(row.settings)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"{unknown[0]!r} is no option of {method}: it knows {', '.join(known)}")
    return row.settings(**given)


# Policy gradient ------------------------------------------------------------------------------------------------------


def _policy(task: Task, policy: Policy) -> WidthResult:
    """Probabilities of groups, each kind with its own budget; or of blocks or layers."""
    if task.granularity in ("block", "layer"):
        return _policy_units(task, policy)
    groups, wanted = task.groups(), task.wanted()
    _reachable(groups, wanted, task)
    density = 1 - max(0, wanted) / sum(each.groups * each.parameters for each in groups.values())
    channels = sum(each.groups for block, each in groups.items() if block.kind == "mlp")
    first = wanda(task.anatomy, task.windows, task.removed, groups, task.size)
    bunches = make_bunches(groups, first, policy.bunch or math.ceil(channels / policy.steps) or 1)
    start, pools = budgets(bunches, density, policy.initial)
    batches = feed(task.anatomy, task.windows, policy.batch, task.size, task.seed)
    with group_trial(task.anatomy, task.removed, groups, batches) as losses:

        def trial(step: int, drawn: Tensor) -> Tensor:
            return losses(step, bunches.masks(drawn))

        learned, history = learn(start, pools, trial, policy, task.seed, task.store, task.progress)
    scores = bunches.scores(learned)
    return WidthResult(kept_groups(groups, scores, wanted, task.rules), task.removed, scores, history)


def _reachable(groups: Groups, wanted: int, task: Task) -> None:
    """Refuse before the learning what could not be kept after it."""
    nothing = {block: torch.zeros(each.groups) for block, each in groups.items()}
    kept_groups(groups, nothing, wanted, task.rules)


def _policy_units(task: Task, policy: Policy) -> WidthResult:
    """Probabilities of blocks or layers; the budget counts parameters. They stay on the host, which removes them."""
    units, wanted = candidates(task.anatomy, task.granularity, removed=task.removed), task.wanted()
    left = task.anatomy.parameters(task.removed)
    sizes = [float(left - task.anatomy.parameters([*task.removed, *unit])) for unit in units]
    removed_units(task.anatomy, units, [0.0] * len(units), task.removed, wanted)  # refuses what is out of reach
    costs = torch.tensor(sizes, dtype=torch.float64) / (sum(sizes) / len(sizes))
    density = 1 - max(0, wanted) / sum(sizes)
    pool = Pool(slice(0, len(units)), density * len(units), costs)
    batches = feed(task.anatomy, task.windows, policy.batch, task.size, task.seed)
    with unit_trial(task.anatomy, task.removed, units, batches) as trial:
        start = torch.full((len(units),), density, dtype=torch.float64)
        learned, history = learn(start, [pool], trial, policy, task.seed, task.store, task.progress)
    gone = removed_units(task.anatomy, units, learned.tolist(), task.removed, wanted)
    scores = {block: learned[index, None] for index, unit in enumerate(units) for block in unit}
    return WidthResult({}, (*task.removed, *gone), scores, history)


# Hybrid-grained -------------------------------------------------------------------------------------------------------


def _hybrid(task: Task, hybrid: Hybrid) -> WidthResult:
    """Estimates of all groups, in rounds: each scores what the ones before have left."""
    groups, wanted = task.groups(), task.wanted()
    _reachable(groups, wanted, task)
    found = task.store.load()
    done = int(found["round"]) if found else 0
    history = task.store.history(done)
    scores = {block: found[str(block)] for block in groups} if found else {}
    for number in range(done, hybrid.rounds):
        before = kept_groups(groups, scores, wanted * number // hybrid.rounds, task.rules) if number else {}
        scores, loss = _round(task, groups, hybrid, before, number)
        history.append({"round": number + 1, "loss": loss, "groups": sum(map(len, before.values()))})
        task.store.log(history[-1:])
        task.store.save({"round": torch.tensor(number + 1)} | {str(block): each for block, each in scores.items()})
    return WidthResult(kept_groups(groups, scores, wanted, task.rules), task.removed, scores, history)


def _round(
    task: Task, groups: Groups, hybrid: Hybrid, before: Widths, number: int
) -> tuple[dict[Block, Tensor], float | None]:
    """Scores of the groups that are left; of those that are gone, minus infinity. And the mean loss."""
    device = device_of(task.anatomy.model)
    masks = {block: torch.zeros(groups[block].groups, device=device) for block in before}
    for block, mask in masks.items():
        mask[torch.tensor(before[block], device=device)] = 1.0
    words = f"round {number + 1} of {hybrid.rounds}"
    progress = part(task.progress, number / hybrid.rounds, 1 / hybrid.rounds, words)
    with masked(task.anatomy, masks):
        found = estimates(task.anatomy, task.windows, task.removed, groups, hybrid, progress)
    scores = fuse_estimates(found, hybrid)
    gone = {block: scores[block].masked_fill(mask == 0, -torch.inf) for block, mask in masks.items()}
    return scores | gone, found.loss


WIDTH_METHODS: dict[str, WidthMethod] = {
    "policy-gradient": WidthMethod(
        _policy,
        Policy,
        "separate",
        "keep-probabilities learned from forward passes (arXiv 2406.10576), heads and channels each with a budget",
    ),
    "hybrid-grained": WidthMethod(
        _hybrid,
        Hybrid,
        "shared",
        "fine and coarse Taylor estimates, fused for each group (after HyWIA, arXiv 2403.10799: a reconstruction)",
    ),
}

"""How the candidates of a step are measured, beside exactly: in a race, or those only that a backward pass proposes.

What races remember of each other is kept beside the removal log, so that a killed search resumes to the same decisions.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import perplexity
from remodeler.pruning.criteria.gradients import second_order
from remodeler.pruning.criteria.sweep import sweep
from remodeler.pruning.search.lazy import NOTHING_KNOWN, Bounds, race_lazily
from remodeler.pruning.search.racing import Table
from remodeler.runs import processes
from remodeler.runs.progress import Progress, silent
from remodeler.runs.records import write_bytes
from remodeler.runs.units import Block, Unit

RACES = "races"
"""Folder beside the removal log."""
PROPOSED = 0.25
"""Share of the candidates that the backward pass proposes; the best was mostly among its first three in our trials."""


@dataclass(frozen=True)
class Scores:
    """What a step knows of its candidates."""

    importance: Mapping[Unit, float]
    """Higher = more important."""
    windows: Mapping[Unit, int] = field(default_factory=dict)
    """After a race: how many windows each one saw."""


def score_in_race(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    error: float = 0.01,
    past_races: list[Table] | None = None,
    bounds: Bounds = NOTHING_KNOWN,
    **_: Any,
) -> Scores:
    """All candidates start, or those that bounds leave a chance; the clearly worse ones leave.

    See :mod:`remodeler.pruning.search.racing` and :mod:`remodeler.pruning.search.lazy`.
    """
    how: dict[str, Any] = {"size": size, "progress": progress, "error": error}
    past = [] if past_races is None else past_races
    raced, found = race_lazily(anatomy, windows, removed, candidates, bounds, past_races=past, **how)
    values = zip(raced, map(perplexity, found.losses), strict=True)
    return Scores(dict(values), dict(zip(raced, found.seen, strict=True)))


def score_proposed(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Scores:
    """One backward pass names those whose removal should cost least; only they are measured, exactly."""
    estimates = second_order(anatomy, windows, removed, candidates, size=size, **options)
    ranked = sorted(zip(estimates, candidates, strict=True), key=lambda pair: pair[0])
    best = {unit for _, unit in ranked[: max(4, round(PROPOSED * len(candidates)))]}
    chosen = [unit for unit in candidates if unit in best]  # ties go to the first, as ever
    losses = sweep(anatomy, windows, removed, chosen, size, progress)
    return Scores(dict(zip(chosen, map(perplexity, losses), strict=True)))


class Strategy(Protocol):
    """How the candidates of one step are scored: takes what a criterion takes, and may score some of them only."""

    def __call__(
        self,
        anatomy: Anatomy,
        windows: Windows,
        removed: Sequence[Block],
        candidates: Sequence[Unit],
        /,
        *args: Any,
        **options: Any,
    ) -> Scores:
        """Score candidates by perplexity and leave the model as it was."""
        ...


STRATEGIES: dict[str, Strategy] = {"race": score_in_race, "lazy": score_in_race, "propose": score_proposed}
"""Searches beside the exact one, which asks the method's criterion about every candidate. A lazy one is a race to which
the loop gives bounds."""


# What races remember --------------------------------------------------------------------------------------------------


def recall(log: Path | None, steps: int) -> list[Table]:
    """Tables of the races of the steps that are done, in all processes."""
    return processes.from_first(
        [_table(_place(log, step)) for step in range(1, steps + 1)] if _has_all_races(log, steps) else []
    )


def remember(log: Path | None, step: int, past_races: Sequence[Table]) -> None:
    """Keep the table of a step's race, before the step is logged."""
    if log and past_races:
        table = past_races[-1]
        facts = {
            "text": json.dumps(table.text),
            "removed": json.dumps([str(block) for block in sorted(table.removed)]),
            "columns": json.dumps([[str(block) for block in unit] for unit in table.columns]),
        }
        tensors = {"losses": table.losses, "seen": np.array(table.seen)}
        _place(log, step).parent.mkdir(exist_ok=True)
        write_bytes(_place(log, step), save(tensors, metadata=facts))


def _place(log: Path | None, step: int) -> Path:
    assert log
    return log.parent / RACES / f"{step}.safetensors"


def _has_all_races(log: Path | None, steps: int) -> bool:
    """Whether every race is still there: a finished search leaves none behind."""
    return bool(log) and all(_place(log, step).exists() for step in range(1, steps + 1))


def _table(path: Path) -> Table:
    try:
        with safe_open(path, framework="np") as file:
            facts, losses, seen = file.metadata(), file.get_tensor("losses"), file.get_tensor("seen")
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): delete it, and the same command goes on without it") from None
    columns = [tuple(map(Block.parse, unit)) for unit in json.loads(facts["columns"])]
    text, seed = json.loads(facts["text"])
    removed = frozenset(map(Block.parse, json.loads(facts["removed"])))
    return Table((text, seed), removed, {unit: i for i, unit in enumerate(columns)}, losses, seen.tolist())

"""The table of merge methods: a row each, with its options and its survey of a tensor."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remodeler.merging.dropping import dare, della, rescale_factors
from remodeler.merging.methods import (
    Combine,
    Facts,
    Survey,
    arc_shares,
    breadcrumbs,
    changed_squares,
    largest_changes,
    linear,
    middle_changes,
    pool_squares,
    sce,
    select_and_calculate,
    slerp,
    task_arithmetic,
    ties,
    varm,
)


@dataclass(frozen=True)
class Method:
    """A merge method."""

    combine: Combine
    options: Mapping[str, float | bool | str]
    """Names and defaults; those in ``PER_MODEL`` have a value per model."""
    survey: Survey | None = None
    pool: Callable[[Sequence[Facts]], Facts] | None = None
    """Combines the facts of tensors into those of their layer or model."""
    needs_base: bool = True
    by_rows: bool = False
    models: int | None = None
    """Number of models that it merges; None for any number."""
    passes: str = "1"
    """Passes over a tensor that is too large to be kept in memory."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Options of the function that this row fixes."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Allowed values of the options that are words."""


PER_MODEL = ("weight", "density", "gamma", "epsilon")
PAPER = {"variant": ("paper", "mergekit")}
SCE = {"variant": ("paper", "fuseai", "mergekit")}
UNITS = {"granularity": ("tensor", "layer", "model")}
ARITHMETIC: dict[str, float | bool | str] = {"weight": 1.0, "scale": 1.0}
MEAN: dict[str, float | bool | str] = ARITHMETIC | {"normalize": True}
SUM: dict[str, float | bool | str] = ARITHMETIC | {"normalize": False}
CRUMBS = SUM | {"density": 0.9, "gamma": 0.01}
DROPPED: dict[str, float | bool | str] = {"density": 0.5, "rescale": True, "variant": "paper"}
BY_RANK = DROPPED | {"epsilon": 0.15}
CONSENSUS = {"consensus": True}
ONCE = "1, or 2 in the variant mergekit"

METHODS: dict[str, Method] = {
    "linear": Method(linear, {"weight": 1.0, "normalize": True}, needs_base=False),
    "slerp": Method(
        slerp, {"t": 0.5, "variant": "paper"}, arc_shares, needs_base=False, models=2, passes="2", choices=PAPER
    ),
    "task_arithmetic": Method(task_arithmetic, SUM),
    "ties": Method(ties, MEAN | {"density": 0.2}, largest_changes, passes="3, or 4 where equal changes are cut"),
    "breadcrumbs": Method(breadcrumbs, CRUMBS, middle_changes, passes="3 or 4"),
    "breadcrumbs_ties": Method(breadcrumbs, CRUMBS, middle_changes, passes="3 or 4", fixed=CONSENSUS),
    "dare_linear": Method(dare, SUM | DROPPED, rescale_factors, passes=ONCE, choices=PAPER),
    "dare_ties": Method(dare, SUM | DROPPED, rescale_factors, passes=ONCE, choices=PAPER, fixed=CONSENSUS),
    "della_linear": Method(della, SUM | BY_RANK, rescale_factors, by_rows=True, passes=ONCE, choices=PAPER),
    "della": Method(della, MEAN | BY_RANK, rescale_factors, by_rows=True, passes=ONCE, choices=PAPER, fixed=CONSENSUS),
    "varm": Method(varm, {"granularity": "tensor"}, changed_squares, pool_squares, passes="2", choices=UNITS),
    "sce": Method(
        sce,
        {"select": 0.1, "variant": "paper"},
        select_and_calculate,
        passes="2 with select 1, else 4 to 6",
        choices=SCE,
    ),
}
"""The methods by name."""

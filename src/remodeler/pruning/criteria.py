"""What "important" means: one function each. METHODS: a paper is a row.

A criterion takes ``(anatomy, windows, removed, candidates, **options)`` and returns one number per candidate, higher =
more important; the search removes the lowest. It leaves the model as it was. Options are ``size`` (windows a
mini-batch), ``progress`` (to be told the share done) and ``seed``; a criterion takes what it needs.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from remodeler.blocks import Anatomy, Block, bypassed
from remodeler.logprobs import mean_nll
from remodeler.logprobs import perplexity as exp_perplexity
from remodeler.pruning.sweep import Progress, Unit, sweep
from remodeler.texts import Windows

Criterion = Callable[..., list[float]]
UnitName = Literal["block", "attention", "mlp", "layer"]


def perplexity(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress | None = None,
    **_: Any,
) -> list[float]:
    """Perplexity of the model without the candidate (BlockPruner, section 3.2); infinite where its loss is not finite.

    Deviation: the released code compares float32 perplexities, so that it sees ties where we, in float64, see an order.
    """
    losses = sweep(anatomy, windows, removed, candidates, size, progress)
    return [exp_perplexity(loss) if math.isfinite(loss) else math.inf for loss in losses]


def rise_by_size(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress | None = None,
    **_: Any,
) -> list[float]:
    """How much the loss rises, in nats a token, divided by the share of the parameters that goes with the candidate.

    Ours: BlockPruner lets an attention and an MLP compete on perplexity alone, although one may be several times as
    large. Where only memory or parameters count, this asks what each of them costs.
    """
    with bypassed(anatomy, removed):
        base = mean_nll(anatomy, windows, size)
    losses = sweep(anatomy, windows, removed, candidates, size, progress)
    left, total = anatomy.parameters(removed), anatomy.parameters()
    shares = [(left - anatomy.parameters([*removed, *unit])) / total for unit in candidates]
    return [
        (loss - base) / share if math.isfinite(loss) else math.inf for loss, share in zip(losses, shares, strict=True)
    ]


def random(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    seed: int = 0,
    **_: Any,
) -> list[float]:
    """A number from a hash of the seed and the candidate's name: the control that any criterion must beat."""
    names = [f"{seed} {' '.join(map(str, unit))}" for unit in candidates]
    return [int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48 for name in names]


CRITERIA: dict[str, Criterion] = {"perplexity": perplexity, "rise_by_size": rise_by_size, "random": random}
ONE_PASS: frozenset[Criterion] = frozenset({random})
"""Criteria that cost a pass or two over the text, however many candidates there are: for estimates of time."""
Protect = Callable[[Anatomy, Sequence[Block]], frozenset[int]]
"""Takes the model and what is removed; gives the layers that nothing may be removed from now."""


def nothing(anatomy: Anatomy, removed: Sequence[Block]) -> frozenset[int]:
    """No layer is protected."""
    return frozenset()


@dataclass(frozen=True)
class Method:
    """A way to prune: what is removed, by what measure, one by one or at once."""

    criterion: Criterion
    unit: UnitName = "block"
    iterative: bool = True
    """Score again after every removal; otherwise rank once, on the intact model."""
    summary: str = ""
    protect: Protect = nothing


METHODS: dict[str, Method] = {
    "blockpruner": Method(
        perplexity, summary="BlockPruner (arXiv 2406.10594): remove the block whose loss hurts least, score again"
    ),
    "size-weighted": Method(
        rise_by_size, summary="the same search by the rise of the loss for each parameter that goes"
    ),
    "one-shot": Method(
        perplexity, iterative=False, summary="rank all blocks once, on the intact model (BlockPruner's ablation)"
    ),
    "random": Method(random, iterative=False, summary="a seeded random order: the control"),
}

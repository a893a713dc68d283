"""What "important" means: one function each (:class:`Criterion`). METHODS: a paper is a row.

Here are those that ask for the loss without a candidate; the others are in :mod:`remodeler.pruning.criteria.divergence`
(the change of the logits), :mod:`remodeler.pruning.criteria.gradients` and :mod:`remodeler.pruning.criteria.influence`
(the change of the residual stream). A method also says which layers it keeps. Deviation of all methods from their
papers: the calibration text, the number of windows and the ratio are the user's, so that methods can be compared; what
each paper took is in ``docs/methods/papers.md``.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.model.logprobs import perplexity as exp_perplexity
from remodeler.pruning.criteria.divergence import angle, divergence, js, js_released, kl, norm
from remodeler.pruning.criteria.gradients import gradient, magnitude, second_order, taylor
from remodeler.pruning.criteria.influence import block_influence, relative_magnitude
from remodeler.pruning.criteria.sweep import sweep
from remodeler.runs.progress import Progress, silent
from remodeler.runs.units import Block, Unit

UnitName = Literal["block", "attention", "mixer", "cross", "mlp", "layer"]


class Criterion(Protocol):
    """One number per candidate, higher = more important: the search removes the lowest."""

    def __call__(
        self,
        anatomy: Anatomy,
        windows: Windows,
        removed: Sequence[Block],
        candidates: Sequence[Unit],
        /,
        *args: Any,
        **options: Any,
    ) -> list[float]:
        """Score the candidates and leave the model as it was.

        Args:
            anatomy: the model and its blocks.
            windows: the calibration text, [windows, tokens].
            removed: what is removed already.
            candidates: what may be removed next.
            args: none; it lets a criterion name the options that it needs and ignore others.
            options: ``size`` (windows per mini-batch), ``progress`` (hears the share done), ``seed``.
        """
        ...


def perplexity(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
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
    progress: Progress = silent,
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


CRITERIA: dict[str, Criterion] = {
    "perplexity": perplexity,
    "rise-by-size": rise_by_size,
    "js": partial(divergence, js),
    "js-released": partial(divergence, js_released),
    "kl": partial(divergence, kl),
    "angular": partial(divergence, angle),
    "norm": norm,
    "gradient": gradient,
    "second-order": second_order,
    "taylor": taylor,
    "magnitude": magnitude,
    "block-influence": block_influence,
    "relative-magnitude": relative_magnitude,
    "random": random,
}
"""The measures of importance by name."""
ONE_PASS: frozenset[Criterion] = frozenset(
    {gradient, second_order, taylor, magnitude, block_influence, relative_magnitude, random}
)
"""Criteria that cost a pass or two over the text, however many candidates there are: for estimates of time."""


def name_of(criterion: Criterion) -> str:
    """A criterion's name in the table; a function of somebody's own has its own name."""
    own = getattr(criterion, "__name__", repr(criterion))
    return next((name for name, each in CRITERIA.items() if each is criterion), own)


# Protection -----------------------------------------------------------------------------------------------------------


Protect = Callable[[Anatomy, Sequence[Block]], frozenset[int]]
"""Takes the model and what is removed; gives the layers that nothing may be removed from now."""


def nothing(anatomy: Anatomy, removed: Sequence[Block]) -> frozenset[int]:
    """No layer is protected."""
    return frozenset()


def ends(first: int, last: int, anatomy: Anatomy, removed: Sequence[Block]) -> frozenset[int]:
    """The first and the last layers, so many of each; of encoder and decoder each its own."""
    stacks = [[site.number for site in anatomy.sites if site.stack is stack] for stack in anatomy.family.stacks]
    return frozenset(number for layers in stacks for number in [*layers[:first], *layers[max(0, len(layers) - last) :]])


def early_at_first(share: float, anatomy: Anatomy, removed: Sequence[Block]) -> frozenset[int]:
    """The first int(N share / 2) + 1 layers of N blocks, until int(N share) + 1 blocks are gone (FinerCut's ``-x``).

    N counts the blocks of the model as it was loaded, in an encoder-decoder model those of both halves.
    """
    blocks = len(anatomy.branches)
    if len(removed) > int(blocks * share):
        return frozenset()
    return ends(int(blocks * share / 2 / len(anatomy.family.stacks)) + 1, 0, anatomy, removed)


# Methods --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to prune: what is removed, by what measure, one by one or at once, and what stays."""

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
    "finercut": Method(
        CRITERIA["js"],
        protect=partial(early_at_first, 0.4),
        summary="FinerCut (arXiv 2405.18218): the block whose removal changes the logits least; early layers go late",
    ),
    "shortened-llama": Method(
        perplexity,
        unit="layer",
        iterative=False,
        protect=partial(ends, 4, 2),
        summary="Shortened LLaMA (arXiv 2402.02834): rank layers once; the first four and the last two stay",
    ),
    "shortgpt": Method(
        block_influence,
        unit="layer",
        iterative=False,
        summary="ShortGPT (arXiv 2403.03853): rank layers once by how much they turn the hidden states",
    ),
    "sleb": Method(
        perplexity,
        unit="layer",
        protect=partial(ends, 1, 1),
        summary="SLEB (ICML 2024): remove the layer whose loss hurts least, score again; first and last stay",
    ),
    "llm-drop": Method(
        block_influence,
        iterative=False,
        summary="LLM-Drop (arXiv 2406.15786): rank blocks once by how much they turn the hidden states",
    ),
    "gradient": Method(
        second_order,
        summary="the rise of the loss as one backward pass estimates it, to second order, again after every removal",
    ),
    "random": Method(random, iterative=False, summary="a seeded random order: the control"),
}
"""The methods that choose blocks and layers, by name."""

"""What pages and cards of a pruned model and of a trained one share: what was removed, and what that cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from remodeler.reporting.figures import Values, change, decimal, number
from remodeler.reporting.results import Section
from remodeler.reporting.sections import HERE
from remodeler.reporting.steps import Removed, block_map, chosen_step, known_blocks, removal_steps
from remodeler.runs.removals import LogLine

TAGS = ("pruned", "block-pruning", "remodeler")
"""Of their cards."""


@dataclass(frozen=True)
class Removals:
    """What was removed of a model, as far as the record and the removal log tell."""

    steps: Sequence[LogLine]
    chosen: int
    """The line whose model was written."""
    removed: Removed
    kinds: Sequence[str]
    layers: Sequence[int]

    @property
    def blocks(self) -> int:
        """How many blocks the model had."""
        return len(self.kinds) * len(self.layers)

    def map(self) -> list[dict[str, Any]]:
        """Groups of layers, each with a row a kind: the step that removed the block, or None."""
        return block_map(self.kinds, self.layers, self.removed)


def removals(steps: Sequence[LogLine], order: Sequence[str] | None, layers: int | None) -> Removals:
    """What was removed.

    Args:
        steps: lines of the removal log.
        order: blocks that are gone, as they went; None where only the log knows.
        layers: of the model.
    """
    removed = removal_steps(steps, order)
    return Removals(steps, chosen_step(steps, order), removed, *known_blocks(steps, layers, removed))


def cost(found: Removals, dense: Values, pruned: Values, narrowed: bool = False) -> list[str]:
    """What was removed and what that did to perplexity, in sentences; ``narrowed``: heads and channels went too."""
    before, after = number(dense.get("parameters")), number(pruned.get("parameters"))
    share = f", {1 - after / before:.1%} of the parameters" if before and after is not None else ""
    sentences = []
    if found.removed and found.blocks:
        narrower = ", others made narrower" if narrowed else ""
        sentences.append(f"{len(found.removed)} of {found.blocks} blocks were removed{narrower}{share}.")
    elif narrowed and share:
        sentences.append(f"Heads and channels were removed{share}.")
    for key, words in (("heldout_perplexity", "held-out"), ("perplexity", "calibration")):
        old, new = number(dense.get(key)), number(pruned.get(key))
        if old and new is not None:
            costs = f"from {decimal(old)} to {decimal(new)} ({change(old, new)})"
            return [*sentences, f"Perplexity on {words} text went {costs}."]
    return sentences


def removed_blocks(groups: Sequence[Values]) -> Section | None:
    """The map of blocks: those that were kept, and the step that removed each of the others."""
    return Section(f"{HERE}/block_map.html.jinja", {"groups": groups}) if groups else None

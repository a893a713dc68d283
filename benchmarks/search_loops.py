"""The loops that the search is measured against, how much work each does, and what a measurement needs.

- ``plain``: for every candidate, take it out and run the whole model; log-sum-exp in chunks.
- ``official``: the loop of BlockPruner's released code (``utils.evaluate_ppl``) on today's transformers: full logits,
  cross-entropy without reduction on permuted logits, mean a window. Deviations: masks are put in by
  :func:`remodeler.model.blocks.bypassed`, and no token is ignored.
- ``sweep``: what ``remodel prune`` runs.

Each returns the mean negative log-likelihood a token, in nats, without each candidate.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from remodeler.checkpoint.load import Checkpoint
from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.layerwise import order
from remodeler.model.logprobs import mean_nll
from remodeler.model.minibatches import device_of
from remodeler.pruning.criteria.sweep import sweep
from remodeler.runs.units import Block, Unit


@dataclass(frozen=True)
class Request:
    """What to measure; all that a fresh process needs."""

    model: str
    family: str | None
    trust_remote_code: bool
    texts: str
    samples: int
    windows: int | None
    length: int | None
    steps: int
    threads: int

    @classmethod
    def from_options(cls, given: Namespace, **more: Any) -> "Request":
        """The options of a script that have the names of the fields, and others."""
        found = vars(given) | more
        return cls(**{part.name: found[part.name] for part in fields(cls)})

    def window(self, checkpoint: Checkpoint) -> int:
        """Tokens of a window: as asked for, or what the model reads at once."""
        return self.length or min(2048, checkpoint.context or 2048)


Loop = Callable[[Anatomy, Windows, Sequence[Block], Sequence[Unit], int], list[float]]


@dataclass(frozen=True)
class Step:
    """One step of a search."""

    name: str
    removed: tuple[Block, ...]
    units: tuple[Unit, ...]


def plain(
    anatomy: Anatomy, windows: Windows, removed: Sequence[Block], units: Sequence[Unit], size: int
) -> list[float]:
    """The whole model for every candidate."""
    losses = []
    for unit in units:
        with bypassed(anatomy, [*removed, *unit]):
            losses.append(mean_nll(anatomy, windows, size))
    return losses


@torch.no_grad()
def official(
    anatomy: Anatomy, windows: Windows, removed: Sequence[Block], units: Sequence[Unit], size: int
) -> list[float]:
    """The same with the full logits of a batch."""
    losses = []
    for unit in units:
        with bypassed(anatomy, [*removed, *unit]):
            means = [_window_means(anatomy.model, ids) for ids in windows.ids.split(size)]
            losses.append(torch.cat(means).mean().item())
    return losses


def _window_means(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean loss of every window: [batch, length] to [batch], float32."""
    ids = ids.to(device_of(model))
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1]
    losses: Tensor = nn.CrossEntropyLoss(reduction="none")(logits.permute(0, 2, 1), ids[:, 1:])
    return losses.float().mean(1)


LOOPS: dict[str, Loop] = {"plain": plain, "official": official, "sweep": sweep}


# ---- counting ------------------------------------------------------------------------------------------------------


def flops(anatomy: Anatomy, windows: Windows) -> tuple[dict[Block, int], int]:
    """Floating-point operations of every block and of the head for one window; attention counts its full square."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={flash: _attention_flops})
    with torch.no_grad(), counter:
        anatomy.model(input_ids=windows.ids[:1].to(device_of(anatomy.model)), use_cache=False)
    totals = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    root = type(anatomy.model).__name__
    names = {module: f"{root}.{name}" for name, module in anatomy.model.named_modules()}
    blocks = {
        block: sum(totals.get(f"{names[branch.site.layer]}.{path}", 0) for path in branch.names["modules"])
        for block, branch in anatomy.branches.items()
    }
    return blocks, totals["Global"] - totals[f"{root}.{anatomy.family.trunk}"]


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The counter lacks a row for the CPU's kernel; it hands over shapes."""
    return int(sdpa_flop_count(query, key, value))


def counted(anatomy: Anatomy, step: Step, blocks: dict[Block, int], head: int) -> float:
    """How many times the work of the sweep the plain loop does, counting blocks and heads by their cost."""
    kept = [block for block in blocks if block not in step.removed]
    loop, shared = 0, sum(blocks[block] for block in kept)
    for unit in step.units:
        left = [block for block in kept if block not in unit]
        loop += head + sum(blocks[block] for block in left)
        shared += head + sum(blocks[block] for block in left if not _replayed(anatomy, block, unit))
    return loop / shared


def _replayed(anatomy: Anatomy, block: Block, unit: Unit) -> bool:
    """Whether a block need not run again for this unit: it lies in an earlier layer, or is the attention before it."""
    start = min(anatomy.branches[other].site.index for other in unit)
    begin = min(order(anatomy, other) for other in unit)
    own = anatomy.branches[block].site.index
    return own < start or (own == start and block.kind == "attention" and order(anatomy, block) < begin)

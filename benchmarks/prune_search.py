"""How fast the search scores its candidates, as ratios measured in one run.

Claim: scoring all candidates of a step in one pass (``sweep``) reaches at least 90 % of the speed-up over the plain loop that counting the
evaluated blocks and heads gives, with the same numbers, at 1.3 times the plain loop's peak memory or less.

- ``plain``: for every candidate, take it out and run the whole model; log-sum-exp in chunks.
- ``official``: the loop of BlockPruner's released code (``utils.evaluate_ppl``) on today's transformers: full logits, cross-entropy without
  reduction on permuted logits, mean a window. Deviations: masks are put in by :func:`remodeler.blocks.bypassed`, and no token is ignored.
- ``sweep``: what ``remodel prune`` runs, at its default batch size and at its best one.

Every variant runs at its own best batch size, searched first on every fourth candidate. Variants take turns, so a drift of the machine hits all
alike. Two steps are timed: the intact model, and the model without the four least important blocks of the first step.

    python benchmarks/prune_search.py [MODEL ...] --repeats 3 --threads 2 --json prune_search.json
"""

import argparse
import gc
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import remodeler
from remodeler.blocks import Anatomy, Block, bypassed
from remodeler.checkpoints import Checkpoint, load
from remodeler.errors import InputError
from remodeler.evaluation import model_windows
from remodeler.logprobs import batch_size, device_of, mean_nll
from remodeler.pruning.sweep import Unit, order, sweep
from remodeler.records import versions, write_json
from remodeler.sources import sample
from remodeler.texts import Windows

DEMO = Path(remodeler.__file__).parent / "demo_model"
REMOVED = 4
"""Blocks that are gone in the later step."""
EVERY = 4
"""Of the candidates one in so many is enough to find a batch size."""
TEXTS = 10_000
"""More than any source is asked for: the windows are taken from the front."""

Loop = Callable[[Anatomy, Windows, Sequence[Block], Sequence[Unit], int], list[float]]


@dataclass(frozen=True, order=True)
class Setting:
    """A loop at a batch size, in windows."""

    loop: str
    size: int


@dataclass(frozen=True)
class Step:
    """One step of a search."""

    name: str
    removed: tuple[Block, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Request:
    """What to measure; all that a fresh process needs."""

    model: str
    family: str | None
    trust: bool
    texts: str
    windows: int
    length: int
    threads: int


# ---- the loops: mean negative log-likelihood a token, without each candidate ----------------------------------------------------------


def plain(
    anatomy: Anatomy, windows: Windows, removed: Sequence[Block], units: Sequence[Unit], size: int
) -> list[float]:
    losses = []
    for unit in units:
        with bypassed(anatomy, [*removed, *unit]):
            losses.append(mean_nll(anatomy, windows, size))
    return losses


@torch.no_grad()
def official(
    anatomy: Anatomy, windows: Windows, removed: Sequence[Block], units: Sequence[Unit], size: int
) -> list[float]:
    losses = []
    for unit in units:
        with bypassed(anatomy, [*removed, *unit]):
            parts = [_window_means(anatomy.model, ids) for ids in windows.ids.split(size)]
            losses.append(torch.cat(parts).mean().item())
    return losses


def _window_means(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Mean loss of every window: [batch, length] to [batch], float32."""
    ids = ids.to(device_of(model))
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, :-1]
    losses: torch.Tensor = nn.CrossEntropyLoss(reduction="none")(logits.permute(0, 2, 1), ids[:, 1:])
    return losses.float().mean(1)


LOOPS: dict[str, Loop] = {"plain": plain, "official": official, "sweep": sweep}


# ---- counting ----------------------------------------------------------------------------------------------------------------------


def flops(anatomy: Anatomy, windows: Windows) -> tuple[dict[Block, int], int]:
    """Multiplications and additions of every block and of the head for one window, attention as the full square."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
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
    """The counter does not know the CPU's kernel; it hands over shapes."""
    return int(sdpa_flop_count(query, key, value))


def counted(anatomy: Anatomy, step: Step, blocks: dict[Block, int], head: int) -> float:
    """How many times more work the plain loop does than the sweep, counting its blocks and heads."""
    kept = [block for block in blocks if block not in step.removed]
    whole = sum(blocks[block] for block in kept)
    loop, shared = 0, whole
    for unit in step.units:
        left = [block for block in kept if block not in unit]
        loop += sum(blocks[block] for block in left) + head
        shared += sum(blocks[block] for block in left if not _replayed(anatomy, block, unit)) + head
    return loop / shared


def _replayed(anatomy: Anatomy, block: Block, unit: Unit) -> bool:
    """Whether a block is in the recording when this unit is scored: in an earlier layer, or an attention before it in its own."""
    index, begin = (min(of(other) for other in unit) for of in (_index(anatomy), lambda other: order(anatomy, other)))
    own = anatomy.branches[block].site.index
    return own < index or (own == index and block.kind == "attention" and order(anatomy, block) < begin)


def _index(anatomy: Anatomy) -> Callable[[Block], Any]:
    return lambda block: anatomy.branches[block].site.index


# ---- measuring ---------------------------------------------------------------------------------------------------------------------


def prepare(request: Request) -> tuple[Checkpoint, Windows]:
    """The model and the windows, alike in every process."""
    torch.set_num_threads(request.threads)
    checkpoint = load(
        request.model, dtype="float32", device="cpu", family=request.family, trust_remote_code=request.trust
    )
    if checkpoint.anatomy.family.task != "causal":
        raise InputError(f"{request.model} is no causal model, the official loop has none but those: choose another")
    texts = sample(request.texts, TEXTS).calibration
    return checkpoint, model_windows(checkpoint, texts, request.length)[: request.windows]


def timed(anatomy: Anatomy, windows: Windows, step: Step, setting: Setting) -> tuple[float, list[float]]:
    """Seconds, and the loss without each candidate."""
    start = time.perf_counter()
    losses = LOOPS[setting.loop](anatomy, windows, step.removed, step.units, setting.size)
    return time.perf_counter() - start, losses


def best_sizes(anatomy: Anatomy, windows: Windows, step: Step, sizes: Sequence[int]) -> dict[str, dict[int, float]]:
    """By loop and batch size: seconds of a part of the step, the faster of two rounds."""
    part = Step(step.name, step.removed, step.units[::EVERY])
    settings = [Setting(loop, size) for loop in LOOPS for size in sizes if size <= len(windows)]
    rounds = [{each: timed(anatomy, windows, part, each)[0] for each in settings} for _ in range(2)]
    return {
        loop: {each.size: min(seconds[each] for seconds in rounds) for each in settings if each.loop == loop}
        for loop in LOOPS
    }


def measure(
    anatomy: Anatomy, windows: Windows, step: Step, settings: Sequence[Setting], repeats: int
) -> dict[str, Any]:
    """All settings in turn; seconds of every run, and how far their numbers lie apart."""
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
    losses: dict[Setting, list[float]] = {}
    for _ in range(repeats):
        for setting in settings:
            taken, losses[setting] = timed(anatomy, windows, step, setting)
            seconds[setting].append(taken)
    for setting in settings:
        if (twin := Setting("plain", setting.size)) not in losses:
            losses[twin] = timed(anatomy, windows, step, twin)[1]
    return {"seconds": seconds, "losses": losses, "differences": _differences(losses)}


def _differences(losses: dict[Setting, list[float]]) -> dict[str, float]:
    """Largest difference from the plain loop at the same batch size: of the sweep's losses, of the official perplexities (relative)."""
    found = {"sweep": 0.0, "official": 0.0}
    for setting, mine in losses.items():
        pairs = list(zip(mine, losses[Setting("plain", setting.size)], strict=True))
        if setting.loop == "sweep":
            found["sweep"] = max(found["sweep"], *(abs(ours - theirs) for ours, theirs in pairs))
        if setting.loop == "official":
            found["official"] = max(found["official"], *(abs(math.expm1(ours - theirs)) for ours, theirs in pairs))
    return found


def peak_memory(request: Request, setting: Setting) -> dict[str, int]:
    """Bytes at the peak of one step over the intact model: of the process, and above what it held once the model was loaded."""
    checkpoint, windows = prepare(request)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading; a child's ru_maxrss starts at its parent's
    loaded = _status("VmRSS")
    timed(checkpoint.anatomy, windows, first_step(checkpoint.anatomy), setting)
    return {"process": _status("VmHWM"), "working": _status("VmHWM") - loaded}


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def peaks(request: Request, settings: Sequence[Setting]) -> dict[Setting, dict[str, int]]:
    """Each setting in a fresh process; Linux only."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return {setting: pool.submit(peak_memory, request, setting).result() for setting in settings}


# ---- one model ---------------------------------------------------------------------------------------------------------------------


def first_step(anatomy: Anatomy) -> Step:
    return Step("intact", (), tuple((block,) for block in anatomy.blocks()))


def later_step(anatomy: Anatomy, losses: Sequence[float]) -> Step:
    """The model without the blocks that the first step found least important."""
    ranked = sorted(zip(losses, anatomy.blocks(), strict=True))
    removed = tuple(block for _, block in ranked[:REMOVED])
    units = tuple((block,) for block in anatomy.blocks() if block not in removed)
    return Step(f"{REMOVED} blocks removed", removed, units)


def benchmark(request: Request, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Everything about one model, ready for JSON."""
    checkpoint, windows = prepare(request)
    anatomy = checkpoint.anatomy
    searched = best_sizes(anatomy, windows, first_step(anatomy), sizes)
    default = batch_size(windows, device_of(anatomy.model))
    chosen = [Setting(loop, min(seconds, key=lambda size: seconds[size])) for loop, seconds in searched.items()]
    settings = sorted({*chosen, Setting("sweep", min(default, len(windows)))})
    first = measure(anatomy, windows, first_step(anatomy), settings, repeats)
    later = later_step(anatomy, first["losses"][chosen[0]])
    second = measure(anatomy, windows, later, settings, repeats)
    steps = [_summary(checkpoint, windows, *pair) for pair in ((first_step(anatomy), first), (later, second))]
    memory = peaks(request, settings) if sys.platform == "linux" else {}
    return {
        "model": request.model,
        "windows": len(windows),
        "length": windows.ids.shape[1],
        "default_size": default,
        "searched": searched,
        "steps": steps,
        "memory": [{"loop": each.loop, "size": each.size, **found} for each, found in memory.items()],
    }


def _summary(checkpoint: Checkpoint, windows: Windows, step: Step, found: dict[str, Any]) -> dict[str, Any]:
    """Medians, ratios, and the share of the counted speed-up that was reached."""
    anatomy = checkpoint.anatomy
    blocks, head = flops(anatomy, windows)
    weighted, unweighted = (counted(anatomy, step, *costs) for costs in ((blocks, head), (dict.fromkeys(blocks, 1), 1)))
    medians = {setting: statistics.median(runs) for setting, runs in found["seconds"].items()}
    by_loop = {setting.loop: seconds for setting, seconds in medians.items()}
    rows = [
        {
            "loop": setting.loop,
            "size": setting.size,
            "seconds": runs,
            "median": medians[setting],
            "against_plain": by_loop["plain"] / medians[setting],
            "against_official": by_loop["official"] / medians[setting],
            "share": by_loop["plain"] / medians[setting] / weighted if setting.loop == "sweep" else None,
        }
        for setting, runs in found["seconds"].items()
    ]
    counts = {"weighted": weighted, "unweighted": unweighted}
    removed = [str(block) for block in step.removed]
    return {
        "step": step.name,
        "removed": removed,
        "counted": counts,
        "differences": found["differences"],
        "rows": rows,
    }

"""How fast one step scores its candidates (whole_search.py: whole searches), as ratios measured in one run.

Claim: scoring all candidates of a step in one pass (``sweep``) gives the plain loop's numbers, reaches at least 90 % of
the speed-up over it that counting the evaluated blocks and heads gives, and peaks at 1.3 times its memory or less.

Every loop runs at its own best batch size, searched first on every fourth candidate; the sweep at its default too. They
take turns, so that a drift of the machine hits all alike. Two steps are timed: the intact model, and the model without
the four blocks that the first step found least important. Peak memory is that of a step in a fresh process.

    python benchmarks/prune_search.py [MODEL ...] --repeats 3 --threads 2 --json prune_search.json
"""

import gc
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from common import (
    DEMO,
    add_loading,
    add_numbers,
    add_paths,
    forget_peak,
    in_fresh_processes,
    in_turns,
    load_float32,
    machine_line,
    new_parser,
    publish,
    run_main,
    status_bytes,
)
from search_loops import LOOPS, Request, Step, counted, flops
from search_tables import step_tables

from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.evaluation.metrics import model_windows
from remodeler.model.blocks import Anatomy
from remodeler.model.minibatches import batch_size
from remodeler.runs.records import versions, write_json

LATER = 4
"""Blocks that are gone in the second step."""
EVERY = 4
"""One candidate in so many is enough to find a batch size."""
SAMPLES = 10_000
"""More texts than the windows need: they are cut from the front."""


@dataclass(frozen=True, order=True)
class Setting:
    """A loop at a batch size, in windows."""

    loop: str
    size: int


@dataclass(frozen=True)
class Measured:
    """A step under some settings, the plain loop's first."""

    step: Step
    seconds: dict[Setting, list[float]]
    losses: dict[Setting, list[float]]

    def median(self, setting: Setting) -> float:
        """Seconds of the middle run."""
        return statistics.median(self.seconds[setting])

    def of(self, loop: str) -> float:
        """Seconds of a loop at its faster batch size."""
        return min(self.median(setting) for setting in self.seconds if setting.loop == loop)


# ---- measuring -----------------------------------------------------------------------------------------------------


def prepare(request: Request) -> tuple[Anatomy, Windows]:
    """The model and the windows, alike in every process."""
    torch.set_num_threads(request.threads)
    checkpoint = load_float32(request.model, request)
    if checkpoint.anatomy.family.task != "causal":
        raise InputError(f"{request.model} is no causal model, the official loop takes no other: choose another")
    texts = sample(request.texts, request.samples).calibration
    return checkpoint.anatomy, model_windows(checkpoint, texts, request.window(checkpoint))[: request.windows]


def scored(anatomy: Anatomy, windows: Windows, step: Step, setting: Setting) -> list[float]:
    """The loss without each candidate."""
    return LOOPS[setting.loop](anatomy, windows, step.removed, step.units, setting.size)


def search_sizes(anatomy: Anatomy, windows: Windows, sizes: Sequence[int]) -> dict[str, dict[int, float]]:
    """By loop and batch size: seconds of a part of the first step, the faster of two rounds."""
    part = Step("part", (), first_step(anatomy).units[::EVERY])
    settings = [Setting(loop, size) for loop in LOOPS for size in sizes]
    runs = in_turns({each: partial(scored, anatomy, windows, part, each) for each in settings}, 2)
    best = {each: min(run.seconds for run in found) for each, found in runs.items()}
    return {loop: {each.size: best[each] for each in settings if each.loop == loop} for loop in LOOPS}


def choose(searched: dict[str, dict[int, float]], default: int) -> list[Setting]:
    """Each loop at its best batch size, and the sweep at its default."""
    best = [Setting(loop, min(seconds, key=seconds.__getitem__)) for loop, seconds in searched.items()]
    return list(dict.fromkeys([*best, Setting("sweep", default)]))


def measure(anatomy: Anatomy, windows: Windows, step: Step, settings: Sequence[Setting], repeats: int) -> Measured:
    """All settings in turn, and the plain loop once at every other batch size, to compare the numbers."""
    runs = in_turns({each: partial(scored, anatomy, windows, step, each) for each in settings}, repeats)
    seconds = {each: [run.seconds for run in found] for each, found in runs.items()}
    losses = {each: found[-1].value for each, found in runs.items()}
    for size in {setting.size for setting in settings} - {each.size for each in settings if each.loop == "plain"}:
        losses[Setting("plain", size)] = scored(anatomy, windows, step, Setting("plain", size))
    return Measured(step, seconds, losses)


def differences(losses: dict[Setting, list[float]]) -> dict[str, float]:
    """From the plain loop at the same batch size: the sweep's in losses, the official in relative perplexities."""
    far = {"sweep": 0.0, "official": 0.0}
    for setting, mine in losses.items():
        gaps = [ours - theirs for ours, theirs in zip(mine, losses[Setting("plain", setting.size)], strict=True)]
        if setting.loop == "sweep":
            far["sweep"] = max(far["sweep"], *map(abs, gaps))
        elif setting.loop == "official":
            far["official"] = max(far["official"], *(abs(math.expm1(gap)) for gap in gaps))
    return far


def peak_memory(request: Request, setting: Setting) -> dict[str, int]:
    """Bytes at the peak of the first step: of the process, and beyond what it held with the model loaded."""
    anatomy, windows = prepare(request)
    gc.collect()
    forget_peak()
    loaded = status_bytes("VmRSS")
    scored(anatomy, windows, first_step(anatomy), setting)
    return {"process": status_bytes("VmHWM"), "working": status_bytes("VmHWM") - loaded}


# ---- one model -----------------------------------------------------------------------------------------------------


def first_step(anatomy: Anatomy) -> Step:
    """Every block of the intact model."""
    return Step("intact", (), tuple((block,) for block in anatomy.blocks()))


def later_step(anatomy: Anatomy, losses: Sequence[float]) -> Step:
    """The model without the blocks that the first step found least important."""
    ranked = [block for _, block in sorted(zip(losses, anatomy.blocks(), strict=True))]
    left = tuple((block,) for block in anatomy.blocks() if block not in ranked[:LATER])
    return Step(f"{LATER} blocks removed", tuple(ranked[:LATER]), left)


def benchmark(request: Request, sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Everything about one model, ready for JSON."""
    anatomy, windows = prepare(request)
    fitting = [size for size in sizes if 1 <= size <= len(windows)]
    if not fitting or repeats < 1:
        raise InputError(f"no batch of {sizes} fits {len(windows)} windows, or {repeats} repeats: raise the lower")
    searched = search_sizes(anatomy, windows, fitting)
    default = min(batch_size(anatomy, windows), len(windows))
    settings = choose(searched, default)
    first = measure(anatomy, windows, first_step(anatomy), settings, repeats)
    later = measure(anatomy, windows, later_step(anatomy, first.losses[settings[0]]), settings, repeats)
    peaks = in_fresh_processes(peak_memory, request, settings)
    memory = [asdict(setting) | found for setting, found in peaks.items()]
    steps = [summary(anatomy, windows, each) for each in (first, later)]
    shape = {"windows": len(windows), "length": windows.ids.shape[1], "default_size": default}
    return {"model": request.model, **shape, "searched": searched, "steps": steps, "memory": memory}


def summary(anatomy: Anatomy, windows: Windows, found: Measured) -> dict[str, Any]:
    """Medians, ratios, and the share of the counted speed-up that was reached."""
    blocks, head = flops(anatomy, windows)
    by_cost = counted(anatomy, found.step, blocks, head)
    by_number = counted(anatomy, found.step, dict.fromkeys(blocks, 1), 1)
    rows = []
    for setting, runs in found.seconds.items():
        median = found.median(setting)
        ratios = {f"against_{loop}": found.of(loop) / median for loop in ("plain", "official")}
        share = {"share": ratios["against_plain"] / by_cost} if setting.loop == "sweep" else {}
        rows.append(asdict(setting) | {"seconds": runs, "median": median} | ratios | share)
    removed = [str(block) for block in found.step.removed]
    counts = {"by_cost": by_cost, "by_number": by_number}
    far = differences(found.losses)
    return {"step": found.step.name, "removed": removed, "counted": counts, "differences": far, "rows": rows}


def main() -> None:
    """Print the tables and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=[str(DEMO)])
    parser.add_argument("--texts", default="python")
    add_numbers(parser, windows=32, length=256, repeats=3, threads=2)
    parser.add_argument("--batch-sizes", type=_numbers, default="1,2,4,8,16")
    add_loading(parser)
    add_paths(parser, "json", required=False)
    given = parser.parse_args()
    results = []
    for model in given.models:
        request = Request.from_options(given, model=model, samples=SAMPLES, steps=1)
        results.append(benchmark(request, given.batch_sizes, given.repeats))
    print(machine_line())
    publish(given, dict(step_tables(results)))
    if given.json:
        write_json(given.json, {"machine": machine_line(), "versions": versions(), "models": results})


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    run_main(main)

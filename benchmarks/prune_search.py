"""How fast one step scores its candidates (whole_search.py: whole searches), as ratios measured in one run.

Claim: scoring all candidates of a step in one pass (``sweep``) gives the plain loop's numbers, reaches at least 90 % of
the speed-up over it that counting the evaluated blocks and heads gives, and peaks at 1.3 times its memory or less.

Every loop runs at its own best batch size, searched first on every fourth candidate; the sweep at its default too. They
take turns, so that a drift of the machine hits all alike. Two steps are timed: the intact model, and the model without
the four blocks that the first step found least important. Peak memory is that of a step in a fresh process.

    python benchmarks/prune_search.py [MODEL ...] --repeats 3 --threads 2 --json prune_search.json
"""

import argparse
import gc
import math
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from search_loops import LOOPS, Step, counted, flops

import remodeler
from remodeler.checkpoint.load import load
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.evaluation.metrics import model_windows
from remodeler.model.blocks import Anatomy
from remodeler.model.minibatches import batch_size
from remodeler.runs.records import versions, write_json

DEMO = Path(remodeler.__file__).parent / "demo_model"
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
class Request:
    """What to measure; all that a fresh process needs."""

    model: str
    family: str | None
    trust: bool
    texts: str
    windows: int
    length: int
    threads: int


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
    chosen: dict[str, Any] = {"family": request.family, "trust_remote_code": request.trust}
    checkpoint = load(request.model, dtype="float32", device="cpu", **chosen)
    if checkpoint.anatomy.family.task != "causal":
        raise InputError(f"{request.model} is no causal model, the official loop takes no other: choose another")
    texts = sample(request.texts, SAMPLES).calibration
    return checkpoint.anatomy, model_windows(checkpoint, texts, request.length)[: request.windows]


def timed(anatomy: Anatomy, windows: Windows, step: Step, setting: Setting) -> tuple[float, list[float]]:
    """Seconds, and the loss without each candidate."""
    start = time.perf_counter()
    losses = LOOPS[setting.loop](anatomy, windows, step.removed, step.units, setting.size)
    return time.perf_counter() - start, losses


def search_sizes(anatomy: Anatomy, windows: Windows, sizes: Sequence[int]) -> dict[str, dict[int, float]]:
    """By loop and batch size: seconds of a part of the first step, the faster of two rounds."""
    part = Step("part", (), first_step(anatomy).units[::EVERY])
    settings = [Setting(loop, size) for loop in LOOPS for size in sizes]
    rounds = [{each: timed(anatomy, windows, part, each)[0] for each in settings} for _ in range(2)]
    return {
        loop: {each.size: min(seconds[each] for seconds in rounds) for each in settings if each.loop == loop}
        for loop in LOOPS
    }


def choose(searched: dict[str, dict[int, float]], default: int) -> list[Setting]:
    """Each loop at its best batch size, and the sweep at its default."""
    best = [Setting(loop, min(seconds, key=seconds.__getitem__)) for loop, seconds in searched.items()]
    return list(dict.fromkeys([*best, Setting("sweep", default)]))


def measure(anatomy: Anatomy, windows: Windows, step: Step, settings: Sequence[Setting], repeats: int) -> Measured:
    """All settings in turn, and the plain loop once at every other batch size, to compare the numbers."""
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
    losses: dict[Setting, list[float]] = {}
    for _ in range(repeats):
        for setting in settings:
            taken, losses[setting] = timed(anatomy, windows, step, setting)
            seconds[setting].append(taken)
    for size in {setting.size for setting in settings} - {each.size for each in settings if each.loop == "plain"}:
        losses[Setting("plain", size)] = timed(anatomy, windows, step, Setting("plain", size))[1]
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
    # Not ru_maxrss: a child starts with its parent's, and it remembers the peak of loading.
    Path("/proc/self/clear_refs").write_text("5")
    loaded = status("VmRSS")
    timed(anatomy, windows, first_step(anatomy), setting)
    return {"process": status("VmHWM"), "working": status("VmHWM") - loaded}


def status(name: str) -> int:
    """Bytes that Linux knows of this process, by their name in /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def peaks(request: Request, settings: Sequence[Setting]) -> dict[Setting, dict[str, int]]:
    """Each setting in a fresh process; nothing where the system is not Linux."""
    if sys.platform != "linux":
        return {}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return {setting: pool.submit(peak_memory, request, setting).result() for setting in settings}


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
    memory = [asdict(setting) | found for setting, found in peaks(request, settings).items()]
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


# ---- the page ------------------------------------------------------------------------------------------------------


def machine(threads: int) -> str:
    """CPU, threads and versions in one line."""
    names = [line for line in _cpu_lines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {threads} of {len(names) or '?'} cores, torch {versions()['torch']}, float32"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def page(found: dict[str, Any]) -> Iterator[str]:
    """The tables of one model, as Markdown."""
    yield f"\n## {found['model']}: {found['windows']} windows of {found['length']} tokens"
    for step in found["steps"]:
        counts, far = step["counted"], step["differences"]
        yield f"\n{step['step']}: counted speed-up {counts['by_cost']:.2f} ({counts['by_number']:.2f} counted alike),"
        yield f"largest difference from plain: sweep {far['sweep']:g}, official {far['official']:.1e} (relative)\n"
        yield "| loop | windows a batch | seconds (fastest-slowest) | × plain | × official | share of the count |"
        yield "|---|---|---|---|---|---|"
        yield from map(_row, step["rows"])
    if found["memory"]:
        yield "\n| loop | windows a batch | peak memory, MiB | × plain | beyond the loaded model, MiB | × plain |"
        yield "|---|---|---|---|---|---|"
        yield from (_memory_row(each, found["memory"][0]) for each in found["memory"])


def _row(row: dict[str, Any]) -> str:
    spread = f"{row['median']:.2f} ({min(row['seconds']):.2f}-{max(row['seconds']):.2f})"
    share = f"{row['share']:.1%}" if "share" in row else ""
    ratios = f"{row['against_plain']:.2f} | {row['against_official']:.2f}"
    return f"| {row['loop']} | {row['size']} | {spread} | {ratios} | {share} |"


def _memory_row(row: dict[str, Any], plain: dict[str, Any]) -> str:
    cells = [f"{row[name] / 2**20:.0f} | {row[name] / plain[name]:.2f}" for name in ("process", "working")]
    return f"| {row['loop']} | {row['size']} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", default=[str(DEMO)])
    parser.add_argument("--texts", default="python")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--batch-sizes", type=lambda text: [int(part) for part in text.split(",")], default="1,2,4,8,16"
    )
    parser.add_argument("--family", help="row of the family table that remote code looks like")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(machine(given.threads))
    results = []
    for model in given.models:
        request = Request(
            model, given.family, given.trust_remote_code, given.texts, given.windows, given.length, given.threads
        )
        results.append(benchmark(request, given.batch_sizes, given.repeats))
        print("\n".join(page(results[-1])), flush=True)
    if given.json:
        write_json(given.json, {"machine": machine(given.threads), "versions": versions(), "models": results})


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

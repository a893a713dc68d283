"""Every method of pruning on the same models, with the same calibration text, at the same ratios: what each one costs.

Each result is written, read back and measured as it comes back: perplexity on held-out text at several window lengths
(papers differ in it, and so do their figures), multiple-choice accuracy where the intact model is above chance,
parameters and bytes of the KV cache, and beside them what the search took. ``--speed`` measures decoding, pruned and
intact model in turns: best when nothing else runs.

Methods stop at different sizes. So each also gets a loss at exactly the ratio: a straight line between the last model of
its path that is larger and the first that is not. And the whole paths are measured, for the plot.

Every finished row is a line of ``OUT/rows.jsonl``, and every search lies in ``OUT/paths``: killed, the same command
goes on. Without a model, the tables of what is there are printed.

    python benchmarks/pruning_methods.py MODEL ... --calibrate FILE --held-out FILE --out OUT [--arms NAME ...]
    python benchmarks/pruning_methods.py --out OUT --plot docs/methods.svg
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pruning_arms import Arm, Found, State, arms
from pruning_tables import page, plot
from quality import SAMPLES, Setup, cut

from remodeler.blocks import Anatomy, Block, bypassed
from remodeler.checkpoints import Checkpoint, load
from remodeler.console import note
from remodeler.errors import InputError
from remodeler.evaluation import compare_speed, memory
from remodeler.logprobs import batch_size, batches, device_of, mean_nll, perplexity, window_nll
from remodeler.pruning.budget import share
from remodeler.questions import read_questions
from remodeler.records import append_line, drop_torn_line, read_lines
from remodeler.saving import save_pruned
from remodeler.sources import sample
from remodeler.tasks import open_tasks, task_scores
from remodeler.texts import Windows
from remodeler.widths import parameters_left

HELD_OUT_TOKENS = 8192
CLEAR = 2.0
"""Standard errors above chance that the intact model must be, for a task to be asked of the pruned ones."""
KEY = ("arm", "seed", "ratio", "windows")
Row = dict[str, Any]


# ---- what is measured ------------------------------------------------------------------------------------------------


@torch.no_grad()
def window_losses(anatomy: Anatomy, windows: Windows) -> list[float]:
    """Mean negative log-likelihood of a token of every window."""
    device = device_of(anatomy.model)
    totals = [window_nll(anatomy, each) for each in batches(windows, batch_size(windows, device), device)]
    scored = windows.tokens / len(windows)  # windows are of one length
    return [total / scored for total in torch.cat(totals).tolist()]


def held_out(setup: Setup, checkpoint: Checkpoint) -> Row:
    """Losses of the windows and perplexity, by window length."""
    losses = {length: window_losses(checkpoint.anatomy, windows) for length, windows in setup.held_out.items()}
    return {"losses": losses, "perplexity": {key: perplexity(statistics.fmean(each)) for key, each in losses.items()}}


def chance(file: str, limit: int) -> float:
    """Accuracy of the best that can be done without reading: guessing, or always naming the same choice."""
    asked = read_questions(Path(file))[:limit]
    golds = [question.gold for question in asked]
    guessing = statistics.fmean(1 / len(question.choices) for question in asked)
    return max(guessing, max(map(golds.count, golds)) / len(golds))


def answers(checkpoint: Checkpoint, files: Sequence[str], limit: int) -> Row:
    """By file: accuracies, their standard errors, and chance."""
    if not files:
        return {}
    found = task_scores(checkpoint, open_tasks(files), limit)
    return {file: found[file] | {"chance": chance(file, limit)} for file in files}


def above_chance(tasks: Row) -> list[str]:
    """The files that the intact model answers clearly better than chance."""
    return [file for file, each in tasks.items() if each["acc"] > each["chance"] + CLEAR * each["acc_stderr"]]


def size(anatomy: Anatomy, found: Found) -> Row:
    """What is left, and what is gone."""
    removed, total = found.states[-1], anatomy.parameters()
    left = parameters_left(anatomy, removed, found.widths) if found.widths else anatomy.parameters(removed)
    kept = {str(block): list(groups) for block, groups in (found.widths or {}).items()}
    return {"parameters": left, "share": 1 - left / total, "removed": list(map(str, removed)), "widths": kept}


# ---- models ----------------------------------------------------------------------------------------------------------


def prepare(model: str, given: argparse.Namespace) -> Setup:
    """Load a model and cut its windows: calibration text of one length, the same held-out text at several."""
    chosen = {"family": given.family, "trust_remote_code": given.trust_remote_code}
    checkpoint = load(model, dtype="float32", device="cpu", **chosen)
    calibration = cut(checkpoint, sample(given.calibrate, SAMPLES).calibration, given.length, given.windows)
    texts = sample(given.held_out, SAMPLES).heldout
    longest = min(2048, checkpoint.context or 2048)
    lengths = sorted({128, given.length, longest})
    return Setup(
        checkpoint, calibration, {str(n): cut(checkpoint, texts, n, math.ceil(HELD_OUT_TOKENS / n)) for n in lengths}
    )


@contextmanager
def written(setup: Setup, found: Found) -> Iterator[tuple[str, Checkpoint]]:
    """The model as it comes back from the disk, and its form."""
    with TemporaryDirectory() as folder:
        widths = {"widths": found.widths} if found.widths else {}
        saved = save_pruned(setup.checkpoint, found.states[-1], Path(folder), **widths)
        yield saved.form, saved.checkpoint


# ---- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Book:
    """The rows of a model, and the files that they lie in."""

    setup: Setup
    folder: Path
    given: argparse.Namespace

    @property
    def primary(self) -> str:
        """Window length, as text, that losses are compared at: that of the calibration."""
        return str(self.given.length)

    def rows(self, file: str) -> list[Row]:
        """What is there."""
        path = self.folder / file
        if not path.exists():
            return []
        drop_torn_line(path)
        return [row for row in read_lines(path) if row["model"] == self.setup.model]

    def row(self, arm: str, seed: int, ratio: float) -> Row | None:
        """A finished row."""
        key = (arm, seed, ratio, self.setup.held_out[self.primary].fingerprint()[:12])
        same = (row for row in self.rows("rows.jsonl") if tuple(row[part] for part in KEY) == key)
        return next(same, None)

    def keep(self, row: Row) -> Row:
        """Write a row down."""
        head = {"model": self.setup.model, "windows": self.setup.held_out[self.primary].fingerprint()[:12]}
        append_line(self.folder / "rows.jsonl", head | row)
        return head | row


def dense(book: Book) -> Row:
    """The intact model: what it is worth, and what one pass over the calibration text takes."""
    known = book.row("dense", 0, 0.0)
    if known:
        return known
    setup, given = book.setup, book.given
    clock = [_pass_cost(setup) for _ in range(3)]
    row = {
        "arm": "dense",
        "seed": 0,
        "ratio": 0.0,
        "length": book.primary,
        "layers": len(setup.checkpoint.anatomy.sites),
    }
    row |= {"pass_seconds": min(each[0] for each in clock), "pass_cpu": min(each[1] for each in clock)}
    row |= {"share": 0.0} | memory(setup.checkpoint) | held_out(setup, setup.checkpoint)
    row |= {"tasks": answers(setup.checkpoint, given.tasks, given.limit), "limit": given.limit}
    return book.keep(row)


def _pass_cost(setup: Setup) -> tuple[float, float]:
    begin = time.perf_counter(), time.process_time()
    mean_nll(setup.checkpoint.anatomy, setup.calibration)
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def pruned(book: Book, arm: Arm, ratio: float, tasks: Sequence[str]) -> Row:
    """A method at a ratio."""
    known = book.row(arm.name, arm.seed, ratio)
    if known:
        return known
    setup = book.setup
    found = arm.find(setup, ratio, book.folder / "paths" / setup.model)
    row = {"arm": arm.name, "seed": arm.seed, "ratio": ratio, "unit": arm.unit, "variant": arm.variant}
    if not found.states:
        return book.keep(row | {"reach": found.reach, "perplexity": None})
    row |= size(setup.checkpoint.anatomy, found) | vars(found.cost) | {"swaps": found.swaps}
    with written(setup, found) as (form, again):
        row |= {"form": form} | memory(again) | held_out(setup, again)
        row |= {"tasks": answers(again, tasks, book.given.limit)}
    curve = list(path(book, found.states[:-1]))
    return book.keep(row | {"curve": [*curve, (row["share"], statistics.fmean(row["losses"][book.primary]))]})


def path(book: Book, states: Sequence[State]) -> Iterator[tuple[float, float]]:
    """Share removed and held-out loss of every model on the way; each set of blocks is measured once."""
    anatomy, windows = book.setup.checkpoint.anatomy, book.setup.held_out[book.primary]
    known = {tuple(row["removed"]): row["loss"] for row in book.rows("points.jsonl")}
    for removed in states:
        key = tuple(map(str, sorted(removed)))
        if key not in known:
            with bypassed(anatomy, removed):
                known[key] = statistics.fmean(window_losses(anatomy, windows))
            point = {"model": book.setup.model, "removed": key, "loss": known[key]}
            append_line(book.folder / "points.jsonl", point)
        yield share(anatomy, removed), known[key]


def measure(book: Book) -> None:
    """Write the rows of a model that are not there yet."""
    tasks = above_chance(dense(book)["tasks"])
    for arm in chosen(book.given.arms):
        for ratio in sorted(book.given.ratios):
            row = pruned(book, arm, ratio, tasks)
            shown = row["perplexity"] and row["perplexity"][book.primary]
            note(f"{book.setup.model}: {arm.name} {arm.seed or ''} {ratio:.0%}: {shown}")


def chosen(names: Sequence[str]) -> list[Arm]:
    """The arms of some names; without any, all."""
    known = arms()
    unknown = set(names) - {arm.name for arm in known}
    if unknown:
        every = ", ".join(dict.fromkeys(arm.name for arm in known))
        raise InputError(f"there is no arm {min(unknown)!r}: choose from {every}")
    return [arm for arm in known if not names or arm.name in names]


# ---- speed -----------------------------------------------------------------------------------------------------------


def speeds(book: Book) -> None:
    """Decoding and prefill of every model that was found, beside the intact one, in turns."""
    known = {(row["arm"], row["seed"], row["ratio"]) for row in book.rows("speed.jsonl")}
    for row in book.rows("rows.jsonl"):
        key = (row["arm"], row["seed"], row["ratio"])
        if row["perplexity"] and row["arm"] != "dense" and key not in known:
            with written(book.setup, _found(row)) as (_, again):
                mine, whole = compare_speed([again, book.setup.checkpoint])
            ratios = {kind: mine[kind]["median"] / whole[kind]["median"] for kind in mine}
            head = {"model": book.setup.model, "arm": key[0], "seed": key[1], "ratio": key[2]}
            append_line(book.folder / "speed.jsonl", head | ratios | {"pruned": mine, "dense": whole})


def _found(row: Row) -> Found:
    widths = {Block.parse(name): tuple(groups) for name, groups in row["widths"].items()}
    return Found((tuple(map(Block.parse, row["removed"])),), widths=widths)


def main() -> None:
    """Measure what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--calibrate", default="python", metavar="SOURCE")
    parser.add_argument("--held-out", default="python", metavar="SOURCE")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.15, 0.25, 0.35])
    parser.add_argument("--arms", nargs="+", default=[], metavar="NAME", help="by default all")
    parser.add_argument("--windows", type=int, default=24, help="of calibration text")
    parser.add_argument("--length", type=int, default=256, help="of calibration windows; losses are compared at it")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="FILE", help="of questions")
    parser.add_argument("--limit", type=int, default=400, help="questions a file")
    parser.add_argument("--speed", action="store_true", help="measure the speed of the models found so far")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--family", help="row of the family table that remote code looks like")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plot", type=Path, help=".svg or .png: the curves of the first model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for model in given.models:
        book = Book(prepare(model, given), given.out, given)
        (speeds if given.speed else measure)(book)
    if not given.models:
        print("\n".join(page(given.out)))
    if given.plot:
        plot(given.out, given.plot)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

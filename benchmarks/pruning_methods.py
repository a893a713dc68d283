"""Every method of pruning on the same models, with the same calibration text, at the same ratios: what each one costs.

Each result is written, read back and measured as it comes back: perplexity on held-out text at several window lengths
(papers differ in it, and so do their figures), parameters and bytes of the KV cache; beside them what the search took.
``--ask`` measures multiple-choice accuracy where the intact model is above chance, ``--speed`` decoding, pruned and
intact model in turns: best when nothing else runs.

Methods stop at different sizes. So each also gets a loss at exactly the ratio: on a straight line between the last
model of its path that is larger and the first that is not. And the whole paths are measured, for the plot.

Every finished row is a line of ``OUT/rows.jsonl`` (of ``answers.jsonl``, of ``speed.jsonl``), and every search lies in
``OUT/paths``: killed, the same command goes on. Without a model, the tables of what is there are printed.

    python benchmarks/pruning_methods.py MODEL ... --calibrate FILE --held-out FILE --out OUT [--arms NAME ...]
    python benchmarks/pruning_methods.py --out OUT --plot docs/benchmarks/methods.svg
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from common import (
    Row,
    add_loading,
    add_numbers,
    add_paths,
    new_parser,
    publish,
    read_rows,
    run_main,
    timed,
)
from pruning_arms import Arm, State, arms
from pruning_measures import (
    above_chance,
    answers,
    found_again,
    held_out,
    make_questions,
    prepare,
    size,
    speed,
    window_losses,
    written,
)
from pruning_tables import models, plot, tables
from quality import SAMPLES, Setup

from remodeler.checkpoint.sizes import memory
from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.errors import InputError
from remodeler.model.blocks import bypassed
from remodeler.model.logprobs import mean_nll
from remodeler.pruning.search.budget import share
from remodeler.runs.records import append_line

ROWS, POINTS, ANSWERS, SPEED = "rows.jsonl", "points.jsonl", "answers.jsonl", "speed.jsonl"


@dataclass(frozen=True)
class Book:
    """The rows of a model, and the files that they lie in."""

    setup: Setup
    given: argparse.Namespace

    @property
    def primary(self) -> str:
        """Window length, as text, that losses are compared at: that of the calibration."""
        return str(self.given.length)

    @property
    def text(self) -> str:
        """What identifies the held-out text."""
        return self.setup.held_out[self.primary].fingerprint()[:12]

    def rows(self, file: str) -> list[Row]:
        """What is there of this model and text."""
        rows = read_rows(self.given.out / file)
        return [row for row in rows if (row["model"], row["text"]) == (self.setup.model, self.text)]

    def row(self, file: str, key: Row) -> Row | None:
        """A finished row."""
        return next((row for row in self.rows(file) if key.items() <= row.items()), None)

    def keep(self, file: str, row: Row) -> Row:
        """Write a row down."""
        row = {"model": self.setup.model, "text": self.text, **row}
        append_line(self.given.out / file, row)
        return row


# ---- searching -------------------------------------------------------------------------------------------------------


def dense(book: Book) -> Row:
    """The intact model: what it is worth, and what one pass over the calibration text takes."""
    key = {"arm": "dense", "seed": 0, "ratio": 0.0}
    known = book.row(ROWS, key)
    if known:
        return known
    setup = book.setup
    runs = [timed(partial(mean_nll, setup.checkpoint.anatomy, setup.calibration)) for _ in range(3)]
    cost = {"pass_seconds": min(run.seconds for run in runs), "pass_cpu": min(run.processor for run in runs)}
    row = key | cost | {"share": 0.0, "primary": book.primary}
    row |= {"layers": len(setup.checkpoint.anatomy.sites)} | memory(setup.checkpoint)
    return book.keep(ROWS, row | held_out(setup, setup.checkpoint))


def pruned(book: Book, arm: Arm, ratio: float) -> Row:
    """A method at a ratio."""
    key = {"arm": arm.name, "seed": arm.seed, "ratio": ratio}
    known = book.row(ROWS, key)
    if known:
        return known
    setup = book.setup
    found = arm.find(setup, ratio, book.given.out / "paths" / setup.model)
    row = key | {"unit": arm.unit, "variant": arm.variant}
    if not found.states:
        return book.keep(ROWS, row | {"why": found.why, "perplexity": None})
    row |= size(setup.checkpoint.anatomy, found) | vars(found.cost) | {"swaps": found.swaps}
    with written(setup, found) as (form, again):
        row |= {"form": form} | memory(again) | held_out(setup, again)
    models = [*path(book, found.states[:-1]), (row["share"], row["losses"][book.primary])]
    curve = [(gone, statistics.fmean(losses)) for gone, losses in models]
    return book.keep(ROWS, row | {"curve": curve, "exact": at_exactly(ratio, models)})


def path(book: Book, states: Sequence[State]) -> Iterator[tuple[float, list[float]]]:
    """Share removed and held-out losses of every model on the way; each set of blocks is measured once."""
    anatomy = book.setup.checkpoint.anatomy
    known = {tuple(row["removed"]): row["losses"] for row in book.rows(POINTS)}
    for removed in states:
        key = tuple(map(str, sorted(removed)))
        if key not in known:
            with bypassed(anatomy, removed):
                known[key] = window_losses(anatomy, book.setup.held_out[book.primary])
            book.keep(POINTS, {"removed": key, "losses": known[key]})
        yield share(anatomy, removed), known[key]


def at_exactly(ratio: float, models: Sequence[tuple[float, list[float]]]) -> list[float]:
    """Losses at a ratio: on the line between the result and the model before it, window by window."""
    last, result = models[-1]
    before = [each for each in models[:-1] if each[0] < ratio]
    if not before:
        return result
    first, larger = before[-1]
    part = (ratio - first) / (last - first)
    return [a + part * (b - a) for a, b in zip(larger, result, strict=True)]


def search_all(book: Book) -> None:
    """Write the rows of a model that are not there yet."""
    dense(book)
    for arm in chosen(book.given.arms):
        for ratio in sorted(book.given.ratios, reverse=True):  # the longest path first: the others are cut of it
            row = pruned(book, arm, ratio)
            figure = row["perplexity"] and row["perplexity"][book.primary]
            note(f"{book.setup.model}: {arm.name} {arm.seed or ''} {ratio:.0%}: {figure}")


def chosen(names: Sequence[str]) -> list[Arm]:
    """The arms of some names; without any, all."""
    known = arms()
    unknown = set(names) - {arm.name for arm in known}
    if unknown:
        every = ", ".join(dict.fromkeys(arm.name for arm in known))
        raise InputError(f"there is no arm {min(unknown)!r}: choose from {every}")
    return [arm for arm in known if not names or arm.name in names]


# ---- what takes a phase of its own -----------------------------------------------------------------------------------


def _results(book: Book) -> Iterator[tuple[Row, Row]]:
    """Every pruned model of the wanted arms and ratios: its key and its row."""
    wanted = {arm.name for arm in chosen(book.given.arms)}
    for row in book.rows(ROWS):
        if row["arm"] in wanted and row["ratio"] in book.given.ratios and row["perplexity"]:
            yield {part: row[part] for part in ("arm", "seed", "ratio")}, row


def ask_all(book: Book) -> None:
    """Ask the intact model every file of questions, and the pruned ones those that it answers above chance."""
    given, model = book.given, book.setup.model
    texts = sample(given.held_out, SAMPLES).heldout
    made = make_questions(texts, given.ask, given.out / f"questions-{book.text}" / "next_sentence.jsonl")
    files = [str(made), *given.tasks]
    key = {"arm": "dense", "seed": 0, "ratio": 0.0}
    whole = book.row(ANSWERS, key)
    if not whole:
        whole = book.keep(ANSWERS, key | {"tasks": answers(book.setup.checkpoint, files, given.ask)})
    able = above_chance(whole["tasks"], files)
    note(f"{model} is above chance in {', '.join(Path(file).stem for file in able) or 'none of the files'}")
    for key, row in _results(book):
        if able and not book.row(ANSWERS, key):
            with written(book.setup, found_again(row)) as (_, again):
                book.keep(ANSWERS, key | {"tasks": answers(again, able, given.ask)})


def time_all(book: Book) -> None:
    """Decoding and prefill of every model that was found, beside the intact one, in turns."""
    for key, row in _results(book):
        if not book.row(SPEED, key):
            book.keep(SPEED, key | speed(book.setup, found_again(row)))


def options() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = new_parser(__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--calibrate", default="python", metavar="SOURCE")
    parser.add_argument("--held-out", default="python", metavar="SOURCE")
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.15, 0.25, 0.35])
    parser.add_argument("--arms", nargs="+", default=[], metavar="NAME", help="by default all")
    parser.add_argument("--windows", type=int, default=24, help="of calibration text")
    parser.add_argument("--length", type=int, default=256, help="of calibration windows; losses are compared at it")
    parser.add_argument("--ask", type=int, metavar="N", help="ask the models found so far N questions of each file")
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="FILE", help="of questions, beside those made of text"
    )
    parser.add_argument("--speed", action="store_true", help="measure the speed of the models found so far")
    add_numbers(parser, threads=1)
    add_loading(parser)
    add_paths(parser, "out")
    parser.add_argument("--plot", type=Path, help=".svg or .png: the curves of the first model")
    return parser


def main() -> None:
    """Measure what is missing, or print the tables."""
    given = options().parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for model in given.models:
        book = Book(prepare(model, given), given)
        (time_all if given.speed else ask_all if given.ask else search_all)(book)
    for found in models(given.out) if not given.models else ():
        print(f"\n### {found.name}")
        publish(given, dict(tables(found)), found.name)
    if given.plot:
        plot(given.out, given.plot)


if __name__ == "__main__":
    run_main(main)

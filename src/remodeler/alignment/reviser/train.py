"""Train a reviser: a warm-up reviser that only rewrites, the difficulty of every revision by it, the adaptive reviser.

All is done in ``OUT.partial``, renamed to OUT at the end; every phase is on the disk before the next begins, and what a
kill leaves there is taken up by the same command. Several processes share the training; the first alone scores.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from remodeler.alignment.config import RUN, ReviserWish, options, same_run
from remodeler.alignment.data.examples import Row, marker, revision, tail
from remodeler.alignment.data.preferences import LONG, Preferences, Triple, digest_of, ordered, read_preferences, split
from remodeler.alignment.data.template import LABELS, Template, read_template
from remodeler.alignment.phases import Lesson, announce, phase, provenance
from remodeler.alignment.reviser import calibration
from remodeler.alignment.reviser.difficulty import (
    Difficulty,
    Labelled,
    agreement,
    counts,
    difficulties,
    labelled,
    threshold,
)
from remodeler.alignment.reviser.results import ReviserResults
from remodeler.alignment.reviser.reviser import Reviser, probabilities, quality, reviser, write_settings
from remodeler.alignment.reviser.scoring import mapped
from remodeler.checkpoint.load import Checkpoint, fingerprint, pick_device
from remodeler.checkpoint.sizes import announce_training_space, file_sizes, memory
from remodeler.errors import InputError, counted
from remodeler.report.page import write_result
from remodeler.runs import processes
from remodeler.runs.folders import clear, new_folder, partial, refuse_existing, tidy, whole
from remodeler.runs.job import enough_memory
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, read_lines, versions
from remodeler.training.state import CURVE_FILE

logger = logging.getLogger(__name__)

WARM, ADAPTIVE = "warm-up", "adaptive"
"""Folders of the phases."""
DIFFICULTY = "difficulty.jsonl"
LENGTH = 2048
"""Tokens of an example, where the model has no limit of its own."""


@dataclass(frozen=True)
class Job:
    """What a reviser is trained from."""

    wish: ReviserWish
    model: Checkpoint
    """Without its weights."""
    digest: str
    """Of these."""
    template: Template
    data: Preferences
    device: torch.device

    def load(self, name: str | Path) -> Checkpoint:
        """A model as it trains."""
        return self.wish.loading.load(str(name), self.device, self.wish.course.lora is None)


def train_reviser(wish: ReviserWish, out: Path, dry: bool = False) -> bool:
    """Train a reviser from preferences; with ``dry`` only say what would be done.

    Returns:
        Whether this process wrote the folder: of several processes, the first does.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    wish.rule.checked()
    with processes.group(wish.loading.device) as device, enough_memory("--micro-batch 1 or --adapters"):
        job = prepared(wish, device)
        if processes.first():
            _announce(job)
            announce_training_space(out, file_sizes(job.model), wish.course.lora is None, copies=2)
        if dry:
            _expected(job)
            return False
        done = processes.shared(whole(partial(out), RUN, options(wish, out)))
        if not processes.first():
            if not done:
                _phases(job, partial(out))
            return False
        with new_folder(out, keep=True) as work:
            if not done:
                clear(work, RUN, (WARM, ADAPTIVE, DIFFICULTY, RUN))
                same_run(work, wish)
                _complete(job, work, out)
            tidy(work, RUN, WARM, ADAPTIVE)
    return True


# What is learned from -------------------------------------------------------------------------------------------------


def prepared(wish: ReviserWish, device: str) -> Job:
    """Load the model and the preferences; refuse what can't work."""
    place = pick_device(device)
    wish.course.plan(1, place)  # refuses settings that can't work
    template = read_template(wish.template)
    model = wish.loading.load(wish.model, place, wish.course.lora is None)
    reviser(model, template)
    triples, dropped = read_preferences(wish.preferences, wish.samples, wish.lower, wish.gap)
    fitting = _fitting(model, template, triples, wish.length or min(LENGTH, model.context or LENGTH), dropped)
    train, heldout = split(fitting, wish.heldout, wish.seed)
    weights = fingerprint(model.model)
    model.model.to("meta")  # every phase loads what it trains; here only the tokenizer and the config are needed
    return Job(wish, model, weights, template, Preferences(train, heldout, dropped), place)


def _fitting(
    model: Checkpoint, template: Template, triples: Sequence[Triple], length: int, dropped: Counter[str]
) -> list[Triple]:
    """Triples whose prompt, response and revision fit the context together."""
    marks = max(len(marker(model, template, label)) for label in LABELS)
    ends = [len(tail(model, each.chosen)) for each in triples]
    bad = [len(revision(model, template, each.prompt, each.rejected, "").ids) for each in triples]
    good = [len(revision(model, template, each.prompt, each.chosen, "").ids) for each in triples]
    found = [
        each
        for each, one, two, end in zip(triples, bad, good, ends, strict=True)
        if max(one + end, two) + marks <= length
    ]
    dropped[LONG] += len(triples) - len(found)
    if not found:
        raise InputError(
            f"none of {len(triples)} triples fits {length} tokens with its template: shorten them or raise --length"
        )
    return found


def _announce(job: Job) -> None:
    logger.info(
        f"{job.wish.preferences}: {len(job.data.train):,} triples to learn from, {len(job.data.heldout):,} held out"
    )
    logger.info(f"left out: {counted(job.data.dropped)}")


def _expected(job: Job) -> None:
    """How long the phases would take; the second has about as many examples as its labels ask for."""
    wish, model = job.wish, job.load(job.wish.model)
    rows = _rewrites(job, job.data.train, wish.identity)
    announce(model, Lesson(rows), replace(wish.course, epochs=wish.warmup_epochs), "warm-up reviser")
    more = wish.course.epochs / (1 - wish.rule.none)
    announce(model, Lesson(rows), replace(wish.course, epochs=more), "adaptive reviser, as long as if it rewrote all")


# The phases -----------------------------------------------------------------------------------------------------------


def _rewrites(job: Job, triples: Sequence[Triple], copies: float = 0.0) -> list[Row]:
    """Worse answers to better ones, and some better ones that are copied: Aligner's way to begin."""
    order = sorted(triples, key=lambda each: ordered(each.prompt + each.rejected, job.wish.seed))
    same = order[: round(copies * len(order))]
    pairs = [*((each, each.rejected) for each in triples), *((each, each.chosen) for each in same)]
    return [revision(job.model, job.template, each.prompt, given, each.chosen) for each, given in pairs]


def _rows(job: Job, examples: Sequence[Labelled]) -> list[Row]:
    return [revision(job.model, job.template, each.prompt, each.response, each.better, each.label) for each in examples]


def _phases(job: Job, work: Path) -> tuple[list[Difficulty], list[Difficulty], Path]:
    """Difficulties of what is learned from and of what is held out, and the adaptive reviser."""
    wish, train, heldout = job.wish, job.data.train, job.data.heldout
    lesson = Lesson(_rewrites(job, train, wish.identity), _rewrites(job, heldout))
    course = replace(wish.course, epochs=wish.warmup_epochs)
    warm = phase(lambda: job.load(wish.model), lesson, course, work / WARM, "warm-up reviser")
    found = processes.shared(_difficulties(job, warm, work) if processes.first() else None)
    assert found is not None
    known, rest = found[: len(train)], found[len(train) :]
    limit = threshold(known, wish.rule)
    taught, looked = (
        _rows(job, labelled(part, each, wish.rule, limit, wish.seed))
        for part, each in ((train, known), (heldout, rest))
    )
    start = wish.model if wish.afresh else warm
    lesson = Lesson(taught, looked, wish.label_weight)
    done = phase(lambda: job.load(start), lesson, wish.course, work / ADAPTIVE, "adaptive reviser")
    return known, rest, done


def _difficulties(job: Job, warm: Path, work: Path) -> list[Difficulty]:
    """By the warm-up reviser, of all triples; a line of ``difficulty.jsonl`` each."""
    triples = [*job.data.train, *job.data.heldout]
    loaded: list[Checkpoint] = []

    def made(chunk: Sequence[Triple]) -> list[dict[str, Any]]:
        if not loaded:
            loaded.append(job.load(warm))
        return [asdict(each) for each in difficulties(loaded[0], job.template, chunk)]

    header = {"triples": digest_of(triples), "model": job.digest}
    with progress_bar("difficulty") as progress:
        return [Difficulty(**line) for line in mapped(work / DIFFICULTY, header, triples, made, progress)]


# The result -----------------------------------------------------------------------------------------------------------


def _complete(job: Job, work: Path, out: Path) -> None:
    """Train, look at the held-out triples, and describe it all."""
    known, rest, done = _phases(job, work)
    shutil.copytree(done, work, dirs_exist_ok=True)
    shutil.copyfile(work / ADAPTIVE / CURVE_FILE, work / CURVE_FILE)
    limit, rule = threshold(known, job.wish.rule), job.wish.rule
    trained = reviser(job.load(done), job.template)
    taught = labelled(job.data.train, known, rule, limit, job.wish.seed)
    looked = labelled(job.data.heldout, rest, rule, limit, job.wish.seed)
    facts = {"labels": asdict(rule) | {"threshold": limit}, "label_weight": job.wish.label_weight}
    write_settings(work, job.template, trained.marks, facts)
    results = ReviserResults(
        reviser=memory(trained.checkpoint),
        triples={
            "train": len(job.data.train),
            "held out": len(job.data.heldout),
            "left out": dict(job.data.dropped),
        },
        labels={"threshold": limit, "train": counts(taught), "held out": counts(looked)},
        agreement=agreement(known),
        **_looked(trained, job.data.heldout, looked, job.wish.seed),
        losses={name: _losses(work / name / CURVE_FILE) for name in (WARM, ADAPTIVE)},
        **provenance(work),
    )
    logger.info("; ".join(_told(results)))
    _describe(job, results, work, out)


def _looked(trained: Reviser, triples: Sequence[Triple], examples: Sequence[Labelled], seed: int) -> dict[str, Any]:
    """Calibration on held-out labels, and how well quality tells the better answer from the worse one."""
    found = probabilities(trained, [(each.prompt, each.response) for each in examples])
    sides = [
        [quality(row) for row in probabilities(trained, [(each.prompt, side) for each, side in pairs])]
        for pairs in ([(each, each.chosen) for each in triples], [(each, each.rejected) for each in triples])
    ]
    return {
        "calibration": calibration.judged(found, [each.label for each in examples]),
        "separation": calibration.area_interval(sides[0], sides[1], seed),
    }


def _losses(curve: Path) -> dict[str, float]:
    """Held-out loss of a phase before and after, in nats a token."""
    found = [line["heldout"] for line in read_lines(curve)[1:] if "heldout" in line]
    return {"before": found[0], "after": found[-1]} if found else {}


def _told(results: ReviserResults) -> list[str]:
    seen, apart = results.calibration, results.separation
    return [
        f"held-out labels: {seen['accuracy']:.1%} right (the commonest alone: {seen['chance']:.1%})",
        f"calibration error {seen['calibration_error']:.3f}",
        f"better answers score higher in {apart['value']:.1%} of pairs ({apart['low']:.1%} to {apart['high']:.1%})",
    ]


def _describe(job: Job, results: ReviserResults, work: Path, out: Path) -> None:
    """Write the record, the card and the page."""
    data = job.data
    texts = digest_of((*data.train, *data.heldout))
    inputs = {
        "model": {"name": job.wish.model, "weights": job.digest},
        "preferences": {"name": job.wish.preferences, "sha256": texts},
    }
    found = results.to_record()
    record = Record("align train-reviser", options(job.wish, out), inputs, job.wish.seed, versions(), found)
    write_result(work, record, results)

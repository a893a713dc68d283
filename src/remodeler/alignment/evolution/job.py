"""Evolve a policy: rounds of answer, select or revise, filter, fine-tune (reviser-guided self-evolution).

All is done in ``OUT.partial``, renamed to OUT at the end: a folder a round with every answer, label and revision and
the policy that learned from them; what a kill leaves there is taken up by the same command. No preferences are needed:
prompts alone, a fresh part of them for every round. Some are set aside, on which the policy is looked at before the
first round and after each. Several processes share the training; the first alone answers, labels and revises.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from remodeler.alignment.config import INTERNAL, RUN, EvolveWish, options, same_run
from remodeler.alignment.data.examples import answer
from remodeler.alignment.data.template import LABELS
from remodeler.alignment.evolution.prepare import Job, announce, expected, prepared
from remodeler.alignment.evolution.results import EvolveResults
from remodeler.alignment.evolution.rounds import (
    ROWS,
    Row,
    Task,
    answers,
    gathered,
    judgements,
    refuse_nothing,
    summary,
)
from remodeler.alignment.phases import MODEL, Lesson, phase, provenance
from remodeler.alignment.reviser.reviser import quality
from remodeler.checkpoint.load import fingerprint
from remodeler.checkpoint.sizes import announce_training_space
from remodeler.report.page import write_result
from remodeler.runs import processes
from remodeler.runs.folders import clear, new_folder, partial, refuse_existing, tidy, whole
from remodeler.runs.job import enough_memory
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, digest, read_lines, versions
from remodeler.runs.runlog import RunLog
from remodeler.training.plan import mixed
from remodeler.training.state import CURVE_FILE

logger = logging.getLogger(__name__)

FILTERED = "filters.jsonl"
"""The limits that a round was learned with: they may change until then."""
PROBE = "probe-"
"""Begins the names of the folders with what the policy says between rounds."""


def evolve_policy(wish: EvolveWish, out: Path, dry: bool = False) -> bool:
    """Evolve a policy; with ``dry`` only say what would be done.

    Returns:
        Whether this process wrote the folder: of several processes, the first does.

    Raises:
        InputError: for what can't work, in one sentence; also for a round in which nothing was accepted.
    """
    refuse_existing(out)
    wish = wish.checked()
    with processes.group(wish.loading.device) as device, enough_memory("--batch-size 1, --micro-batch 1 or --adapters"):
        job = prepared(wish, device)
        if processes.first():
            announce(job)
            trained = wish.course.lora is None
            announce_training_space(out, job.policy["size"], trained, copies=len(wish.rounds) + 1)
        if dry:
            expected(job)
            return False
        done = processes.shared(whole(partial(out), RUN, options(wish, out)))
        if not processes.first():
            if not done:
                _rounds(job, partial(out))
            return False
        with new_folder(out, keep=True) as work:
            if not done:
                clear(work, RUN, (RUN, *_folders(work)))
                same_run(work, wish, "limits")
                _complete(job, work, out)
            tidy(work, RUN, *_folders(work))
    return True


def _folders(work: Path) -> list[str]:
    """All that hold work: a result has none."""
    return [path.name for path in work.iterdir() if path.is_dir()]


# The rounds -----------------------------------------------------------------------------------------------------------


def _rounds(job: Job, work: Path) -> list[Path]:
    """The policy's folder after every round."""
    name, done = job.wish.model, []
    _look(job, name, 0, work)
    for number, kind in enumerate(job.wish.rounds, 1):
        folder = work / f"round-{number}-{kind}"
        processes.first_does(lambda place=folder: place.mkdir(exist_ok=True))  # type: ignore[misc]
        rows = _shared_rows(job, name, number, folder)
        start = job.wish.model if job.wish.restart else name
        processes.first_does(lambda place=folder: RunLog(place / FILTERED).resume(asdict(job.wish.limits)))  # type: ignore[misc]
        name = str(_learned(job, start, rows, folder, f"round {number}, {kind}"))
        done.append(Path(name))
        _look(job, name, number, work)
    return done


def _shared_rows(job: Job, name: str, number: int, folder: Path) -> list[Row]:
    """What the first process gathers, in all of them; all refuse a round in which nothing was accepted."""
    found: list[list[Row]] = []

    def gather() -> None:
        rows = _gathered(job, name, number, folder)
        refuse_nothing(rows, number, job.wish.rounds[number - 1], folder)
        found.append(rows)

    processes.first_does(gather)
    rows = processes.shared(found[0] if processes.first() else None)
    assert rows is not None
    return rows


def _gathered(job: Job, name: str, number: int, folder: Path) -> list[Row]:
    """Answer, label, revise and filter; at once where that was done before."""
    if (folder / MODEL).is_dir():
        return [dict(row) for row in read_lines(folder / ROWS)]
    wish, kind = job.wish, job.wish.rounds[number - 1]
    sampling = replace(wish.sampling, seed=mixed(wish.seed, number))
    task = Task(kind, job.shards[number - 1], sampling, wish.limits, wish.labels, wish.sampling.tokens, wish.size)
    with progress_bar(f"round {number}: answers") as progress:
        said = answers(job.load(name), task, folder, progress)
    reviser = job.reviser()
    with progress_bar(f"round {number}: {kind}") as progress:
        rows = gathered(reviser, said, task, folder, fingerprint(reviser.checkpoint.model), progress)
    told = Counter(row["reason"] or "accepted" for row in rows)
    logger.info(f"round {number}, {kind}: " + ", ".join(f"{count} {reason}" for reason, count in told.most_common()))
    return rows


def _learned(job: Job, start: str, rows: Sequence[Row], folder: Path, title: str) -> Path:
    """Fine-tune on what was accepted."""
    policy = job.load(start, job.wish.course.lora is None)
    pairs = [(row["prompt"], row["text"]) for row in rows if row["accepted"]]
    lesson = Lesson([answer(policy, *pair, job.wish.sampling.chat) for pair in pairs])
    return phase(lambda: policy, lesson, job.wish.course, folder, title)


# Looking at it --------------------------------------------------------------------------------------------------------


def _look(job: Job, name: str, number: int, work: Path) -> None:
    """What the policy says to the prompts that were set aside, and how the reviser likes it."""
    if job.probe:
        processes.first_does(lambda: _probe(job, name, number, work))


def _probe(job: Job, name: str, number: int, work: Path) -> None:
    folder = work / f"{PROBE}{number}"
    folder.mkdir(exist_ok=True)
    task = _probe_task(job)
    with progress_bar("looking at the policy") as progress:
        said = answers(job.load(name), task, folder, progress)
        reviser = job.reviser()
        pairs = [(task.prompts[each.prompt], each.text) for each in said]
        judgements(
            reviser, pairs, folder / "judged.jsonl", {"reviser": fingerprint(reviser.checkpoint.model)}, progress
        )


def _probe_task(job: Job) -> Task:
    sampling = replace(job.wish.sampling, samples=1, seed=mixed(job.wish.seed, 0))
    return Task(INTERNAL, job.probe, sampling, job.wish.limits, size=job.wish.size)


def _seen(job: Job, work: Path, number: int) -> dict[str, Any]:
    """Means over the prompts that were set aside."""
    folder = work / f"{PROBE}{number}"
    said, known = read_lines(folder / "answers.jsonl")[1:], read_lines(folder / "judged.jsonl")[1:]
    found = [list(line["probabilities"]) for line in known if line["probabilities"]]
    labels = Counter(LABELS[row.index(max(row))] for row in found)
    return {
        "name": "before" if number == 0 else f"after round {number}",
        "answers": len(said),
        "quality": fmean(map(quality, found)) if found else None,
        "labels": dict(labels),
        "ended": fmean(each["ended"] for each in said),
        "characters": fmean(len(each["text"]) for each in said),
    }


# The result -----------------------------------------------------------------------------------------------------------


def _complete(job: Job, work: Path, out: Path) -> None:
    """All rounds, the policy's folder, and its description."""
    done = _rounds(job, work)
    shutil.copytree(done[-1], work, dirs_exist_ok=True)
    shutil.copyfile(done[-1].parent / CURVE_FILE, work / CURVE_FILE)
    rounds = []
    for number, (kind, model) in enumerate(zip(job.wish.rounds, done, strict=True), 1):
        rows = read_lines(model.parent / ROWS)
        shutil.copyfile(model.parent / ROWS, work / f"round-{number}.jsonl")
        rounds.append({"kind": kind, **summary(rows)})
    results = EvolveResults(
        policy=job.policy["size"],
        rounds=rounds,
        looks=[_seen(job, work, number) for number in range(len(rounds) + 1)] if job.probe else [],
        **provenance(work),
    )
    _describe(job, results, work, out)


def _describe(job: Job, results: EvolveResults, work: Path, out: Path) -> None:
    """Write the record, the card and the page."""
    reviser = job.reviser()
    inputs = {
        "model": {"name": job.policy["name"], "weights": job.policy["weights"]},
        "reviser": {"name": job.wish.reviser, "weights": fingerprint(reviser.checkpoint.model)},
        "prompts": {
            "name": job.wish.prompts,
            "count": sum(map(len, job.shards)),
            "too long": job.dropped,
            **({"left out": dict(job.bad)} if job.bad else {}),
            "sha256": digest(each for part in job.shards for each in part),
        },
    }
    record = Record("align evolve", options(job.wish, out), inputs, job.wish.seed, versions(), results.to_record())
    write_result(work, record, results)

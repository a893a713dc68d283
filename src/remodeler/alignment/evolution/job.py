"""Evolve a policy: rounds of answer, select or revise, filter, fine-tune (reviser-guided self-evolution).

All is done in ``OUT.partial``, renamed to OUT at the end: a folder per round with every answer, label and revision and
the policy that learned from them; the same command resumes what a kill interrupted. No preferences are needed: prompts
alone, a fresh part of them for every round. Some are set aside, on which the policy is measured before the first round
and after each. Several processes share the training; the first alone answers, labels and revises.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from remodeler.alignment.config import INTERNAL, EvolveConfig, FilterConfig
from remodeler.alignment.data.examples import answer_row
from remodeler.alignment.data.template import LABELS
from remodeler.alignment.evolution.prepare import EvolutionInputs, announce, prepare, preview
from remodeler.alignment.evolution.results import EvolveResults
from remodeler.alignment.evolution.rounds import (
    ANSWERS,
    JUDGED,
    ROWS,
    RoundTask,
    Row,
    collect_rows,
    generate_answers,
    label_answers,
    refuse_empty_round,
    round_summary,
)
from remodeler.alignment.loading import name_of
from remodeler.alignment.phases import MODEL, REMEDY, TrainingSet, provenance, train_phase
from remodeler.alignment.records import RUN, identity, record_options, refuse_other_run
from remodeler.alignment.reviser.reviser import quality
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.load import fingerprint
from remodeler.errors import option
from remodeler.reporting.page import write_result
from remodeler.runs import processes
from remodeler.runs.job import Job, run
from remodeler.runs.options import build
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, digest, load_record, read_lines, versions
from remodeler.runs.runlog import RunLog
from remodeler.runs.signatures import with_signature
from remodeler.training.plan import mix_seed
from remodeler.training.state import CURVE_FILE

logger = logging.getLogger(__name__)

FILTERED = "filters.jsonl"
"""The filters that a round was learned with: they may change until then."""
FILTERS = tuple(each.name for each in fields(FilterConfig))


@with_signature(EvolveConfig)
def evolve(model: ModelLike, **options: Any) -> EvolveResults | None:
    """Evolve a policy with a reviser, and write it to a new folder.

    Args:
        model: the policy: a folder, a hub id or a loaded checkpoint, which stays as it is.
        **options: those of :class:`~remodeler.alignment.config.EvolveConfig`, by name.

    Returns:
        What came of it; None in a dry run, and in all processes but the first.

    Raises:
        InputError: for what can't work; also for a round in which nothing was accepted.
    """
    return evolve_policy(build(EvolveConfig, {"model": model, **options}))


def evolve_policy(config: EvolveConfig) -> EvolveResults | None:
    """Evolve a policy as a config says; in a dry run only say what would be done."""
    out = config.run.folder()
    return run(
        lambda device: _job(config, device, out),
        out,
        device=config.source.device,
        remedy=f"{option('batch_size', 1)}, {REMEDY}",
        dry_run=config.run.dry_run,
    )


def _job(config: EvolveConfig, device: str, out: Path) -> Job[EvolveResults]:
    inputs, header = prepare(config, device), identity(config, free=FILTERS)
    refuse_other_run(out, header)
    kept = (RUN, *_work_folders(config))
    return Job(
        record_options(config),
        partial(_work, inputs, header),
        partial(_describe, inputs),
        lambda folder: EvolveResults.parse(load_record(folder)),
        announce=lambda: announce(inputs, out),
        preview=lambda: preview(inputs),
        assist=lambda folder: _evolve(inputs, folder),
        kept=kept,
        scratch=kept,
    )


def _work_folders(config: EvolveConfig) -> list[str]:
    """Names of the folders with the work of the rounds, and with that between them."""
    rounds = list(enumerate(config.evolution.rounds, 1))
    return [_round_folder(*each) for each in rounds] + [_probe_folder(number) for number in range(len(rounds) + 1)]


def _round_folder(number: int, kind: str) -> str:
    return f"round-{number}-{kind}"


def _probe_folder(number: int) -> str:
    return f"probe-{number}"


# The rounds -----------------------------------------------------------------------------------------------------------


def _evolve(inputs: EvolutionInputs, work: Path) -> list[Path]:
    """Do all rounds; the policy's folder after each."""
    first, done = inputs.config.source.model, []
    policy: ModelLike = first
    _measure(inputs, policy, 0, work)
    for number, kind in enumerate(inputs.config.evolution.rounds, 1):
        folder = work / _round_folder(number, kind)
        processes.first_does(partial(folder.mkdir, exist_ok=True))
        rows = _share_rows(inputs, policy, number, folder)
        start = first if inputs.config.evolution.restart else policy
        processes.first_does(partial(RunLog(folder / FILTERED).resume, asdict(inputs.config.filters)))
        policy = _train_round(inputs, start, rows, folder, f"round {number}, {kind}")
        done.append(policy)
        _measure(inputs, policy, number, work)
    return done


def _share_rows(inputs: EvolutionInputs, policy: ModelLike, number: int, folder: Path) -> list[Row]:
    """Gather rows in the first process, for all; all refuse a round in which nothing was accepted."""
    found: list[list[Row]] = []

    def gather() -> None:
        rows = _gather(inputs, policy, number, folder)
        refuse_empty_round(rows, number, inputs.config.evolution.rounds[number - 1], folder)
        found.append(rows)

    processes.first_does(gather)
    rows = processes.from_first(found[0] if processes.is_first() else None)
    assert rows is not None
    return rows


def _gather(inputs: EvolutionInputs, policy: ModelLike, number: int, folder: Path) -> list[Row]:
    """Answer, label, revise and filter; at once where that was done before."""
    if (folder / MODEL).is_dir():
        return [dict(row) for row in read_lines(folder / ROWS)]
    task = _round_task(inputs, number)
    with progress_bar(f"round {number}: answers") as progress:
        answers = generate_answers(inputs.load(policy), task, folder, progress)
    reviser = inputs.reviser()
    with progress_bar(f"round {number}: {task.kind}") as progress:
        rows = collect_rows(reviser, answers, task, folder, fingerprint(reviser.checkpoint.model), progress)
    counts = Counter(row["reason"] or "accepted" for row in rows).most_common()
    logger.info(f"round {number}, {task.kind}: " + ", ".join(f"{count} {reason}" for reason, count in counts))
    return rows


def _round_task(inputs: EvolutionInputs, number: int) -> RoundTask:
    config = inputs.config
    kind = config.evolution.rounds[number - 1]
    sampling = replace(inputs.sampling, seed=mix_seed(config.training.seed, number))
    return RoundTask(
        kind,
        inputs.shards[number - 1],
        sampling,
        config.filters,
        config.evolution.use_labels,
        config.sampling.max_new_tokens,
        config.sampling.batch_size,
    )


def _train_round(inputs: EvolutionInputs, start: ModelLike, rows: Sequence[Row], folder: Path, title: str) -> Path:
    """Fine-tune on what was accepted."""
    policy, chat = inputs.load_for_training(start), inputs.config.sampling.chat
    pairs = [(row["prompt"], row["text"]) for row in rows if row["accepted"]]
    data = TrainingSet([answer_row(policy, *pair, chat) for pair in pairs])
    return train_phase(lambda: policy, data, inputs.config.training, folder, title)


# Between the rounds ---------------------------------------------------------------------------------------------------


def _measure(inputs: EvolutionInputs, policy: ModelLike, number: int, work: Path) -> None:
    """Answer the prompts that were set aside, and have the reviser label the answers."""
    if inputs.probe:
        processes.first_does(lambda: _probe(inputs, policy, work / _probe_folder(number)))


def _probe(inputs: EvolutionInputs, policy: ModelLike, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    config = inputs.config
    sampling = replace(inputs.sampling, samples=1, seed=mix_seed(config.training.seed, 0))
    task = RoundTask(INTERNAL, inputs.probe, sampling, config.filters, batch_size=config.sampling.batch_size)
    with progress_bar("measuring the policy") as progress:
        answers = generate_answers(inputs.load(policy), task, folder, progress)
        reviser = inputs.reviser()
        pairs = [(task.prompts[each.prompt], each.text) for each in answers]
        header = {"reviser": fingerprint(reviser.checkpoint.model)}
        label_answers(reviser, pairs, folder / JUDGED, header, progress)


def _probe_summary(work: Path, number: int) -> dict[str, Any]:
    """Means over the prompts that were set aside."""
    folder = work / _probe_folder(number)
    answers, labelled = read_lines(folder / ANSWERS)[1:], read_lines(folder / JUDGED)[1:]
    found = [list(line["probabilities"]) for line in labelled if line["probabilities"]]
    labels = Counter(LABELS[row.index(max(row))] for row in found)
    return {
        "name": "before" if number == 0 else f"after round {number}",
        "answers": len(answers),
        "quality": fmean(map(quality, found)) if found else None,
        "labels": dict(labels),
        "ended": fmean(each["ended"] for each in answers),
        "characters": fmean(len(each["text"]) for each in answers),
    }


# The result -----------------------------------------------------------------------------------------------------------


def _work(inputs: EvolutionInputs, header: dict[str, Any], work: Path) -> EvolveResults:
    """Do all rounds, and put the policy and the rows of every round together."""
    RunLog(work / RUN).resume(header)
    done = _evolve(inputs, work)
    shutil.copytree(done[-1], work, dirs_exist_ok=True)
    shutil.copyfile(done[-1].parent / CURVE_FILE, work / CURVE_FILE)
    rounds = []
    for number, (kind, model) in enumerate(zip(inputs.config.evolution.rounds, done, strict=True), 1):
        rows = read_lines(model.parent / ROWS)
        shutil.copyfile(model.parent / ROWS, work / f"round-{number}.jsonl")
        rounds.append({"kind": kind, **round_summary(rows)})
    return EvolveResults(
        policy=inputs.size,
        rounds=rounds,
        looks=[_probe_summary(work, number) for number in range(len(rounds) + 1)] if inputs.probe else [],
        **provenance(work),
    )


def _describe(inputs: EvolutionInputs, work: Path, results: EvolveResults) -> None:
    """Write the record, the card and the page."""
    config = inputs.config
    facts = {
        "model": {"name": config.source.name, "weights": inputs.weights},
        "reviser": {
            "name": name_of(config.reviser),
            "weights": fingerprint(inputs.reviser().checkpoint.model),
        },
        "prompts": {
            "name": config.evolution.prompts,
            "count": sum(map(len, inputs.shards)),
            "too long": inputs.long,
            **({"left out": dict(inputs.dropped)} if inputs.dropped else {}),
            "sha256": digest(each for part in inputs.shards for each in part),
        },
    }
    options, seed = record_options(config), config.training.seed
    write_result(work, Record("align evolve", options, facts, seed, versions(), results.to_record()), results)

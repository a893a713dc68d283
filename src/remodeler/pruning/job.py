"""Prune from start to finish: load, search, write, read back, measure. Cut: another size from a search that was made.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from remodeler import processes
from remodeler.card import write_card
from remodeler.checkpoints import AUTO, Checkpoint, fingerprint
from remodeler.console import bar, duration, note
from remodeler.errors import InputError
from remodeler.evaluation import compare_affordable_speed, memory, text_scores
from remodeler.forms import FORMS, Form, refusal
from remodeler.logprobs import batch_nll, batch_size, device_of, to_batch
from remodeler.measurements import short, size
from remodeler.pruning.budget import Budget, upto
from remodeler.pruning.criteria import METHODS, Method
from remodeler.pruning.log import REMOVALS_FILE, Header, Step, blocks_of, name, read_log
from remodeler.pruning.search import Search, check, estimate, prune
from remodeler.pruning.wishes import Job, Plan, Source, Text
from remodeler.records import (
    Record,
    new_folder,
    read_lines,
    refuse_existing,
    save_record,
    versions,
    write_text,
)
from remodeler.saving import Saved, save_pruned

Finish = Callable[[Path], object]
"""Called with the finished folder before it gets its name: writes the report."""
PIPELINES = {"causal": "text-generation", "masked": "fill-mask", "seq2seq": "text2text-generation"}


def prune_model(
    source: Source, text: Text, plan: Plan, budget: Budget, out: Path, finish: Finish, dry: bool = False
) -> bool:
    """Prune a model and write it to a new folder ``out``; with ``dry`` only say what would be done.

    Returns:
        Whether this process wrote the folder: of several processes, the first does.
    """
    refuse_existing(out)
    method, form = _method(plan.method), _form(plan.form)
    with processes.group(source.device) as device:
        job = Job(replace(source, device=device).load(), text, text.sample(), form)
        search = _search(job, plan, method, budget)
        check(search)
        _refuse_form(job)
        if processes.first():
            _announce(search, job)
        if dry:
            return False
        if not processes.first():
            prune(search)
            return False
        with new_folder(out, keep=True) as work:
            options = {**asdict(source), **asdict(text), **asdict(plan), **_budget_options(budget), "out": str(out)}
            _complete(job, _searched(search, job, plan, work), work, "prune", options)
            finish(work)
    return True


def _searched(search: Search, job: Job, plan: Plan, work: Path) -> list[Step]:
    """The steps of a search that is heard and seen, from wherever it stopped before."""
    log = work / REMOVALS_FILE
    _announce_steps(log)
    with bar("searching") as hear:
        steps = prune(replace(search, listen=hear, tell=_tell), log, _header(job, search, plan))
    if not steps:
        raise InputError(f"no step keeps within {search.budget}: allow more, with a larger --max-perplexity-increase")
    return steps


def _tell(step: Step) -> None:
    note(f"{step.step:4d}  without {name(step.removed)}: perplexity {step.perplexity:.4g}, {short(step.parameters)}")


def cut_model(log: Path, source: Source, budget: Budget, out: Path, form_name: str, finish: Finish) -> None:
    """Write another size on the path of a removal log, without searching again."""
    refuse_existing(out)
    header, every = read_log(log)
    form = _form(form_name)
    checkpoint = source.load()
    if fingerprint(checkpoint.model) != header["model"]["weights"]:
        raise InputError(
            f"{log} was searched on other weights than {source.model} in {source.dtype}: "
            "give the same model and --dtype"
        )
    steps = upto(checkpoint.anatomy, header, every, budget)
    if not steps:
        raise InputError(f"no step of {log} keeps within {budget}: allow more")
    given = header["options"]
    text = Text(**{key: given[key] for key in ("texts", "samples", "length", "packing", "seed")})
    job = Job(checkpoint, text, text.sample(), form)
    places = {"form": form_name, "out": str(out), "log": str(log)}
    with new_folder(out) as work:
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)[: len(steps) + 1]
        write_text(work / REMOVALS_FILE, "".join(lines))
        _complete(job, steps, work, "cut", {**given, **asdict(source), **_budget_options(budget), **places})
        finish(work)


# Before the search ----------------------------------------------------------------------------------------------------


def _method(name: str) -> Method:
    if name not in METHODS:
        raise InputError(f"method {name!r} is not known: choose {', '.join(METHODS)}")
    return METHODS[name]


def _form(name: str) -> Form | None:
    forms: dict[str, Form | None] = {"auto": None, **{form: form for form in FORMS}}
    if name not in forms:
        raise InputError(f"form {name!r} is not known: choose {', '.join(forms)}")
    return forms[name]


def _search(job: Job, plan: Plan, method: Method, budget: Budget) -> Search:
    unit = method.unit if plan.unit == "block" else plan.unit
    seed = job.text.seed
    return Search(job.checkpoint.anatomy, job.windows(), budget, method, unit, plan.shape, seed, plan.batch_size)


def _refuse_form(job: Job) -> None:
    """Hours before it would fail: a form that this family can't have at all. (Stock depends on what survives.)"""
    reason = refusal(job.checkpoint.anatomy, frozenset(), job.form) if job.form in ("packed", "portable") else None
    if reason:
        raise InputError(f"the {job.form} form can't hold this model: {reason}; choose another --form")


def _header(job: Job, search: Search, plan: Plan) -> Header:
    model, windows = job.checkpoint.model, search.windows
    return {
        "name": job.checkpoint.name,
        "model": {"weights": fingerprint(model), "dtype": str(model.dtype).removeprefix("torch.")},
        "texts": {"windows": len(windows), "tokens": windows.tokens, "sha256": windows.fingerprint()},
        "options": {**asdict(job.text), **asdict(plan), **_budget_options(search.budget)},
    }


def _budget_options(budget: Budget) -> dict[str, Any]:
    return {"ratio": budget.ratio, "remove": budget.remove, "max_perplexity_increase": budget.max_increase}


def _announce(search: Search, job: Job) -> None:
    """Model size, candidates, texts, and about how long it will take."""
    checkpoint, sampled, windows = job.checkpoint, job.sampled, search.windows
    figures = memory(checkpoint)
    units, seconds = estimate(search, _pass_seconds(search))
    given, asked = len(sampled.calibration), job.text.samples
    few = f" ({asked} were asked for, the source has no more)" if given < asked else ""
    note(f"{checkpoint.name}: {short(figures['parameters'])} parameters, {size(figures['weight_bytes'])} of weights")
    note(f"{given} texts from {sampled.name}{few}: {len(windows)} windows, {windows.tokens:,} scored tokens")
    note(f"{units} candidates; to remove {search.budget} takes about {duration(seconds)}")


def _announce_steps(log: Path) -> None:
    if log.exists():
        note(f"going on with {log}: {max(0, len(read_lines(log)) - 1)} steps are done")


@torch.no_grad()
def _pass_seconds(search: Search) -> float:
    """Seconds of one pass over the calibration text, from its first mini-batch (run twice: the first warms up)."""
    device = device_of(search.anatomy.model)
    count = search.size or batch_size(search.windows, device)
    batch = to_batch(search.windows[:count], device)
    for _ in range(2):
        start = time.perf_counter()
        batch_nll(search.anatomy, batch).item()
        seconds = time.perf_counter() - start
    return seconds * len(search.windows) / min(count, len(search.windows))


# After the search -----------------------------------------------------------------------------------------------------


def _complete(job: Job, steps: Sequence[Step], work: Path, verb: str, options: dict[str, Any]) -> None:
    """Write the model, read it back, measure both, and describe it all."""
    checkpoint, removed = job.checkpoint, blocks_of(steps)
    note(f"{len(removed)} blocks to remove: writing, reading back, measuring")
    saved = save_pruned(checkpoint, removed, work, job.form)
    dense, pruned = _measure(job, saved)
    header, _ = read_log(work / REMOVALS_FILE)
    results = {
        "dense": {"perplexity": header["perplexity"], **dense},
        "pruned": {"perplexity": steps[-1].perplexity, **pruned},
        "removed": [str(block) for block in removed],
        "blocks": header["candidates"],
        **_facts(checkpoint, saved),
        "seconds": round(sum(step.seconds for step in steps), 3),
        "command": shlex.join(["remodel", *sys.argv[1:]]),
    }
    model = {"name": checkpoint.name, "revision": checkpoint.revision, **header["model"]}
    inputs = {"model": model, "texts": header["texts"]}
    record = Record(verb, options, inputs, job.text.seed, versions(), results)
    save_record(work, record)
    write_card(work, record, checkpoint.name)


def _facts(checkpoint: Checkpoint, saved: Saved) -> dict[str, Any]:
    """What was written, and how it loads."""
    task = checkpoint.anatomy.family.task
    return {
        "layers": len({block.layer for block in checkpoint.anatomy.branches}),
        "form": saved.form,
        "auto_class": AUTO[task].__name__,
        "pipeline_tag": PIPELINES[task],
        "check": asdict(saved.check),
    }


def _measure(job: Job, saved: Saved) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model before and after, on held-out text where there is enough of it, in memory and in speed."""
    both = (job.checkpoint, saved.checkpoint)
    figures = [memory(each) for each in both]
    length, packing = job.text.window(job.checkpoint), job.text.packing
    try:
        scores = [text_scores(each, job.sampled.heldout, length, packing) for each in both]
    except InputError as error:
        note(f"held-out perplexity is left out: {error}")
        scores = [{}, {}]
    for found, score in zip(figures, scores, strict=True):
        found |= {f"heldout_{key}": score[key] for key in ("perplexity", "bits_per_byte") if key in score}
    for found, speeds in zip(figures, compare_affordable_speed(both), strict=True):
        found |= speeds
    return figures[0], figures[1]

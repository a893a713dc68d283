"""Recover from start to finish: load a pruned model and its teacher, train, write, read back, measure all three.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command.
"""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from remodeler.checkpoint.companions import write_tokenizer
from remodeler.checkpoint.load import AUTO, PIPELINES, load
from remodeler.checkpoint.save import tolerance
from remodeler.checkpoint.sizes import announce_training_space, file_bytes, file_sizes
from remodeler.checkpoint.source import Source
from remodeler.errors import InputError
from remodeler.evaluation.texts import Text
from remodeler.model.logprobs import vocabulary
from remodeler.model.minibatches import enough_memory
from remodeler.model.tracing import probe
from remodeler.recovery.config import Wish, told
from remodeler.recovery.prepare import Job, Scores, announce, prepare
from remodeler.recovery.results import PERPLEXITY, RecoverResults
from remodeler.report.cliff import cut_command, result_warning, stored_warning
from remodeler.report.page import write_result
from remodeler.runs import processes
from remodeler.runs.console import bar, note
from remodeler.runs.folders import clear, new_folder, partial, refuse_existing, tidy, whole
from remodeler.runs.records import RECORD_FILE, Record, command_line, load_record, versions
from remodeler.runs.removals import REMOVALS_FILE
from remodeler.training.adapters import merge, reloaded_difference, write_adapters
from remodeler.training.loop import train
from remodeler.training.model import trainable, write_trained
from remodeler.training.state import BEGUN, CURVE_FILE, STATES

FROM_SEARCH = ("removed", "blocks", "layers")


def recover_model(source: Source, text: Text, wish: Wish, out: Path, dry: bool = False) -> bool:
    """Train a pruned model and write it to a new folder ``out``; with ``dry`` only say what would be done.

    Returns:
        Whether this process wrote the folder: of several processes, the first does.
    """
    refuse_existing(out)
    wish.recipe()
    with processes.group(source.device) as device, enough_memory("--micro-batch 1, --checkpointing or --method lora"):
        job = prepare(replace(source, device=device), text, wish, dry)
        if processes.first():
            announce_training_space(out, file_sizes(job.student), job.recipe.lora is None)
        if dry:
            _helped(job, out, dry)
            return False
        options = _options(job, {**asdict(source), "out": str(out)})
        done = processes.shared(whole(partial(out), BEGUN, options))
        if not processes.first():
            if not done:
                _helped(job, out, dry)
            return False
        with new_folder(out, keep=True) as work:
            if not done:
                _complete(job, work, options)
            tidy(work, BEGUN, STATES)
    return True


# Training and what comes of it ----------------------------------------------------------------------------------------


def _helped(job: Job, out: Path, dry: bool) -> None:
    """What the other processes do, and what the first one does to say what it would do."""
    with trainable(job.student.anatomy, job.recipe.lora, job.plan.seed):
        if dry:
            if processes.first():
                announce(job)
            return
        train(job.student.anatomy, job.loss, job.windows, job.plan, partial(out) / STATES, None, job.look)


def _complete(job: Job, work: Path, options: dict[str, Any]) -> None:
    """Measure, train, write the model, read it back, measure again, and describe it all."""
    clear(work, BEGUN, (STATES,))
    dense, pruned = job.scores(job.teacher) if job.teacher else None, job.scores(job.student)
    alone = None
    with trainable(job.student.anatomy, job.recipe.lora, job.plan.seed) as wrapper:
        announce(job)
        lines = _trained(job, work)
        if wrapper is not None and not job.wish.merge:
            alone = _adapters_written(job, wrapper, work)
        elif wrapper is not None:
            merge(wrapper)
    facts = (alone or _model_written(job, work)) | _facts(job, lines)
    recovered = facts["recovered"]
    results = RecoverResults(
        dense=dense,
        pruned=pruned,
        **facts,
        given_back=given_back(dense, pruned, recovered),
        warning=_warning(job, dense, recovered),
    )
    _describe(job, options, results, work)


def _trained(job: Job, work: Path) -> list[dict[str, Any]]:
    """Train, from wherever it stopped before; the loss curve."""
    header = {
        "model": {"name": job.student.name, "weights": job.weights},
        "teacher": job.teacher.name if job.teacher and job.recipe.lesson else None,
        "texts": job.windows.fingerprint(),
        "recipe": told(job.recipe),
        "training": asdict(replace(job.plan, save_minutes=0)),
    }
    with bar("training") as hear:
        lines = train(job.student.anatomy, job.loss, job.windows, job.plan, work / STATES, header, job.look, hear)
    shutil.copyfile(work / STATES / CURVE_FILE, work / CURVE_FILE)
    note(f"{lines[-1]['step']} steps are done: writing, reading back, measuring")
    return lines


def _adapters_written(job: Job, wrapper: Any, work: Path) -> Scores:
    """Adapters alone, read back onto a freshly loaded model."""
    student = job.student
    write_adapters(wrapper, work, student.name)
    write_tokenizer(student.tokenizer, work, student.name, student.revision)
    dtype = str(student.model.dtype).removeprefix("torch.")
    again = load(
        student.name,
        revision=student.revision,
        dtype=dtype,
        device=str(student.model.device),
        family=student.like,
        trust_remote_code=job.trust,
    )
    inputs = probe(student.anatomy.family, student.model.device)
    difference = reloaded_difference(student.anatomy, again.anatomy, work, inputs)
    if not difference <= max(1e-5, tolerance(student.model.dtype, student.model.device)):
        raise InputError(f"the adapters in {work} give other logits than those in memory (by {difference:.3g})")
    scores = job.scores(student)
    scores["weight_bytes"] += sum(file_bytes(file) for file in work.glob("adapter_*.safetensors"))  # beside the model's
    if scores.get("memory_bytes") == scores["weight_bytes"]:
        del scores["memory_bytes"], scores["computed_in"]
    return {"recovered": scores, "form": "adapters", "check": {"one_pass": difference, "cached": None}}


def _model_written(job: Job, work: Path) -> Scores:
    """The model in the form and the dtype it came in, read back."""
    saved = write_trained(job.student, work)
    return {"recovered": job.scores(saved.checkpoint), "form": saved.form, "check": asdict(saved.check)}


def given_back(dense: Scores | None, pruned: Scores, recovered: Scores) -> float | None:
    """Share of what pruning cost that came back; None where nothing was lost, or the unpruned model is not known."""
    before, least, after = (each.get(PERPLEXITY) for each in (dense or {}, pruned, recovered))
    if before is None or least is None or after is None or least <= before:
        return None
    return float((least - after) / (least - before))


def _facts(job: Job, lines: list[dict[str, Any]]) -> dict[str, Any]:
    task = job.student.anatomy.family.task
    tokens = job.plan.steps * job.plan.batch * job.windows.tokens // len(job.windows)
    return {
        "steps": job.plan.steps,
        "tokens": tokens,
        "seconds": lines[-1]["seconds"],
        "auto_class": AUTO[task].__name__,
        "pipeline_tag": PIPELINES[task],
        "command": command_line(),
        **pruning_of(Path(job.student.name)),
    }


def _warning(job: Job, dense: Scores | None, recovered: Scores) -> dict[str, Any] | None:
    """The warning that a result is still of no use; None where it is usable or unknown."""
    before, after = (each.get(PERPLEXITY) for each in (dense or {}, recovered))
    if before is None or after is None:
        return None
    found = result_warning(before, after, vocabulary(job.student.model), "even after training, held-out")
    if not found or "perplexity_before" not in found:  # then the intact model guesses too
        return found
    less = source_command(Path(job.student.name))
    return found | ({"command": less} if less else {})


def source_command(folder: Path) -> str | None:
    """The command that makes a usable result, of which this folder is another: its own warning's, or half as many."""
    if not (folder / RECORD_FILE).exists():
        return None
    record = load_record(folder)
    given, steps = (stored_warning(folder) or {}).get("command"), len(record.results.get("removed") or ())
    if given or record.verb not in ("prune", "cut") or not (folder / REMOVALS_FILE).exists() or steps < 2:
        return given
    return cut_command(record.options, steps // 2, str(folder))


def pruning_of(folder: Path) -> dict[str, Any]:
    """What the record of a pruned model says was removed."""
    if not (folder / RECORD_FILE).exists():
        return {}
    results = load_record(folder).results
    return {key: results[key] for key in FROM_SEARCH if key in results}


def _describe(job: Job, options: dict[str, Any], results: RecoverResults, work: Path) -> None:
    """Write the record, the card and the page."""
    student, original = job.student, job.teacher
    inputs = {
        "model": {"name": student.name, "revision": student.revision, "weights": job.weights},
        "texts": {"windows": len(job.windows), "tokens": job.windows.tokens, "sha256": job.windows.fingerprint()},
        **({"teacher": {"name": original.name}} if original else {}),
    }
    record = Record("recover", options, inputs, job.plan.seed, versions(), results.to_record())
    write_result(work, record, results)


def _options(job: Job, others: dict[str, Any]) -> dict[str, Any]:
    """The run's options, as the record holds them."""
    wish = job.wish
    found = asdict(job.text) | {"method": wish.method, "teacher": wish.teacher, "merge": wish.merge}
    found |= {"heldout": wish.heldout, "teacher_store": str(wish.store) if wish.store else None}
    return found | told(job.recipe) | asdict(job.plan) | others

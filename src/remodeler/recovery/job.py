"""Recover from start to finish: load a pruned model and its teacher, train, write, read back, measure all three."""

import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from remodeler.checkpoint.auto_classes import auto_class, pipeline
from remodeler.checkpoint.companions import write_tokenizer
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import tolerance
from remodeler.checkpoint.sizes import announce_training_space, file_bytes, file_sizes
from remodeler.errors import InputError, option, quantity
from remodeler.model.logprobs import vocabulary
from remodeler.model.tracing import probe
from remodeler.recovery.config import RecoverConfig
from remodeler.recovery.methods import recipe_of, recipe_record
from remodeler.recovery.prepare import Inputs, Scores, announce, prepare
from remodeler.recovery.results import PERPLEXITY, RecoverResults
from remodeler.reporting.cliff import cut_command, result_warning, stored_warning
from remodeler.reporting.page import write_result
from remodeler.runs import processes
from remodeler.runs.job import Job, run
from remodeler.runs.options import build, flat
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import RECORD_FILE, Record, command_line, load_record, versions
from remodeler.runs.removals import REMOVALS_FILE
from remodeler.runs.signatures import with_signature
from remodeler.training.adapters import merge, reloaded_difference, write_adapters
from remodeler.training.loop import train
from remodeler.training.model import read_trained, trainable, write_trained
from remodeler.training.state import CURVE_FILE, STATES

logger = logging.getLogger(__name__)

FROM_SEARCH = ("removed", "blocks", "layers")


REMEDY = f"{option('micro_batch_size', 1)}, {option('checkpointing', True)} or {option('method', 'lora')}"
"""What takes less memory."""


@with_signature(RecoverConfig)
def recover(model: ModelLike, out: Path | str, **options: Any) -> RecoverResults | None:
    """Recover quality after pruning.

    Args:
        model: a pruned model: a folder, a hub id or a loaded checkpoint.
        out: a folder that does not exist yet.
        options: as of :class:`~remodeler.recovery.config.RecoverConfig`: ``teacher=``, ``method="distill"``, ...

    Returns:
        What came of it; None in all processes but the first, and in a dry run.

    Raises:
        InputError: for what can't work, before it trains.
    """
    return recover_model(build(RecoverConfig, {"model": model, "out": Path(out), **options}))


def recover_model(config: RecoverConfig) -> RecoverResults | None:
    """Train a pruned model and write it to a new folder; in a dry run only say what would be done."""
    recipe_of(config)
    device, dry = config.source.device, config.run.dry_run
    return run(lambda own: _job(prepare(config, own)), config.run.out, device=device, remedy=REMEDY, dry_run=dry)


def _job(inputs: Inputs) -> Job[RecoverResults]:
    options = flat(inputs.config) | recipe_record(inputs.recipe) | asdict(inputs.plan)

    def say() -> None:
        if inputs.config.run.out:
            announce_training_space(inputs.config.run.out, file_sizes(inputs.student), inputs.recipe.lora is None)

    return Job(
        options,
        work=lambda folder: _work(inputs, folder),
        describe=lambda folder, results: _describe(inputs, options, results, folder),
        read=lambda folder: RecoverResults.parse(load_record(folder)),
        announce=say,
        preview=lambda: _preview(inputs),
        assist=lambda folder: _assist(inputs, folder),
        kept=(STATES,),
        scratch=(STATES,),
    )


# Training and what comes of it ----------------------------------------------------------------------------------------


def _preview(inputs: Inputs) -> None:
    """Say what would be trained, in every process; the first one speaks."""
    with trainable(inputs.student.anatomy, inputs.recipe.lora, inputs.plan.seed):
        if processes.is_first():
            announce(inputs)


def _assist(inputs: Inputs, folder: Path) -> None:
    """Train along with the first process."""
    with trainable(inputs.student.anatomy, inputs.recipe.lora, inputs.plan.seed):
        how = inputs.loss, inputs.windows, inputs.plan
        train(inputs.student.anatomy, *how, folder / STATES, None, inputs.look, sharded=inputs.sharded)


def _work(inputs: Inputs, work: Path) -> RecoverResults:
    """Measure, train, write the model, read it back, measure again."""
    dense, pruned = inputs.scores(inputs.teacher) if inputs.teacher else None, inputs.scores(inputs.student)
    with trainable(inputs.student.anatomy, inputs.recipe.lora, inputs.plan.seed) as wrapper:
        announce(inputs)
        lines = _train(inputs, work)
        alone = None if inputs.sharded else _adapters(inputs, wrapper, work)
    if inputs.sharded:
        inputs = replace(inputs, student=inputs.reread())
        with trainable(inputs.student.anatomy, inputs.recipe.lora, inputs.plan.seed) as wrapper:
            read_trained(work / STATES, inputs.student.anatomy)
            alone = _adapters(inputs, wrapper, work)
    facts = (alone or _model_written(inputs, work)) | _facts(inputs, lines)
    recovered = facts["recovered"]
    return RecoverResults(
        dense=dense,
        pruned=pruned,
        **facts,
        given_back=given_back(dense, pruned, recovered),
        warning=_warning(inputs, dense, recovered),
    )


def _adapters(inputs: Inputs, wrapper: Any, work: Path) -> Scores | None:
    """Merge adapters into the weights, or write them alone and say what came of it."""
    if wrapper is None or inputs.config.merge:
        if wrapper is not None:
            merge(wrapper)
        return None
    return _adapters_written(inputs, wrapper, work)


def _train(inputs: Inputs, work: Path) -> list[dict[str, Any]]:
    """Train, from wherever it stopped before; the loss curve."""
    header = {
        "model": {"name": inputs.student.name, "weights": inputs.weights},
        "teacher": inputs.teacher.name if inputs.teacher and inputs.recipe.distill else None,
        "texts": inputs.windows.fingerprint(),
        "recipe": recipe_record(inputs.recipe),
        "training": asdict(replace(inputs.plan, save_minutes=0)),
    }
    with progress_bar("training") as progress:
        lines = train(
            inputs.student.anatomy,
            inputs.loss,
            inputs.windows,
            inputs.plan,
            work / STATES,
            header,
            inputs.look,
            progress,
            inputs.sharded,
        )
    shutil.copyfile(work / STATES / CURVE_FILE, work / CURVE_FILE)
    logger.info(f"{quantity(lines[-1]['step'], 'step')} done: writing, reading back, measuring")
    return lines


def _adapters_written(inputs: Inputs, wrapper: Any, work: Path) -> Scores:
    """Adapters alone, read back onto a freshly loaded model."""
    student = inputs.student
    write_adapters(wrapper, work, student.name)
    write_tokenizer(student.tokenizer, work, student.name, student.revision)
    dtype = str(student.model.dtype).removeprefix("torch.")
    again = load(
        student.name,
        revision=student.revision,
        dtype=dtype,
        **student.where(),
        family=student.like,
        trust_remote_code=inputs.trust,
    )
    tokens = probe(student.anatomy.family, student.device)
    difference = reloaded_difference(student.anatomy, again.anatomy, work, tokens)
    if not difference <= max(1e-5, tolerance(student.model.dtype, student.device)):
        raise InputError(f"the adapters in {work} give other logits than those in memory (by {difference:.3g})")
    scores = inputs.scores(student)
    scores["weight_bytes"] += sum(file_bytes(file) for file in work.glob("adapter_*.safetensors"))  # beside the model's
    if scores.get("memory_bytes") == scores["weight_bytes"]:
        del scores["memory_bytes"], scores["computed_in"]
    return {"recovered": scores, "form": "adapters", "check": {"one_pass": difference, "cached": None}}


def _model_written(inputs: Inputs, work: Path) -> Scores:
    """The model in the form and the dtype it came in, read back."""
    saved = write_trained(inputs.student, work)
    return {"recovered": inputs.scores(saved.checkpoint), "form": saved.form, "check": asdict(saved.check)}


def given_back(dense: Scores | None, pruned: Scores, recovered: Scores) -> float | None:
    """Share of what pruning cost that came back; None where nothing was lost, or the unpruned model is not known."""
    before, least, after = (each.get(PERPLEXITY) for each in (dense or {}, pruned, recovered))
    if before is None or least is None or after is None or least <= before:
        return None
    return float((least - after) / (least - before))


def _facts(inputs: Inputs, lines: list[dict[str, Any]]) -> dict[str, Any]:
    family = inputs.student.anatomy.family
    tokens = inputs.plan.steps * inputs.plan.batch * inputs.windows.tokens // len(inputs.windows)
    return {
        "steps": inputs.plan.steps,
        "tokens": tokens,
        "seconds": lines[-1]["seconds"],
        "auto_class": auto_class(family).__name__,
        "pipeline_tag": pipeline(family),
        "command": command_line(),
        **pruning_of(Path(inputs.student.name)),
    }


def _warning(inputs: Inputs, dense: Scores | None, recovered: Scores) -> dict[str, Any] | None:
    """The warning that a result is still of no use; None where it is usable or unknown."""
    before, after = (each.get(PERPLEXITY) for each in (dense or {}, recovered))
    if before is None or after is None:
        return None
    found = result_warning(before, after, vocabulary(inputs.student.model), "even after training, held-out")
    if not found or "perplexity_before" not in found:  # then the intact model guesses too
        return found
    less = source_command(Path(inputs.student.name))
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


def _describe(inputs: Inputs, options: dict[str, Any], results: RecoverResults, work: Path) -> None:
    """Write the record, the card and the page."""
    student, original, windows = inputs.student, inputs.teacher, inputs.windows
    facts = {
        "model": {"name": student.name, "revision": student.revision, "weights": inputs.weights},
        "texts": {"windows": len(windows), "tokens": windows.tokens, "sha256": windows.fingerprint()},
        **({"teacher": {"name": original.name}} if original else {}),
    }
    record = Record("recover", options, facts, inputs.plan.seed, versions(), results.to_record())
    write_result(work, record, results)

"""What follows a search: write the model, read it back, measure it before and after, describe it all."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remodeler.checkpoint.auto_classes import auto_class, pipeline
from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.save import Saved, save_pruned
from remodeler.checkpoint.sizes import memory
from remodeler.errors import InputError
from remodeler.evaluation.metrics import compare_affordable_speed, text_scores
from remodeler.model.logprobs import vocabulary
from remodeler.model.streaming import streamed_weights
from remodeler.pruning.gguf import measure_file, source_facts, write_file
from remodeler.pruning.inputs import Inputs
from remodeler.pruning.pipeline import Outcome
from remodeler.pruning.results import PruneResults
from remodeler.pruning.search.budget import removals
from remodeler.pruning.width.width import WIDTH_METHODS
from remodeler.reporting.cliff import Point, cut_command, path_warning, result_warning
from remodeler.reporting.page import write_result
from remodeler.runs.records import Record, command_line, versions
from remodeler.runs.removals import REMOVALS_FILE, read_log
from remodeler.runs.units import name

logger = logging.getLogger(__name__)


def write_pruned(inputs: Inputs, outcome: Outcome, work: Path, options: dict[str, Any]) -> PruneResults:
    """Write the model that an outcome leaves into a folder that holds its removal log, read it back, measure both."""
    checkpoint, removed = inputs.checkpoint, outcome.removed
    logger.info(f"{_summary(outcome)}: writing, reading back, measuring")
    if inputs.file:
        written = write_file(inputs, removed, work / inputs.file)
        dense, pruned = measure_file(inputs, removed, work / inputs.file)
    else:
        saved = save_pruned(checkpoint, removed, work, inputs.form, widths=outcome.widths, keep_ahead=inputs.keep_ahead)
        written = {"form": saved.form, "check": asdict(saved.check)}
        dense, pruned = _measure(inputs, saved)
    header, _ = read_log(work / REMOVALS_FILE)
    return PruneResults(
        dense={"perplexity": header["perplexity"], **dense},
        pruned={"perplexity": outcome.perplexity, **pruned},
        removed=[str(block) for block in removed],
        blocks=header["candidates"],
        widths={str(block): list(of) for block, of in outcome.kept.items()} or None,
        **_facts(checkpoint),
        **written,
        seconds=round(outcome.seconds, 3),
        command=command_line(),
        warning=_warning(outcome, work, options, vocabulary(checkpoint.model), dense, pruned),
    )


def describe_pruned(inputs: Inputs, work: Path, verb: str, options: dict[str, Any], results: PruneResults) -> None:
    """Write the record, the card and the page."""
    header, _ = read_log(work / REMOVALS_FILE)
    model = {"name": inputs.checkpoint.name, "revision": inputs.checkpoint.revision, **header["model"]}
    if stored := inputs.checkpoint.stored_dtype:  # what is computed in stands in the header
        model |= {"stored_dtype": str(stored).removeprefix("torch.")}
    if inputs.checkpoint.quantised:
        model |= {"quantised": inputs.checkpoint.quantised}
    model |= source_facts(inputs.checkpoint)
    facts = {"model": model, "texts": header["texts"]}
    record = Record(verb, options, facts, inputs.texts.seed, versions(), results.to_record())
    write_result(work, record, results)


def _warning(
    outcome: Outcome, work: Path, options: dict[str, Any], tokens: int, dense: dict[str, Any], pruned: dict[str, Any]
) -> dict[str, Any] | None:
    """The warning that a result is of no use; None where it is of use."""
    at_once = options.get("method") in WIDTH_METHODS
    path = _path(outcome, work / REMOVALS_FILE, at_once, bool(options.get("then")))
    found = path_warning(path, tokens, options)
    key = "heldout_perplexity"
    if found is None and key in dense:
        half = cut_command(options, path[-1].removals // 2) if path[-1].removals > 1 else None
        found = result_warning(dense[key], pruned[key], tokens, "held-out", half)
    return found


def _path(outcome: Outcome, log: Path, at_once: bool, then: bool) -> list[Point]:
    """What a log and the choice of widths led to, step by step; one step where blocks went with widths, ``at_once``."""
    header, steps = read_log(log)
    counts = [removals(steps[:place]) for place in range(1, len(steps) + 1)]
    path = [
        Point(step.perplexity, f"at step {step.step} ({name(step.removed)})", count)
        for step, count in zip(steps, counts, strict=True)
    ]
    narrowed = [Point(outcome.perplexity, "as heads and channels go")] if then or at_once else []
    return [Point(header["perplexity"]), *([] if at_once else path), *narrowed]


def _summary(outcome: Outcome) -> str:
    """What goes, in words."""
    count = len(outcome.removed)
    kept = [sum(part) for part in zip(*outcome.kept.values(), strict=True)] if outcome.kept else [0, 0]
    narrower = f"{kept[1] - kept[0]:,} of {kept[1]:,} heads and channels" if outcome.kept else ""
    blocks = f"{count} block{'s' * (count > 1)}" if count else ""
    return " and ".join(filter(None, (blocks, narrower))) + " to remove"


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """How what was written loads."""
    family = checkpoint.anatomy.family
    return {
        "layers": len({block.layer for block in checkpoint.anatomy.branches}),
        "auto_class": auto_class(family).__name__,
        "pipeline_tag": pipeline(family),
    }


def _measure(inputs: Inputs, saved: Saved) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model before and after, on held-out text where there is enough of it, in memory and in speed."""
    both = (inputs.checkpoint, saved.checkpoint)
    figures = [memory(each) for each in both]
    length, packing = inputs.length, inputs.texts.packing
    try:
        scores = [text_scores(each, inputs.sampled.heldout, length, packing) for each in both]
    except InputError as error:
        logger.warning(f"held-out perplexity is left out: {error}")
        scores = [{}, {}]
    for found, score in zip(figures, scores, strict=True):
        found |= {f"heldout_{key}": score[key] for key in ("perplexity", "bits_per_byte") if key in score}
    if weights := streamed_weights(inputs.checkpoint.model):
        logger.info(f"speed is left out: that of {weights.state} weights is that of their reading")
        return figures[0], figures[1]
    for found, speeds in zip(figures, compare_affordable_speed(both), strict=True):
        found |= speeds
    return figures[0], figures[1]

"""Prune from start to finish: load, search, write, read back, measure. Cut: another size from a search that was made.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import AUTO, PIPELINES, Checkpoint, fingerprint
from remodeler.checkpoint.save import Saved, save_pruned
from remodeler.checkpoint.sizes import announce_space, memory, stored
from remodeler.data.config import TextConfig
from remodeler.data.sources import Sampled
from remodeler.errors import InputError, option
from remodeler.evaluation.metrics import compare_affordable_speed, text_scores
from remodeler.model.logprobs import vocabulary
from remodeler.model.minibatches import enough_memory
from remodeler.model.streaming import streamed
from remodeler.pruning.config import Budget, CutConfig, PruneConfig
from remodeler.pruning.inputs import Inputs
from remodeler.pruning.methods import Method, name_of
from remodeler.pruning.pipeline import Outcome, run
from remodeler.pruning.results import PruneResults
from remodeler.pruning.search.budget import removals, share, upto
from remodeler.pruning.search.loop import Search
from remodeler.pruning.search.strategies import RACES
from remodeler.pruning.validation import (
    announce,
    announce_steps,
    expected_bytes,
    form_named,
    method_of,
    refuse_plan,
    refuse_search,
    refuse_widths,
    strategy_of,
)
from remodeler.pruning.width.store import HISTORY_FILE, STATE_FILE
from remodeler.pruning.width.width import WIDTH_METHODS
from remodeler.report.cliff import Point, cut_command, path_warning, result_warning
from remodeler.report.page import write_result
from remodeler.runs import processes
from remodeler.runs.folders import empty, new_folder, refuse_existing
from remodeler.runs.options import flat
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, versions
from remodeler.runs.removals import REMOVALS_FILE, Header, blocks_of, copy_log, copy_steps, read_log
from remodeler.runs.units import Block, name

logger = logging.getLogger(__name__)


def prune_model(config: PruneConfig) -> bool:
    """Prune a model and write it to a new folder; in a dry run only say what would be done.

    Returns:
        Whether this process wrote the folder: of several processes, the first does.
    """
    out = config.run.out
    assert out
    refuse_existing(out)
    method, form = method_of(config.search), form_named(config.form)
    refuse_plan(config, method, form)
    refuse_widths(config, form)
    with processes.group(config.source.device) as device, enough_memory(f"a smaller {option('batch_size')}"):
        checkpoint = config.source.open(device=device, stream=config.stream)
        inputs = Inputs(checkpoint, config.texts, config.texts.sample(), form)
        search = _search(inputs, config, method)
        refuse_search(search, config, form)
        if processes.first():
            announce(search, config, inputs)
            announce_space(out, expected_bytes(search, inputs))
        if config.run.dry_run:
            return False
        if not processes.first():
            run(search, config, {}, None)
            return False
        with new_folder(out, keep=True) as work:
            empty(work, but=(REMOVALS_FILE, RACES, STATE_FILE, HISTORY_FILE))
            options = flat(config) | {"search": search.scan, "criterion": name_of(method.criterion)}
            _complete(inputs, _searched(search, inputs, config, work), work, "prune", options)
            (work / STATE_FILE).unlink(missing_ok=True)  # other runtimes take every safetensors file for weights
            shutil.rmtree(work / RACES, ignore_errors=True)
    return True


def _searched(search: Search, inputs: Inputs, config: PruneConfig, work: Path) -> Outcome:
    """What goes, by a search that is heard and seen, from wherever it stopped before."""
    log, header = work / REMOVALS_FILE, _header(inputs, search, config)
    if config.search.start and not log.exists():
        copy_log(config.search.start, log, header)
    announce_steps(log)
    with progress_bar("searching") as progress:
        outcome = run(search, config, header, work, progress)
    if not outcome.removed and not outcome.widths:
        raise InputError(f"the first removal already exceeds {_limit(search.budget)}: raise it")
    return outcome


def _limit(budget: Budget) -> str:
    """The budget that a first step can exceed, in words."""
    return f"{option('max_perplexity_increase')} {budget.max_perplexity_increase:.4g}"


def cut_model(config: CutConfig) -> None:
    """Write another size on the path of a removal log, without searching again."""
    out, source, budget = config.run.out, config.source, config.budget
    assert out
    refuse_existing(out)
    log = config.log / REMOVALS_FILE if config.log.is_dir() else config.log
    header, every = read_log(log)
    form = form_named(config.form)
    if source.dtype == "auto":
        source = replace(source, dtype=str(header["model"].get("dtype", "auto")))
    checkpoint = source.open()
    if fingerprint(checkpoint.model) != header["model"]["weights"]:
        raise InputError(
            f"{log} was searched on other weights than {source.name} in {source.dtype}: give the same model"
        )
    unknown = [str(block) for block in blocks_of(every) if block not in checkpoint.anatomy.branches]
    if unknown:
        raise InputError(
            f"{log} removes {unknown[0]}, which {source.name} does not have: give the model it was made of"
        )
    steps = upto(checkpoint.anatomy, header, every, budget)
    if not steps:
        raise InputError(f"the first removal of {log} already exceeds {_limit(budget)}: raise it")
    announce_space(out, _bytes_left(checkpoint, blocks_of(steps)))
    given = header["options"]
    known = {name: given[name] for name in ("texts", "samples", "length", "packing", "seed") if name in given}
    inputs = Inputs(checkpoint, TextConfig(**known), _texts_again(TextConfig(**known)), form)
    with new_folder(out) as work:
        copy_steps(log, work / REMOVALS_FILE, len(steps))
        _complete(
            inputs,
            Outcome(blocks_of(steps), {}, steps[-1].perplexity, sum(step.seconds for step in steps), {}),
            work,
            "cut",
            {**given, **flat(replace(config, source=source))},
        )


def _bytes_left(checkpoint: Checkpoint, removed: Sequence[Block]) -> int:
    """About how many bytes of weights are left without some blocks."""
    return int(stored(checkpoint).bytes * (1 - share(checkpoint.anatomy, removed)))


def _search(inputs: Inputs, config: PruneConfig, method: Method) -> Search:
    given = config.search
    return Search(
        inputs.checkpoint.anatomy,
        inputs.windows(),
        config.budget,
        method,
        method.unit if given.unit == "block" else given.unit,
        given.shape,
        inputs.texts.seed,
        given.batch_size,
        strategy_of(config, method),
        given.error,
    )


def _header(inputs: Inputs, search: Search, config: PruneConfig) -> Header:
    model, windows = inputs.checkpoint.model, search.windows
    return {
        "name": inputs.checkpoint.name,
        "model": {"weights": fingerprint(model), "dtype": str(model.dtype).removeprefix("torch.")},
        "texts": {"windows": len(windows), "tokens": windows.tokens, "sha256": windows.fingerprint()},
        "options": {**asdict(inputs.texts), **config.search.path(search.scan)},
    }


# After the search -----------------------------------------------------------------------------------------------------


def _complete(inputs: Inputs, outcome: Outcome, work: Path, verb: str, options: dict[str, Any]) -> None:
    """Write the model, read it back, measure both, and describe it all."""
    checkpoint, removed = inputs.checkpoint, outcome.removed
    logger.info(f"{_summary(outcome)}: writing, reading back, measuring")
    saved = save_pruned(checkpoint, removed, work, inputs.form, widths=outcome.widths)
    dense, pruned = _measure(inputs, saved)
    header, _ = read_log(work / REMOVALS_FILE)
    results = PruneResults(
        dense={"perplexity": header["perplexity"], **dense},
        pruned={"perplexity": outcome.perplexity, **pruned},
        removed=[str(block) for block in removed],
        blocks=header["candidates"],
        widths={str(block): list(of) for block, of in outcome.kept.items()} or None,
        **_facts(checkpoint, saved),
        seconds=round(outcome.seconds, 3),
        command=command_line(),
        warning=_warning(outcome, work, options, vocabulary(checkpoint.model), dense, pruned),
    )
    model = {"name": checkpoint.name, "revision": checkpoint.revision, **header["model"]}
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


def _texts_again(texts: TextConfig) -> Sampled:
    """The texts of a search, for its held-out figures; none where they are gone."""
    try:
        return texts.sample()
    except InputError as error:
        logger.warning(f"held-out perplexity is left out: {error}")
        return Sampled([], [], texts.texts, 0)


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
    if streamed(inputs.checkpoint.model):
        logger.info("speed is left out: a streamed model's is that of the disk")
        return figures[0], figures[1]
    for found, speeds in zip(figures, compare_affordable_speed(both), strict=True):
        found |= speeds
    return figures[0], figures[1]

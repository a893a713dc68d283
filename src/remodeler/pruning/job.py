"""Prune from start to finish: load, search, write, read back, measure. Cut: another size from an earlier search."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.checkpoint.sizes import announce_space
from remodeler.data.config import TextConfig
from remodeler.data.sources import Sampled
from remodeler.errors import InputError, option, quantity
from remodeler.model.streaming import streamed_weights
from remodeler.pruning.complete import describe_pruned, write_pruned
from remodeler.pruning.config import Budget, CutConfig, PruneConfig, names_file, result_folder
from remodeler.pruning.gguf import is_left_over, place_file, refuse_file
from remodeler.pruning.inputs import Inputs
from remodeler.pruning.methods import Method, name_of
from remodeler.pruning.pipeline import Outcome, run_phases
from remodeler.pruning.results import PruneResults
from remodeler.pruning.search.budget import share, steps_for_budget
from remodeler.pruning.search.loop import Search
from remodeler.pruning.search.strategies import RACES
from remodeler.pruning.validation import (
    announce,
    announce_parts,
    announce_steps,
    expected_bytes,
    form_named,
    in_logged_dtype,
    logged_header,
    method_of,
    refuse_plan,
    refuse_search,
    refuse_widths,
    strategy_of,
    whole_bytes,
)
from remodeler.pruning.width.store import HISTORY_FILE, STATE_FILE
from remodeler.runs.job import Job, run
from remodeler.runs.options import flat
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import load_record
from remodeler.runs.removals import REMOVALS_FILE, Header, Step, blocks_of, copy_log, copy_steps, read_log, refuse_other
from remodeler.runs.units import Block

logger = logging.getLogger(__name__)

REMEDY = f"a smaller {option('batch_size')}"
"""What takes less memory."""


def prune_model(config: PruneConfig) -> PruneResults | None:
    """Prune a model and write it to a new folder; in a dry run only say what would be done.

    Returns:
        What came of it; None in a dry run, and in all processes but the first.
    """
    device, dry = config.source.device, config.run.dry_run
    return _run_to_file(
        config, lambda out: run(lambda own: _job(prepare(config, own)), out, device=device, remedy=REMEDY, dry_run=dry)
    )


def _run_to_file(
    config: PruneConfig | CutConfig, make: Callable[[Path | None], PruneResults | None]
) -> PruneResults | None:
    """Make a result in its folder; a GGUF file comes to its place then."""
    out = config.run.out
    if out is None or not names_file(out):
        return make(out)
    folder = result_folder(out)
    results = read_results(folder) if is_left_over(config) else make(folder)
    if results is not None:
        place_file(out)
    return results


@dataclass(frozen=True)
class Prepared:
    """A pruning run that is loaded and looked at."""

    config: PruneConfig
    inputs: Inputs
    search: Search

    def options(self) -> dict[str, Any]:
        """What was asked for, and what that means, as the record holds it."""
        named = {"search": self.search.strategy, "criterion": name_of(self.search.method.criterion)}
        return flat(self.config) | named

    def find(self, work: Path) -> Outcome:
        """What goes, by a search in a folder, from wherever it stopped before."""
        log, header = work / REMOVALS_FILE, self.header()
        if self.config.search.start and not log.exists():
            copy_log(self.config.search.start, log, header)
        announce_steps(log)
        with progress_bar("searching") as progress:
            outcome = run_phases(self.search, self.config, header, work, progress)
        if not outcome.removed and not outcome.widths:
            raise InputError(f"the first removal already exceeds {_limit(self.search.budget)}: raise it")
        return outcome

    def header(self) -> Header:
        """The first line of the removal log."""
        model, windows = self.inputs.checkpoint.model, self.search.windows
        return {
            "name": self.inputs.checkpoint.name,
            "model": {"weights": fingerprint(model), "dtype": str(model.dtype).removeprefix("torch.")},
            "texts": {"windows": len(windows), "tokens": windows.tokens, "sha256": windows.fingerprint()},
            "options": {**asdict(self.inputs.texts), **self.config.search.path(self.search.strategy)},
        }


def prepare(config: PruneConfig, device: str) -> Prepared:
    """Load the model and its texts; refuse what can't work, hours before it would fail."""
    method, form = method_of(config.search), form_named(config.result.form)
    refuse_plan(config, method, form)
    refuse_widths(config, form)
    refuse_file(config, config.search.shape == "standard" or "layer" in (config.search.unit, method.unit))
    checkpoint = in_logged_dtype(config.source, logged_header(config)).open(
        device=device, stream=config.stream, **config.devices.where()
    )
    file, keep = file_of(config.run.out), config.result.mtp == "keep"
    inputs = Inputs(checkpoint, config.texts, config.texts.sample(), form, file, keep)
    search = _search(inputs, config, method)
    refuse_search(search, config, form)
    prepared = Prepared(config, inputs, search)
    if config.search.start:
        refuse_other(read_log(config.search.start)[0], prepared.header(), config.search.start)
    return prepared


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
        strategy_of(config, method, streamed_weights(inputs.checkpoint.model) is not None),
        given.error,
    )


def _job(prepared: Prepared) -> Job[PruneResults]:
    inputs, search, options = prepared.inputs, prepared.search, prepared.options()

    def say() -> None:
        announce(search, prepared.config, inputs)
        if prepared.config.run.out:
            announce_space(prepared.config.run.out, expected_bytes(search, inputs))

    return Job(
        options,
        work=lambda folder: write_pruned(inputs, prepared.find(folder), folder, options),
        describe=lambda folder, results: describe_pruned(inputs, folder, "prune", options, results),
        read=read_results,
        announce=say,
        assist=lambda folder: run_phases(search, prepared.config, {}, None),
        kept=(REMOVALS_FILE, RACES, STATE_FILE, HISTORY_FILE),
        scratch=(STATE_FILE, RACES),  # other runtimes take every safetensors file for weights
    )


def file_of(out: Path | None) -> str:
    """The name of the GGUF file that a result is; "" of a folder."""
    return out.name if out is not None and names_file(out) else ""


def read_results(folder: Path) -> PruneResults:
    """What came of a run, from its folder."""
    return PruneResults.parse(load_record(folder))


def _limit(budget: Budget) -> str:
    """The budget that a first step can exceed, in words."""
    return f"{option('max_perplexity_increase')} {100 * (budget.max_perplexity_increase or 0):.4g}%"


# Cut ------------------------------------------------------------------------------------------------------------------


def cut_model(config: CutConfig) -> PruneResults | None:
    """Write another size on the path of a removal log, without searching again."""
    return _run_to_file(config, lambda out: run(lambda device: _cut_job(config), out, dry_run=config.run.dry_run))


def _cut_job(config: CutConfig) -> Job[PruneResults]:
    log = config.log / REMOVALS_FILE if config.log.is_dir() else config.log
    header, every = read_log(log)
    refuse_file(config, whole=True)
    source = in_logged_dtype(config.source, header)
    checkpoint = source.open(**config.devices.where())
    refuse_other_model(checkpoint, header, every, log)
    steps = part_of(checkpoint, header, every, config.budget, log)
    texts = texts_of(header)
    form, file, keep = form_named(config.result.form), file_of(config.run.out), config.result.mtp == "keep"
    inputs = Inputs(checkpoint, texts, _texts_again(texts), form, file, keep)
    options = {**header["options"], **flat(replace(config, source=source))}

    def work(folder: Path) -> PruneResults:
        copy_steps(log, folder / REMOVALS_FILE, len(steps))
        return write_pruned(inputs, outcome_of(steps), folder, options)

    def say() -> None:
        announce_parts(inputs)
        gone = share(checkpoint.anatomy, blocks_of(steps))
        logger.info(
            f"{log}: {len(steps)} of {quantity(len(every), 'step')}, {gone:.1%} of the parameters go, calibration "
            f"perplexity {header['perplexity']:.4g} to {steps[-1].perplexity:.4g}"
        )
        if config.run.out:
            announce_space(config.run.out, _bytes_left(inputs, blocks_of(steps)))

    return Job(
        options,
        work=work,
        describe=lambda folder, results: describe_pruned(inputs, folder, "cut", options, results),
        read=read_results,
        announce=say,
    )


def refuse_other_model(checkpoint: Checkpoint, header: Header, steps: Sequence[Step], log: Path) -> None:
    """Raise where a log is of another model than this."""
    if fingerprint(checkpoint.model) != header["model"]["weights"]:
        dtype = str(checkpoint.model.dtype).removeprefix("torch.")
        raise InputError(f"{log} was searched on other weights than {checkpoint.name} in {dtype}: give the same model")
    unknown = [str(block) for block in blocks_of(steps) if block not in checkpoint.anatomy.branches]
    if unknown:
        raise InputError(
            f"{log} removes {unknown[0]}, which {checkpoint.name} does not have: give the model it was made of"
        )


def part_of(checkpoint: Checkpoint, header: Header, steps: Sequence[Step], budget: Budget, log: object) -> list[Step]:
    """The steps of a path that a budget allows."""
    found = steps_for_budget(checkpoint.anatomy, header, steps, budget)
    if not found:
        raise InputError(f"the first removal of {log} already exceeds {_limit(budget)}: raise it")
    return found


def outcome_of(steps: Sequence[Step]) -> Outcome:
    """What some steps come to."""
    return Outcome(blocks_of(steps), {}, steps[-1].perplexity, sum(step.seconds for step in steps), {})


def texts_of(header: Header) -> TextConfig:
    """The texts that a log was searched on, as they were asked for."""
    given = header["options"]
    return TextConfig(**{name: given[name] for name in TextConfig.__dataclass_fields__ if name in given})


def _bytes_left(inputs: Inputs, removed: Sequence[Block]) -> int:
    """About how many bytes of weights are left without some blocks."""
    anatomy = inputs.checkpoint.anatomy
    return int(whole_bytes(inputs) * anatomy.parameters(removed) / anatomy.parameters())


def _texts_again(texts: TextConfig) -> Sampled:
    """The texts of a search, for its held-out figures; none where they are gone."""
    try:
        return texts.sample()
    except InputError as error:
        logger.warning(f"held-out perplexity is left out: {error}")
        return Sampled([], [], texts.texts, 0)

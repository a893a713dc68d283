"""Pruning from Python: search, look at the path, cut it to any size, save."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, overload

from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.errors import InputError, option
from remodeler.pruning.complete import describe_pruned, write_pruned
from remodeler.pruning.config import Budget, PruneConfig, ResultConfig, names_file, result_folder
from remodeler.pruning.inputs import Inputs
from remodeler.pruning.job import REMEDY, Prepared, outcome_of, part_of, prepare, prune_model, read_results
from remodeler.pruning.pipeline import Outcome, read_widths, write_widths
from remodeler.pruning.validation import form_named
from remodeler.runs import processes
from remodeler.runs.folders import new_folder
from remodeler.runs.job import enough_memory
from remodeler.runs.options import build
from remodeler.runs.removals import REMOVALS_FILE, Header, Step, read_log, write_header, write_step
from remodeler.runs.signatures import with_signature
from remodeler.runs.units import Block


@dataclass(frozen=True, repr=False)
class PruneResult:
    """What a search found: its path, and what is removed at its end."""

    inputs: Inputs
    """The model, which is as it was, and the texts."""
    options: dict[str, Any]
    """What was asked for, as records hold it."""
    header: Header
    """Of the removal log: the intact model and its perplexity."""
    steps: tuple[Step, ...]
    outcome: Outcome

    @property
    def removed(self) -> list[Block]:
        """Blocks that are removed, in the order in which they went."""
        return list(self.outcome.removed)

    @property
    def perplexity(self) -> float:
        """Of what is left, on the calibration texts."""
        return self.outcome.perplexity

    def __repr__(self) -> str:
        name, blocks = self.inputs.checkpoint.name, len(self.inputs.checkpoint.anatomy.branches)
        return (
            f"<PruneResult of {name}: {len(self.removed)} of {blocks} blocks removed, perplexity {self.perplexity:.4g}>"
        )

    def save(self, out: Path | str, form: str = "auto") -> Checkpoint:
        """Write the pruned model to a new folder: reloaded, compared with the one in memory, measured and described.

        Args:
            out: a folder that does not exist yet.
            form: auto (the most portable form possible), stock, packed or portable.

        Raises:
            InputError: for a form that can't hold it, or a folder that is there.
        """
        out, form = Path(out), ResultConfig(form=form).form
        if names_file(out):
            raise InputError(f"{out} names a GGUF file, a folder was expected: give that as {option('out')} of prune")
        inputs, options = replace(self.inputs, form=form_named(form)), self.options | {"form": form, "out": str(out)}
        with new_folder(out) as work:
            write_header(work / REMOVALS_FILE, self.header)
            for step in self.steps:
                write_step(work / REMOVALS_FILE, step)
            if self.outcome.widths:
                write_widths(work, self.outcome.widths)
            results = write_pruned(inputs, self.outcome, work, options)
            describe_pruned(inputs, work, "prune", options, results)
        model = self.inputs.checkpoint.model
        return load(out, dtype=str(model.dtype).removeprefix("torch."), **self.inputs.checkpoint.where())


@overload
def prune(model: ModelLike, out: Path | str | None = None, *, dry_run: Literal[True], **options: Any) -> None: ...


@overload
def prune(
    model: ModelLike, out: Path | str | None = None, *, dry_run: Literal[False] = False, **options: Any
) -> PruneResult: ...


@with_signature(PruneConfig)
def prune(model: ModelLike, out: Path | str | None = None, **options: Any) -> PruneResult | None:
    """Search for what to remove; with ``out``, write the result too, resumable as the command is.

    Args:
        model: a folder, a hub id or a loaded checkpoint, which is left as it was.
        out: a folder that does not exist yet; without one, ``save`` of the result writes it.
        options: as of :class:`~remodeler.pruning.config.PruneConfig`: ``ratio=0.25``, ``method="blockpruner"``, ...

    Returns:
        What was found; None in a dry run, which only logs what would be done.

    Raises:
        InputError: for what can't work.
    """
    place = None if out is None else Path(out)
    config = build(PruneConfig, {"model": model, "out": place, **options})
    if config.run.dry_run:
        prune_model(config)
        return None
    with processes.group(config.source.device) as device, enough_memory(REMEDY):
        prepared = prepare(config, device)
        if place is None:
            with TemporaryDirectory() as work:
                return _result(prepared, Path(work), prepared.find(Path(work)))
    prune_model(replace(config, source=replace(config.source, model=prepared.inputs.checkpoint)))
    folder = result_folder(place)
    return _result(prepared, folder, _outcome_in(folder))


def _outcome_in(folder: Path) -> Outcome:
    """What a folder was written from."""
    results = read_results(folder)
    kept = {Block.parse(name): (int(left), int(of)) for name, (left, of) in (results.widths or {}).items()}
    removed = [Block.parse(name) for name in results.removed or ()]
    perplexity = float(results.pruned["perplexity"])
    return Outcome(removed, read_widths(folder), perplexity, results.seconds or 0.0, kept)


def _result(prepared: Prepared, folder: Path, outcome: Outcome) -> PruneResult:
    header, steps = read_log(folder / REMOVALS_FILE)
    return PruneResult(prepared.inputs, prepared.options(), header, tuple(steps), outcome)


def cut(found: PruneResult, **budget: Any) -> PruneResult:
    """Another size on the path of a search, without searching again.

    Args:
        found: what :func:`prune` returned.
        budget: ``ratio``, ``remove`` or ``max_perplexity_increase``.

    Raises:
        InputError: when the path ends before the budget is reached, or its first step exceeds it.
    """
    if not isinstance(found, PruneResult):
        raise InputError(f"{option('found')} must be what `rm.prune` returned (got a {type(found).__name__})")
    if found.outcome.widths:
        raise InputError(f"heads and channels went too, which no path holds: search again with {option('ratio')}")
    checkpoint = found.inputs.checkpoint
    steps = part_of(checkpoint, found.header, found.steps, build(Budget, budget), "this search")
    return replace(found, steps=tuple(steps), outcome=outcome_of(steps))

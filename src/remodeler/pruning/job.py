"""Prune from start to finish: load, search, write, read back, measure; and cut another size from a search that was made.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from remodeler.card import write_card
from remodeler.checkpoints import AUTO, Checkpoint, fingerprint, load
from remodeler.console import bar, duration, note
from remodeler.errors import InputError
from remodeler.evaluation import LENGTH, compare_affordable_speed, memory, model_windows, text_scores
from remodeler.forms import FORMS, Form, refusal
from remodeler.logprobs import batch_nll, batch_size, device_of, to_batch
from remodeler.measurements import short, size
from remodeler.pruning.budget import Budget, upto
from remodeler.pruning.criteria import METHODS
from remodeler.pruning.log import REMOVALS_FILE, Header, Step, blocks_of, read_log
from remodeler.pruning.search import Search, Shape, check, estimate, prune
from remodeler.records import (
    Record,
    new_folder,
    partial,
    read_lines,
    refuse_existing,
    save_record,
    versions,
    write_text,
)
from remodeler.saving import Saved, save_pruned
from remodeler.sources import Sampled, sample
from remodeler.texts import Packing, Windows

Finish = Callable[[Path], object]
"""Called with the finished folder before it gets its name: writes the report."""
PIPELINES = {"causal": "text-generation", "masked": "fill-mask", "seq2seq": "text2text-generation"}


@dataclass(frozen=True)
class Source:
    """Which model, and how to compute with it."""

    model: str
    revision: str | None = None
    family: str | None = None
    trust_remote_code: bool = False
    dtype: str = "auto"
    device: str = "auto"

    def load(self) -> Checkpoint:
        """The checkpoint."""
        given = asdict(self)
        return load(given.pop("model"), **given)


@dataclass(frozen=True)
class Text:
    """What to calibrate on."""

    texts: str = "alpaca"
    samples: int = 256
    length: int | None = None
    """Tokens a window; by default 2,048, or what the model can read."""
    packing: Packing = "paper"
    seed: int = 42

    def sample(self) -> Sampled:
        """Calibration and held-out texts."""
        return sample(self.texts, self.samples, self.seed)

    def window(self, checkpoint: Checkpoint) -> int:
        """The window length for a model."""
        return self.length or min(LENGTH, checkpoint.context or LENGTH)


@dataclass(frozen=True)
class Plan:
    """How to prune."""

    method: str = "blockpruner"
    unit: str = "block"
    shape: Shape = "free"
    form: str = "auto"
    batch_size: int | None = None


def prune_model(
    source: Source, text: Text, plan: Plan, budget: Budget, out: Path, finish: Finish, dry: bool = False
) -> None:
    """Prune a model and write it to a new folder ``out``; with ``dry`` only say what would be done."""
    refuse_existing(out)
    method, form = _method(plan.method), _form(plan.form)
    if plan.form not in ("auto", *FORMS):
        raise InputError(f"form {plan.form!r} is not known: choose auto, {', '.join(FORMS)}")
    checkpoint = source.load()
    sampled = text.sample()
    windows = model_windows(checkpoint, sampled.calibration, text.window(checkpoint), text.packing)
    unit = method.unit if plan.unit == "block" else plan.unit
    search = Search(checkpoint.anatomy, windows, budget, method, unit, plan.shape, text.seed, plan.batch_size)
    check(search)
    _refuse_form(checkpoint, form)
    _announce(search, checkpoint, sampled, text)
    if dry:
        return
    header = _header(checkpoint, windows, text, plan, budget)
    log = partial(out) / REMOVALS_FILE
    if log.exists():
        note(f"going on with {log}: {max(0, len(read_lines(log)) - 1)} steps are done")
    with new_folder(out, keep=True) as work:
        with bar("searching") as hear:
            steps = prune(_listening(search, hear), work / REMOVALS_FILE, header)
        if not steps:
            raise InputError(f"no step keeps within {budget}: allow more, with a larger --max-perplexity-increase")
        options = {**asdict(source), **asdict(text), **asdict(plan), **_budget_options(budget), "out": str(out)}
        _complete(work, checkpoint, steps, form, sampled, text, "prune", options, finish)


def cut_model(log: Path, source: Source, budget: Budget, out: Path, form_name: str, finish: Finish) -> None:
    """Write another size on the path of a removal log, without searching again."""
    refuse_existing(out)
    header, every = read_log(log)
    form = _form(form_name)
    checkpoint = source.load()
    if fingerprint(checkpoint.model) != header["model"]["weights"]:
        raise InputError(
            f"{log} was searched on other weights than {source.model} in {source.dtype}: give the same model and --dtype"
        )
    steps = upto(checkpoint.anatomy, header, every, budget)
    if not steps:
        raise InputError(f"no step of {log} keeps within {budget}: allow more")
    given = header["options"]
    text = Text(**{key: given[key] for key in ("texts", "samples", "length", "packing", "seed")})
    with new_folder(out) as work:
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)[: len(steps) + 1]
        write_text(work / REMOVALS_FILE, "".join(lines))
        options = {
            **given,
            **asdict(source),
            **_budget_options(budget),
            "form": form_name,
            "out": str(out),
            "log": str(log),
        }
        _complete(work, checkpoint, steps, form, text.sample(), text, "cut", options, finish)


# Before the search ----------------------------------------------------------------------------------------------------


def _method(name: str) -> Any:
    if name not in METHODS:
        raise InputError(f"method {name!r} is not known: choose {', '.join(METHODS)}")
    return METHODS[name]


def _form(name: str) -> Form | None:
    if name not in ("auto", *FORMS):
        raise InputError(f"form {name!r} is not known: choose auto, {', '.join(FORMS)}")
    return None if name == "auto" else name  # type: ignore[return-value]


def _refuse_form(checkpoint: Checkpoint, form: Form | None) -> None:
    """Hours before it would fail: a form that this family can't have at all. (Stock depends on what survives.)"""
    reason = refusal(checkpoint.anatomy, frozenset(), form) if form in ("packed", "portable") else None
    if reason:
        raise InputError(f"the {form} form can't hold this model: {reason}; choose another --form")


def _header(checkpoint: Checkpoint, windows: Windows, text: Text, plan: Plan, budget: Budget) -> Header:
    return {
        "name": checkpoint.name,
        "model": {
            "weights": fingerprint(checkpoint.model),
            "dtype": str(checkpoint.model.dtype).removeprefix("torch."),
        },
        "texts": {"windows": len(windows), "tokens": windows.tokens, "sha256": windows.fingerprint()},
        "options": {**asdict(text), **asdict(plan), **_budget_options(budget)},
    }


def _budget_options(budget: Budget) -> dict[str, Any]:
    return {"ratio": budget.ratio, "remove": budget.remove, "max_perplexity_increase": budget.max_increase}


def _announce(search: Search, checkpoint: Checkpoint, sampled: Sampled, text: Text) -> None:
    """Model size, candidates, texts, and about how long it will take."""
    figures = memory(checkpoint)
    units, seconds = estimate(search, _pass_seconds(search))
    given, asked = len(sampled.calibration), text.samples
    few = f" ({asked} were asked for, the source has no more)" if given < asked else ""
    note(f"{checkpoint.name}: {short(figures['parameters'])} parameters, {size(figures['weight_bytes'])} of weights")
    note(
        f"{given} texts from {sampled.name}{few}: {len(search.windows)} windows, {search.windows.tokens:,} scored tokens"
    )
    note(f"{units} candidates; to remove {search.budget} takes about {duration(seconds)}")


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


def _listening(search: Search, hear: Callable[[float, str], None]) -> Search:
    return Search(**{**vars(search), "listen": hear})


# After the search -----------------------------------------------------------------------------------------------------


def _complete(
    work: Path,
    checkpoint: Checkpoint,
    steps: Sequence[Step],
    form: Form | None,
    sampled: Sampled,
    text: Text,
    verb: str,
    options: dict[str, Any],
    finish: Finish,
) -> None:
    """Write the model, read it back, measure both, and describe it all."""
    removed = blocks_of(steps)
    note(f"{len(removed)} blocks to remove: writing, reading back, measuring")
    saved = save_pruned(checkpoint, removed, work, form)
    dense, pruned = _measure(checkpoint, saved, sampled, text)
    header, _ = read_log(work / REMOVALS_FILE)
    results = {
        "dense": {"perplexity": header["perplexity"], **dense},
        "pruned": {"perplexity": steps[-1].perplexity, **pruned},
        "removed": [str(block) for block in removed],
        "blocks": header["candidates"],
        "layers": len({block.layer for block in checkpoint.anatomy.branches}),
        "form": saved.form,
        "auto_class": AUTO[checkpoint.anatomy.family.task].__name__,
        "pipeline_tag": PIPELINES[checkpoint.anatomy.family.task],
        "check": asdict(saved.check),
        "seconds": round(sum(step.seconds for step in steps), 3),
        "command": shlex.join(["remodel", *sys.argv[1:]]),
    }
    model = {"name": checkpoint.name, "revision": checkpoint.revision, **header["model"]}
    record = Record(verb, options, {"model": model, "texts": header["texts"]}, text.seed, versions(), results)
    save_record(work, record)
    write_card(work, record, checkpoint.name)
    finish(work)


def _measure(
    checkpoint: Checkpoint, saved: Saved, sampled: Sampled, text: Text
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model before and after, on held-out text where there is enough of it, in memory and in speed."""
    both = (checkpoint, saved.checkpoint)
    figures = [memory(each) for each in both]
    try:
        scores = [text_scores(each, sampled.heldout, text.window(checkpoint), text.packing) for each in both]
    except InputError as error:
        note(f"held-out perplexity is left out: {error}")
        scores = [{}, {}]
    for found, score in zip(figures, scores, strict=True):
        found |= {f"heldout_{key}": score[key] for key in ("perplexity", "bits_per_byte") if key in score}
    for found, speeds in zip(figures, compare_affordable_speed(both), strict=True):
        found |= speeds
    return figures[0], figures[1]


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0

"""What can be said and refused before a search: options that contradict each other, a form, the size, the time."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from remodeler.checkpoint.carried import carried_ahead
from remodeler.checkpoint.config import ModelConfig
from remodeler.checkpoint.forms import FORMS, Form, refusal
from remodeler.checkpoint.sizes import memory, sizes_in_words, stored_size, written_bytes
from remodeler.errors import InputError, option, quantity
from remodeler.model.logprobs import batch_nll
from remodeler.model.minibatches import batch_size, device_of, to_batch
from remodeler.model.streaming import streamed_weights
from remodeler.pruning.config import OPTION_NAMES, PruneConfig, SearchConfig, result_folder
from remodeler.pruning.inputs import Inputs
from remodeler.pruning.methods import CRITERIA, METHODS, Method, nothing
from remodeler.pruning.search.loop import Search, check, estimate
from remodeler.pruning.width.width import WIDTH_METHODS
from remodeler.reporting.figures import short
from remodeler.runs.folders import partial
from remodeler.runs.progress import duration
from remodeler.runs.records import read_lines
from remodeler.runs.removals import REMOVALS_FILE

logger = logging.getLogger(__name__)


def method_of(config: SearchConfig) -> Method:
    """The row of a method, with what the user wants to be different; heads and channels stand beside the search's."""
    method = METHODS["blockpruner" if config.method in WIDTH_METHODS else config.method]
    own = CRITERIA.get(config.criterion, config.criterion) if config.criterion else method.criterion
    if not callable(own):
        raise InputError(f"{option('criterion')} must be a name or a function (got {own!r})")
    method = replace(method, criterion=own)
    return method if config.protect else replace(method, protect=nothing)


def logged_header(config: PruneConfig) -> dict[str, Any]:
    """The first line of the log that is continued: of an earlier search, or of this one before it was killed."""
    out = config.run.out
    logs = [config.search.start, partial(result_folder(out)) / REMOVALS_FILE if out else None]
    for log in logs:
        if log is not None and log.is_file() and (lines := read_lines(log)[:1]):
            return lines[0] if isinstance(lines[0], dict) else {}  # what is no log is refused where it is read
    return {}


def in_logged_dtype(source: ModelConfig, header: Mapping[str, Any]) -> ModelConfig:
    """A model in the dtype of a log, where that is left open: what is fast may be judged otherwise by now."""
    model = header.get("model")
    if source.dtype != "auto" or not isinstance(model, Mapping):
        return source
    return replace(source, dtype=str(model.get("dtype", "auto")))


def strategy_of(config: PruneConfig, method: Method, elsewhere: bool) -> str:
    """How candidates are scored where that is left open: as in the log that is continued, else by a race if possible.

    A race reads the model once for every few windows, which is dear where layers are ``elsewhere`` than they run.
    """
    if config.search.search != "auto":
        return config.search.search
    if header := logged_header(config):
        return str((header.get("options") or {}).get("search") or "exact")
    raceable = method.iterative and method.criterion is CRITERIA["perplexity"] and not elsewhere
    return "race" if raceable and config.search.method not in WIDTH_METHODS else "exact"


def form_named(name: str) -> Form | None:
    """A form by name; None for ``auto``."""
    return next((form for form in FORMS if form == name), None)


def refuse_plan(config: PruneConfig, method: Method, form: Form | None) -> None:
    """Raise for options that contradict each other."""
    search = config.search
    if search.shape != "free" and search.unit != "block":
        raise InputError(
            f"{option('unit', search.unit)} was given with {option('shape', search.shape)}, which says what goes at "
            "once: give one of them"
        )
    whole = search.shape == "standard" or "layer" in (search.unit, method.unit)
    if form == "stock" and not whole:
        raise InputError(
            f"{option('form', 'stock')} needs blocks that pair up: add {option('shape', 'standard')} or "
            f"{option('unit', 'layer')}"
        )


def refuse_widths(config: PruneConfig, form: Form | None) -> None:
    """Raise for what makes no sense with heads and channels, or only with them."""
    search, options, width = config.search, config.width.options(), config.width_method
    if width is None:
        if options:
            names = ", ".join(option(OPTION_NAMES.get(name, name)) for name in options)
            raise InputError(
                f"{names} was given, but no heads or channels go: add {option('then', 'width')}, or leave it out"
            )
        return
    if config.budget.ratio is None:
        raise InputError(
            f"{width} chooses heads and channels for a {option('ratio')}, and was asked {config.budget}: give a "
            f"{option('ratio')}"
        )
    others = search.refine or search.criterion or search.search not in ("auto", "exact") or search.start
    if search.method in WIDTH_METHODS and (config.width.then or others or search.unit != "block"):
        names = ", ".join(map(option, ("then", "refine", "criterion", "search", "unit", "start")))
        raise InputError(
            f"{option('method', search.method)} removes no blocks, so {names} mean nothing: leave them out, or choose "
            f"another {option('method')} with {option('then')}"
        )
    if form == "stock" and not options.get("uniform"):
        raise InputError(f"{option('form', 'stock')} needs layers of the same width: add {option('uniform')}")


def refuse_search(search: Search, config: PruneConfig, form: Form | None) -> None:
    """What the search could not reach, and, hours before it would fail, a form that this family can't have."""
    if config.search.shape != "free" and len(search.anatomy.family.stacks) > 1:
        raise InputError(
            f"{option('shape', config.search.shape)} is for decoders by themselves: {option('unit', 'layer')} takes "
            "whole layers of an encoder and its decoder"
        )
    if config.width_method and (weights := streamed_weights(search.anatomy.model)):
        what = f"heads and channels can't be chosen in a model of which weights are {weights.state}"
        raise InputError(f"{what}: {weights.remedy}, or remove blocks")
    if config.width_method is None:
        check(search)
    elif config.search.method not in WIDTH_METHODS:
        check(replace(search, budget=config.blocks_budget()))
    if config.search.shape == "deci" and search.anatomy.parallel:
        raise InputError(
            f"{option('shape', 'deci')} is for models whose MLPs come behind their attentions: choose standard or free"
        )
    if form is None:
        return
    first = search.units()[0] if config.search.method not in WIDTH_METHODS else ()
    if reason := refusal(search.anatomy, frozenset(first), form):
        raise InputError(f"the {form} form can't hold this model: {reason}; choose another {option('form')}")


def announce(search: Search, config: PruneConfig, inputs: Inputs) -> None:
    """Model size, candidates, texts, and about how long it will take."""
    checkpoint, sampled, windows = inputs.checkpoint, inputs.sampled, search.windows
    figures = memory(checkpoint)
    given, asked = len(sampled.calibration), inputs.texts.samples
    few = f" ({asked} were asked for, the source has no more)" if given < asked else ""
    logger.info(f"{checkpoint.name}: {sizes_in_words(figures)}")
    announce_parts(inputs)
    logger.info(
        f"{quantity(given, 'text')} from {sampled.name}{few}: {quantity(len(windows), 'window')}, "
        f"{windows.tokens:,} scored tokens"
    )
    if config.search.method not in WIDTH_METHODS:
        blocks = replace(search, budget=config.blocks_budget()) if config.width_method else search
        units, seconds = estimate(blocks, _pass_seconds(search))
        logger.info(f"{units} candidates; {blocks.budget} takes about {duration(seconds)}")
    if width := config.width_method:
        logger.info(f"heads and channels by {width}: {WIDTH_METHODS[width].summary}")


def announce_parts(inputs: Inputs) -> None:
    """What is carried along as it is, and what a ratio is a share of then."""
    anatomy = inputs.checkpoint.anatomy
    if carried := anatomy.carried_parameters():
        text = anatomy.parameters() - carried
        logger.info(
            f"its text part ({short(text)} parameters) is pruned, and a ratio is a share of that; all else "
            f"({short(carried)}) is carried along as it is"
        )
    ahead = len(carried_ahead(inputs.checkpoint))
    if ahead and not inputs.file:
        what = "carried along as they are" if inputs.keep_ahead else "left out"
        logger.info(f"{quantity(ahead, 'tensor')} of layers that predict further tokens (MTP): {what}")


def expected_bytes(search: Search, inputs: Inputs) -> int:
    """About how many bytes of weights a search writes: at most those of the model, less what a ratio takes away."""
    text = 1 - search.anatomy.carried_parameters() / search.anatomy.parameters()
    kept = 1.0 if inputs.form == "portable" else 1.0 - (search.budget.ratio or 0.0) * text
    return int(kept * whole_bytes(inputs))


def whole_bytes(inputs: Inputs) -> int:
    """Bytes of weights that the whole model would take as it is written; a GGUF file keeps its numbers as they are."""
    return stored_size(inputs.checkpoint).bytes if inputs.file else written_bytes(inputs.checkpoint)


def announce_steps(log: Path) -> None:
    """Say what an interrupted search left."""
    if log.exists():
        logger.info(f"going on with {log}: {quantity(max(0, len(read_lines(log)) - 1), 'step')} done")


@torch.no_grad()
def _pass_seconds(search: Search) -> float:
    """Seconds of one pass over the calibration text, from its first mini-batch; in memory the first run warms up."""
    device = device_of(search.anatomy.model)
    count = search.size or batch_size(search.anatomy, search.windows)
    batch = to_batch(search.windows[:count], device)
    for _ in range(1 if streamed_weights(search.anatomy.model) else 2):
        start = time.perf_counter()
        batch_nll(search.anatomy, batch).item()
        seconds = time.perf_counter() - start
    return seconds * len(search.windows) / min(count, len(search.windows))

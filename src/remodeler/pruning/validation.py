"""What can be said and refused before a search: options that contradict each other, a form, the size, the time."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import torch

from remodeler.checkpoint.forms import FORMS, Form, refusal
from remodeler.checkpoint.sizes import memory, sizes_in_words, stored
from remodeler.errors import InputError
from remodeler.model.logprobs import batch_nll
from remodeler.model.minibatches import batch_size, device_of, to_batch
from remodeler.model.streaming import streamed
from remodeler.pruning.config import Job, Plan
from remodeler.pruning.methods import CRITERIA, METHODS, Method, nothing
from remodeler.pruning.search.budget import Budget
from remodeler.pruning.search.loop import Search, check, estimate
from remodeler.pruning.search.strategies import SCANS
from remodeler.pruning.width.width import WIDTH_METHODS
from remodeler.runs.progress import duration
from remodeler.runs.records import read_lines

logger = logging.getLogger(__name__)


def method_of(plan: Plan) -> Method:
    """The row of a method, with what the user wants to be different; heads and channels stand beside the search's."""
    known_methods = {**METHODS, **dict.fromkeys(WIDTH_METHODS, METHODS["blockpruner"])}
    for option, name, known in (
        ("method", plan.method, known_methods),
        ("criterion", plan.criterion, CRITERIA),
        ("search", plan.search, {"exact": None, **SCANS}),
        ("--then", plan.then, ("width", *WIDTH_METHODS)),
    ):
        if name is not None and name not in known:
            raise InputError(f"{option} {name!r} is not known: choose {', '.join(known)}")
    method = known_methods[plan.method]
    method = replace(method, criterion=CRITERIA[plan.criterion]) if plan.criterion else method
    return method if plan.protect else replace(method, protect=nothing)


def form_named(name: str) -> Form | None:
    """A form by name; None for ``auto``."""
    forms: dict[str, Form | None] = {"auto": None, **{form: form for form in FORMS}}
    if name not in forms:
        raise InputError(f"form {name!r} is not known: choose {', '.join(forms)}")
    return forms[name]


def refuse_plan(plan: Plan, method: Method, form: Form | None) -> None:
    """Options that contradict each other."""
    if plan.shape != "free" and plan.unit != "block":
        raise InputError(
            f"--unit {plan.unit} was given with --shape {plan.shape}, which says what goes at once: give one of them"
        )
    if not 0 < plan.error < 1:
        raise InputError(f"an error probability of {plan.error:g} was given: give one above 0 and below 1, as 1%")
    whole = plan.shape == "standard" or "layer" in (plan.unit, method.unit)
    if form == "stock" and not whole:
        raise InputError("--form stock needs blocks that pair up: add --shape standard or --unit layer")


def refuse_widths(plan: Plan, budget: Budget, form: Form | None) -> None:
    """What makes no sense with heads and channels, or only with them."""
    named = ", ".join(f"--{name.replace('_', '-')}" for name in plan.width_options)
    if plan.width is None:
        if named:
            raise InputError(f"{named} was given, but no heads or channels go: add --then width, or leave it out")
        return
    pure = plan.method in WIDTH_METHODS
    if budget.ratio is None:
        raise InputError(
            f"{plan.width} chooses heads and channels for a --ratio, and was asked {budget}: give a --ratio"
        )
    blocks = plan.refine or plan.criterion or plan.search != "exact" or plan.start or plan.unit != "block"
    if pure and (plan.then or blocks):
        raise InputError(
            f"--method {plan.method} removes no blocks, so --then, --refine, --criterion, --search, --unit and --from "
            "mean nothing: leave them out, or choose another --method with --then"
        )
    if not 0 < plan.blocks_share < 1:
        raise InputError(f"blocks take a share of {plan.blocks_share:g}: give one above 0 and below 1, as 44%")
    if form == "stock" and not plan.width_options.get("uniform"):
        raise InputError("--form stock needs layers of the same width: add --uniform")


def refuse_search(search: Search, plan: Plan, form: Form | None) -> None:
    """What the search could not reach, and, hours before it would fail, a form that this family can't have."""
    if plan.width and streamed(search.anatomy.model):
        raise InputError("heads and channels can't be chosen in a streamed model: leave --stream out, or remove blocks")
    if plan.width is None:
        check(search)
    elif plan.method not in WIDTH_METHODS:
        check(replace(search, budget=plan.blocks_first(search.budget)))
    if plan.shape == "deci" and search.anatomy.parallel:
        raise InputError("--shape deci is for models whose MLPs come behind their attentions: choose standard or free")
    if form is None:
        return
    first = search.units()[0] if form == "stock" and plan.method not in WIDTH_METHODS else ()
    reason = refusal(search.anatomy, frozenset(first), form)
    if reason:
        raise InputError(f"the {form} form can't hold this model: {reason}; choose another --form")


def announce(search: Search, plan: Plan, job: Job) -> None:
    """Model size, candidates, texts, and about how long it will take."""
    checkpoint, sampled, windows = job.checkpoint, job.sampled, search.windows
    figures = memory(checkpoint)
    given, asked = len(sampled.calibration), job.text.samples
    few = f" ({asked} were asked for, the source has no more)" if given < asked else ""
    logger.info(f"{checkpoint.name}: {sizes_in_words(figures)}")
    logger.info(f"{given} texts from {sampled.name}{few}: {len(windows)} windows, {windows.tokens:,} scored tokens")
    if plan.method not in WIDTH_METHODS:
        blocks = replace(search, budget=plan.blocks_first(search.budget)) if plan.width else search
        units, seconds = estimate(blocks, _pass_seconds(search))
        logger.info(f"{units} candidates; {blocks.budget} takes about {duration(seconds)}")
    if plan.width:
        logger.info(f"heads and channels by {plan.width}: {WIDTH_METHODS[plan.width].summary}")
    if checkpoint.anatomy.family.task == "seq2seq":
        logger.info(
            "encoder-decoder models are written in the portable form only: zeroed blocks, no smaller and no faster"
        )


def expected_bytes(search: Search, job: Job) -> int:
    """About how many bytes of weights a search writes: at most those of the model, less what a ratio takes away."""
    kept = 1.0 if job.form == "portable" else 1.0 - (search.budget.ratio or 0.0)
    return int(kept * stored(job.checkpoint).bytes)


def announce_steps(log: Path) -> None:
    """Say what an interrupted search left."""
    if log.exists():
        logger.info(f"going on with {log}: {max(0, len(read_lines(log)) - 1)} steps are done")


@torch.no_grad()
def _pass_seconds(search: Search) -> float:
    """Seconds of one pass over the calibration text, from its first mini-batch; in memory the first run warms up."""
    device = device_of(search.anatomy.model)
    count = search.size or batch_size(search.anatomy, search.windows)
    batch = to_batch(search.windows[:count], device)
    for _ in range(1 if streamed(search.anatomy.model) else 2):
        start = time.perf_counter()
        batch_nll(search.anatomy, batch).item()
        seconds = time.perf_counter() - start
    return seconds * len(search.windows) / min(count, len(search.windows))

"""Train a tagger: two learning rates, clipping before the step, a look at the development posts after every epoch.

The loop of the other verbs (:mod:`remodeler.training.loop`) reads windows of a language model and judges by their loss;
here batches differ in size, encoder and head have learning rates of their own, and the official F1 decides which epoch
is kept. States on disk, the loss curve and the schedule are the same. All random numbers are functions of the seed and
the step, so a run that was killed goes on to the same weights, bit for bit on a CPU with as many threads. One process
only: a run takes minutes.

YNU-HPCC's code clips after the step, decays nothing, seeds after the head is made, and keeps the epoch with the best
token accuracy; none of that is done here.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from remodeler.auditing.formats.posts import Post
from remodeler.auditing.spans import Likely
from remodeler.auditing.statistics.scoring import score
from remodeler.auditing.tagger.config import Course, Plan
from remodeler.auditing.tagger.files import Trained, save_tagger
from remodeler.auditing.tagger.labels import SCHEMES, Pieces, beliefs, cut, tags
from remodeler.auditing.tagger.model import collated
from remodeler.auditing.tagger.predict import likely_characters
from remodeler.auditing.tagger.rules import spans_of, tuned
from remodeler.runs.folders import partial
from remodeler.runs.job import enough_memory
from remodeler.runs.progress import Progress, silent
from remodeler.runs.records import read_lines
from remodeler.training import state
from remodeler.training.plan import mixed
from remodeler.training.state import CURVE_FILE, Curve, Learner, Line

BEST = "best"
"""Beginning of the name of the folder with the best epoch's tagger."""


@dataclass(frozen=True)
class Lesson:
    """What is learned from: pieces of posts, and how likely each tag of each is."""

    pieces: Pieces
    wanted: tuple[NDArray[np.float32], ...]
    """A post each: [pieces, tags]."""
    soft: bool


@dataclass(frozen=True)
class Run:
    """A training run in progress."""

    trained: Trained
    lesson: Lesson
    dev: Sequence[Post]
    course: Course
    plan: Plan
    learner: Learner
    folder: Path


def lesson(trained: Trained, posts: Sequence[Post], taught: Sequence[Likely] | None, share: float) -> Lesson:
    """Gold tags of posts, mixed with a teacher's likelihoods of characters where there are some."""
    settings, scheme = trained.settings, trained.settings.head.scheme
    pieces = cut([post.text for post in posts], trained.tokenizer, settings.length, settings.stride)
    one_hot = np.eye(len(SCHEMES[scheme]), dtype=np.float32)
    gold = [one_hot[tags(post.spans or (), at, scheme)] for post, at in zip(posts, pieces.offsets, strict=True)]
    if taught is None:
        return Lesson(pieces, tuple(gold), soft=False)
    soft = [beliefs(values, at, scheme) for values, at in zip(taught, pieces.offsets, strict=True)]
    both = [(share * one + (1 - share) * two).astype(np.float32) for one, two in zip(soft, gold, strict=True)]
    return Lesson(pieces, tuple(both), soft=True)


def train(
    trained: Trained,
    lesson: Lesson,
    dev: Sequence[Post],
    course: Course,
    folder: Path,
    header: Mapping[str, Any],
    progress: Progress = silent,
) -> tuple[Path, list[Line]]:
    """Train a tagger, and keep the epoch whose official F1 on development posts is best.

    Args:
        trained: the tagger; its weights change.
        lesson: what it learns from.
        dev: posts with gold spans, which choose the epoch and the thresholds.
        course: how long, how fast, how much at once.
        folder: states, ``training.jsonl`` and the best tagger so far go there; what is there is taken up.
        header: what the run is, to tell it from another one that left something in the folder.
        progress: is told the share done, and a few words.

    Returns:
        The folder of the best tagger, and the lines of the loss curve: ``step``, ``loss``, ``gradient_norm``,
        ``seconds``; at the end of an epoch also ``epoch``, ``dev_f1``, ``threshold`` and ``abstain``.
    """
    plan = Plan(course, lesson.pieces.windows)
    learner = Learner(dict(trained.model.named_parameters()), _optimizer(trained, course))
    run = Run(trained, lesson, dev, course, plan, learner, folder)
    state.settle(folder, dict(header))
    with (
        torch.random.fork_rng([trained.device] if trained.device.type == "cuda" else []),
        enough_memory("--tokens 512"),
    ):
        best = _go_on(run, progress)
    trained.model.eval()
    return folder / f"{BEST}-{best['epoch']}", read_lines(folder / CURVE_FILE)[1:]


def _optimizer(trained: Trained, course: Course) -> torch.optim.Optimizer:
    """AdamW; biases, norms and the scores of a CRF do not decay."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, value in trained.model.named_parameters():
        decays = value.dim() > 1 and not name.startswith("chain.")
        groups.setdefault((name.startswith("encoder."), decays), []).append(value)
    return torch.optim.AdamW(
        [
            {
                "params": values,
                "full_rate": course.learning_rate if encoder else course.head_rate,
                "weight_decay": course.weight_decay if decays else 0.0,
            }
            for (encoder, decays), values in groups.items()
        ],
        fused=True,
    )


def _go_on(run: Run, progress: Progress) -> Line:
    found = state.latest(run.folder)
    facts: Line = state.read(found, run.learner) if found else {"seconds": 0.0, "best": None}
    done, best = (state.step_of(found) if found else 0), facts["best"]
    curve, plan = Curve(run.folder / CURVE_FILE), run.plan
    start, saved = time.perf_counter() - facts["seconds"], time.perf_counter()
    for step in range(done + 1, plan.steps + 1):
        loss, norm = _step(run, step - 1)
        line: Line = {"step": step, "rate": plan.rate(step - 1), "loss": loss, "gradient_norm": norm}
        if step in plan.ends:
            line |= _looked(run, plan.ends.index(step), best)
            best = line if best is None or line["dev_f1"] > best["dev_f1"] else best
        now = time.perf_counter()
        curve.add(line | {"seconds": round(now - start, 3)})
        curve.flush()
        progress(step / plan.steps, f"loss {loss:.4f}" + (f", best F1 {best['dev_f1']:.4f}" if best else ""))
        if step in plan.ends or now - saved >= 60 * run.course.save_minutes:
            state.write(run.folder, step, run.learner, {"seconds": now - start, "best": best})
            saved = now
    kept: Line = best
    return kept


def step_seconds(trained: Trained, lesson: Lesson, course: Course) -> float:
    """About how long a step takes: the mean of a few of the first epoch, after one to warm up; nothing is changed."""
    plan = Plan(course, lesson.pieces.windows)
    run = Run(trained, lesson, [], course, plan, Learner({}, _optimizer(trained, course)), Path())
    steps = range(min(4, plan.steps))
    start = time.perf_counter()
    for step in steps:
        if step == 1:
            start = time.perf_counter()
        _gradients(run, step)
    trained.model.zero_grad()
    return (time.perf_counter() - start) / max(1, len(steps) - 1)


def _step(run: Run, step: int) -> tuple[float, float]:
    """Change the weights once; the loss and the norm of its gradient."""
    model, optimizer = run.trained.model, run.learner.optimizer
    loss = _gradients(run, step)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.course.clip)
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * run.plan.rate(step)
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm.item()


def _gradients(run: Run, step: int) -> float:
    """Add the gradients of a step; its loss."""
    model = run.trained.model
    model.train()
    torch.manual_seed(mixed(run.course.seed, step, 2))  # of dropout
    windows = [run.lesson.pieces.windows[number] for number in run.plan.step(step)]
    reads = collated(windows, run.trained.tokenizer, run.trained.device)
    wanted = torch.zeros(*reads.mask.shape, len(SCHEMES[model.head.scheme]))
    for row, window in enumerate(windows):
        count = len(window.places)
        found = run.lesson.wanted[window.post][window.first : window.first + count]
        wanted[row, :count] = torch.from_numpy(found)
    loss: Tensor = model.loss(reads, wanted.to(run.trained.device), run.course.loss, run.lesson.soft)
    loss.backward()
    return loss.item()


def _looked(run: Run, epoch: int, best: Line | None) -> Line:
    """The official F1 on the development posts at an epoch's end; the tagger is written if it is the best so far."""
    texts, gold = [post.text for post in run.dev], [list(post.spans or ()) for post in run.dev]
    likely = likely_characters(run.trained, texts)
    rules = tuned(likely, texts, gold, run.trained.settings.rules)
    found = score([spans_of(one, text, rules) for one, text in zip(likely, texts, strict=True)], gold).f1
    if best is None or found > best["dev_f1"]:
        place = run.folder / f"{BEST}-{epoch}"
        work = partial(place)
        for path in (work, place):  # of a run that was killed before it could note it
            shutil.rmtree(path, ignore_errors=True)
        work.mkdir(parents=True)
        save_tagger(replace(run.trained, settings=replace(run.trained.settings, rules=rules)), work)
        work.rename(place)
    return {"epoch": epoch, "dev_f1": found, "threshold": rules.threshold, "abstain": rules.abstain}

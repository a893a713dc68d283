"""Train a tagger: two learning rates, gradient clipping, evaluation on the development posts after every epoch.

The loop of the other verbs (:mod:`remodeler.training.loop`) trains on windows of a language model and evaluates their
loss; here batches differ in size, encoder and head have learning rates of their own, and the official F1 selects the
epoch. States on disk, the loss curve and the schedule are the same. All random numbers are functions of the seed and
the step, so a resumed run ends in the same weights, bit for bit on a CPU with as many threads. One process only: a run
takes minutes.

Deviations: YNU-HPCC's code clips after the step, has no weight decay, seeds after the head is made, and keeps the epoch
with the best token accuracy.
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
from remodeler.auditing.tagger.config import TrainingConfig
from remodeler.auditing.tagger.files import LoadedTagger, save_tagger
from remodeler.auditing.tagger.labels import SCHEMES, Pieces, soft_tags, tags, tokenize_texts
from remodeler.auditing.tagger.model import collate
from remodeler.auditing.tagger.plan import Plan
from remodeler.auditing.tagger.predict import character_likelihoods
from remodeler.auditing.tagger.rules import spans_of, tune
from remodeler.errors import option
from remodeler.runs.folders import partial
from remodeler.runs.job import enough_memory
from remodeler.runs.progress import Progress, silent
from remodeler.runs.records import read_lines
from remodeler.training import state
from remodeler.training.plan import mix_seed
from remodeler.training.state import CURVE_FILE, Curve, Learner, Line

BEST = "best"
"""Prefix of the folder with the best epoch's tagger."""


@dataclass(frozen=True)
class Examples:
    """Training examples: tokenized posts with target probabilities of their tags."""

    pieces: Pieces
    targets: tuple[NDArray[np.float32], ...]
    """Per post [pieces, tags]."""
    soft: bool
    """Whether a teacher's likelihoods are mixed in."""


@dataclass(frozen=True)
class Run:
    """A training run in progress."""

    tagger: LoadedTagger
    examples: Examples
    dev: Sequence[Post]
    config: TrainingConfig
    plan: Plan
    learner: Learner
    folder: Path


def training_examples(
    tagger: LoadedTagger, posts: Sequence[Post], teacher: Sequence[Likely] | None, share: float
) -> Examples:
    """Gold tags of posts, mixed with a teacher's likelihoods of characters where given."""
    settings, scheme = tagger.settings, tagger.settings.head.scheme
    pieces = tokenize_texts([post.text for post in posts], tagger.tokenizer, settings.length, settings.stride)
    one_hot = np.eye(len(SCHEMES[scheme]), dtype=np.float32)
    gold = [one_hot[tags(post.spans or (), at, scheme)] for post, at in zip(posts, pieces.offsets, strict=True)]
    if teacher is None:
        return Examples(pieces, tuple(gold), soft=False)
    soft = [soft_tags(values, at, scheme) for values, at in zip(teacher, pieces.offsets, strict=True)]
    both = [(share * one + (1 - share) * two).astype(np.float32) for one, two in zip(soft, gold, strict=True)]
    return Examples(pieces, tuple(both), soft=True)


def train(
    tagger: LoadedTagger,
    examples: Examples,
    dev: Sequence[Post],
    config: TrainingConfig,
    folder: Path,
    header: Mapping[str, Any],
    progress: Progress = silent,
) -> tuple[Path, list[Line]]:
    """Train a tagger, and keep the epoch with the best official F1 on development posts.

    Args:
        tagger: trained in place.
        examples: training examples.
        dev: posts with gold spans, which choose the epoch and the thresholds.
        config: epochs, batches, learning rates.
        folder: for states, ``training.jsonl`` and the best tagger so far; an earlier run in it is resumed.
        header: identity of the run; the folder of another run is refused.
        progress: progress callback.

    Returns:
        The folder of the best tagger, and the lines of the loss curve: ``step``, ``loss``, ``gradient_norm``,
        ``seconds``; at the end of an epoch also ``epoch``, ``dev_f1``, ``threshold`` and ``abstain``.
    """
    plan = Plan(config, examples.pieces.windows)
    learner = Learner(dict(tagger.model.named_parameters()), _optimizer(tagger, config))
    run = Run(tagger, examples, dev, config, plan, learner, folder)
    state.settle(folder, dict(header))
    with (
        torch.random.fork_rng([tagger.device] if tagger.device.type == "cuda" else []),
        enough_memory(option("tokens_per_step", 512)),
    ):
        best = _run_steps(run, progress)
    tagger.model.eval()
    return folder / f"{BEST}-{best['epoch']}", read_lines(folder / CURVE_FILE)[1:]


def _optimizer(tagger: LoadedTagger, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay for biases, norms and the scores of a CRF."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, value in tagger.model.named_parameters():
        decays = value.dim() > 1 and not name.startswith("chain.")
        groups.setdefault((name.startswith("encoder."), decays), []).append(value)
    return torch.optim.AdamW(
        [
            {
                "params": values,
                "full_rate": config.learning_rate if encoder else config.head_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (encoder, decays), values in groups.items()
        ],
        fused=True,
    )


def _run_steps(run: Run, progress: Progress) -> Line:
    """Do the steps that are left; the line of the best epoch."""
    found = state.latest(run.folder)
    facts: Line = state.read(found, run.learner) if found else {"seconds": 0.0, "best": None}
    done, best = (state.step_of(found) if found else 0), facts["best"]
    curve, plan = Curve(run.folder / CURVE_FILE), run.plan
    start, saved = time.perf_counter() - facts["seconds"], time.perf_counter()
    for step in range(done + 1, plan.steps + 1):
        loss, norm = _step(run, step - 1)
        line: Line = {"step": step, "rate": plan.rate(step - 1), "loss": loss, "gradient_norm": norm}
        if step in plan.ends:
            line |= _evaluate(run, plan.ends.index(step), best)
            best = line if best is None or line["dev_f1"] > best["dev_f1"] else best
        now = time.perf_counter()
        curve.add(line | {"seconds": round(now - start, 3)})
        curve.flush()
        progress(step / plan.steps, f"loss {loss:.4f}" + (f", best F1 {best['dev_f1']:.4f}" if best else ""))
        if step in plan.ends or now - saved >= 60 * run.config.save_minutes:
            state.write(run.folder, step, run.learner, {"seconds": now - start, "best": best})
            saved = now
    best_line: Line = best
    return best_line


def step_seconds(tagger: LoadedTagger, examples: Examples, config: TrainingConfig) -> float:
    """Estimate the time of a step: mean of a few of the first epoch, after a warm-up step; weights do not change."""
    plan = Plan(config, examples.pieces.windows)
    run = Run(tagger, examples, [], config, plan, Learner({}, _optimizer(tagger, config)), Path())
    steps = range(min(4, plan.steps))
    start = time.perf_counter()
    for step in steps:
        if step == 1:
            start = time.perf_counter()
        _gradients(run, step)
    tagger.model.zero_grad()
    return (time.perf_counter() - start) / max(1, len(steps) - 1)


def _step(run: Run, step: int) -> tuple[float, float]:
    """Do an optimizer step; its loss and gradient norm."""
    model, optimizer = run.tagger.model, run.learner.optimizer
    loss = _gradients(run, step)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.config.clip)
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * run.plan.rate(step)
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm.item()


def _gradients(run: Run, step: int) -> float:
    """Accumulate the gradients of a step; its loss."""
    model = run.tagger.model
    model.train()
    torch.manual_seed(mix_seed(run.config.seed, step, 2))  # of dropout
    windows = [run.examples.pieces.windows[number] for number in run.plan.step(step)]
    batch = collate(windows, run.tagger.tokenizer, run.tagger.device)
    wanted = torch.zeros(*batch.mask.shape, len(SCHEMES[model.head.scheme]))
    for row, window in enumerate(windows):
        count = len(window.places)
        found = run.examples.targets[window.post][window.first : window.first + count]
        wanted[row, :count] = torch.from_numpy(found)
    loss: Tensor = model.loss(batch, wanted.to(run.tagger.device), run.config.loss, run.examples.soft)
    loss.backward()
    return loss.item()


def _evaluate(run: Run, epoch: int, best: Line | None) -> Line:
    """Official F1 on the development posts after an epoch; writes the tagger if it is the best so far."""
    texts, gold = [post.text for post in run.dev], [list(post.spans or ()) for post in run.dev]
    likely = character_likelihoods(run.tagger, texts)
    rules = tune(likely, texts, gold, run.tagger.settings.rules)
    found = score([spans_of(one, text, rules) for one, text in zip(likely, texts, strict=True)], gold).f1
    if best is None or found > best["dev_f1"]:
        place = run.folder / f"{BEST}-{epoch}"
        work = partial(place)
        for path in (work, place):  # of a run that was killed before it wrote its state
            shutil.rmtree(path, ignore_errors=True)
        work.mkdir(parents=True)
        save_tagger(replace(run.tagger, settings=replace(run.tagger.settings, rules=rules)), work)
        work.rename(place)
    return {"epoch": epoch, "dev_f1": found, "threshold": rules.threshold, "abstain": rules.abstain}

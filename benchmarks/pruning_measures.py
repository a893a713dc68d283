"""What ``pruning_methods.py`` measures of a model: losses, size, answers to questions, speed; and the texts it needs.

Questions are those of files, in the forms that ``remodel evaluate`` reads, and some made of the held-out text: which of
four sentences comes next? The other three come from elsewhere in the text and are about as long. The models here are
too small for the usual benchmarks, but not for that.
"""

import argparse
import math
import random
import re
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import Row, load_float32
from pruning_arms import Found
from quality import SAMPLES, Setup, cut

from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.save import save_pruned
from remodeler.data.questions import read_questions
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.evaluation.metrics import compare_speed, measure
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import perplexity, window_nll
from remodeler.model.minibatches import batch_size, batches, device_of
from remodeler.model.widths import parameters_left
from remodeler.runs.records import to_json, write_text
from remodeler.runs.units import Block

HELD_OUT_TOKENS = 8192
CLEAR = 2.0
"""Standard errors above chance that the intact model must be, for its pruned ones to be asked too."""
BEFORE, OTHERS, NEAREST = 3, 3, 12
"""Of a question made of text: sentences shown, wrong answers, and how many of like length those are drawn from."""


# ---- model and texts -------------------------------------------------------------------------------------------------


def prepare(model: str, given: argparse.Namespace) -> Setup:
    """Load a model and cut its windows: calibration text of one length, the same held-out text at several."""
    checkpoint = load_float32(model, given)
    calibration = cut(checkpoint, sample(given.calibrate, SAMPLES).calibration, given.length, given.windows)
    texts = sample(given.held_out, SAMPLES).heldout
    lengths = sorted({128, given.length, min(2048, checkpoint.context or 2048)})
    windows = {str(length): cut(checkpoint, texts, length, math.ceil(HELD_OUT_TOKENS / length)) for length in lengths}
    return Setup(checkpoint, calibration, windows)


@contextmanager
def written(setup: Setup, found: Found) -> Iterator[tuple[str, Checkpoint]]:
    """The pruned model as it comes back from the disk, and its form."""
    with TemporaryDirectory() as folder:
        widths = {"widths": found.widths} if found.widths else {}
        saved = save_pruned(setup.checkpoint, found.states[-1], Path(folder), **widths)
        yield saved.form, saved.checkpoint


# ---- losses and size -------------------------------------------------------------------------------------------------


@torch.no_grad()
def window_losses(anatomy: Anatomy, windows: Windows) -> list[float]:
    """Mean negative log-likelihood of a token of every window."""
    device = device_of(anatomy.model)
    totals = [window_nll(anatomy, each) for each in batches(windows, batch_size(anatomy, windows), device)]
    scored = windows.tokens / len(windows)  # windows are of one length
    return [total / scored for total in torch.cat(totals).tolist()]


def held_out(setup: Setup, checkpoint: Checkpoint) -> Row:
    """Losses of the windows and perplexity, by window length."""
    losses = {length: window_losses(checkpoint.anatomy, windows) for length, windows in setup.held_out.items()}
    return {"losses": losses, "perplexity": {key: perplexity(statistics.fmean(each)) for key, each in losses.items()}}


def size(anatomy: Anatomy, found: Found) -> Row:
    """What is left, and what is gone."""
    removed, total = found.states[-1], anatomy.parameters()
    left = parameters_left(anatomy, removed, found.widths) if found.widths else anatomy.parameters(removed)
    kept = {str(block): list(groups) for block, groups in (found.widths or {}).items()}
    return {"parameters": left, "share": 1 - left / total, "removed": list(map(str, removed)), "widths": kept}


def found_again(row: Row) -> Found:
    """What a row says of a result."""
    widths = {Block.parse(name): tuple(groups) for name, groups in row["widths"].items()}
    return Found((tuple(map(Block.parse, row["removed"])),), widths=widths)


# ---- questions -------------------------------------------------------------------------------------------------------


def make_questions(texts: Sequence[str], count: int, file: Path) -> Path:
    """Write a file of questions: which sentence comes next in a text?"""
    draw = random.Random(42)
    runs = [run for text in texts for run in _runs(text)]
    draw.shuffle(runs)
    ends = sorted({run[-1] for run in runs}, key=len)
    rows = [_question(run, ends, draw) for run in runs[:count]]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(to_json(row) + "\n" for row in rows))
    return file


def _runs(text: str) -> Iterator[list[str]]:
    """Runs of sentences that don't overlap; of one line each, and of at least three words."""
    sentences = [each for each in re.split(r"(?<=[.!?])\s+", text) if len(each.split()) > 2 and "\n" not in each]
    for start in range(0, len(sentences) - BEFORE, BEFORE + 1):
        yield sentences[start : start + BEFORE + 1]


def _question(run: Sequence[str], ends: Sequence[str], draw: random.Random) -> Row:
    others = sorted(set(ends) - {run[-1]}, key=lambda each: (abs(len(each) - len(run[-1])), each))[:NEAREST]
    choices = [run[-1], *draw.sample(others, OTHERS)]
    draw.shuffle(choices)
    return {"query": " ".join(run[:-1]), "choices": choices, "gold": choices.index(run[-1])}


def chance(file: str, limit: int) -> float:
    """Accuracy of the best that can be done without reading: guessing, or always naming the same choice."""
    asked = read_questions(Path(file))[:limit]
    golds = [question.gold for question in asked]
    guessing = statistics.fmean(1 / len(question.choices) for question in asked)
    return max(guessing, max(map(golds.count, golds)) / len(golds))


def answers(checkpoint: Checkpoint, files: Sequence[str], limit: int) -> Row:
    """By file: accuracies, their standard errors, and chance."""
    found = measure([checkpoint], tasks=files, limit=limit, speed=False)[0]["tasks"]
    return {Path(file).stem: found[file] | {"chance": chance(file, limit)} for file in files}


def above_chance(answered: Row, files: Sequence[str]) -> list[str]:
    """The files that the intact model answers clearly better than chance."""
    margins = {name: each["acc"] - each["chance"] - CLEAR * each["acc_stderr"] for name, each in answered.items()}
    return [file for file in files if margins[Path(file).stem] > 0]


# ---- speed -----------------------------------------------------------------------------------------------------------


def speed(setup: Setup, found: Found) -> Row:
    """Prefill and decoding as multiples of the intact model's; both models take turns."""
    with written(setup, found) as (_, again):
        mine, whole = compare_speed([again, setup.checkpoint])
    times = {kind: mine[kind]["median"] / whole[kind]["median"] for kind in mine}
    return times | {"pruned": mine, "dense": whole}

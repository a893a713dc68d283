"""Baselines on the same preferences: fine-tuning on the better answers by the project's loop; DPO and ORPO by TRL.

``BASELINES`` has a row a method. TRL is an extra (``pip install 'remodeler[align]'``); what it trains is written in the
same way, so that all policies stand in one table.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from remodeler.alignment.baselines.results import BaselineResults
from remodeler.alignment.baselines.trl_methods import dpo, orpo
from remodeler.alignment.config import RUN, BaselineWish, options, same_run
from remodeler.alignment.data.examples import Row, answer, end_of, windows
from remodeler.alignment.data.preferences import LONG, Preferences, Triple, digest_of, read_preferences, split
from remodeler.alignment.phases import Lesson, phase, provenance
from remodeler.checkpoint.load import Checkpoint, fingerprint, pick_device
from remodeler.checkpoint.sizes import announce_training_space, memory
from remodeler.data.chat_templates import RefusedPromptError
from remodeler.errors import InputError, counted
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.report.page import write_result
from remodeler.runs import processes
from remodeler.runs.folders import clear, new_folder, partial, refuse_existing, tidy, whole
from remodeler.runs.job import enough_memory
from remodeler.runs.records import Record, versions
from remodeler.training.state import CURVE_FILE

logger = logging.getLogger(__name__)

WORK = "policy"
"""Folder of the phase, until it is done."""
LENGTH = 2048


@dataclass(frozen=True)
class Job:
    """What a baseline is trained from."""

    wish: BaselineWish
    data: Preferences
    known: dict[str, Any]
    """Fingerprint, size and held-out loss of the model."""
    device: torch.device

    def load(self, name: str | Path) -> Checkpoint:
        """A policy as it trains."""
        return self.wish.loading.load(str(name), self.device, self.wish.course.lora is None)


def sft(job: Job, work: Path) -> Path:
    """Fine-tuning on the better answers; worse ones are not looked at."""
    policy = job.load(job.wish.model)
    lesson = Lesson(_rows(policy, job.data.train, job.wish.chat), _rows(policy, job.data.heldout, job.wish.chat))
    return phase(lambda: policy, lesson, job.wish.course, work / WORK, "fine-tuning")


def by_dpo(job: Job, work: Path) -> Path:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)."""
    return dpo(job.load, job.wish, job.data.train, work / WORK)


def by_orpo(job: Job, work: Path) -> Path:
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691)."""
    return orpo(job.load, job.wish, job.data.train, work / WORK)


BASELINES: dict[str, Callable[[Job, Path], Path]] = {"sft": sft, "dpo": by_dpo, "orpo": by_orpo}


def train_baseline(wish: BaselineWish, out: Path, dry: bool = False) -> bool:
    """Train a policy on preferences; with ``dry`` only say what would be done.

    Returns:
        Whether this process wrote the folder.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    if wish.method not in BASELINES:
        raise InputError(f"--method {wish.method!r} is not known: choose {', '.join(BASELINES)}")
    with processes.group(wish.loading.device) as device, enough_memory("--micro-batch 1 or --adapters"):
        job = prepared(wish, device)
        if processes.first():
            logger.info(f"{len(job.data.train):,} triples to learn from, {len(job.data.heldout):,} held out")
            logger.info(f"left out: {counted(job.data.dropped)}")
            announce_training_space(out, job.known["before"], wish.course.lora is None)
        if dry:
            return False
        done = processes.shared(whole(partial(out), RUN, options(wish, out)))
        if not processes.first():
            if not done:
                BASELINES[wish.method](job, partial(out))
            return False
        with new_folder(out, keep=True) as work:
            if not done:
                clear(work, RUN, (WORK, RUN))
                same_run(work, wish)
                _complete(job, BASELINES[wish.method](job, work), work, out)
            tidy(work, RUN, WORK)
    return True


def prepared(wish: BaselineWish, device: str) -> Job:
    """Load the model and the preferences; refuse what can't work."""
    place = pick_device(device)
    wish.course.plan(1, place)  # refuses settings that can't work
    policy = wish.loading.load(wish.model, place, wish.course.lora is None)
    end_of(policy)
    triples, dropped = read_preferences(wish.preferences, wish.samples, wish.lower, wish.gap)
    length = wish.length or min(LENGTH, policy.context or LENGTH)
    fitting = _fitting(policy, triples, length, wish.chat, dropped)
    train, heldout = split(fitting, wish.heldout, wish.seed)
    known = {"weights": fingerprint(policy.model), "before": _scores(policy, heldout, wish.chat)}
    return Job(wish, Preferences(train, heldout, dropped), known, place)


def _fitting(
    policy: Checkpoint, triples: Sequence[Triple], length: int, chat: bool, dropped: Counter[str]
) -> list[Triple]:
    found: list[Triple] = []
    for each in triples:
        try:
            sides = [answer(policy, each.prompt, text, chat) for text in (each.chosen, each.rejected)]
        except RefusedPromptError as error:
            dropped[error.reason] += 1
            continue
        if max(len(row.ids) for row in sides) <= length:
            found.append(each)
        else:
            dropped[LONG] += 1
    if not found:
        raise InputError(
            f"none of {len(triples)} triples fits {length} tokens: shorten them or raise --length "
            f"(left out: {counted(dropped)})"
        )
    return found


def _rows(policy: Checkpoint, triples: Sequence[Triple], chat: bool) -> list[Row]:
    return [answer(policy, each.prompt, each.chosen, chat) for each in triples]


def _scores(policy: Checkpoint, heldout: Sequence[Triple], chat: bool) -> dict[str, Any]:
    """Sizes, and the perplexity of better answers that were held out."""
    loss = mean_nll(policy.anatomy, windows(policy, _rows(policy, heldout, chat)))
    return {**memory(policy), "heldout_perplexity": perplexity(loss)}


def _complete(job: Job, done: Path, work: Path, out: Path) -> None:
    shutil.copytree(done, work, dirs_exist_ok=True)
    if (done.parent / CURVE_FILE).exists():
        shutil.copyfile(done.parent / CURVE_FILE, work / CURVE_FILE)
    wish, data = job.wish, job.data
    texts = digest_of((*data.train, *data.heldout))
    inputs = {
        "model": {"name": wish.model, "weights": job.known["weights"]},
        "preferences": {"name": wish.preferences, "sha256": texts},
    }
    results = BaselineResults(
        student=job.known["before"],
        fused=_scores(job.load(done), data.heldout, wish.chat),
        triples={"train": len(data.train), "held out": len(data.heldout), "left out": dict(data.dropped)},
        **provenance(work),
    )
    record = Record("align baseline", options(wish, out), inputs, wish.seed, versions(), results.to_record())
    write_result(work, record, results)

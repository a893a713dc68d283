"""An evolution looked at and made ready: policy, reviser and prompts, before anything is answered."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from remodeler.alignment.config import EvolveWish
from remodeler.alignment.data.examples import end_of
from remodeler.alignment.data.preferences import ordered
from remodeler.alignment.data.prompts import read_prompts
from remodeler.alignment.reviser.reviser import Reviser, load_reviser
from remodeler.checkpoint.load import Checkpoint, fingerprint, pick_device
from remodeler.checkpoint.sizes import memory
from remodeler.data.chat_templates import RefusedPromptError, asked_in_chat
from remodeler.errors import InputError, LeftOut, counted
from remodeler.generation.sampling import expected_seconds, prompt_ids, read, templated
from remodeler.runs.progress import duration

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a policy evolves with."""

    wish: EvolveWish
    shards: tuple[tuple[str, ...], ...]
    """Prompts of each round."""
    probe: tuple[str, ...]
    dropped: int
    """Prompts that leave no room for an answer."""
    bad: LeftOut
    """Rows that ask nothing, by reason."""
    policy: dict[str, Any]
    """Name, fingerprint and size of the first one."""
    device: torch.device

    def load(self, name: str | Path, trained: bool = False) -> Checkpoint:
        """A policy."""
        return self.wish.loading.load(str(name), self.device, trained)

    def reviser(self) -> Reviser:
        """The reviser."""
        return load_reviser(self.wish.reviser, **self.wish.loading.how(self.wish.reviser, self.device))


def prepared(wish: EvolveWish, device: str) -> Job:
    """Look at policy, reviser and prompts; refuse what can't work."""
    place = pick_device(device)
    load_reviser(wish.reviser, **wish.loading.how(wish.reviser, place))
    return divided(wish, place)


def divided(wish: EvolveWish, place: torch.device) -> Job:
    """The policy and the prompts, by rounds; the reviser is not looked at."""
    wish.course.plan(1, place)  # refuses settings that can't work
    policy = wish.loading.load(wish.model, place, wish.course.lora is None)
    if policy.anatomy.family.task != "causal":
        raise InputError(f"{wish.model} is no causal language model: only those answer")
    end_of(policy)
    bad = LeftOut()
    prompts = _askable(policy, read_prompts(wish.prompts, wish.limit, bad), wish, bad)
    short = [each for each in prompts if _has_room(policy, each, wish)]
    short.sort(key=lambda prompt: ordered(prompt, wish.seed))
    probe = min(wish.probe, len(short) // 10)
    pool, count = short[probe:], len(wish.rounds)
    if len(pool) < count:
        raise InputError(
            f"{wish.prompts} has {len(pool)} prompts that leave room for {wish.sampling.tokens} tokens of an answer, "
            f"{count} rounds need one each: give more or shorter prompts, or lower --tokens"
            + (f" (left out: {counted(bad)})" if bad else "")
        )
    shards = tuple(tuple(pool[len(pool) * n // count : len(pool) * (n + 1) // count]) for n in range(count))
    known = {"name": wish.model, "weights": fingerprint(policy.model), "size": memory(policy)}
    return Job(wish, shards, tuple(short[:probe]), len(prompts) - len(short), bad, known, place)


def _askable(policy: Checkpoint, prompts: list[str], wish: EvolveWish, bad: LeftOut) -> list[str]:
    """Prompts that the policy's chat template takes, where one is used; the others are counted."""
    found = []
    for prompt in prompts if wish.sampling.chat else ():
        try:
            asked_in_chat(policy.tokenizer, policy.name, prompt)
            found.append(prompt)
        except RefusedPromptError as error:
            bad[error.reason] += 1
    return found if wish.sampling.chat else prompts


def _has_room(policy: Checkpoint, prompt: str, wish: EvolveWish) -> bool:
    ids = templated(policy, [prompt])[0] if wish.sampling.chat else prompt_ids(policy, prompt)
    return policy.context is None or len(ids) + wish.sampling.tokens + 1 <= policy.context


def announce(job: Job) -> None:
    """Prompts of every round, and how many answers."""
    told = ", ".join(f"{kind} {len(part):,}" for kind, part in zip(job.wish.rounds, job.shards, strict=True))
    logger.info(f"{job.wish.prompts}: prompts by round: {told}; {len(job.probe)} to look at, {job.dropped} too long")
    if job.bad:
        logger.warning(f"rows left out: {counted(job.bad)}")
    logger.info(f"{job.wish.sampling.samples} answers to each prompt, of {job.wish.sampling.tokens} tokens at most")


def expected(job: Job) -> None:
    """How long the answers of all rounds take; labels and revisions about as long again."""
    policy, how = job.load(job.wish.model), job.wish.sampling
    prompts = [each for shard in job.shards for each in shard]
    seconds = expected_seconds(policy, read(policy, prompts, how), how, job.wish.size)
    logger.info(
        f"answers take about {duration(seconds)}, revisions at most as long, and training is announced in its turn"
    )

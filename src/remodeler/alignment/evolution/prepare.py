"""Load and check policy, reviser and prompts of an evolution, before anything is answered."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from remodeler.alignment.config import EvolveConfig
from remodeler.alignment.data.examples import end_token
from remodeler.alignment.data.preferences import order_key
from remodeler.alignment.data.prompts import read_prompts
from remodeler.alignment.loading import load_for_training, load_model
from remodeler.alignment.reviser.reviser import Reviser, open_reviser
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.checkpoint.sizes import announce_training_space, memory
from remodeler.data.chat_templates import RefusedPromptError, asked_in_chat
from remodeler.errors import InputError, LeftOut, count_reasons, option, quantity
from remodeler.generation.sampling import Sampling, apply_template, expected_seconds, prompt_ids, read
from remodeler.runs.progress import duration
from remodeler.training.model import training_precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvolutionInputs:
    """Policy, prompts and reviser of an evolution."""

    config: EvolveConfig
    shards: tuple[tuple[str, ...], ...]
    """Prompts of each round."""
    probe: tuple[str, ...]
    """Prompts on which the policy is measured between rounds."""
    long: int
    """Prompts that leave no room for an answer."""
    dropped: LeftOut
    """Rows that ask nothing, by reason."""
    weights: str
    """Fingerprint of the first policy."""
    size: dict[str, Any]
    """Size of the first policy, in memory and on disk."""
    device: torch.device

    @property
    def sampling(self) -> Sampling:
        """Sampling of the policy's answers."""
        return self.config.sampling.sampling(self.config.training.seed)

    def load(self, policy: ModelLike) -> Checkpoint:
        """Load a policy to answer."""
        return load_model(self.config.source, policy, self.device)

    def load_for_training(self, policy: ModelLike) -> Checkpoint:
        """Load a policy as it trains."""
        return load_for_training(self.config.source, policy, self.device, self.config.training.everything)

    def reviser(self) -> Reviser:
        """Load the reviser."""
        return open_reviser(self.config.reviser, self.config.source, self.device)


def prepare(config: EvolveConfig, device: str) -> EvolutionInputs:
    """Check policy, reviser and prompts; refuse what can't work."""
    place = pick_device(device)
    open_reviser(config.reviser, config.source, place)
    return prepare_policy(config, place)


def prepare_policy(config: EvolveConfig, place: torch.device) -> EvolutionInputs:
    """Check the policy, and divide the prompts by rounds; the reviser is not checked."""
    training_precision(config.training.memory.precision, place)  # refuses what the device can't do
    policy = load_for_training(config.source, config.source.model, place, config.training.everything)
    if policy.anatomy.family.task != "causal":
        raise InputError(f"{config.source.name} is not a causal language model (required to answer): give another")
    end_token(policy)
    dropped = LeftOut()
    prompts = _accepted_prompts(
        policy, read_prompts(config.evolution.prompts, config.evolution.limit, dropped), config, dropped
    )
    short = [each for each in prompts if _has_room(policy, each, config)]
    short.sort(key=lambda prompt: order_key(prompt, config.training.seed))
    probe = min(config.evolution.probe, len(short) // 10)
    shards = _divide(short[probe:], config, dropped)
    long = len(prompts) - len(short)
    return EvolutionInputs(
        config, shards, tuple(short[:probe]), long, dropped, fingerprint(policy.model), memory(policy), place
    )


def _divide(pool: list[str], config: EvolveConfig, dropped: LeftOut) -> tuple[tuple[str, ...], ...]:
    """Prompts by rounds, about as many each."""
    count, tokens = len(config.evolution.rounds), config.sampling.max_new_tokens
    if len(pool) < count:
        raise InputError(
            f"{config.evolution.prompts} has {quantity(len(pool), 'prompt')} with room for {tokens} tokens of an "
            f"answer, {count} rounds need one each: give more or shorter prompts, or lower {option('max_new_tokens')}"
            + (f" (left out: {count_reasons(dropped)})" if dropped else "")
        )
    return tuple(tuple(pool[len(pool) * n // count : len(pool) * (n + 1) // count]) for n in range(count))


def _accepted_prompts(policy: Checkpoint, prompts: list[str], config: EvolveConfig, dropped: LeftOut) -> list[str]:
    """Prompts that the policy's chat template takes, where one is used; the others are counted."""
    if not config.sampling.chat:
        return prompts
    found = []
    for prompt in prompts:
        try:
            asked_in_chat(policy.tokenizer, policy.name, prompt)
            found.append(prompt)
        except RefusedPromptError as error:
            dropped[error.reason] += 1
    return found


def _has_room(policy: Checkpoint, prompt: str, config: EvolveConfig) -> bool:
    ids = apply_template(policy, [prompt])[0] if config.sampling.chat else prompt_ids(policy, prompt)
    return policy.context is None or len(ids) + config.sampling.max_new_tokens + 1 <= policy.context


def announce(inputs: EvolutionInputs, out: Path) -> None:
    """Say how many prompts each round has, and how many answers; refuse a disk without room."""
    config, rounds = inputs.config, inputs.config.evolution.rounds
    by_round = ", ".join(f"{kind} {len(part):,}" for kind, part in zip(rounds, inputs.shards, strict=True))
    logger.info(
        f"{config.evolution.prompts}: prompts per round: {by_round}; {len(inputs.probe)} set aside to measure the "
        f"policy, {inputs.long} too long"
    )
    if inputs.dropped:
        logger.warning(f"rows left out: {count_reasons(inputs.dropped)}")
    sampling = config.sampling
    logger.info(f"{sampling.completions} answers per prompt, of {sampling.max_new_tokens} tokens at most")
    announce_training_space(out, inputs.size, config.training.everything, copies=len(rounds) + 1)


def preview(inputs: EvolutionInputs) -> None:
    """Say how long the answers of all rounds take; labels and revisions about as long again."""
    policy, sampling = inputs.load(inputs.config.source.model), inputs.sampling
    prompts = [each for shard in inputs.shards for each in shard]
    size = inputs.config.sampling.batch_size
    seconds = expected_seconds(policy, read(policy, prompts, sampling), sampling, size)
    logger.info(
        f"answers take about {duration(seconds)}, revisions at most as long; the time of training is announced when "
        "it begins"
    )

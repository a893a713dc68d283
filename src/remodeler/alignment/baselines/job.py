"""Baselines on the same preferences: fine-tuning on the better answers by the project's loop; DPO and ORPO by TRL.

``BASELINES`` has a row per method. TRL is an extra (``pip install 'remodeler[align]'``); what it trains is written in
the same way, so that all policies stand in one table.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from remodeler.alignment.baselines.config import BaselineConfig
from remodeler.alignment.baselines.results import BaselineResults
from remodeler.alignment.baselines.trl_methods import train_dpo, train_orpo
from remodeler.alignment.data.examples import TokenRow, answer_row, end_token, row_windows
from remodeler.alignment.data.preferences import (
    LONG,
    Preferences,
    Triple,
    read_preferences,
    split_prompts,
    triples_digest,
)
from remodeler.alignment.loading import load_for_training
from remodeler.alignment.phases import REMEDY, TrainingSet, provenance, train_phase
from remodeler.alignment.records import RUN, identity, record_options, refuse_other_run
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.checkpoint.sizes import announce_training_space, memory
from remodeler.data.chat_templates import RefusedPromptError
from remodeler.errors import InputError, count_reasons, option
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.reporting.page import write_result
from remodeler.runs.job import Job, run
from remodeler.runs.options import build
from remodeler.runs.records import Record, load_record, versions
from remodeler.runs.runlog import RunLog
from remodeler.runs.signatures import with_signature
from remodeler.training.model import training_precision
from remodeler.training.state import CURVE_FILE

logger = logging.getLogger(__name__)

WORK = "policy"
"""Folder of the phase, until it is done."""
LENGTH = 2048
"""Tokens of an example, where the model has no limit of its own."""


@dataclass(frozen=True)
class BaselineInputs:
    """Model and preferences that a baseline is trained from."""

    config: BaselineConfig
    data: Preferences
    weights: str
    """Fingerprint of the model."""
    before: dict[str, Any]
    """Sizes and held-out perplexity of the model."""
    device: torch.device

    def load(self, model: ModelLike) -> Checkpoint:
        """Load a policy as it trains."""
        return load_for_training(self.config.source, model, self.device, self.config.training.everything)


Method = Callable[[BaselineInputs, Path], Path]
"""Trains in a folder; returns that of the trained model."""


def train_sft(inputs: BaselineInputs, work: Path) -> Path:
    """Fine-tuning on the better answers; worse ones are not used."""
    config = inputs.config
    policy, chat = inputs.load(config.source.model), config.chat
    data = TrainingSet(_rows(policy, inputs.data.train, chat), _rows(policy, inputs.data.heldout, chat))
    return train_phase(lambda: policy, data, config.training, work / WORK, "fine-tuning")


def train_by_dpo(inputs: BaselineInputs, work: Path) -> Path:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)."""
    return train_dpo(inputs.load, inputs.config, inputs.data.train, work / WORK)


def train_by_orpo(inputs: BaselineInputs, work: Path) -> Path:
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691)."""
    return train_orpo(inputs.load, inputs.config, inputs.data.train, work / WORK)


BASELINES: dict[str, Method] = {"sft": train_sft, "dpo": train_by_dpo, "orpo": train_by_orpo}


@with_signature(BaselineConfig)
def train_baseline(model: ModelLike, **options: Any) -> BaselineResults | None:
    """Train a policy on preferences, and write it to a new folder.

    Args:
        model: the policy: a folder, a hub id or a loaded checkpoint, which stays as it is.
        **options: those of :class:`~remodeler.alignment.baselines.config.BaselineConfig`, by name.

    Returns:
        What came of it; None in a dry run, and in all processes but the first.

    Raises:
        InputError: for what can't work.
    """
    return train_baseline_policy(build(BaselineConfig, {"model": model, **options}))


def train_baseline_policy(config: BaselineConfig) -> BaselineResults | None:
    """Train a policy as a config says; in a dry run only say what would be done."""
    out = config.run.folder()
    return run(
        lambda device: _job(config, device, out),
        out,
        device=config.source.device,
        remedy=REMEDY,
        dry_run=config.run.dry_run,
    )


def _job(config: BaselineConfig, device: str, out: Path) -> Job[BaselineResults]:
    inputs, header = prepare(config, device), identity(config)
    refuse_other_run(out, header)
    return Job(
        record_options(config),
        partial(_work, inputs, header),
        partial(_describe, inputs),
        lambda folder: BaselineResults.parse(load_record(folder)),
        announce=lambda: announce(inputs, out),
        assist=lambda folder: BASELINES[config.method](inputs, folder),
        kept=(RUN, WORK),
        scratch=(RUN, WORK),
    )


def prepare(config: BaselineConfig, device: str) -> BaselineInputs:
    """Load the model and the preferences; refuse what can't work."""
    place, data = pick_device(device), config.data
    training_precision(config.training.memory.precision, place)  # refuses what the device can't do
    policy = load_for_training(config.source, config.source.model, place, config.training.everything)
    end_token(policy)
    triples, dropped = read_preferences(data.preferences, config.limit, data.pairs, data.score_gap)
    length = data.length or min(LENGTH, policy.context or LENGTH)
    fitting = _fitting_triples(policy, triples, length, config.chat, dropped)
    train, heldout = split_prompts(fitting, data.held_out_share, config.training.seed)
    before = _scores(policy, heldout, config.chat)
    return BaselineInputs(config, Preferences(train, heldout, dropped), fingerprint(policy.model), before, place)


def _fitting_triples(
    policy: Checkpoint, triples: Sequence[Triple], length: int, chat: bool, dropped: Counter[str]
) -> list[Triple]:
    found: list[Triple] = []
    for each in triples:
        try:
            sides = [answer_row(policy, each.prompt, text, chat) for text in (each.chosen, each.rejected)]
        except RefusedPromptError as error:
            dropped[error.reason] += 1
            continue
        if max(len(row.ids) for row in sides) <= length:
            found.append(each)
        else:
            dropped[LONG] += 1
    if not found:
        raise InputError(
            f"none of {len(triples)} triples fits {length} tokens: shorten them or raise {option('length')} "
            f"(left out: {count_reasons(dropped)})"
        )
    return found


def _rows(policy: Checkpoint, triples: Sequence[Triple], chat: bool) -> list[TokenRow]:
    return [answer_row(policy, each.prompt, each.chosen, chat) for each in triples]


def _scores(policy: Checkpoint, heldout: Sequence[Triple], chat: bool) -> dict[str, Any]:
    """Sizes, and the perplexity of better answers that were held out."""
    loss = mean_nll(policy.anatomy, row_windows(policy, _rows(policy, heldout, chat)))
    return {**memory(policy), "heldout_perplexity": perplexity(loss)}


def announce(inputs: BaselineInputs, out: Path) -> None:
    """Say how many triples there are, and refuse a disk without room."""
    data = inputs.data
    logger.info(
        f"{len(data.train):,} training triples, {len(data.heldout):,} held out; left out: {count_reasons(data.dropped)}"
    )
    announce_training_space(out, inputs.before, inputs.config.training.everything)


def _work(inputs: BaselineInputs, header: dict[str, Any], work: Path) -> BaselineResults:
    """Train, write the policy, and measure it on the held-out triples."""
    RunLog(work / RUN).resume(header)
    config, data = inputs.config, inputs.data
    done = BASELINES[config.method](inputs, work)
    shutil.copytree(done, work, dirs_exist_ok=True)
    if (done.parent / CURVE_FILE).exists():
        shutil.copyfile(done.parent / CURVE_FILE, work / CURVE_FILE)
    return BaselineResults(
        student=inputs.before,
        fused=_scores(inputs.load(done), data.heldout, config.chat),
        triples={"train": len(data.train), "held out": len(data.heldout), "left out": dict(data.dropped)},
        **provenance(work),
    )


def _describe(inputs: BaselineInputs, work: Path, results: BaselineResults) -> None:
    """Write the record, the card and the page."""
    config, data = inputs.config, inputs.data
    facts = {
        "model": {"name": config.source.name, "weights": inputs.weights},
        "preferences": {
            "name": config.data.preferences,
            "sha256": triples_digest((*data.train, *data.heldout)),
        },
    }
    options, seed = record_options(config), config.training.seed
    write_result(work, Record("align baseline", options, facts, seed, versions(), results.to_record()), results)

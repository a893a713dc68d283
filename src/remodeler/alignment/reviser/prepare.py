"""Load and check what a reviser is trained from, before anything is trained."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from remodeler.alignment.config import ReviserConfig, TrainingConfig
from remodeler.alignment.data.examples import TokenRow, label_ids, revision_ids, revision_row
from remodeler.alignment.data.preferences import (
    LONG,
    Preferences,
    Triple,
    order_key,
    read_preferences,
    split_prompts,
)
from remodeler.alignment.data.template import LABELS, Template, read_template
from remodeler.alignment.loading import load_for_training
from remodeler.alignment.phases import TrainingSet, preview_phase
from remodeler.alignment.reviser.difficulty import LabelledExample
from remodeler.alignment.reviser.reviser import make_reviser
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.checkpoint.sizes import announce_training_space, file_sizes
from remodeler.errors import InputError, count_reasons, option
from remodeler.training.model import training_precision

logger = logging.getLogger(__name__)

LENGTH = 2048
"""Tokens of an example, where the model has no limit of its own."""


@dataclass(frozen=True)
class ReviserInputs:
    """Model and preferences that a reviser is trained from."""

    config: ReviserConfig
    model: Checkpoint
    """Without its weights."""
    weights: str
    """Fingerprint of these."""
    template: Template
    data: Preferences
    device: torch.device

    def load(self, model: ModelLike) -> Checkpoint:
        """Load a model as it trains."""
        return load_for_training(self.config.source, model, self.device, self.config.training.everything)

    def rewrites(self, triples: Sequence[Triple], copies: float = 0.0) -> list[TokenRow]:
        """Rows from worse answers to better ones, and from some better ones to themselves: Aligner's way to begin."""
        seed = self.config.training.seed
        order = sorted(triples, key=lambda each: order_key(each.prompt + each.rejected, seed))
        same = order[: round(copies * len(order))]
        pairs = [*((each, each.rejected) for each in triples), *((each, each.chosen) for each in same)]
        return [revision_row(self.model, self.template, each.prompt, given, each.chosen) for each, given in pairs]

    def rows(self, examples: Sequence[LabelledExample]) -> list[TokenRow]:
        """Rows from responses to their labels and what they should become."""
        return [
            revision_row(self.model, self.template, each.prompt, each.response, each.better, each.label)
            for each in examples
        ]


def prepare(config: ReviserConfig, device: str) -> ReviserInputs:
    """Load the model and the preferences; refuse what can't work."""
    place, everything = pick_device(device), config.training.everything
    training_precision(config.training.memory.precision, place)  # refuses what the device can't do
    template = read_template(config.labels.template)
    model = load_for_training(config.source, config.source.model, place, everything)
    make_reviser(model, template)
    data = config.data
    triples, dropped = read_preferences(data.preferences, config.limit, data.pairs, data.score_gap)
    length = data.length or min(LENGTH, model.context or LENGTH)
    fitting = _fitting_triples(model, template, triples, length, dropped)
    train, heldout = split_prompts(fitting, data.held_out_share, config.training.seed)
    weights = fingerprint(model.model)
    model.model.to("meta")  # every phase loads what it trains; here only the tokenizer and the config are needed
    return ReviserInputs(config, model, weights, template, Preferences(train, heldout, dropped), place)


def _fitting_triples(
    model: Checkpoint, template: Template, triples: Sequence[Triple], length: int, dropped: Counter[str]
) -> list[Triple]:
    """Triples whose prompt, response and revision fit the context together."""
    labels = max(len(label_ids(model, template, label)) for label in LABELS)
    ends = [len(revision_ids(model, each.chosen)) for each in triples]
    bad = [len(revision_row(model, template, each.prompt, each.rejected, "").ids) for each in triples]
    good = [len(revision_row(model, template, each.prompt, each.chosen, "").ids) for each in triples]
    found = [
        each
        for each, one, two, end in zip(triples, bad, good, ends, strict=True)
        if max(one + end, two) + labels <= length
    ]
    dropped[LONG] += len(triples) - len(found)
    if not found:
        raise InputError(
            f"none of {len(triples)} triples fits {length} tokens with its template: shorten them or raise "
            f"{option('length')}"
        )
    return found


def warm_up_training(config: ReviserConfig) -> TrainingConfig:
    """Training of the warm-up reviser: as of the adaptive one, for epochs of its own."""
    pace = replace(config.training.optimization, epochs=config.warm_up.warm_up_epochs, steps=None)
    return replace(config.training, optimization=pace)


def announce(inputs: ReviserInputs, out: Path) -> None:
    """Say how many triples there are, and refuse a disk without room."""
    data, config = inputs.data, inputs.config
    logger.info(
        f"{config.data.preferences}: {len(data.train):,} training triples, {len(data.heldout):,} held out; "
        f"left out: {count_reasons(data.dropped)}"
    )
    announce_training_space(out, file_sizes(inputs.model), config.training.everything, copies=2)


def preview(inputs: ReviserInputs) -> None:
    """Say how long the phases would take; the second has about as many examples as its labels ask for."""
    config, model = inputs.config, inputs.load(inputs.config.source.model)
    rows = inputs.rewrites(inputs.data.train, config.warm_up.copies)
    preview_phase(model, TrainingSet(rows), warm_up_training(config), "warm-up reviser")
    pace = config.training.optimization
    longer = replace(pace, epochs=(pace.epochs or 1.0) / (1 - config.labels.none_share))
    training = replace(config.training, optimization=longer)
    preview_phase(model, TrainingSet(rows), training, "adaptive reviser (upper bound)")

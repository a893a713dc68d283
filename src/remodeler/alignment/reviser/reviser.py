"""The adaptive reviser: a language model that says how much a response has to change, and what it should become.

It writes a label and then its revision. Labels are not sampled: their probabilities come from one batched forward pass
over the three markers. A response that is labelled NONE is copied by the program, byte for byte, and never passes
through the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download

from remodeler.alignment.config import ReviserLike
from remodeler.alignment.data.examples import all_label_ids, context_ids, end_token, label_ids
from remodeler.alignment.data.template import LABELS, NONE, Template, parse_template
from remodeler.alignment.loading import load_options
from remodeler.alignment.reviser.scoring import label_logprobs
from remodeler.checkpoint.config import LoadConfig
from remodeler.checkpoint.library_errors import one_sentence
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.errors import InputError
from remodeler.generation.sampling import Completion, Sampling, completed
from remodeler.model.blocks import Anatomy
from remodeler.runs.records import read_json, write_json

FILE, FORMAT = "reviser.json", 1
GREEDY = 0.0
COARSE = 16
"""Rows near the end of the context go together if they have about as much room."""

Pair = tuple[str, str]
"""A prompt and a response."""
Judge = Callable[[str, str, str], float]
"""(prompt, first, second): above 0, the first is better."""


@dataclass(frozen=True)
class Reviser:
    """A reviser ready to work."""

    checkpoint: Checkpoint
    template: Template
    marks: tuple[tuple[int, ...], ...]
    """Token ids of the labels."""

    @property
    def name(self) -> str:
        """Folder or hub id, as given."""
        return self.checkpoint.name

    @property
    def anatomy(self) -> Anatomy:
        """The blocks of the model."""
        return self.checkpoint.anatomy


@dataclass(frozen=True)
class Revision:
    """A response as a reviser labelled and revised it."""

    label: str
    probabilities: tuple[float, ...]
    """Probabilities of NONE, MINOR and MAJOR."""
    text: str
    ended: bool
    """Whether it ended by itself, not by the limit; a copy always does."""

    @property
    def confidence(self) -> float:
        """The probability of its label."""
        return self.probabilities[LABELS.index(self.label)]


def quality(probabilities: Sequence[float]) -> float:
    """Quality of a response, from 0 to 1: p(NONE) + p(MINOR) / 2."""
    return float(probabilities[0] + probabilities[1] / 2)


# On disk --------------------------------------------------------------------------------------------------------------


def write_settings(folder: Path, template: Template, marks: Sequence[Sequence[int]], facts: dict[str, Any]) -> None:
    """Write ``reviser.json``: the template with its digest, the tokens of the labels, and how these were made."""
    settings = {
        "format": FORMAT,
        "template": asdict(template),
        "sha256": template.digest(),
        "marks": list(map(list, marks)),
    }
    write_json(folder / FILE, settings | facts)


def open_reviser(reviser: ReviserLike, config: LoadConfig, device: torch.device) -> Reviser:
    """Load a reviser as a config says; one that is loaded already is returned as it is."""
    if isinstance(reviser, Reviser):
        return reviser
    return load_reviser(str(reviser), **load_options(config, str(reviser), device))


def load_reviser(name: str, **options: Any) -> Reviser:
    """Load a folder or hub id that ``remodel align train-reviser`` wrote.

    Args:
        name: the folder or hub id.
        options: as of :func:`remodeler.checkpoint.load.load`.

    Raises:
        InputError: for what is not a reviser, or one whose template or tokenizer is not that of its training.
    """
    settings, template = read_reviser(name)
    found = make_reviser(load(name, **options), template)
    if [list(mark) for mark in found.marks] != settings.get("marks"):
        raise InputError(f"the tokenizer of {name} cuts the labels otherwise than in its training: restore it")
    return found


def read_reviser(name: str) -> tuple[dict[str, Any], Template]:
    """Read ``reviser.json`` and its template; the weights are not read.

    Raises:
        InputError: for what is not a reviser, or one whose template is not that of its training.
    """
    settings = read_json(_settings_file(name))
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        raise InputError(f"{name} has a {FILE} of another format: train it again with this version")
    template = parse_template(settings.get("template"), f"{name}/{FILE}")
    if template.digest() != settings.get("sha256"):
        raise InputError(f"the template in {name}/{FILE} is not the one that it was trained with: restore the file")
    return settings, template


def _settings_file(name: str) -> Path:
    if Path(name).is_dir() and not (Path(name) / FILE).is_file():
        raise InputError(f"{name} has no {FILE}: give a folder that `remodel align train-reviser` wrote")
    if Path(name).is_dir():
        return Path(name) / FILE
    with one_sentence(name, f"{FILE}"):
        return Path(hf_hub_download(name, FILE))


def make_reviser(checkpoint: Checkpoint, template: Template) -> Reviser:
    """Make a reviser of a model and a template.

    Raises:
        InputError: for a model that writes nothing, or never ends.
    """
    if checkpoint.anatomy.family.task != "causal":
        raise InputError(f"{checkpoint.name} is not a causal language model (required to revise): give another")
    end_token(checkpoint)
    return Reviser(checkpoint, template, tuple(all_label_ids(checkpoint, template)))


# At work --------------------------------------------------------------------------------------------------------------


def contexts(reviser: Reviser, pairs: Sequence[Pair]) -> list[list[int]]:
    """Token ids that the reviser reads of each pair."""
    return [context_ids(reviser.checkpoint, reviser.template, *pair) for pair in pairs]


def fits(reviser: Reviser, pair: Pair) -> bool:
    """Whether a pair can be read with a label behind it."""
    room, longest = reviser.checkpoint.context, max(map(len, reviser.marks))
    return room is None or len(contexts(reviser, [pair])[0]) + longest <= room


def label_probabilities(reviser: Reviser, pairs: Sequence[Pair]) -> np.ndarray:
    """Probability of every label for every pair: [pairs, labels] float64, each row sums to 1."""
    if not pairs:
        return np.empty((0, len(LABELS)))
    found = label_logprobs(reviser.checkpoint, contexts(reviser, pairs), reviser.marks).double().exp()
    return (found / found.sum(1, keepdim=True)).numpy()


def revise_pairs(
    reviser: Reviser,
    pairs: Sequence[Pair],
    known: np.ndarray,
    tokens: int,
    size: int | None = None,
    force: bool = False,
) -> list[Revision]:
    """Revise responses whose label probabilities are known.

    Args:
        reviser: the model.
        pairs: prompts and responses.
        known: [pairs, labels].
        tokens: at most so many per revision, and no more than the context leaves.
        size: texts per forward pass.
        force: never copy: where NONE is the most likely label, the likelier of the other two is taken (a control).
    """
    open_labels = known.copy()
    if force:
        open_labels[:, LABELS.index(NONE)] = -1.0
    labels = [LABELS[place] for place in open_labels.argmax(1)]
    changed = [place for place, label in enumerate(labels) if label != NONE]
    texts = _generate(reviser, [pairs[p] for p in changed], [labels[p] for p in changed], tokens, size)
    revisions = dict(zip(changed, texts, strict=True))
    return [
        Revision(label, tuple(row), *revisions.get(place, (pairs[place][1], True)))
        for place, (label, row) in enumerate(zip(labels, known.tolist(), strict=True))
    ]


def _generate(
    reviser: Reviser, pairs: Sequence[Pair], labels: Sequence[str], tokens: int, size: int | None
) -> list[tuple[str, bool]]:
    """Generate the texts behind labels, and whether each ended. What no longer fits the context is cut short."""
    checkpoint = reviser.checkpoint
    given = [
        [*row, *label_ids(checkpoint, reviser.template, label)]
        for row, label in zip(contexts(reviser, pairs), labels, strict=True)
    ]
    found: dict[int, tuple[str, bool]] = {}
    for room, places in _by_room(checkpoint, given, tokens).items():
        sampling, prompts = Sampling(room, GREEDY), [given[place] for place in places]
        texts = [each for batch in completed(checkpoint, prompts, sampling, size, ()) for each in batch]
        found |= {places[each.prompt]: _revision(each) for each in texts}
    return [found.get(place, ("", False)) for place in range(len(given))]


def _by_room(checkpoint: Checkpoint, given: Sequence[Sequence[int]], tokens: int) -> dict[int, list[int]]:
    """Rows by how many tokens may follow, in steps of COARSE where the context is the limit; none where none may."""
    found: dict[int, list[int]] = {}
    for place, row in enumerate(given):
        room = tokens if checkpoint.context is None else min(tokens, checkpoint.context - len(row))
        if room > 0:
            found.setdefault(room if room in (tokens, 1) else max(1, room // COARSE * COARSE), []).append(place)
    return found


def _revision(completion: Completion) -> tuple[str, bool]:
    """The text behind the line of the label."""
    stripped = completion.text.lstrip(" ")
    return (stripped[1:] if stripped.startswith("\n") else completion.text), completion.ended

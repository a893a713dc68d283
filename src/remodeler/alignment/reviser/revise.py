"""Revise responses that somebody else wrote: the reviser alone, at inference."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from remodeler.alignment.config import ReviseConfig, ReviserLike
from remodeler.alignment.data.differences import difference, mean_lengths
from remodeler.alignment.data.prompts import Response, read_responses
from remodeler.alignment.data.template import LABELS
from remodeler.alignment.loading import name_of
from remodeler.alignment.records import record_options
from remodeler.alignment.reviser.results import REVISIONS_FILE, ReviseResults
from remodeler.alignment.reviser.reviser import (
    Reviser,
    fits,
    label_probabilities,
    open_reviser,
    quality,
    revise_pairs,
)
from remodeler.alignment.reviser.scoring import map_resumably
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import fingerprint
from remodeler.errors import LeftOut, count_reasons, option
from remodeler.reporting.page import write_result
from remodeler.runs.job import Job, run
from remodeler.runs.options import build
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, digest, load_record, versions
from remodeler.runs.signatures import with_signature

logger = logging.getLogger(__name__)

Row = dict[str, Any]
NO_SEED = 0
"""Nothing is drawn; records have had this number."""


@dataclass(frozen=True)
class ReviseInputs:
    """Responses and the reviser that reads them."""

    config: ReviseConfig
    reviser: Reviser
    weights: str
    """Fingerprint of the reviser."""
    responses: tuple[Response, ...]
    dropped: LeftOut

    @property
    def digest(self) -> str:
        """SHA-256 of all prompts and responses."""
        return digest(text for each in self.responses for text in (each.prompt, each.response))


@with_signature(ReviseConfig)
def revise(responses: str, reviser: ReviserLike, **options: Any) -> ReviseResults | None:
    """Label and revise responses, and write them with what changed to a new folder.

    Args:
        responses: a file or hub id of prompts with responses.
        reviser: a folder that :func:`~remodeler.alignment.train_reviser` wrote, a hub id, or a loaded reviser.
        **options: those of :class:`~remodeler.alignment.config.ReviseConfig`, by name.

    Returns:
        What came of it; None in a dry run. The revisions are in ``OUT/revisions.jsonl``.

    Raises:
        InputError: for what can't work.
    """
    return revise_responses(build(ReviseConfig, {"responses": responses, "reviser": reviser, **options}))


def revise_responses(config: ReviseConfig) -> ReviseResults | None:
    """Revise as a config says; in a dry run only say what would be done."""
    return run(
        lambda device: _job(config, device),
        config.run.folder(),
        device=config.loading.device,
        remedy=option("batch_size", 1),
        dry_run=config.run.dry_run,
    )


def _job(config: ReviseConfig, device: str) -> Job[ReviseResults]:
    inputs = _prepare(config, device)
    return Job(
        record_options(config),
        partial(_work, inputs),
        partial(_describe, inputs),
        lambda folder: ReviseResults.parse(load_record(folder)),
        announce=lambda: _announce(inputs),
        kept=(REVISIONS_FILE,),
    )


def _prepare(config: ReviseConfig, device: str) -> ReviseInputs:
    dropped = LeftOut()
    responses = read_responses(config.responses, dropped)[: config.limit]
    reviser = open_reviser(config.reviser, config.loading, pick_device(device))
    return ReviseInputs(config, reviser, fingerprint(reviser.checkpoint.model), tuple(responses), dropped)


def _announce(inputs: ReviseInputs) -> None:
    long = sum(not fits(inputs.reviser, (each.prompt, each.response)) for each in inputs.responses)
    logger.info(
        f"{inputs.config.responses}: {len(inputs.responses):,} responses, {long} of them too long for the reviser: "
        "these stay as they are"
    )
    if inputs.dropped:
        logger.warning(f"rows left out: {count_reasons(inputs.dropped)}")


def _work(inputs: ReviseInputs, folder: Path) -> ReviseResults:
    """Write one line per response, as they are made."""
    header = {
        "responses": inputs.digest,
        "reviser": inputs.weights,
        "tokens": inputs.config.generation.max_new_tokens,
    }
    numbered = [(each.row, each) for each in inputs.responses]
    with progress_bar("revising") as progress:
        rows = map_resumably(folder / REVISIONS_FILE, header, numbered, partial(_revise_chunk, inputs), progress)
    return _results(rows)


def _revise_chunk(inputs: ReviseInputs, chunk: Sequence[tuple[int, Response]]) -> list[Row]:
    reviser, generation = inputs.reviser, inputs.config.generation
    pairs = {number: (each.prompt, each.response) for number, each in chunk}
    short = [number for number, pair in pairs.items() if fits(reviser, pair)]
    read = [pairs[number] for number in short]
    known = label_probabilities(reviser, read)
    revisions = revise_pairs(reviser, read, known, generation.max_new_tokens, generation.batch_size)
    found = dict(zip(short, zip(known, revisions, strict=True), strict=True))
    return [_row(number, each, *found.get(number, (None, None))) for number, each in chunk]


def _row(number: int, each: Response, known: np.ndarray | None, revision: Any) -> Row:
    text = each.response if revision is None else revision.text
    return {
        "number": number,
        "prompt": each.prompt,
        "response": each.response,
        "label": None if revision is None else revision.label,
        "probabilities": None if known is None else dict(zip(LABELS, known.tolist(), strict=True)),
        "quality": None if known is None else quality(known.tolist()),
        "revision": text,
        "ended": revision is None or revision.ended,
        "difference": difference(each.response, text),
    }


def _results(rows: Sequence[Row]) -> ReviseResults:
    before, after = mean_lengths([(row["response"], row["revision"]) for row in rows])
    return ReviseResults(
        labels=dict(Counter(row["label"] or "too long" for row in rows)),
        changed=sum(row["revision"] != row["response"] for row in rows),
        not_ended=sum(not row["ended"] for row in rows),
        characters=before,
        characters_after=after,
        command=command_line(),
    )


def _describe(inputs: ReviseInputs, folder: Path, results: ReviseResults) -> None:
    """Write the record and the page."""
    config = inputs.config
    facts = {
        "reviser": {"name": name_of(config.reviser), "weights": inputs.weights},
        "responses": {
            "name": config.responses,
            "count": len(inputs.responses),
            "sha256": inputs.digest,
            **({"left out": dict(inputs.dropped)} if inputs.dropped else {}),
        },
    }
    record = Record("align revise", record_options(config), facts, NO_SEED, versions(), results.to_record())
    write_result(folder, record, results)

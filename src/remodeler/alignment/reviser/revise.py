"""Revise responses that somebody else wrote: the reviser alone, at inference."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remodeler.alignment.config import ReviseWish, options
from remodeler.alignment.data.differences import difference, means
from remodeler.alignment.data.prompts import Response, read_responses, refuse_limit
from remodeler.alignment.data.template import LABELS
from remodeler.alignment.reviser.results import REVISIONS_FILE, ReviseResults
from remodeler.alignment.reviser.reviser import Reviser, fits, load_reviser, probabilities, quality, revised
from remodeler.alignment.reviser.scoring import mapped
from remodeler.checkpoint.load import fingerprint, pick_device
from remodeler.errors import LeftOut, counted
from remodeler.generation.sampling import Sampling, refuse_size
from remodeler.report.page import write_result
from remodeler.runs.folders import empty, new_folder, refuse_existing
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, digest, versions

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def revise_responses(wish: ReviseWish, out: Path, dry: bool = False) -> Record | None:
    """Label and revise responses, and write them with what changed; with ``dry`` only say what would be done.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    refuse_limit(wish.limit)
    refuse_size(wish.size)
    Sampling(wish.tokens).checked()
    dropped = LeftOut()
    given = read_responses(wish.responses, dropped)[: wish.limit]
    device = pick_device(wish.loading.device)
    reviser = load_reviser(wish.reviser, **wish.loading.how(wish.reviser, device))
    long = sum(not fits(reviser, (each.prompt, each.response)) for each in given)
    logger.info(
        f"{wish.responses}: {len(given):,} responses, {long} of them too long for the reviser: these stay as they are"
    )
    if dropped:
        logger.warning(f"rows left out: {counted(dropped)}")
    if dry:
        return None
    with new_folder(out, keep=True) as work:
        empty(work, (REVISIONS_FILE,))
        rows = _rows(wish, reviser, given, work)
        results = _results(rows)
        record = _record(wish, reviser, given, results, out)
        record.inputs["responses"] |= {"left out": dict(dropped)} if dropped else {}
        write_result(work, record, results)
    return record


def _rows(wish: ReviseWish, reviser: Reviser, given: Sequence[Response], work: Path) -> list[Row]:
    """A line a response, written as they are made."""
    texts = digest(text for each in given for text in (each.prompt, each.response))
    header = {"responses": texts, "reviser": fingerprint(reviser.checkpoint.model), "tokens": wish.tokens}
    numbered = [(each.row, each) for each in given]
    with progress_bar("revising") as progress:
        return mapped(work / REVISIONS_FILE, header, numbered, lambda chunk: _chunk(wish, reviser, chunk), progress)


def _chunk(wish: ReviseWish, reviser: Reviser, chunk: Sequence[tuple[int, Response]]) -> list[Row]:
    pairs = {number: (each.prompt, each.response) for number, each in chunk}
    short = [number for number, pair in pairs.items() if fits(reviser, pair)]
    known = probabilities(reviser, [pairs[number] for number in short])
    made = revised(reviser, [pairs[number] for number in short], known, wish.tokens, wish.size)
    found = dict(zip(short, zip(known, made, strict=True), strict=True))
    return [_row(number, each, *found.get(number, (None, None))) for number, each in chunk]


def _row(number: int, each: Response, known: np.ndarray | None, made: Any) -> Row:
    text = each.response if made is None else made.text
    return {
        "number": number,
        "prompt": each.prompt,
        "response": each.response,
        "label": None if made is None else made.label,
        "probabilities": None if known is None else dict(zip(LABELS, known.tolist(), strict=True)),
        "quality": None if known is None else quality(known.tolist()),
        "revision": text,
        "ended": made is None or made.ended,
        "difference": difference(each.response, text),
    }


def _results(rows: Sequence[Row]) -> ReviseResults:
    before, after = means([(row["response"], row["revision"]) for row in rows])
    return ReviseResults(
        labels=dict(Counter(row["label"] or "too long" for row in rows)),
        changed=sum(row["revision"] != row["response"] for row in rows),
        not_ended=sum(not row["ended"] for row in rows),
        characters=before,
        characters_after=after,
        command=command_line(),
    )


def _record(wish: ReviseWish, reviser: Reviser, given: Sequence[Response], results: ReviseResults, out: Path) -> Record:
    texts = digest(text for each in given for text in (each.prompt, each.response))
    inputs = {
        "reviser": {"name": wish.reviser, "weights": fingerprint(reviser.checkpoint.model)},
        "responses": {"name": wish.responses, "count": len(given), "sha256": texts},
    }
    return Record("align revise", options(wish, out), inputs, 0, versions(), results.to_record())

"""Audit from start to finish: complete the prompts, find spans in the completions, count, compare, describe.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command:
completions batch by batch, spans some texts at a time. Spans are looked for in what a model wrote, not in the prompt.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remodeler.auditing.config import Wish
from remodeler.auditing.detectors.table import detector, located
from remodeler.auditing.prompts import Given, read_prompts, read_texts
from remodeler.auditing.results import AuditResults
from remodeler.auditing.spans import Detector
from remodeler.auditing.statistics.counting import Found, figures, frequent, paired, tally
from remodeler.checkpoint.load import Checkpoint, fingerprint, load, look
from remodeler.generation.sampling import Completion, completions, expected_seconds, read
from remodeler.report.page import write_result
from remodeler.runs.folders import empty, new_folder, refuse_existing
from remodeler.runs.progress import duration, progress_bar
from remodeler.runs.records import Record, command_line, digest, sha256, versions
from remodeler.runs.runlog import RunLog

logger = logging.getLogger(__name__)

COMPLETIONS, SPANS = ("completions.jsonl", "completions-against.jsonl"), "spans.jsonl"
AT_ONCE = 256
"""Texts whose spans are found, and written, at a time."""


def audit(wish: Wish, out: Path | None, dry: bool = False) -> tuple[Record, list[Found]] | None:
    """Audit texts or models; with ``dry`` only say what would be done.

    Args:
        wish: what to audit.
        out: a folder that does not exist yet; without one nothing is kept.
        dry: only look.

    Returns:
        The record and every text with its spans; None when dry.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    wish = wish.settled()
    if out is not None:
        refuse_existing(out)
    for number, name in enumerate(wish.models):
        look(name, "causal", wish.loading(number)["revision"])
    find = detector(wish.detector, wish.settings)
    given = _given(wish)
    if dry:
        _announce(wish, given.texts)
        return None
    with _folder(out) as work:
        empty(work, (*COMPLETIONS, SPANS))
        started = time.monotonic()
        rows, written = _rows(wish, given, work)
        found = _found(wish, find, rows, work)
        results = _results(wish, given, written, found, started)
        record = _record(wish, given, written, results, out)
        write_result(work, record, results)
    return record, found


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        with new_folder(out, keep=True) as work:
            yield work
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def _given(wish: Wish) -> Given:
    """The texts or prompts; says how many rows were left out."""
    if wish.texts is not None:
        given = read_texts(wish.texts, wish.limit, wish.skip_bad)
    else:
        given = read_prompts(wish.prompts or "", wish.words, wish.limit, wish.skip_bad)
    if given.bad:
        logger.warning(f"{len(given.bad)} bad rows are left out; the first: {given.bad[0]}")
    return given


# What is audited ------------------------------------------------------------------------------------------------------


def _rows(wish: Wish, given: Given, work: Path) -> tuple[list[Found], list[dict[str, Any]]]:
    """Every text that is looked into, without its spans yet; and what is known of those who wrote them."""
    if wish.texts is not None:
        pairs = zip(given.rows, given.texts, strict=True)
        return [Found(0, row, 0, text, ()) for row, text in pairs], [{"name": wish.texts.name}]
    rows: list[Found] = []
    written: list[dict[str, Any]] = []
    for side in range(len(wish.models)):
        made, facts = _completed(wish, side, given.texts, work)
        rows += [Found(side, given.rows[each.prompt], each.sample, each.text, ()) for each in made]
        written.append(facts)
    return rows, written


def _completed(wish: Wish, side: int, prompts: Sequence[str], work: Path) -> tuple[list[Completion], dict[str, Any]]:
    """What a model writes, and what is known of it; it leaves the memory again."""
    checkpoint = load(wish.models[side], **wish.loading(side))
    digest_of = fingerprint(checkpoint.model)
    header = {"model": digest_of, "dtype": str(checkpoint.model.dtype)}
    with progress_bar(f"{Path(checkpoint.name).name} writes") as progress:
        made = completions(
            work / COMPLETIONS[side], header, checkpoint, prompts, wish.sampling, wish.batch_size, progress
        )
    facts = {
        "name": checkpoint.name,
        "weights": digest_of,
        "parameters": checkpoint.anatomy.parameters(),
        "tokens": sum(each.tokens for each in made),
        "ended": sum(each.ended for each in made) / len(made),
    }
    return made, facts


def _found(wish: Wish, find: Detector, rows: Sequence[Found], work: Path) -> list[Found]:
    """All rows with their spans: those that are on the disk, and the rest, some at a time."""
    header = {"texts": digest(row.text for row in rows), **_detector(wish)}
    log = RunLog(work / SPANS)
    found = [Found.parse(line) for line in log.resume(header)]
    with progress_bar("looking for spans") as progress:
        while len(found) < len(rows):
            part = rows[len(found) : len(found) + AT_ONCE]
            spans = find([row.text for row in part])
            new = [
                Found(row.side, row.number, row.sample, row.text, tuple(each))
                for row, each in zip(part, spans, strict=True)
            ]
            log.append([row.line() for row in new])
            found += new
            progress(len(found) / len(rows), f"{len(found):,} of {len(rows):,} texts")
    return found


def _detector(wish: Wish) -> dict[str, Any]:
    """What tells a detector from another: where it is, how it is read, and what is in its files."""
    source, settings = located(wish.detector), asdict(wish.settings)
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    content = digest(f"{path.name} {sha256(path)}" for path in files if path.is_file())
    used = {name: settings[name] for name in ("threshold", "labels", "whole", "dtype")}
    return {"detector": wish.detector, "content": content, **used}


# What is said of it ---------------------------------------------------------------------------------------------------


def _results(
    wish: Wish, given: Given, written: list[dict[str, Any]], found: list[Found], started: float
) -> AuditResults:
    seed, sides = wish.sampling.seed, range(len(written))
    counts = [tally([row for row in found if row.side == side]) for side in sides]
    return AuditResults(
        audited=[{**facts, **figures(each, seed)} for facts, each in zip(written, counts, strict=True)],
        words=frequent(found, len(written)),
        command=command_line(),
        difference=paired(counts[0], counts[1], seed) if len(counts) == 2 else None,
        bad_rows=len(given.bad) or None,
        seconds=round(time.monotonic() - started, 1),
    )


def _record(wish: Wish, given: Given, written: list[dict[str, Any]], results: AuditResults, out: Path | None) -> Record:
    seed = wish.sampling.seed
    source = wish.prompts if wish.texts is None else str(wish.texts)
    what = "prompts" if wish.models else "texts"
    inputs: dict[str, Any] = {what: {"source": source, "count": len(given.texts), "sha256": digest(given.texts)}}
    inputs |= {
        f"model {place}": {name: facts[name] for name in ("name", "weights")}
        for place, facts in enumerate(written, 1)
        if wish.models
    }
    inputs["detector"] = _detector(wish)
    options = _options(wish) | {"out": str(out) if out else None}
    return Record("audit", options, inputs, seed, versions(), results.to_record())


def _options(wish: Wish) -> dict[str, Any]:
    """Those that mattered."""
    sampling = {name: value for name, value in asdict(wish.sampling).items() if name != "seed"}
    own = {"prompt_words": wish.words, "limit": wish.limit, "skip_bad": wish.skip_bad}
    return {**(sampling if wish.models else {}), **own, "detector": wish.detector, "threshold": wish.settings.threshold}


def _announce(wish: Wish, texts: Sequence[str]) -> None:
    """Sizes, and about how long completing takes."""
    if wish.texts is not None:
        logger.info(f"{wish.texts.name}: {len(texts):,} texts, {sum(map(len, texts)):,} characters")
        return
    how = wish.sampling
    for side, name in enumerate(wish.models):
        checkpoint: Checkpoint = load(name, **wish.loading(side))
        rows = read(checkpoint, texts, how)
        lengths = sorted(map(len, rows))
        seconds = expected_seconds(checkpoint, rows, how, wish.batch_size)
        logger.info(
            f"{name}: {len(rows):,} prompts of {lengths[0]} to {lengths[-1]} tokens, {how.samples} completions each of "
            f"at most {how.tokens} tokens: about {duration(seconds)}"
        )

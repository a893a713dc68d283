"""Predict, vote, score and convert: from files to a file.

What is predicted is kept beside the result, some posts at a time, and a run that was killed goes on from there.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from remodeler.auditing.formats.matching import matched, refuse_other_text, with_text
from remodeler.auditing.formats.posts import Post, Reading, read_posts, tell_bad
from remodeler.auditing.formats.predictions import (
    Prediction,
    from_row,
    read_predictions,
    refuse_unknown,
    to_row,
    write_predictions,
)
from remodeler.auditing.statistics.scoring import Score, breakdown, scores
from remodeler.auditing.statistics.voting import vote_all
from remodeler.auditing.tagger.files import HEAD_FILE, SETTINGS_FILE, Trained, load_tagger, located
from remodeler.auditing.tagger.predict import predict
from remodeler.auditing.tagger.quantised import quantise
from remodeler.errors import InputError
from remodeler.runs.folders import refuse_existing
from remodeler.runs.progress import progress_bar
from remodeler.runs.runlog import RunLog

AT_ONCE = 512
"""Posts that are predicted, and then kept, together."""


@dataclass(frozen=True)
class How:
    """How taggers are used."""

    rules: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the rules in a tagger's folder."""
    likelihoods: bool = False
    """Keep the likelihoods of all characters."""
    int8: bool = False
    """Linear layers in 8-bit integers."""
    skip_bad: bool = False
    device: str = "auto"
    trust_remote_code: bool = False


def predict_file(texts: Path, tagger: Path, out: Path, how: How) -> list[Prediction]:
    """Predict the posts of a file into another, of the kind that its name says.

    ``tagger`` is a folder, or the name of the tagger that travels along.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    refuse_unknown(out, how.likelihoods)
    tagger = located(tagger)
    rows = _predicted(texts, tagger, _kept(out, tagger), how)
    write_predictions(out, rows)
    _kept(out, tagger).unlink()
    return rows


def vote_file(members: Sequence[Path], texts: Path | None, out: Path, least: int | None, how: How) -> list[Prediction]:
    """Let prediction files, and taggers on the posts of a file, vote on every character, into a file.

    Args:
        members: prediction files and folders of taggers.
        texts: the posts, where a member is a tagger.
        out: the file to write.
        least: how many must agree; by default a majority.
        how: how taggers are used. With likelihoods, the result has their mean.
    """
    refuse_existing(out)
    refuse_unknown(out, how.likelihoods)
    members = list(map(located, members))
    found = [list(_voices(member, texts, out, how)) for member in members]
    _refuse_different(members, found)
    spans = vote_all([[row.spans for row in rows] for rows in found], least)
    made = [
        replace(first, spans=tuple(agreed), likely=_mean([rows[place] for rows in found]) if how.likelihoods else None)
        for place, (first, agreed) in enumerate(zip(found[0], spans, strict=True))
    ]
    write_predictions(out, made)
    for member in members:
        _kept(out, member).unlink(missing_ok=True)
    return made


def score_files(predictions: Path, gold: Path, skip_bad: bool = False) -> dict[str, Score]:
    """The official score of predictions, and its parts."""
    theirs = read_predictions(gold, skip_bad)
    ours = read_predictions(predictions, skip_bad)
    for path, found in ((gold, theirs), (predictions, ours)):
        tell_bad(path, found.bad)
    wanted = [list(row.spans) for row in theirs.rows]
    values = scores(matched(predictions, ours.rows, theirs.rows), wanted)
    texts = [row.text for row in theirs.rows if row.text is not None]
    return breakdown(values, wanted, texts if len(texts) == len(wanted) else ())


def convert_file(source: Path, out: Path, texts: Path | None, skip_bad: bool = False) -> int:
    """Predictions or gold spans from one kind of file to another; how many posts there are.

    ``texts``: posts that give their texts, by id, to predictions that have none.
    """
    refuse_existing(out)
    found = read_predictions(source, skip_bad)
    tell_bad(source, found.bad)
    rows = found.rows
    if texts is not None:
        known = {post.id: post.text for post in read_posts(texts, skip_bad=skip_bad).posts}
        lost = [row.id for row in rows if row.id not in known]
        if lost:
            raise InputError(f"{texts} has no post with the id {lost[0]}, which {source} has: give the texts of these")
        rows = tuple(with_text(source, row, known[row.id]) for row in rows)
    write_predictions(out, rows)
    return len(rows)


# Members --------------------------------------------------------------------------------------------------------------


def _voices(member: Path, texts: Path | None, out: Path, how: How) -> Iterator[Prediction]:
    """What a member of a vote predicts."""
    if not member.is_dir():
        found = read_predictions(member, how.skip_bad)
        tell_bad(member, found.bad)
        yield from found.rows
    elif texts is None:
        raise InputError(f"{member} is a tagger: say with --texts what it is to predict")
    else:
        yield from _predicted(texts, member, _kept(out, member), how)


def _refuse_different(members: Sequence[Path], found: Sequence[Sequence[Prediction]]) -> None:
    """All members must speak of the same posts, in the same order."""
    for member, rows in zip(members, found, strict=True):
        if [row.id for row in rows] != [row.id for row in found[0]]:
            raise InputError(f"{member} predicts other posts than {members[0]}: give predictions of the same texts")
        for row, first in zip(rows, found[0], strict=True):
            refuse_other_text(str(member), row, first.text)


def _mean(rows: Sequence[Prediction]) -> Any:
    """The mean likelihoods of one text."""
    known = [row.likely for row in rows if row.likely is not None]
    if len(known) < len(rows):
        raise InputError("a member has no likelihoods: predict it again with --likelihoods, into .jsonl")
    return np.mean(known, axis=0)


def _predicted(texts: Path, folder: Path, kept: Path, how: How) -> list[Prediction]:
    """The posts of a file with a tagger's spans; what was kept by a run that was killed is taken up."""
    given = read_posts(texts, skip_bad=how.skip_bad)
    tell_bad(texts, given.bad)
    trained = load_tagger(folder, how.device, how.trust_remote_code)
    if how.int8:
        quantise(trained.model.encoder)
    rules = replace(trained.settings.rules, **how.rules)
    trained = replace(trained, settings=replace(trained.settings, rules=rules))
    log = RunLog(kept)
    rows = log.resume(_header(given, folder, trained, how))
    with progress_bar(f"predicting with {folder.name}") as progress:
        for start in range(len(rows), len(given.posts), AT_ONCE):
            rows += _some(trained, given.posts[start : start + AT_ONCE], log, how.likelihoods)
            progress(len(rows) / len(given.posts), f"{len(rows):,} posts")
    return [from_row(row, str(kept), number) for number, row in enumerate(rows, 1)]


def _some(trained: Trained, posts: Sequence[Post], log: RunLog, likelihoods: bool) -> list[dict[str, Any]]:
    """Predict some posts, and keep them."""
    found = predict(trained, [post.text for post in posts])
    made = [
        to_row(Prediction(post.id, tuple(each.spans), post.text, each.likely if likelihoods else None))
        for post, each in zip(posts, found, strict=True)
    ]
    log.append(made)
    return made


def _header(given: Reading, folder: Path, trained: Trained, how: How) -> dict[str, Any]:
    """What tells one run of predicting from another."""
    digest = hashlib.sha256(json.dumps(given.texts).encode())
    weights = hashlib.sha256((folder / HEAD_FILE).read_bytes() + (folder / SETTINGS_FILE).read_bytes())
    return {
        "texts": digest.hexdigest(),
        "tagger": weights.hexdigest(),
        "rules": asdict(trained.settings.rules),
        "likelihoods": how.likelihoods,
        "int8": how.int8,
    }


def _kept(out: Path, member: Path) -> Path:
    """Where a member's predictions are until the result is written."""
    return out.with_name(f"{out.name}.{hashlib.sha256(str(member.resolve()).encode()).hexdigest()[:8]}.partial")

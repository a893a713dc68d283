"""Predict and vote: from a file of posts to a file of predictions.

Predictions are logged beside the result, some posts at a time, and a run that was killed resumes from the log.
"""

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from remodeler.auditing.formats.matching import refuse_other_text
from remodeler.auditing.formats.posts import Post, Reading, log_bad_rows, read_posts
from remodeler.auditing.formats.predictions import (
    Prediction,
    parse_row,
    read_predictions,
    refuse_format,
    to_row,
    write_predictions,
)
from remodeler.auditing.spans import Likely
from remodeler.auditing.statistics.voting import vote_all
from remodeler.auditing.tagger.config import PredictConfig, VoteConfig
from remodeler.auditing.tagger.files import HEAD_FILE, SETTINGS_FILE, LoadedTagger, load_tagger, tagger_folder
from remodeler.auditing.tagger.predict import predict as predict_texts
from remodeler.auditing.tagger.quantised import quantise
from remodeler.errors import InputError, option
from remodeler.runs.folders import refuse_existing
from remodeler.runs.options import build
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import digest, to_json
from remodeler.runs.runlog import RunLog
from remodeler.runs.signatures import with_signature

AT_ONCE = 512
"""Posts that are predicted, and then logged, together."""


@with_signature(PredictConfig)
def predict(**options: Any) -> list[Prediction]:
    """Predict the spans of all posts of a file; with ``out`` write them to a file, whose name says which format.

    Raises:
        InputError: for invalid inputs.
    """
    return run_prediction(build(PredictConfig, options))


@with_signature(VoteConfig)
def vote(members: Sequence[Any], **options: Any) -> list[Prediction]:
    """Let prediction files and taggers vote on every character; with ``out`` write the result to a file.

    Raises:
        InputError: for invalid inputs.
    """
    return run_vote(build(VoteConfig, {"members": members, **options}))


def run_prediction(config: PredictConfig) -> list[Prediction]:
    """Do the prediction of a config."""
    _refuse_place(config.out, config.likelihoods)
    rows = _predict(config, config.texts, config.tagger)
    if config.out is not None:
        write_predictions(config.out, rows)
        _log_path(config.out, config.tagger).unlink()
    return rows


def run_vote(config: VoteConfig) -> list[Prediction]:
    """Do the vote of a config; with likelihoods, the result has their mean."""
    _refuse_place(config.out, config.likelihoods)
    found = [_member_predictions(config, member) for member in config.members]
    _refuse_different(config.members, found)
    spans = vote_all([[row.spans for row in rows] for rows in found], config.at_least)
    means = [_mean(rows) if config.likelihoods else None for rows in zip(*found, strict=True)]
    rows = [
        replace(first, spans=tuple(agreed), likely=mean)
        for first, agreed, mean in zip(found[0], spans, means, strict=True)
    ]
    if config.out is not None:
        write_predictions(config.out, rows)
        for member in config.members:
            _log_path(config.out, member).unlink(missing_ok=True)
    return rows


def _refuse_place(out: Path | None, likelihoods: bool) -> None:
    if out is not None:
        refuse_existing(out)
        refuse_format(out, likelihoods)


# Members of a vote ----------------------------------------------------------------------------------------------------


def _member_predictions(config: VoteConfig, member: Any) -> list[Prediction]:
    """Predictions of a member: those of its file, or of a tagger on the posts."""
    if not isinstance(member, LoadedTagger) and not tagger_folder(member).is_dir():
        found = read_predictions(Path(member), config.skip_bad)
        log_bad_rows(Path(member), found.bad)
        return list(found.rows)
    if config.texts is None:
        raise InputError(f"{_name(member)} is a tagger: give the posts that it shall predict with {option('texts')}")
    shared = {name: getattr(config, name) for name in ("out", "likelihoods", "int8", "skip_bad", "placement")}
    return _predict(PredictConfig(texts=config.texts, tagger=member, **shared), config.texts, member)


def _refuse_different(members: Sequence[Any], found: Sequence[Sequence[Prediction]]) -> None:
    """Raise where members do not predict the same posts in the same order."""
    for member, rows in zip(members, found, strict=True):
        if [row.id for row in rows] != [row.id for row in found[0]]:
            fault = f"{_name(member)} predicts other posts than {_name(members[0])}"
            raise InputError(f"{fault}: give predictions of the same texts")
        for row, first in zip(rows, found[0], strict=True):
            refuse_other_text(_name(member), row, first.text)


def _mean(rows: Sequence[Prediction]) -> Likely:
    """Mean likelihoods of one text."""
    known = [row.likely for row in rows if row.likely is not None]
    if len(known) < len(rows):
        raise InputError(f"a member has no likelihoods: predict it again with {option('likelihoods', True)}, to .jsonl")
    mean: Likely = np.mean(known, axis=0)
    return mean


# Predicting -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A prediction in progress."""

    tagger: LoadedTagger
    posts: Sequence[Post]
    likelihoods: bool
    log: RunLog | None


def _predict(config: PredictConfig, texts: Path, source: Any) -> list[Prediction]:
    """Predict the posts of a file, from wherever an earlier run stopped."""
    given = read_posts(texts, skip_bad=config.skip_bad)
    log_bad_rows(texts, given.bad)
    tagger = _prepare(config, source)
    log = RunLog(_log_path(config.out, source)) if config.out is not None else None
    rows = log.resume(_header(config, given, source, tagger)) if log else []
    run = Run(tagger, given.posts, config.likelihoods, log)
    with progress_bar(f"predicting with {Path(_name(source)).name}") as progress:
        while len(rows) < len(run.posts):
            rows += _predict_some(run, len(rows))
            progress(len(rows) / len(run.posts), f"{len(rows):,} posts")
    return [parse_row(row, str(log.path if log else texts), number) for number, row in enumerate(rows, 1)]


def _prepare(config: PredictConfig, source: Any) -> LoadedTagger:
    """Load a tagger, with the rules that were given; one that is loaded already stays as it is."""
    place = config.placement
    tagger = source if isinstance(source, LoadedTagger) else load_tagger(source, place.device, place.trust_remote_code)
    if config.int8:
        tagger = replace(tagger, model=deepcopy(tagger.model))
        quantise(tagger.model.encoder)
    rules = replace(tagger.settings.rules, **config.rules.given())
    return replace(tagger, settings=replace(tagger.settings, rules=rules))


def _predict_some(run: Run, start: int) -> list[dict[str, Any]]:
    """Predict some posts, and log them."""
    posts = run.posts[start : start + AT_ONCE]
    found = predict_texts(run.tagger, [post.text for post in posts])
    rows = [
        to_row(Prediction(post.id, tuple(each.spans), post.text, each.likely if run.likelihoods else None))
        for post, each in zip(posts, found, strict=True)
    ]
    if run.log:
        run.log.append(rows)
    return rows


def _header(config: PredictConfig, given: Reading, source: Any, tagger: LoadedTagger) -> dict[str, Any]:
    """Identity of a prediction run."""
    return {
        "texts": digest(given.texts),
        "tagger": hashlib.sha256(_content(source)).hexdigest(),
        "rules": asdict(tagger.settings.rules),
        "likelihoods": config.likelihoods,
        "int8": config.int8,
    }


def _content(source: Any) -> bytes:
    """Head and settings of a tagger, as in its folder."""
    if isinstance(source, LoadedTagger):
        head = {name: value.detach().cpu().contiguous() for name, value in source.model.head_parameters().items()}
        return save(head) + to_json(asdict(source.settings)).encode()
    folder = tagger_folder(source)
    return (folder / HEAD_FILE).read_bytes() + (folder / SETTINGS_FILE).read_bytes()


def _name(source: Any) -> str:
    return source.name if isinstance(source, LoadedTagger) else str(source)


def _log_path(out: Path, source: Any) -> Path:
    """Log of a tagger's predictions, beside the result until that is written."""
    place = str(tagger_folder(_name(source)).resolve())
    return out.with_name(f"{out.name}.{hashlib.sha256(place.encode()).hexdigest()[:8]}.partial")

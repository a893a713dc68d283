"""Score and convert files of predictions."""

from pathlib import Path
from typing import Any

from remodeler.auditing.config import ConvertConfig, ScoreConfig
from remodeler.auditing.formats.matching import match_predictions, with_text
from remodeler.auditing.formats.posts import log_bad_rows, read_posts
from remodeler.auditing.formats.predictions import Prediction, read_predictions, write_predictions
from remodeler.auditing.statistics.scoring import Score, breakdown, scores
from remodeler.errors import InputError
from remodeler.runs.folders import refuse_existing
from remodeler.runs.options import build
from remodeler.runs.signatures import with_signature


@with_signature(ScoreConfig)
def score(predictions: Path, gold: Path, **options: Any) -> dict[str, Score]:
    """Official score of a file of predictions, and of subsets of its posts.

    Raises:
        InputError: if a file can't be read, or they are of other posts.
    """
    return run_scoring(build(ScoreConfig, {"predictions": predictions, "gold": gold, **options}))


def run_scoring(config: ScoreConfig) -> dict[str, Score]:
    """Do the scoring of a config."""
    theirs = read_predictions(config.gold, config.skip_bad)
    ours = read_predictions(config.predictions, config.skip_bad)
    for path, found in ((config.gold, theirs), (config.predictions, ours)):
        log_bad_rows(path, found.bad)
    wanted = [list(row.spans) for row in theirs.rows]
    values = scores(match_predictions(config.predictions, ours.rows, theirs.rows), wanted)
    texts = [row.text for row in theirs.rows if row.text is not None]
    return breakdown(values, wanted, texts if len(texts) == len(wanted) else ())


@with_signature(ConvertConfig)
def convert(source: Path, target: Path, **options: Any) -> tuple[Prediction, ...]:
    """Convert predictions or gold spans to another file format.

    Returns:
        What was written.

    Raises:
        InputError: if a file can't be read, the target exists, or texts are missing.
    """
    return run_conversion(build(ConvertConfig, {"source": source, "target": target, **options}))


def run_conversion(config: ConvertConfig) -> tuple[Prediction, ...]:
    """Do the conversion of a config."""
    refuse_existing(config.target)
    found = read_predictions(config.source, config.skip_bad)
    log_bad_rows(config.source, found.bad)
    rows = found.rows if config.texts is None else _with_texts(config, found.rows, config.texts)
    write_predictions(config.target, rows)
    return rows


def _with_texts(config: ConvertConfig, rows: tuple[Prediction, ...], texts: Path) -> tuple[Prediction, ...]:
    """Add the texts of posts, by id."""
    known = {post.id: post.text for post in read_posts(texts, skip_bad=config.skip_bad).posts}
    lost = [row.id for row in rows if row.id not in known]
    if lost:
        raise InputError(f"{texts} has no post with the id {lost[0]}, which {config.source} has: give the right texts")
    return tuple(with_text(config.source, row, known[row.id]) for row in rows)

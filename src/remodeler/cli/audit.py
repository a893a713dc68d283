"""The verb ``remodel audit`` and its parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from remodeler.auditing.config import AuditConfig, ConvertConfig, LexiconConfig, ScoreConfig
from remodeler.auditing.tagger.config import PredictConfig, TrainConfig, VoteConfig
from remodeler.cli.screen import note, say, table
from remodeler.errors import quantity

if TYPE_CHECKING:
    from remodeler.auditing.formats.predictions import Prediction
    from remodeler.auditing.statistics.scoring import Score


def audit(config: AuditConfig) -> None:
    """Audit, and show the counts; quotes only where they were asked for."""
    from remodeler.auditing.job import run_audit
    from remodeler.auditing.statistics.counting import quote_lines

    found = run_audit(config)
    if found is None:
        return
    table("", *found.results.table())
    for line in quote_lines(found.texts) if config.show_quotes else ():
        say(line)
    if config.out is not None:
        logs = sorted(path.name for path in config.out.glob("*.jsonl"))
        note(f"{config.out}: report.html, README.md, record.json, {', '.join(logs)}")


def train_tagger(config: TrainConfig) -> None:
    """Train a tagger, and show its scores."""
    from remodeler.auditing.statistics.scoring import Score
    from remodeler.auditing.tagger.train_job import run_training

    found = run_training(config)
    if found is None:
        return
    _show_scores({name: Score(**part) for name, part in found.dev.items()})
    if alarms := found.false_alarms:
        note(f"spans were found in {alarms['found']:,} of {alarms['texts']:,} held-out harmless texts")
    note(f"{config.out}: the tagger, report.html, training.jsonl, record.json; next: remodel audit predict --help")


def predict(config: PredictConfig) -> None:
    """Predict, and show how many posts have spans."""
    from remodeler.auditing.tagger.predict_job import run_prediction

    _show_counts(run_prediction(config), config.out)


def vote(config: VoteConfig) -> None:
    """Vote, and show how many posts have spans."""
    from remodeler.auditing.tagger.predict_job import run_vote

    _show_counts(run_vote(config), config.out)


def score(config: ScoreConfig) -> None:
    """Show the scores of predictions."""
    from remodeler.auditing.prediction_files import run_scoring

    _show_scores(run_scoring(config))


def convert(config: ConvertConfig) -> None:
    """Convert a file."""
    from remodeler.auditing.prediction_files import run_conversion

    note(f"{config.target}: {quantity(len(run_conversion(config)), 'post')}")


def learn_lexicon(config: LexiconConfig) -> None:
    """Learn a lexicon."""
    from remodeler.auditing.detectors.lexicon import run_learning

    note(f"{config.out}: {quantity(len(run_learning(config).words), 'word')}")


def _show_scores(parts: Mapping[str, "Score"]) -> None:
    rows = [
        [name, f"{each.f1:.4f}", f"{each.error:.4f}", f"{each.posts:,}"] for name, each in parts.items() if each.posts
    ]
    table("", ["posts", "F1", "standard error", "count"], rows)


def _show_counts(rows: Sequence["Prediction"], out: Path | None) -> None:
    found = sum(bool(row.spans) for row in rows)
    note(f"{out}: {quantity(len(rows), 'post')}, {found:,} with spans")

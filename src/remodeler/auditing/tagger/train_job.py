"""Train a tagger from start to finish: read the posts, train, keep the best epoch, describe it."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from remodeler.auditing.statistics.scoring import breakdown, scores
from remodeler.auditing.tagger.config import TrainConfig
from remodeler.auditing.tagger.files import LoadedTagger, TaggerSettings, load_tagger, new_tagger
from remodeler.auditing.tagger.plan import Plan
from remodeler.auditing.tagger.posts import (
    TrainingPosts,
    digest_posts,
    digest_teacher,
    read_teacher,
    read_training_posts,
)
from remodeler.auditing.tagger.predict import find_spans, predict
from remodeler.auditing.tagger.results import TaggerResults
from remodeler.auditing.tagger.rules import Rules
from remodeler.auditing.tagger.train import Examples, step_seconds, train, training_examples
from remodeler.reporting.page import write_result
from remodeler.runs.job import Job, run
from remodeler.runs.options import build, flat
from remodeler.runs.progress import duration, progress_bar
from remodeler.runs.records import Record, command_line, load_record, versions
from remodeler.runs.signatures import with_signature
from remodeler.training.state import CURVE_FILE, STATES

logger = logging.getLogger(__name__)

UNRECORDED = ("dry_run", "save_minutes")
PLACES = ("device", "texts", "dev", "teacher", "harmless", "out")
"""Options that do not change what is trained; contents of the files do."""


@dataclass(frozen=True)
class Inputs:
    """Loaded inputs of a training run."""

    config: TrainConfig
    posts: TrainingPosts
    tagger: LoadedTagger
    examples: Examples
    header: dict[str, Any]
    """Identity of the run."""

    @property
    def plan(self) -> Plan:
        """Steps of the run."""
        return Plan(self.config.training, self.examples.pieces.windows)


@with_signature(TrainConfig)
def train_tagger(**options: Any) -> TaggerResults | None:
    """Train a tagger and write it to ``out``.

    Returns:
        Its results; None in a dry run.

    Raises:
        InputError: for invalid inputs, before the work begins.
    """
    return run_training(build(TrainConfig, options))


def run_training(config: TrainConfig) -> TaggerResults | None:
    """Train the tagger of a config."""
    prepare = partial(_prepare, config)
    return run(prepare, config.out, device=config.placement.device, dry_run=config.dry_run)


def _prepare(config: TrainConfig, device: str) -> Job[TaggerResults]:
    inputs = _load(config, device)
    return Job(
        options=_options(config),
        work=partial(_work, inputs, device),
        describe=partial(_describe, inputs),
        read=_read_results,
        announce=partial(_announce, inputs),
        preview=partial(_preview, inputs),
        kept=(STATES,),
        scratch=(STATES,),
    )


def _load(config: TrainConfig, device: str) -> Inputs:
    posts = read_training_posts(config)
    teacher = read_teacher(config.teacher, posts) if config.teacher else None
    settings = TaggerSettings(config.head, Rules(**config.rules.given()), config.window.length, config.window.stride)
    tagger = new_tagger(config.encoder, settings, config.training.seed, device, config.placement.trust_remote_code)
    examples = training_examples(tagger, posts.posts, teacher, config.teacher_share)
    identity = {name: value for name, value in _options(config).items() if name not in PLACES}
    contents = {"posts": digest_posts(posts.posts), "dev": digest_posts(posts.dev), "teacher": digest_teacher(teacher)}
    return Inputs(config, posts, tagger, examples, {"options": identity, **contents})


def _options(config: TrainConfig) -> dict[str, Any]:
    return {name: value for name, value in flat(config).items() if name not in UNRECORDED}


def _announce(inputs: Inputs) -> None:
    posts, head = inputs.posts, inputs.config.head
    harmless = f" and {posts.harmless:,} harmless texts" if posts.harmless else ""
    logger.info(
        f"{len(posts.own):,} training posts{harmless}, {len(posts.dev):,} development posts; {inputs.plan.steps:,} "
        f"steps in {inputs.config.training.epochs} epochs; {head.auxiliary} features, {head.output}, {head.scheme} tags"
    )


def _preview(inputs: Inputs) -> None:
    seconds = step_seconds(inputs.tagger, inputs.examples, inputs.config.training)
    total = duration(seconds * inputs.plan.steps)
    logger.info(f"about {seconds:.2g} s per step here, {total} in all, evaluation not included")


def _work(inputs: Inputs, device: str, folder: Path) -> TaggerResults:
    """Train, from wherever an earlier run stopped; copy the best epoch, read it back and score it."""
    config = inputs.config
    with progress_bar("training") as progress:
        best, lines = train(
            inputs.tagger,
            inputs.examples,
            inputs.posts.dev,
            config.training,
            folder / STATES,
            inputs.header,
            progress,
        )
    shutil.copytree(best, folder, dirs_exist_ok=True)
    shutil.copyfile(folder / STATES / CURVE_FILE, folder / CURVE_FILE)
    return _score(load_tagger(folder, device, config.placement.trust_remote_code), inputs.posts, lines)


def _score(tagger: LoadedTagger, posts: TrainingPosts, lines: Sequence[dict[str, Any]]) -> TaggerResults:
    """Score the written tagger on the development posts, and count false alarms."""
    texts, gold = [post.text for post in posts.dev], [list(post.spans or ()) for post in posts.dev]
    parts = breakdown(scores([each.spans for each in predict(tagger, texts)], gold), gold, texts)
    return TaggerResults(
        dev={name: asdict(part) for name, part in parts.items()},
        epochs=[line for line in lines if "dev_f1" in line],
        false_alarms=_false_alarms(tagger, posts),
        steps=lines[-1]["step"],
        seconds=lines[-1]["seconds"],
        parameters=sum(value.numel() for value in tagger.model.parameters()),
        rules=asdict(tagger.settings.rules),
        command=command_line(),
    )


def _false_alarms(tagger: LoadedTagger, posts: TrainingPosts) -> dict[str, int] | None:
    """Number of held-out harmless texts in which something is found."""
    if not posts.unseen:
        return None
    found = sum(map(bool, find_spans(tagger, [post.text for post in posts.unseen])))
    return {"texts": len(posts.unseen), "found": found}


def _describe(inputs: Inputs, folder: Path, results: TaggerResults) -> None:
    """Write the record, the card and the report."""
    config, posts = inputs.config, inputs.posts
    sources = {
        "encoder": {"name": config.encoder},
        "texts": {"source": str(config.texts), "count": len(posts.own), "sha256": digest_posts(posts.own)},
        "dev": {"source": str(config.dev or config.texts), "count": len(posts.dev), "sha256": digest_posts(posts.dev)},
    }
    if config.harmless:
        clean = posts.posts[len(posts.own) :]
        sources["harmless"] = {"source": str(config.harmless), "count": len(clean), "sha256": digest_posts(clean)}
    options, seed = _options(config), config.training.seed
    write_result(folder, Record("audit train", options, sources, seed, versions(), results.to_record()), results)


def _read_results(folder: Path) -> TaggerResults:
    return TaggerResults.parse(load_record(folder))

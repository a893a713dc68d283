"""Train a tagger from start to finish: read the posts, train, keep the best epoch, describe it.

All is done in ``OUT.partial``, renamed to OUT at the end; what a kill leaves there is taken up by the same command.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from remodeler.auditing.formats.posts import Post, Reading, read_posts, tell_bad
from remodeler.auditing.formats.predictions import read_predictions
from remodeler.auditing.spans import Likely
from remodeler.auditing.statistics.scoring import breakdown, scores
from remodeler.auditing.tagger.config import Course, Plan
from remodeler.auditing.tagger.files import Settings, Trained, load_tagger, new_tagger
from remodeler.auditing.tagger.model import Head
from remodeler.auditing.tagger.predict import find_spans, predict
from remodeler.auditing.tagger.results import TaggerResults
from remodeler.auditing.tagger.rules import Rules
from remodeler.auditing.tagger.train import Lesson, lesson, step_seconds, train
from remodeler.errors import InputError
from remodeler.report.page import write_result
from remodeler.runs.folders import clear, new_folder, refuse_existing, tidy, whole
from remodeler.runs.progress import duration, progress_bar
from remodeler.runs.records import Record, command_line, options_of, versions
from remodeler.training.plan import order
from remodeler.training.state import BEGUN, CURVE_FILE, STATES

logger = logging.getLogger(__name__)

FOLD = "1/10"
"""What is held out of the harmless texts, and, where no development posts are given, of the posts."""


@dataclass(frozen=True)
class Wish:
    """Which tagger to train."""

    texts: Path
    encoder: str
    dev: Path | None = None
    fold: str | None = None
    """``i/n``: the i-th of n parts of the texts is for development."""
    teacher: Path | None = None
    """Predictions with likelihoods, of the same texts."""
    harmless: Path | None = None
    """Texts without anything toxic, which are learned from too."""
    head: Head = field(default_factory=Head)
    rules: Rules = field(default_factory=Rules)
    course: Course = field(default_factory=Course)
    length: int = 256
    stride: int = 64
    skip_bad: bool = False
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Material:
    """What a tagger is made from."""

    posts: list[Post]
    """To learn from, the harmless ones last."""
    dev: list[Post]
    """They choose the epoch and the thresholds."""
    harmless: int = 0
    """How many of the posts are harmless texts."""
    unseen: tuple[Post, ...] = ()
    """Harmless texts that are not learned from: what is found in them is a false alarm."""

    @property
    def own(self) -> list[Post]:
        """The posts that are no harmless texts."""
        return self.posts[: len(self.posts) - self.harmless]


def train_tagger(wish: Wish, out: Path, dry: bool = False) -> bool:
    """Train a tagger into a folder; with ``dry`` only say what would be done.

    Returns:
        Whether the folder was made.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    given = _read(wish)
    taught = _taught(wish.teacher, given) if wish.teacher else None
    settings = Settings(wish.head, wish.rules, wish.length, wish.stride)
    trained = new_tagger(wish.encoder, settings, wish.course.seed, wish.device, wish.trust_remote_code)
    learned = lesson(trained, given.posts, taught, wish.course.teacher_share)
    _announce(wish, learned, given)
    if dry:
        seconds = step_seconds(trained, learned, wish.course)
        steps = Plan(wish.course, learned.pieces.windows).steps
        logger.info(
            f"about {seconds:.2g} s a step here, {duration(seconds * steps)} in all, the looks at the dev posts aside"
        )
        return False
    with new_folder(out, keep=True) as work:
        if not whole(work, BEGUN, _options(wish, out)):
            clear(work, BEGUN, (STATES,))
            with progress_bar("training") as progress:
                header = _header(wish, given, taught)
                best, lines = train(trained, learned, given.dev, wish.course, work / STATES, header, progress)
            shutil.copytree(best, work, dirs_exist_ok=True)
            shutil.copyfile(work / STATES / CURVE_FILE, work / CURVE_FILE)
            _describe(wish, work, out, given, lines)
        tidy(work, BEGUN, STATES)
    return True


# Posts ----------------------------------------------------------------------------------------------------------------


def _read(wish: Wish) -> Material:
    """Posts to learn from, and development posts, of which no text is among the first; and harmless texts, in parts."""
    if wish.dev and wish.fold:
        raise InputError(f"--dev {wish.dev} and --fold {wish.fold} were given: give one of them")
    given = _posts(wish.texts, wish.skip_bad)
    dev = list(_posts(wish.dev, wish.skip_bad).posts) if wish.dev else fold(given.posts, wish.fold or FOLD)
    texts = {post.text for post in dev}
    posts = [post for post in given.posts if post.text not in texts]
    if not posts:
        raise InputError(f"no text of {wish.texts} is left to learn from: all are development posts too")
    if wish.harmless is None:
        return Material(posts, dev)
    texts |= {post.text for post in given.posts}
    read = _posts(wish.harmless, wish.skip_bad, known=False).posts
    clean = [replace(post, spans=()) for post in read if post.text not in texts]
    unseen = fold(clean, FOLD)
    texts |= {post.text for post in unseen}
    learned = [post for post in clean if post.text not in texts]
    return Material(posts + learned, dev, len(learned), tuple(unseen))


def _posts(path: Path, skip_bad: bool, known: bool = True) -> Reading:
    found = read_posts(path, known=known, skip_bad=skip_bad)
    tell_bad(path, found.bad)
    return found


def fold(posts: Sequence[Post], part: str) -> list[Post]:
    """The i-th of n parts of posts, shuffled in one way for all seeds: ``i/n``, from 1."""
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count) <= len(posts) and int(count) > 1):
        raise InputError(f"--fold {part!r} was given, as 1/5 was expected: the part, and how many there are")
    shuffled = order(len(posts), 0, 0)
    return [posts[place] for place in sorted(shuffled[int(number) - 1 :: int(count)])]


def _taught(path: Path, given: Material) -> list[Likely]:
    """What a teacher thinks of the characters of each post, found by the text; of harmless ones nothing is asked."""
    known = {row.text: row.likely for row in read_predictions(path).rows if row.likely is not None}
    missing = [post for post in given.own if post.text not in known]
    if missing:
        raise InputError(
            f"{path} has no likelihoods of {len(missing)} of {len(given.own)} texts (the first is row {missing[0].row} "
            f"of {missing[0].file}): make it with `remodel audit vote ... --likelihoods`"
        )
    nothing = [np.zeros(len(post.text), np.float32) for post in given.posts[len(given.own) :]]
    return [known[post.text] for post in given.own] + nothing


# What is told ---------------------------------------------------------------------------------------------------------


def _announce(wish: Wish, learned: Lesson, given: Material) -> None:
    plan = Plan(wish.course, learned.pieces.windows)
    clean = f" and {given.harmless:,} harmless texts" if given.harmless else ""
    logger.info(
        f"{len(given.own):,} posts{clean} to learn from, {len(given.dev):,} to choose by; {plan.steps:,} steps in "
        f"{wish.course.epochs} epochs; {wish.head.auxiliary} features, {wish.head.output}, tags {wish.head.scheme}"
    )


def _digest(posts: Sequence[Post]) -> str:
    told = json.dumps([[post.text, [[span.start, span.end] for span in post.spans or ()]] for post in posts])
    return hashlib.sha256(told.encode()).hexdigest()


def _header(wish: Wish, given: Material, taught: Sequence[Likely] | None) -> dict[str, Any]:
    """What tells this run from another."""
    options = options_of(wish)
    for name in ("device", "texts", "dev", "teacher", "harmless"):
        del options[name]
    del options["course"]["save_minutes"]
    teacher = hashlib.sha256(b"".join(each.tobytes() for each in taught)).hexdigest() if taught else None
    return {"options": options, "posts": _digest(given.posts), "dev": _digest(given.dev), "teacher": teacher}


def _describe(wish: Wish, work: Path, out: Path, given: Material, lines: Sequence[dict[str, Any]]) -> None:
    """Read the tagger back, score it on the development posts, and write the record, the card and the page."""
    trained = load_tagger(work, wish.device, wish.trust_remote_code)
    dev = given.dev
    texts, gold = [post.text for post in dev], [list(post.spans or ()) for post in dev]
    found = scores([each.spans for each in predict(trained, texts)], gold)
    parts = breakdown(found, gold, texts)
    results = TaggerResults(
        dev={name: asdict(part) for name, part in parts.items()},
        epochs=[line for line in lines if "dev_f1" in line],
        false_alarms=_false_alarms(trained, given.unseen),
        steps=lines[-1]["step"],
        seconds=lines[-1]["seconds"],
        parameters=sum(value.numel() for value in trained.model.parameters()),
        rules=asdict(trained.settings.rules),
        command=command_line(),
    )
    inputs = {
        "encoder": {"name": wish.encoder},
        "texts": {"source": str(wish.texts), "count": len(given.own), "sha256": _digest(given.own)},
        "dev": {"source": str(wish.dev or wish.texts), "count": len(dev), "sha256": _digest(dev)},
    }
    if wish.harmless:
        clean = given.posts[len(given.own) :]
        inputs["harmless"] = {"source": str(wish.harmless), "count": len(clean), "sha256": _digest(clean)}
    record = Record("audit train", _options(wish, out), inputs, wish.course.seed, versions(), results.to_record())
    write_result(work, record, results)


def _options(wish: Wish, out: Path) -> dict[str, Any]:
    return options_of(wish) | {"out": str(out)}


def _false_alarms(trained: Trained, unseen: Sequence[Post]) -> dict[str, int] | None:
    """In how many harmless texts, which were not learned from, something is found."""
    if not unseen:
        return None
    found = sum(map(bool, find_spans(trained, [post.text for post in unseen])))
    return {"texts": len(unseen), "found": found}

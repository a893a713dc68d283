"""Posts that a tagger is trained with: training and development posts, harmless texts, a teacher's likelihoods."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from remodeler.auditing.formats.posts import Post, Reading, log_bad_rows, read_posts
from remodeler.auditing.formats.predictions import read_predictions
from remodeler.auditing.spans import Likely
from remodeler.auditing.tagger.config import TrainConfig
from remodeler.errors import InputError, option
from remodeler.training.plan import order

DEFAULT_FOLD = "1/10"
"""Held out of the harmless texts, and of the posts where no development posts are given."""


@dataclass(frozen=True)
class TrainingPosts:
    """Posts that a tagger is trained with."""

    posts: list[Post]
    """Training posts, the harmless ones last."""
    dev: list[Post]
    """Development posts, which choose the epoch and the thresholds."""
    harmless: int = 0
    """Number of harmless texts among the training posts."""
    unseen: tuple[Post, ...] = ()
    """Held-out harmless texts: spans found in them are false alarms."""

    @property
    def own(self) -> list[Post]:
        """Training posts without the harmless texts."""
        return self.posts[: len(self.posts) - self.harmless]


def read_training_posts(config: TrainConfig) -> TrainingPosts:
    """Read training, development and harmless posts; no text is in two of them."""
    given = _read(config.texts, config.skip_bad)
    dev = (
        list(_read(config.dev, config.skip_bad).posts) if config.dev else fold(given.posts, config.fold or DEFAULT_FOLD)
    )
    texts = {post.text for post in dev}
    posts = [post for post in given.posts if post.text not in texts]
    if not posts:
        raise InputError(f"no text of {config.texts} is left for training: all are development posts too")
    if config.harmless is None:
        return TrainingPosts(posts, dev)
    texts |= {post.text for post in given.posts}
    read = _read(config.harmless, config.skip_bad, known=False).posts
    clean = [replace(post, spans=()) for post in read if post.text not in texts]
    unseen = fold(clean, DEFAULT_FOLD)
    texts |= {post.text for post in unseen}
    learned = [post for post in clean if post.text not in texts]
    return TrainingPosts(posts + learned, dev, len(learned), tuple(unseen))


def _read(path: Path, skip_bad: bool, known: bool = True) -> Reading:
    found = read_posts(path, known=known, skip_bad=skip_bad)
    log_bad_rows(path, found.bad)
    return found


def fold(posts: Sequence[Post], part: str) -> list[Post]:
    """The i-th of n parts of posts, shuffled independently of the seed: ``i/n``, from 1."""
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count) <= len(posts) and int(count) > 1):
        raise InputError(f"{option('fold')} must be one of at most {len(posts)} parts, e.g. 1/5 (got {part!r})")
    shuffled = order(len(posts), 0, 0)
    return [posts[place] for place in sorted(shuffled[int(number) - 1 :: int(count)])]


def read_teacher(path: Path, posts: TrainingPosts) -> list[Likely]:
    """Likelihoods of a teacher for each training post, found by text; 0 for harmless ones."""
    known = {row.text: row.likely for row in read_predictions(path).rows if row.likely is not None}
    missing = [post for post in posts.own if post.text not in known]
    if missing:
        raise InputError(
            f"{path} has no likelihoods of {len(missing)} of {len(posts.own)} texts (the first is row {missing[0].row} "
            f"of {missing[0].file}): make it with `remodel audit vote ... --likelihoods`"
        )
    nothing = [np.zeros(len(post.text), np.float32) for post in posts.posts[len(posts.own) :]]
    return [known[post.text] for post in posts.own] + nothing


def digest_posts(posts: Sequence[Post]) -> str:
    """SHA-256 of texts and spans."""
    rows = json.dumps([[post.text, [[span.start, span.end] for span in post.spans or ()]] for post in posts])
    return hashlib.sha256(rows.encode()).hexdigest()


def digest_teacher(likely: Sequence[Likely] | None) -> str | None:
    """SHA-256 of a teacher's likelihoods."""
    return hashlib.sha256(b"".join(each.tobytes() for each in likely)).hexdigest() if likely else None

"""The bundled tagger: it is small, needs no download, and reads words in their context."""

from pathlib import Path
from typing import Any

import pytest

from commands import invoke
from places import REPOSITORY
from remodeler.auditing.detectors.table import detector, kind
from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.formats.predictions import read_predictions
from remodeler.auditing.prediction_files import score
from remodeler.auditing.spans import Span
from remodeler.auditing.tagger.config import SMALL_TAGGER
from remodeler.auditing.tagger.files import load_tagger, tagger_folder
from remodeler.auditing.tagger.predict import find_spans

INSULTS = ("What a stupid idea, you idiot.", "Only a moron would say that.", "He is a pathetic loser and a liar.")
HARMLESS = (
    "The cat sat on the mat and looked at the rain.",
    "Thank you, that was a kind and thoughtful answer.",
    "Once upon a time there was a little girl who had a red ball.",
    "The bridge was built in 1897 and crosses the river north of the town.",
)


def called(*words: object) -> Any:
    """What the command line answers."""
    return invoke(["audit", *map(str, words)])


def quoted(text: str, spans: list[Span]) -> list[str]:
    return [text[span.start : span.end] for span in spans]


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in tagger_folder(SMALL_TAGGER).iterdir()) <= 8e6


def test_it_finds_insults_and_leaves_ordinary_sentences_alone() -> None:
    find = detector(SMALL_TAGGER)
    for text, spans in zip(INSULTS, find(INSULTS), strict=True):
        assert spans, text
    assert "idiot" in quoted(INSULTS[0], find(INSULTS)[0])
    assert find(HARMLESS) == [[]] * len(HARMLESS)


def test_it_is_known_by_its_name_in_every_part(tmp_path: Path) -> None:
    assert kind(SMALL_TAGGER) == "tagger"
    posts = tmp_path / "posts.txt"
    posts.write_text("\n".join((*INSULTS, *HARMLESS)) + "\n")
    made = called("predict", "--texts", posts, "--out", tmp_path / "spans-pred.txt", "--device", "cpu")
    assert made.exit_code == 0, made.output
    assert "7 posts, 3 with spans" in made.output
    voted = called("vote", SMALL_TAGGER, "--texts", posts, "--out", tmp_path / "voted.txt", "--device", "cpu")
    assert voted.exit_code == 0, voted.output
    assert (tmp_path / "voted.txt").read_bytes() == (tmp_path / "spans-pred.txt").read_bytes()
    audited = called("--texts", posts, "--detector", SMALL_TAGGER, "--device", "cpu")
    assert audited.exit_code == 0, audited.output
    alone = find_spans(load_tagger(SMALL_TAGGER, "cpu"), read_posts(posts).texts)
    assert [list(row.spans) for row in read_predictions(tmp_path / "spans-pred.txt").rows] == [
        [Span(span.start, span.end) for span in spans] for spans in alone
    ]


@pytest.mark.shared
def test_it_scores_what_its_page_says(shared: Path, tmp_path: Path) -> None:
    posts = shared / "data" / "toxic_spans" / "tsd_trial.csv"
    page = (REPOSITORY / "docs" / "guides" / "audit.md").read_text(encoding="utf-8")
    made = called("predict", "--texts", posts, "--out", tmp_path / "spans-pred.txt", "--device", "cpu")
    assert made.exit_code == 0, made.output
    assert f"{score(tmp_path / 'spans-pred.txt', posts)['all posts'].f1:.4f}" in page

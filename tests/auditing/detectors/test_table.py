"""Detectors: spans are sorted, disjoint and inside the text; what a lexicon learns; classifiers batch alike."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from remodeler.auditing.config import DetectorConfig, LexiconConfig
from remodeler.auditing.detectors import classifiers, lexicon
from remodeler.auditing.detectors.classifiers import run_windows, sentences, tokenize, toxic_columns
from remodeler.auditing.detectors.lexicon import Lexicon, learn, word_hash
from remodeler.auditing.detectors.table import DETECTORS, detector, detector_name, kind
from remodeler.auditing.formats.posts import read_posts
from remodeler.auditing.spans import Span
from remodeler.auditing.statistics.scoring import score
from remodeler.auditing.tagger.files import TaggerSettings, new_tagger, save_tagger
from remodeler.auditing.tagger.rules import Rules
from remodeler.checkpoint.config import LoadConfig
from remodeler.errors import InputError
from tiny import LLAMA, NEOX, tiny_tokenizer
from tiny_tokenizers import word_pieces

TEXTS = [
    "the cat sat on the mat. The dog, a silly fool, sat on the log!",
    "",
    "   \n ",
    "naïve 🐱 the mat\n\nand the log on the mat?! " * 9,
    "fool",
    "日本語 the cat… the log",
]
CPU = LoadConfig(device="cpu")
LABELS = {0: "O", 1: "B-TOX", 2: "I-TOX"}


def saved(folder: Path, auto: Any, model_type: str, tokenizer: Any, **options: Any) -> Path:
    """A random classifier on disk; large weights in its head, so that it says something."""
    torch.manual_seed(1)
    shape = {"bert": NEOX, "llama": LLAMA}[model_type]
    config = AutoConfig.for_model(model_type, **shape | {"vocab_size": max(300, len(tokenizer))} | options)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(20 if name.startswith(("classifier", "score")) else 3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A detector of every kind and tokenizer."""
    root = tmp_path_factory.mktemp("detectors")
    lexicon.save(root / "words.json", Lexicon({"fool": 0.9, "silly": 0.7}), {"texts": "none"})
    padded, left = word_pieces(), tiny_tokenizer()
    padded.pad_token, left.padding_side = "[UNK]", "left"
    token, sequence = AutoModelForTokenClassification, AutoModelForSequenceClassification
    named: dict[str, Any] = {"id2label": LABELS, "label2id": {name: place for place, name in LABELS.items()}}
    return {
        "lexicon": root / "words.json",
        "tagger": _tagger(root, padded),
        "tokens": saved(root / "tokens", token, "bert", padded, **named),
        "tokens-unpadded": saved(root / "bare", token, "llama", word_pieces(), pad_token_id=None, **named),
        "sentences": saved(root / "sentences", sequence, "bert", padded, num_labels=2),
        "sentences-left": saved(root / "left-sentences", sequence, "llama", left, num_labels=2),
        "sentences-several": saved(
            root / "several-sentences",
            sequence,
            "bert",
            padded,
            num_labels=4,
            problem_type="multi_label_classification",
        ),
    }


def _tagger(root: Path, tokenizer: Any) -> Path:
    """An encoder with a head that has learned nothing, at a threshold that some pieces pass."""
    encoder = saved(root / "encoder", AutoModel, "bert", tokenizer)
    made = new_tagger(str(encoder), TaggerSettings(rules=Rules(threshold=0.5), stride=16), seed=0, device="cpu")
    with torch.no_grad():
        for weights in made.model.head_parameters().values():
            weights.mul_(20)
    (root / "tagger").mkdir()
    save_tagger(made, root / "tagger")
    return root / "tagger"


EVERY = ("lexicon", "tagger", "tokens", "tokens-unpadded", "sentences", "sentences-left", "sentences-several")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("whole", [False, True])
def test_spans_are_sorted_disjoint_and_inside_the_text(sources: dict[str, Path], name: str, whole: bool) -> None:
    assert kind(str(sources[name])) == name.partition("-")[0]
    find = detector(str(sources[name]), DetectorConfig(threshold=_middle(sources[name], whole), whole=whole), CPU)
    found = find(TEXTS)
    assert len(found) == len(TEXTS)
    assert any(found), "a detector that finds nothing is no test"
    for text, spans in zip(TEXTS, found, strict=True):
        edges = [place for span in spans for place in (span.start, span.end)]
        assert edges == sorted(edges)
        assert all(0 <= span.start < span.end <= len(text) and 0 <= span.score <= 1 for span in spans)
        assert all(text[span.start : span.end].strip() == text[span.start : span.end] for span in spans)
    assert find([]) == []
    alone = [find([text])[0] for text in TEXTS]
    for one, other in zip(alone, found, strict=True):
        assert [(each.start, each.end) for each in one] == [(each.start, each.end) for each in other]
        np.testing.assert_allclose([e.score for e in one], [e.score for e in other], rtol=1e-4)


def _middle(source: Path, whole: bool) -> float:
    """A threshold that some sentences pass, in the widest gap between their scores; 0.5 for what has no such scores."""
    if "sentences" not in source.name:
        return 0.5
    scores = sorted(span.score for spans in _found(source, 0, whole) for span in spans)
    place = int(np.diff(scores).argmax())
    return (scores[place] + scores[place + 1]) / 2


def test_every_kind_is_tested() -> None:
    assert {name.partition("-")[0] for name in EVERY} == set(DETECTORS)


# Lexicon --------------------------------------------------------------------------------------------------------------


def corpus() -> list[tuple[str, list[Span]]]:
    """`bad` is always inside, `mixed` in 2 of 4, `rare` inside but once, `part` only in part."""
    texts = ["Bad mixed", "bad mixed", "BAD mixed rare", "mixed part part part"]
    inside = [[(0, 9)], [(0, 9)], [(0, 3), (10, 14)], [(6, 9), (11, 14), (16, 19)]]
    return [(text, [Span(*pair) for pair in pairs]) for text, pairs in zip(texts, inside, strict=True)]


def test_a_word_is_listed_by_its_share_and_its_count() -> None:
    assert learn(corpus(), 0.6, 3).words == {"bad": 1.0}
    assert learn(corpus(), 0.5, 2).words == {"bad": 1.0, "mixed": 0.5}
    assert learn(corpus(), 0.5, 1).words == {"bad": 1.0, "mixed": 0.5, "rare": 1.0}
    assert learn(corpus(), 0.5, 1, ("bad",)).words == {"mixed": 0.5, "rare": 1.0}


@pytest.mark.parametrize(("rate", "hits"), [(0, 3), (1.1, 3), (0.5, 0), (1, 4)])
def test_nothing_is_learned_from_nothing(rate: float, hits: int) -> None:
    with pytest.raises(InputError, match=r"`rate`|`hits`"):
        learn(corpus(), **options(rate=rate, hits=hits))


def options(**given: Any) -> dict[str, Any]:
    """Options of learning, checked."""
    config = LexiconConfig(texts=Path("t.csv"), **given)
    return {"rate": config.rate, "hits": config.hits}


@pytest.mark.parametrize("hashed", [False, True])
def test_a_lexicon_comes_back_from_the_disk(hashed: bool, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    lexicon.save(path, learn(corpus(), 0.5, 1), {"texts": "four"}, hashed)
    found = lexicon.load(path)
    text = "a Bad, mixed day: badly"
    assert found.spans(text) == [Span(2, 5, 1.0), Span(7, 12, 0.5)]
    assert found.facts == {"texts": "four"}
    assert ("bad" in path.read_text()) is not hashed


def test_the_bundled_lexicon_holds_no_word_to_read() -> None:
    bundled = lexicon.load(lexicon.BUNDLED)
    assert bundled.hashed
    assert all(len(mark) == len(word_hash("x")) and int(mark, 16) >= 0 for mark in bundled.words)
    assert [span.start for span in bundled.spans("What an idiot, a stupid man")] == [8, 17]
    assert bundled.spans("The cat sat on the mat with a gay friend") == []


@pytest.mark.parametrize("content", ["[]", "{}", '{"words": {"x": 2}}', '{"words": ["x"]}', "{"])
def test_files_that_are_no_lexicon(content: str, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(content)
    with pytest.raises(InputError, match=r"words\.json"):
        detector(str(tmp_path / "words.json"))


# Classifiers ----------------------------------------------------------------------------------------------------------


def test_a_token_classifier_gives_what_the_pipeline_gives(sources: dict[str, Path]) -> None:
    """Where nothing is longer than a window: the pipeline's probabilities, piece by piece."""
    classifier = classifiers.load(str(sources["tokens"]), "tokens", DetectorConfig(), CPU)
    texts = [TEXTS[0], TEXTS[4]]
    ask = pipeline("token-classification", str(sources["tokens"]), aggregation_strategy="none", ignore_labels=[])
    pieces = tokenize(classifier, texts)
    for window, numbers in run_windows(classifier, pieces):
        row = pieces.windows[window]
        with torch.no_grad():
            wanted = classifier.model(torch.tensor([row.ids])).logits.softmax(-1)[0, :, 1:].sum(-1)
        np.testing.assert_allclose(numbers, wanted, rtol=1e-4)
        assert pieces.offsets[row.post].tolist() == [[each["start"], each["end"]] for each in ask(texts[row.post])]


@pytest.mark.parametrize("name", ["sentences", "sentences-left", "sentences-several"])
def test_a_sequence_classifier_gives_what_the_pipeline_gives(sources: dict[str, Path], name: str) -> None:
    source, text = str(sources[name]), "the cat sat. a silly fool on the log! the mat"
    found = detector(source, DetectorConfig(threshold=0), CPU)([text])[0]
    ask = pipeline("text-classification", source, top_k=None)
    several = name.endswith("several")
    for span in found:
        said_of = {each["label"]: each["score"] for each in ask([text[span.start : span.end]])[0]}
        wanted = max(said_of[f"LABEL_{place}"] for place in (1, 2, 3)) if several else said_of["LABEL_1"]
        assert span.score == pytest.approx(wanted, rel=1e-4)
    assert len(found) == 3


def test_long_texts_are_read_in_windows_that_overlap(sources: dict[str, Path]) -> None:
    classifier = classifiers.load(str(sources["tokens"]), "tokens", DetectorConfig(), CPU)
    assert classifier.length == 64
    pieces = tokenize(classifier, [TEXTS[3]])
    assert len(pieces.windows) > 2
    assert sum(len(row.places) for row in pieces.windows) > len(pieces.offsets[0]), "they overlap"
    covered = {place for first, end in pieces.offsets[0] for place in range(first, end)}
    assert covered == {place for place, letter in enumerate(TEXTS[3]) if not letter.isspace()}


def test_the_threshold_decides(sources: dict[str, Path]) -> None:
    for name in ("tokens", "sentences"):
        sizes = [
            sum(span.end - span.start for spans in _found(sources[name], threshold) for span in spans)
            for threshold in (0.0, 0.5, 0.9, 1.0)
        ]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > sizes[-1] == 0


def _found(source: Path, threshold: float, whole: bool = False) -> list[list[Span]]:
    return detector(str(source), DetectorConfig(threshold=threshold, whole=whole), CPU)(TEXTS)


def test_what_counts_among_labels() -> None:
    assert toxic_columns("m", LABELS, ()) == (1, 2)
    assert toxic_columns("m", LABELS, ("TOX",)) == (1, 2)
    assert toxic_columns("m", LABELS, ("B-TOX",)) == (1,)
    assert toxic_columns("m", {0: "LABEL_0"}, ()) == (0,)
    assert toxic_columns("m", {0: "toxic", 1: "Neutral"}, ()) == (0,)
    with pytest.raises(InputError, match="no label 'INSULT': choose O, TOX"):
        toxic_columns("m", LABELS, ("INSULT",))
    with pytest.raises(InputError, match="are names of what is not toxic"):
        toxic_columns("m", {0: "O", 1: "neutral"}, ())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two? Three", ["One.", "Two?", "Three"]),
        ("3.5 is a number!! Yes…", ["3.5 is a number!!", "Yes…"]),
        ("  a line \n\n another.  ", ["a line", "another."]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == parts


def test_what_is_no_detector(sources: dict[str, Path], tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match="is not a detector"):
        detector(str(model))
    with pytest.raises(InputError, match="is empty: give a model"):
        detector(str(tmp_path))
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["LlamaForTokenClassification"]}
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in model.iterdir():
        (bare / path.name).write_bytes(path.read_bytes())
    (bare / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not a trained classifier of tokens"):
        detector(str(bare))


@pytest.mark.shared
def test_the_lexicon_of_the_real_posts(shared: Path) -> None:
    """159 words, and what is known of their score on the trial posts; the bundled half of them loses little."""
    train = read_posts(shared / "data" / "toxic_spans" / "tsd_train.csv", known=True)
    trial = read_posts(shared / "data" / "toxic_spans" / "tsd_trial.csv", known=True)
    learned = learn(zip(train.texts, train.spans, strict=True), 0.6, 3)
    assert len(learned.words) == 159
    assert score(learned(trial.texts), trial.spans).f1 == pytest.approx(0.5644, abs=5e-5)
    bundled = lexicon.load(lexicon.BUNDLED)
    again = learn(zip(train.texts, train.spans, strict=True), 0.6, 5, ("gay", "homosexuals"))
    assert {word_hash(word): share for word, share in again.words.items()} == bundled.words
    assert score(bundled(trial.texts), trial.spans).f1 == pytest.approx(0.5616, abs=5e-5)


def test_a_tagger_takes_another_threshold(sources: dict[str, Path]) -> None:
    source = str(sources["tagger"])
    sizes = [
        sum(
            span.end - span.start
            for spans in detector(source, DetectorConfig(threshold=threshold), CPU)(TEXTS)
            for span in spans
        )
        for threshold in (0.0, None, 0.5, 0.9, 1.0)
    ]
    assert sizes[1] == sizes[2], "its own is 0.5"
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2] > sizes[4]


def test_a_function_is_a_detector_already() -> None:
    def find(texts: Sequence[str]) -> list[list[Span]]:
        return [[] for _ in texts]

    assert detector(find) is find
    assert detector_name(find).endswith("find")


def test_labels_are_for_classifiers(sources: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="`labels='toxic'`: a lexicon has no labels"):
        detector(str(sources["lexicon"]), DetectorConfig(labels=("toxic",)), CPU)

"""The reviser: labels, their probabilities, what is copied, calibration, and training from files to a folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remodeler.alignment.config import LabelConfig, ReviserConfig
from remodeler.alignment.data.differences import difference
from remodeler.alignment.data.examples import (
    TokenRow,
    all_label_ids,
    answer_row,
    label_ids,
    revision_ids,
    revision_row,
    row_windows,
    token_weights,
    weighted_loss,
)
from remodeler.alignment.data.preferences import Triple
from remodeler.alignment.data.template import LABELS, MAJOR, MINOR, NONE, Template, read_template
from remodeler.alignment.phases import MODEL
from remodeler.alignment.reviser.calibration import (
    calibration_error,
    label_metrics,
    reliability,
    roc_area,
    roc_area_interval,
)
from remodeler.alignment.reviser.difficulty import (
    Difficulty,
    edit_distance,
    label_triples,
    major_threshold,
    measure_agreement,
    measure_difficulties,
)
from remodeler.alignment.reviser.prepare import prepare
from remodeler.alignment.reviser.reviser import (
    FILE,
    Reviser,
    label_probabilities,
    load_reviser,
    make_reviser,
    quality,
    revise_pairs,
)
from remodeler.alignment.reviser.scoring import map_resumably, mean_logprobs
from remodeler.alignment.reviser.train import train_reviser
from remodeler.checkpoint.load import Checkpoint, load
from remodeler.data.windows import IGNORED
from remodeler.errors import InputError
from remodeler.model.minibatches import to_batch
from remodeler.runs.folders import partial
from remodeler.runs.options import build
from remodeler.runs.records import load_record, read_lines
from remodeler.training.losses import cross_entropy
from tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

SHORT = Template("Fix.", "\nP:", "\nR:", "\nV:", {NONE: "NONE", MINOR: "MINOR", MAJOR: "MAJOR"})
TRIPLES = [Triple(f"the cat {n}?", "on the mat and the log", "on the dog") for n in range(6)]
PAIRS = [(each.prompt, each.rejected) for each in TRIPLES]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return tiny_checkpoint("llama", max_position_embeddings=256)


@pytest.fixture(scope="module")
def tiny(checkpoint: Checkpoint) -> Reviser:
    return make_reviser(checkpoint, SHORT)


# Rows -----------------------------------------------------------------------------------------------------------------


def test_only_label_and_revision_are_scored_and_a_copy_has_no_text(checkpoint: Checkpoint) -> None:
    for label in (None, MINOR, NONE):
        row = revision_row(checkpoint, SHORT, "the cat?", "the dog", "the mat", label)
        scored = checkpoint.tokenizer.decode(row.ids[row.start :])
        assert scored == {None: "\nthe mat</s>", MINOR: "MINOR\nthe mat</s>", NONE: "NONE"}[label]
        assert checkpoint.tokenizer.decode(row.ids[1 : row.start]) == "Fix.\nP:the cat?\nR:the dog\nV:"
    read = row_windows(checkpoint, [row, row])
    assert read.targets[0][read.targets[0] != IGNORED].tolist() == list(row.ids[row.start :])


def test_an_answer_continues_its_prompt(checkpoint: Checkpoint) -> None:
    row = answer_row(checkpoint, "the cat", " sat on")
    assert checkpoint.tokenizer.decode(row.ids) == "<s>the cat sat on</s>"
    assert checkpoint.tokenizer.decode(row.ids[row.start :]) == " sat on</s>"


def test_a_row_costs_its_label_and_the_mean_of_its_text(checkpoint: Checkpoint) -> None:
    rows = [
        revision_row(checkpoint, SHORT, *pair, "the mat", label)
        for pair, label in zip(PAIRS, [MINOR, NONE], strict=False)
    ]
    batch = replace(to_batch(row_windows(checkpoint, rows), torch.device("cpu")), numbers=(0, 1))
    with torch.no_grad():
        found = weighted_loss(token_weights(rows, 3.0))(checkpoint.anatomy, batch) / len(batch.targets)
        parts = [
            (row, -mean_logprobs(checkpoint, [TokenRow(row.ids[: row.start + row.label], row.start)])[0] * row.label)
            for row in rows
        ]
    first = rows[0]
    text = -mean_logprobs(checkpoint, [TokenRow(first.ids, first.start + first.label)])[0]
    assert found.item() == pytest.approx((3 * (parts[0][1] + parts[1][1]) + text) / 2, rel=1e-5)


def test_without_labels_and_at_equal_lengths_the_loss_is_the_usual_one(checkpoint: Checkpoint) -> None:
    rows = [revision_row(checkpoint, SHORT, *pair, "the mat") for pair in PAIRS[:3]]
    batch = replace(to_batch(row_windows(checkpoint, rows), torch.device("cpu")), numbers=(0, 1, 2))
    with torch.no_grad():
        one, two = (
            weighted_loss(token_weights(rows, 1.0))(checkpoint.anatomy, batch),
            cross_entropy(checkpoint.anatomy, batch),
        )
    assert one.item() == pytest.approx(two.item(), rel=1e-5)


# Labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marks", [None, {NONE: "0", MINOR: "1", MAJOR: "2"}, {NONE: "the a", MINOR: "the b", MAJOR: "c"}]
)
def test_probabilities_of_one_batch_are_those_of_three_forwards(checkpoint: Checkpoint, marks: Any) -> None:
    template = replace(SHORT, markers=marks or SHORT.markers)
    found = label_probabilities(make_reviser(checkpoint, template), PAIRS)
    assert found.sum(1) == pytest.approx(1.0)
    for pair, row in zip(PAIRS, found, strict=True):
        sums = []
        for label in LABELS:
            context = revision_row(checkpoint, template, *pair, "", NONE).ids
            context = context[: len(context) - len(label_ids(checkpoint, template, NONE))]
            mark = label_ids(checkpoint, template, label)
            with torch.no_grad():
                logits = checkpoint.model(torch.tensor([[*context, *mark]])).logits[0].log_softmax(1)
            sums.append(sum(logits[len(context) - 1 + k, token].item() for k, token in enumerate(mark)))
        assert row == pytest.approx(torch.tensor(sums, dtype=torch.float64).softmax(0).numpy(), abs=1e-5)


def test_markers_that_begin_each_other_are_refused(checkpoint: Checkpoint) -> None:
    template = replace(SHORT, markers={NONE: "M", MINOR: "MM", MAJOR: "MMM"})
    with pytest.raises(InputError, match="one begins another"):
        all_label_ids(checkpoint, template)


def test_a_copy_is_the_same_bytes_and_never_passes_the_model(tiny: Reviser) -> None:
    odd = [("the cat?", "  zwei\r\n\tTabs \N{GRINNING FACE} e\u0301 \x00 "), ("the dog?", "the mat")]
    sure = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]])
    copied, changed = revise_pairs(tiny, odd, sure, 4)
    assert copied.text.encode() == odd[0][1].encode()
    assert (copied.label, copied.confidence, copied.ended) == (NONE, 0.9, True)
    assert changed.label == MINOR
    assert changed.text != "the mat"
    forced = revise_pairs(tiny, odd, sure, 4, force=True)[0]
    assert forced.label in (MINOR, MAJOR)
    assert forced.text != odd[0][1]


def test_revisions_do_not_depend_on_what_else_is_revised(tiny: Reviser) -> None:
    known = label_probabilities(tiny, PAIRS)
    all_of_them = revise_pairs(tiny, PAIRS, known, 8, force=True)
    alone = [revise_pairs(tiny, [pair], row[None], 8, force=True)[0] for pair, row in zip(PAIRS, known, strict=True)]
    assert [each.text for each in all_of_them] == [each.text for each in alone]


def test_quality_is_one_for_none_half_for_minor() -> None:
    assert [quality(row) for row in np.eye(3)] == [1.0, 0.5, 0.0]


# Difficulty -----------------------------------------------------------------------------------------------------------


def test_gain_and_perplexity_are_those_of_the_definition(checkpoint: Checkpoint) -> None:
    each = TRIPLES[0]
    found = measure_difficulties(checkpoint, SHORT, [each])[0]
    better, copy = (
        mean_logprobs(checkpoint, [revision_row(checkpoint, SHORT, each.prompt, each.rejected, goal)])[0]
        for goal in (each.chosen, each.rejected)
    )
    assert found.gain == pytest.approx(better - copy, abs=1e-5)
    assert found.perplexity == pytest.approx(np.exp(-better), rel=1e-5)
    goal, context = (
        revision_ids(checkpoint, each.chosen),
        revision_row(checkpoint, SHORT, each.prompt, each.rejected, "", NONE).ids[:-4],
    )
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([[*context, *goal]])).logits[0].log_softmax(1)
    by_hand = [logits[len(context) - 1 + k, token].item() for k, token in enumerate(goal)]
    assert better == pytest.approx(np.mean(by_hand), abs=1e-5)


@pytest.mark.parametrize(
    ("one", "two", "share"), [("a b c", "a b c", 0), ("a b c d", "a x c d", 0.25), ("a b", "c d", 1), ("a", "a b", 0.5)]
)
def test_edit_distance_is_by_words(one: str, two: str, share: float) -> None:
    assert edit_distance(one, two) == share


def test_labels_follow_the_threshold_and_are_balanced() -> None:
    triples = [Triple(f"p{n}", f"good {n}", "bad") for n in range(20)]
    found = [Difficulty(n / 10, 20.0 - n, 0.5) for n in range(20)]
    limit = major_threshold(found, LabelConfig())
    made = label_triples(triples, found, LabelConfig(), limit, 0)
    assert [sum(each.label == label for each in made) for label in LABELS] == [10, 10, 10]
    assert all(each.response == each.better for each in made if each.label == NONE)
    assert {each.prompt for each in made if each.label == MAJOR} == {f"p{n}" for n in range(10, 20)}
    floored = label_triples(triples, found, LabelConfig(gain_floor=0.45), limit, 0)
    assert {each.prompt for each in floored if each.label == NONE and each.response == "bad"} == {
        f"p{n}" for n in range(5)
    }
    assert measure_agreement(found)["gain and perplexity"] == pytest.approx(-1)
    assert measure_agreement(found)["gain and edit"] == 0.0


# Calibration ----------------------------------------------------------------------------------------------------------


def test_calibration_error_of_a_worked_example() -> None:
    bins = reliability([0.95, 0.95, 0.55, 0.55, 1.0], [True, False, True, True, True])
    assert [(each.count, each.accuracy) for each in bins] == [(2, 1.0), (3, pytest.approx(2 / 3))]
    assert calibration_error(bins) == pytest.approx(2 / 5 * 0.45 + 3 / 5 * abs(2 / 3 - 2.9 / 3))


def test_a_calibrated_forecaster_has_no_error_and_an_overconfident_one_has() -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(1 / 3, 1, 200_000)
    right = generator.random(200_000) < sure
    assert calibration_error(reliability(sure.tolist(), right.tolist())) < 0.01
    assert calibration_error(reliability([0.99] * 1000, ([True, False] * 500))) == pytest.approx(0.49)


def test_area_is_the_share_of_pairs() -> None:
    generator = np.random.default_rng(1)
    good, bad = generator.integers(0, 9, 40).astype(float), generator.integers(0, 7, 30).astype(float)
    brute = np.mean([(one > two) + (one == two) / 2 for one in good for two in bad])
    assert roc_area(good.tolist(), bad.tolist()) == pytest.approx(brute)
    found = roc_area_interval(good[:30].tolist(), bad.tolist(), 0)
    assert found["low"] <= found["value"] <= found["high"]
    assert roc_area([1.0], [1.0]) == 0.5


def test_what_was_right_is_counted() -> None:
    found = label_metrics(np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]]), [NONE, MINOR, MAJOR])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert found["nll"] == pytest.approx(-np.log([0.8, 0.5, 0.3]).mean())


@pytest.mark.parametrize(
    ("one", "two"), [("the cat sat", "the dog sat down"), ("", "a"), (" x\n", " x\n"), ("a-b", "a b")]
)
def test_a_difference_gives_both_texts_back(one: str, two: str) -> None:
    parts = difference(one, two)
    assert "".join(before for _, before, _ in parts) == one
    assert "".join(after for _, _, after in parts) == two
    assert all(before == after for kind, before, after in parts if kind == "equal")


# From files to a folder -----------------------------------------------------------------------------------------------


Options = dict[str, Any]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Options of a small training."""
    root = tmp_path_factory.mktemp("reviser")
    tiny_model("llama", max_position_embeddings=256).save_pretrained(root / "model")
    tiny_tokenizer().save_pretrained(root / "model")
    rows = [
        {"prompt": f"the cat {n}?", "chosen": "on the mat", "rejected": "on the " + "dog " * (1 + n % 3)}
        for n in range(20)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "template.json").write_text(
        json.dumps({"task": "Fix.", "prompt": "\nP:", "response": "\nR:", "revision": "\nV:", "markers": SHORT.markers})
    )
    return {
        **{"model": str(root / "model"), "preferences": str(root / "rows.jsonl"), "template": root / "template.json"},
        **{"held_out_share": 0.2, "learning_rate": 1e-2, "train_batch_size": 8, "device": "cpu"},
    }


@pytest.fixture(scope="module")
def trained(given: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "reviser"
    assert train_reviser(**given, out=out)
    return out


def test_a_reviser_is_trained_written_and_read_back(trained: Path) -> None:
    results = load_record(trained).results
    assert results["labels"]["train"] == {NONE: 8, MINOR: 8, MAJOR: 8}
    assert results["triples"] == {"train": 16, "held out": 4, "left out": {"longer than the context": 0}}
    assert results["losses"]["warm-up"]["after"] < results["losses"]["warm-up"]["before"]
    assert 0 <= results["calibration"]["calibration_error"] <= 1
    found = load_reviser(str(trained), device="cpu")
    assert found.template == read_template(Path(load_record(trained).options["template"]))
    assert label_probabilities(found, PAIRS).sum(1) == pytest.approx(1.0)
    assert {path.name for path in trained.iterdir()} >= {"README.md", FILE, "difficulty.jsonl", "training.jsonl"}


@pytest.mark.parametrize("moment", ["warm-up", "difficulty", "adaptive", "writing"])
def test_a_killed_run_goes_on_to_the_same_weights(
    moment: str, given: Options, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "reviser"

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    places = {
        "warm-up": ("remodeler.alignment.phases._write", lambda student, folder: killed()),
        "difficulty": ("remodeler.alignment.reviser.train._difficulties", killed),
        "adaptive": ("remodeler.alignment.reviser.train.label_triples", killed),
        "writing": ("remodeler.alignment.reviser.train.write_settings", killed),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[moment])
        with pytest.raises(KeyboardInterrupt):
            train_reviser(**given, out=out)
    assert (partial(out) / "warm-up" / MODEL).is_dir() is (moment != "warm-up")
    train_reviser(**given, out=out)
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    assert (out / FILE).read_bytes() == (trained / FILE).read_bytes()
    assert (out / "difficulty.jsonl").read_bytes() == (trained / "difficulty.jsonl").read_bytes()


def test_chunks_are_the_same_wherever_a_run_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remodeler.alignment.reviser.scoring.CHUNK", 4)
    seen: list[list[int]] = []

    def made(chunk: Any) -> list[dict[str, Any]]:
        seen.append(list(chunk))
        return [{"n": each} for each in chunk]

    path = tmp_path / "rows.jsonl"
    whole = map_resumably(path, {"run": 1}, range(10), made)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]) + '{"n": 6')
    assert map_resumably(path, {"run": 1}, range(10), made) == whole
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 1 + [[4, 5, 6, 7], [8, 9]]
    assert read_lines(path)[1:] == whole
    with pytest.raises(InputError, match="another run"):
        map_resumably(path, {"run": 2}, range(10), made)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"template": {"task": "x"}}, "the template of .* is another one"),
        ({"sha256": "0"}, "not the one that it was trained with"),
        ({"marks": [[1], [2], [3]]}, "cuts the labels otherwise"),
        ({"format": 2}, "another format"),
    ],
)
def test_a_reviser_that_was_changed_is_refused(change: Any, words: str, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(trained, folder)
    (folder / FILE).write_text(json.dumps(json.loads((folder / FILE).read_text()) | change))
    with pytest.raises(InputError, match=words):
        load_reviser(str(folder), device="cpu")


def test_a_model_that_is_not_a_reviser_is_refused(given: Options) -> None:
    with pytest.raises(InputError, match=f"has no {FILE}"):
        load_reviser(given["model"], device="cpu")


def test_too_long_triples_are_counted_or_refused(given: Options, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 20 triples fits 12 tokens"):
        train_reviser(**given, length=12, out=tmp_path / "out")
    lengths = sorted(map(len, _rows(given)))
    some = prepare(build(ReviserConfig, given | {"length": lengths[10]}), "cpu")
    assert 0 < some.data.dropped["longer than the context"] < 20


def _rows(given: Options) -> list[tuple[int, ...]]:
    model, template = load(given["model"], device="cpu"), read_template(given["template"])
    rows = [json.loads(line) for line in Path(given["preferences"]).read_text().splitlines()]
    return [revision_row(model, template, row["prompt"], row["rejected"], row["chosen"], MAJOR).ids for row in rows]


def test_a_dry_run_writes_nothing(given: Options, tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    assert not train_reviser(**given, out=tmp_path / "out", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    told = messages.text
    assert "16 training triples, 4 held out" in told
    assert "warm-up reviser: 16 examples, 2 steps of 8" in told

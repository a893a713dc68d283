"""remodel audit train, predict, vote, score, convert: from files to files, by the command line."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import invoke
from remodeler.auditing.formats.posts import Post, read_posts
from remodeler.auditing.formats.predictions import read_predictions
from remodeler.auditing.prediction_files import convert
from remodeler.auditing.prediction_files import score as score_file
from remodeler.auditing.spans import characters
from remodeler.auditing.statistics.scoring import score
from remodeler.auditing.statistics.voting import vote_all
from remodeler.auditing.tagger import predict_job, train_job
from remodeler.auditing.tagger.config import TrainConfig
from remodeler.auditing.tagger.files import load_tagger
from remodeler.auditing.tagger.posts import fold, read_training_posts
from remodeler.auditing.tagger.predict import find_spans
from remodeler.auditing.tagger.predict_job import predict, vote
from remodeler.auditing.tagger.results import TaggerResults
from remodeler.auditing.tagger.rules import spans_of
from remodeler.auditing.tagger.train_job import train_tagger
from remodeler.errors import InputError
from remodeler.runs.records import load_record
from tiny_encoders import tiny_encoder

WORDS = ["the", "cat", "sat", "on", "mat", "dog", "log"]


def written(path: Path, count: int, seed: int = 0) -> Path:
    """Posts in which ``dog`` is what is meant."""
    generator = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["spans", "text"])
        for _ in range(count):
            text = " ".join(generator.choice(WORDS, int(generator.integers(1, 12))))
            places = [place for place in range(len(text)) if text.startswith("dog", place)]
            writer.writerow([[each for place in places for each in range(place, place + 3)], text])
    return path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Posts, an encoder, and two taggers."""
    root = tmp_path_factory.mktemp("audit")
    found = {"train": written(root / "train.csv", 60), "dev": written(root / "dev.csv", 30, 1)}
    found["encoder"] = tiny_encoder("bert", root / "encoder")
    for seed, name in enumerate(("one", "two")):
        train_tagger(**options(found), out=root / name, seed=seed)
        found[name] = root / name
    return found


def options(places: dict[str, Path], **other: Any) -> dict[str, Any]:
    """A plain tagger, trained for two epochs."""
    data = {"texts": places["train"], "dev": places["dev"], "encoder": str(places["encoder"]), "device": "cpu"}
    plain = {"auxiliary": "none", "output": "linear"}
    pace = {"epochs": 2, "train_batch_size": 4, "learning_rate": 3e-3, "head_rate": 1e-2}
    return {**data, **plain, **pace, **other}


def called(*words: object) -> Any:
    """What the command line answers."""
    return invoke(["audit", *map(str, words)])


# Train ----------------------------------------------------------------------------------------------------------------


def test_a_tagger_is_trained_scored_and_described(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "tagger"
    words = ["--texts", places["train"], "--dev", places["dev"], "--encoder", places["encoder"], "--out", out]
    course = ["--epochs", 2, "--train-batch-size", 4, "--learning-rate", "3e-3", "--head-rate", "1e-2", "--seed", 1]
    rest = ["--auxiliary", "none", "--output", "linear", "--device", "cpu"]
    dry = called("train", *words, *course, *rest, "--dry-run")
    assert (dry.exit_code, out.exists()) == (0, False)
    found = called("train", *words, *course, *rest)
    assert found.exit_code == 0, found.output
    assert "all posts" in found.output
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "head.safetensors", "tagger.json", "tokenizer.json"),
        *("tokenizer_config.json", "training.jsonl", "record.json", "report.html", "README.md"),
    }
    results = load_record(out).results
    best = max(line["dev_f1"] for line in results["epochs"])
    assert results["dev"]["all posts"]["f1"] == pytest.approx(best)
    assert "swear words" in (out / "README.md").read_text()
    again = called("train", *words, *course, *rest)
    assert again.exit_code == 2
    assert "exists already" in again.output
    for file in ("model.safetensors", "head.safetensors", "tagger.json"):
        assert (out / file).read_bytes() == (places["two"] / file).read_bytes()  # the same by either way


def test_a_run_that_is_killed_while_it_writes_goes_on(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_job, "write_result", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tagger(**options(places, seed=1), out=tmp_path / "out")
    monkeypatch.undo()
    train_tagger(**options(places, seed=1), out=tmp_path / "out")
    assert (tmp_path / "out" / "head.safetensors").read_bytes() == (places["two"] / "head.safetensors").read_bytes()
    assert not (tmp_path / "out" / "training").exists()


def test_folds_part_the_posts() -> None:
    posts = [Post(str(number), ()) for number in range(23)]
    parts = [fold(posts, f"{number}/5") for number in range(1, 6)]
    assert sorted(post.text for part in parts for post in part) == sorted(post.text for post in posts)
    assert {len(part) for part in parts} == {4, 5}
    for wrong in ("0/5", "6/5", "1/1", "half", "1/24", ""):
        with pytest.raises(InputError, match="`fold` must be"):
            fold(posts, wrong)


def test_no_development_text_is_learned_from(places: dict[str, Path]) -> None:
    wanted = {"texts": places["train"], "encoder": "", "out": Path("out")}
    with pytest.raises(InputError, match="all are development posts too"):
        read_training_posts(TrainConfig(**wanted, dev=places["train"]))
    given = read_training_posts(TrainConfig(**wanted, fold="1/3"))
    assert not {post.text for post in given.posts} & {post.text for post in given.dev}
    assert given.dev
    with pytest.raises(InputError, match="give one of them"):
        TrainConfig(**wanted, dev=places["train"], fold="1/3")


def test_a_teacher_is_found_by_its_texts(places: dict[str, Path], tmp_path: Path) -> None:
    taught, members = tmp_path / "teacher.jsonl", [places["one"], places["two"]]
    vote(members, texts=places["train"], out=taught, likelihoods=True, device="cpu")
    found = train_tagger(**options(places, epochs=1, seed=1, teacher=taught), out=tmp_path / "out")
    assert found is not None
    assert found == TaggerResults.parse(load_record(tmp_path / "out"))
    assert load_record(tmp_path / "out").options["teacher"] == str(taught)
    bare = tmp_path / "bare.jsonl"
    vote(members, texts=places["train"], out=bare, device="cpu")
    with pytest.raises(InputError, match="has no likelihoods of 60 of 60 texts"):
        train_tagger(**options(places, teacher=bare), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def harmless(path: Path) -> Path:
    """Texts in which ``dog`` is not what is meant: it never stands beside ``log``."""
    path.write_text("".join(f"log dog number {number} log\n" for number in range(40)))
    return path


def test_harmless_texts_are_learned_from_and_a_tenth_counts_false_alarms(
    places: dict[str, Path], tmp_path: Path
) -> None:
    course = [
        "--epochs",
        "12",
        "--train-batch-size",
        "4",
        "--learning-rate",
        "3e-3",
        "--head-rate",
        "1e-2",
        "--device",
        "cpu",
    ]
    dev = tmp_path / "dev.csv"  # such texts are among them, so no epoch is chosen that has not learned them yet
    dev.write_text(places["dev"].read_text() + "".join(f"[],log dog number {n} log\n" for n in range(100, 115)))
    given = ["--texts", places["train"], "--dev", dev, "--encoder", places["encoder"]]
    clean = harmless(tmp_path / "clean.txt")
    made = called("train", *given, *course, "--harmless", clean, "--out", tmp_path / "calm")
    assert made.exit_code == 0, made.output
    results = load_record(tmp_path / "calm").results
    assert results["false_alarms"] == {"texts": 4, "found": 0}
    assert "0 of 4 held-out harmless texts" in made.output
    assert "and 36 harmless texts" in (tmp_path / "calm" / "README.md").read_text()
    assert results["dev"]["all posts"]["f1"] > 0.9
    texts = clean.read_text().splitlines()
    assert not any(find_spans(load_tagger(tmp_path / "calm", "cpu"), texts))
    assert all(find_spans(load_tagger(places["one"], "cpu"), texts))  # without them every dog is found


def test_harmless_texts_and_posts_share_no_text(places: dict[str, Path], tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.txt"
    known = [post.text for name in ("train", "dev") for post in read_posts(places[name], known=True).posts]
    mixed.write_text("\n".join([*known, *harmless(tmp_path / "clean.txt").read_text().splitlines()]))
    config = TrainConfig(texts=places["train"], encoder="", dev=places["dev"], harmless=mixed, out=Path("out"))
    given = read_training_posts(config)
    assert (given.harmless, len(given.unseen)) == (36, 4)
    assert len(given.own) + 36 == len(given.posts)
    assert not {post.text for post in given.posts} & {post.text for post in (*given.dev, *given.unseen)}
    assert {post.spans for post in given.posts[-36:]} == {()}


# Predict --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".txt", ".zip", ".jsonl", ".conll", ".csv"])
def test_predictions_score_what_the_record_says(suffix: str, places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / f"p{suffix}"
    made = called("predict", "--texts", places["dev"], "--tagger", places["one"], "--out", out, "--device", "cpu")
    assert made.exit_code == 0, made.output
    wanted = load_record(places["one"]).results["dev"]["all posts"]
    found = score_file(out, places["dev"])
    assert found["all posts"].f1 == pytest.approx(wanted["f1"])
    assert found["all posts"].error == pytest.approx(wanted["error"])
    assert list(tmp_path.iterdir()) == [out]
    scored = called("score", out, places["dev"])
    assert f"{wanted['f1']:.4f}" in scored.output


def test_a_killed_prediction_goes_on(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_job, "AT_ONCE", 7)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    given = {"texts": places["dev"], "tagger": places["one"], "device": "cpu"}
    predict(**given, out=whole, likelihoods=True)
    real, seen = predict_job.predict_texts, []

    def killed(trained: Any, texts: Any, *rest: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(texts))
        return real(trained, texts, *rest)

    monkeypatch.setattr(predict_job, "predict_texts", killed)
    with pytest.raises(KeyboardInterrupt):
        predict(**given, out=cut, likelihoods=True)
    assert not cut.exists()
    seen.clear()
    with pytest.raises(InputError, match="is of a run with another likelihoods"):
        predict(**given, out=cut)
    seen[:] = [0, 0, 0]
    predict(**given, out=cut, likelihoods=True)
    assert seen == [0, 0, 0, 7, 7, 2]
    assert cut.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.jsonl", "cut.jsonl"}


def test_a_loaded_tagger_predicts_and_votes_and_nothing_is_kept(places: dict[str, Path], tmp_path: Path) -> None:
    given = {"texts": places["dev"], "device": "cpu"}
    tagger = load_tagger(places["one"], "cpu")
    before = {name: value.clone() for name, value in tagger.model.state_dict().items()}
    found = predict(**given, tagger=tagger)
    kept = tmp_path / "p.jsonl"
    assert predict(**given, tagger=tagger, out=kept) == found == predict(**given, tagger=places["one"])
    assert [row.spans for row in vote([tagger, kept, places["one"]], **given)] == [
        tuple(replace(span, score=1.0) for span in row.spans) for row in found
    ]
    predict(**given, tagger=tagger, int8=True)
    assert all(torch.equal(before[name], value) for name, value in tagger.model.state_dict().items())
    assert list(tmp_path.iterdir()) == [kept]


def test_rules_that_are_given_replace_the_taggers_own(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    called("predict", "--texts", places["dev"], "--tagger", places["one"], "--out", out, "--threshold", 0.9,
           "--abstain", 0.95, "--likelihoods", "--device", "cpu")  # fmt: skip
    rules = replace(load_tagger(places["one"], "cpu").settings.rules, threshold=0.9, abstain=0.95)
    for row in read_predictions(out).rows:
        assert row.likely is not None
        assert characters(row.spans) == characters(spans_of(row.likely, str(row.text), rules))


def test_posts_keep_their_ids_when_bad_rows_are_left_out(places: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_bytes(b"text\nthe dog\ncaf\xe9\nthe cat\n")
    words = ["--texts", tmp_path / "posts.csv", "--tagger", places["one"], "--out", tmp_path / "p.txt"]
    assert called("predict", *words).exit_code == 2
    found = called("predict", *words, "--skip-bad", "--device", "cpu")
    assert "1 bad rows" in found.output
    assert [row.id for row in read_predictions(tmp_path / "p.txt").rows] == [0, 2]


# Vote and convert -----------------------------------------------------------------------------------------------------


def test_taggers_and_files_vote_together(places: dict[str, Path], tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for name, out in (("one", one), ("two", two)):
        predict(texts=places["dev"], tagger=places[name], out=out, likelihoods=True, device="cpu")
    for least in (1, 2):
        out = tmp_path / f"vote-{least}.jsonl"
        found = called("vote", one, places["two"], "--texts", places["dev"], "--at-least", least, "--out", out,
                       "--likelihoods", "--device", "cpu")  # fmt: skip
        assert found.exit_code == 0, found.output
        rows = [read_predictions(path).rows for path in (one, two)]
        wanted = vote_all([[row.spans for row in each] for each in rows], least)
        made = read_predictions(out).rows
        assert [characters(row.spans) for row in made] == [characters(spans) for spans in wanted]
        for row, first, second in zip(made, *rows, strict=True):
            assert np.allclose(row.likely, (first.likely + second.likely) / 2, atol=2e-4)  # type: ignore[operator, arg-type]
    assert len(list(tmp_path.iterdir())) == 4


def test_votes_that_are_refused(places: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0\t[]\n1\t[]\n")
    (tmp_path / "b.txt").write_text("0\t[]\n2\t[]\n")
    out = tmp_path / "v.txt"
    with pytest.raises(InputError, match="is a tagger: give the posts that it shall predict with `texts`"):
        vote([places["one"]], out=out)
    with pytest.raises(InputError, match=r"b\.txt predicts other posts"):
        vote([tmp_path / "a.txt", tmp_path / "b.txt"], out=out)
    with pytest.raises(InputError, match="a member has no likelihoods"):
        vote([tmp_path / "a.txt"], out=tmp_path / "v.jsonl", likelihoods=True)
    assert not (tmp_path / "v.jsonl").exists()


def test_converting_there_and_back(places: dict[str, Path], tmp_path: Path) -> None:
    gold = places["dev"]
    assert called("convert", gold, tmp_path / "g.txt").exit_code == 0
    assert called("convert", tmp_path / "g.txt", tmp_path / "g.conll", "--texts", gold).exit_code == 0
    assert called("convert", tmp_path / "g.conll", tmp_path / "g.csv").exit_code == 0
    one, two = (read_posts(path, known=True) for path in (gold, tmp_path / "g.csv"))
    assert (one.texts, one.spans) == (two.texts, two.spans)
    assert convert(tmp_path / "g.csv", tmp_path / "again.txt") == read_predictions(tmp_path / "g.csv").rows
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "g.txt").read_bytes()
    missing = called("convert", tmp_path / "g.txt", tmp_path / "h.conll")
    assert "have no texts" in missing.output
    twice = called("convert", tmp_path / "g.txt", tmp_path / "g.csv")
    assert "exists already" in twice.output


# The command ----------------------------------------------------------------------------------------------------------


def test_what_names_no_part_is_an_audit(places: dict[str, Path]) -> None:
    named, bare = (called(*words, "--texts", places["dev"]) for words in (["run"], []))
    assert named.exit_code == bare.exit_code == 0
    assert named.output == bare.output
    assert "Share of texts" in bare.output


def test_a_tagger_audits(places: dict[str, Path]) -> None:
    found = called("--texts", places["dev"], "--detector", places["one"], "--device", "cpu")
    assert found.exit_code == 0, found.output
    texts = read_posts(places["dev"], known=True)
    assert score(texts.spans, texts.spans).f1 == 1.0


def test_help_teaches_the_parts() -> None:
    found = called("--help")
    assert found.exit_code == 0
    for word in ("train", "predict", "vote", "score", "convert", "remodel audit run --help"):
        assert word in " ".join(found.output.split())


def test_an_unknown_kind_of_file_is_refused_before_work(places: dict[str, Path], tmp_path: Path) -> None:
    found = called("predict", "--texts", places["dev"], "--tagger", places["one"], "--out", tmp_path / "p.doc")
    assert "is of an unsupported file type" in found.output
    assert list(tmp_path.iterdir()) == []


def test_gold_spans_outside_their_text_end_in_one_sentence(places: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text('spans,text\n"[50]",short\n')
    found = called("train", "--texts", tmp_path / "bad.csv", "--encoder", places["encoder"], "--out", tmp_path / "t")
    assert "row 1 of" in found.output
    assert not (tmp_path / "t").exists()
    assert json.loads((places["one"] / "tagger.json").read_text())["length"] == 80  # what the encoder takes

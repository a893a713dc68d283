"""Evolution: what is accepted and why not, rounds that a kill does not change, and the commands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import invoke
from forks import COMMAND, pair, said
from pages import Page, assert_stands_alone
from remodeler.alignment.baselines.job import train_baseline
from remodeler.alignment.config import EXTERNAL, INTERNAL, EvolveConfig, FilterConfig
from remodeler.alignment.data.examples import answer_row
from remodeler.alignment.data.preferences import read_preferences
from remodeler.alignment.data.prompts import read_prompts, read_responses
from remodeler.alignment.data.template import LABELS, MAJOR, MINOR, NONE, Template
from remodeler.alignment.evolution.filters import FILTERS, Candidate, rejection, repetition
from remodeler.alignment.evolution.job import evolve
from remodeler.alignment.evolution.prepare import announce, prepare_policy
from remodeler.alignment.evolution.rounds import RoundTask, collect_rows, generate_answers
from remodeler.alignment.judging.compare import compare
from remodeler.alignment.reviser.revise import revise
from remodeler.alignment.reviser.reviser import label_probabilities, load_reviser, make_reviser, quality
from remodeler.alignment.reviser.scoring import mean_logprobs
from remodeler.alignment.reviser.train import train_reviser
from remodeler.checkpoint.load import load
from remodeler.errors import InputError
from remodeler.generation.sampling import Sampling
from remodeler.reporting import page
from remodeler.runs.folders import partial
from remodeler.runs.options import build
from remodeler.runs.records import load_record, read_lines
from tiny import tiny_model, tiny_tokenizer

SHORT = Template("Fix.", "\nP:", "\nR:", "\nV:", {NONE: "NONE", MINOR: "MINOR", MAJOR: "MAJOR"})
LOOSE: dict[str, Any] = {
    **{"shortest": 0.0, "longest": 1000.0, "max_repetition": 1.0},
    **{"min_confidence": 0.0, "major_confidence": 0.0, "min_quality": 0.0, "quality_slack": 1.0},
}
OPEN = FilterConfig(**LOOSE)
"""Filters that let nearly everything through, as a random model needs."""

Options = dict[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A policy that has learned to end, a reviser, preferences and prompts."""
    root = tmp_path_factory.mktemp("evolve")
    tiny_model("llama", max_position_embeddings=256).save_pretrained(root / "base")
    tiny_tokenizer().save_pretrained(root / "base")
    rows = [
        {"prompt": f"the cat {n}?", "chosen": "on the mat", "rejected": "on the " + "dog " * (1 + n % 3)}
        for n in range(16)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how: Options = {"preferences": root / "rows.jsonl", "device": "cpu", "epochs": 8.0, "learning_rate": 1e-2}
    how |= {"train_batch_size": 8}
    train_baseline(root / "base", out=root / "policy", **how)
    told = {"task": "Fix.", "prompt": "\nP:", "response": "\nR:", "revision": "\nV:", "markers": dict(SHORT.markers)}
    (root / "template.json").write_text(json.dumps(told))
    (root / "prompts.txt").write_text("".join(f"the dog sat on {n}\n" for n in range(30)))
    train_reviser(root / "base", template=root / "template.json", out=root / "reviser", **how)
    return {path.name.split(".")[0]: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def given(models: dict[str, Path]) -> Options:
    """Options of a small evolution."""
    return {
        **{
            name: str(models[key])
            for name, key in (("model", "policy"), ("prompts", "prompts"), ("reviser", "reviser"))
        },
        **{"probe": 3, "max_new_tokens": 12, "completions": 2, "top_p": 1.0, "device": "cpu"},
        **{"learning_rate": 1e-2, "train_batch_size": 4},
        **LOOSE,
    }


@pytest.fixture(scope="module")
def evolved(given: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evolved") / "policy"
    assert evolve(**given, out=out)
    return out


# Filters --------------------------------------------------------------------------------------------------------------

GOOD = Candidate("p", "a cat sat on a mat", "a cat sat on the mat", True, MINOR, (0.2, 0.7, 0.1), 0.8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"text": " \n"}, "empty"),
        ({"probabilities": None}, "too long for the reviser"),
        ({"ended": False}, "not ended"),
        ({"text": "cat"}, "much shorter or longer"),
        ({"text": "a cat sat on the mat " * 3}, "much shorter or longer"),
        ({"text": "a cat\nV: sat on the mat"}, "marks of the template"),
        ({"text": "MINOR\na cat sat"}, "marks of the template"),
        ({"text": "a b c d a b c d a b"}, "repeats itself"),
        ({"probabilities": (0.31, 0.35, 0.34)}, "label unsure"),
        ({"label": MAJOR, "probabilities": (0.28, 0.27, 0.45)}, "major, unsure"),
        ({"after": None, "text": "a cat sat on a mat", "probabilities": (0.1, 0.5, 0.4)}, "quality too low"),
        ({"after": 0.54}, "quality fell"),
        ({"after": 0.55}, None),
        ({"after": None, "label": None, "probabilities": (0.0, 0.0, 1.0)}, None),
    ],
)
def test_every_filter_has_its_reason(change: dict[str, Any], reason: str | None) -> None:
    assert rejection(replace(GOOD, **change), FilterConfig(), SHORT) == reason


def test_repetition_is_the_share_of_fourgrams_that_came_before() -> None:
    assert repetition("a b c d e") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert repetition("a a a a a a") == pytest.approx(2 / 3)
    assert repetition("a b") == 0


def test_limits_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"`min_confidence` must be >= 0 and <= 1 .got 1.5."):
        FilterConfig(min_confidence=1.5)


# Rounds ---------------------------------------------------------------------------------------------------------------


def test_the_best_answer_is_taken_and_a_revision_must_not_be_worse(models: dict[str, Path], tmp_path: Path) -> None:
    policy, judge = load(models["policy"], device="cpu"), make_reviser(load(models["reviser"], device="cpu"), SHORT)
    prompts = [f"the dog {n}" for n in range(5)]
    for kind in (INTERNAL, EXTERNAL):
        folder = tmp_path / kind
        folder.mkdir()
        task = RoundTask(kind, prompts, Sampling(12, samples=3), replace(OPEN, quality_slack=0.0), tokens=12)
        said = generate_answers(policy, task, folder)
        rows = collect_rows(judge, said, task, folder, "r")
        scores = [
            quality(row) for row in label_probabilities(judge, [(prompts[each.prompt], each.text) for each in said])
        ]
        for number, row in enumerate(rows):
            own = [pair for pair in zip(scores, said, strict=True) if pair[1].prompt == number]
            whole = [bool(each.text.strip()) and (each.ended or kind == EXTERNAL) for _, each in own]
            wanted = [score if good or not any(whole) else -1 for (score, _), good in zip(own, whole, strict=True)]
            assert row["sample"] == int(np.argmax(wanted))
            assert row["quality"] == pytest.approx(max(wanted), abs=1e-5)
            if row["accepted"] and row["quality_after"] is not None:
                assert row["quality_after"] >= row["quality"]
            if kind == INTERNAL or row["label"] == NONE:
                assert row["text"] == row["answer"]
        assert read_lines(folder / "rows.jsonl") == json.loads(json.dumps(rows))


def test_without_labels_everything_is_revised(models: dict[str, Path], tmp_path: Path) -> None:
    policy, judge = load(models["policy"], device="cpu"), make_reviser(load(models["reviser"], device="cpu"), SHORT)
    task = RoundTask(EXTERNAL, ["the dog", "the cat"], Sampling(12, samples=2), OPEN, use_labels=False, tokens=12)
    said = generate_answers(policy, task, tmp_path)
    rows = collect_rows(judge, said, task, tmp_path, "r")
    assert [row["answer"] for row in rows] == [each.text for each in said if each.sample == 0]
    assert all(row["label"] != NONE for row in rows)


def test_every_round_is_on_the_disk_with_fresh_prompts_and_reasons(evolved: Path, models: dict[str, Path]) -> None:
    rounds = [read_lines(evolved / f"round-{number}.jsonl") for number in (1, 2)]
    asked = [{row["prompt"] for row in rows} for rows in rounds]
    assert asked[0].isdisjoint(asked[1])
    assert asked[0] | asked[1] < set(read_prompts(str(models["prompts"])))
    assert all((row["reason"] is None) is row["accepted"] for rows in rounds for row in rows)
    assert {row["reason"] for rows in rounds for row in rows} <= {*FILTERS, None}
    results = load_record(evolved).results
    assert [each["accepted"] for each in results["rounds"]] == [sum(row["accepted"] for row in rows) for rows in rounds]
    assert [each["name"] for each in results["looks"]] == ["before", "after round 1", "after round 2"]
    assert load(evolved, device="cpu").model is not None
    assert not [path for path in evolved.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    "place",
    [
        "remodeler.alignment.evolution.rounds.label_answers",
        "remodeler.alignment.evolution.rounds._revise_chosen",
        "remodeler.alignment.phases._write",
        "remodeler.alignment.evolution.job._describe",
    ],
)
def test_a_killed_evolution_goes_on_to_the_same_policy(
    place: str, given: Options, evolved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "policy"

    def killed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, killed)
        with pytest.raises(KeyboardInterrupt):
            evolve(**given, out=out)
    assert partial(out).is_dir()
    evolve(**given, out=out)
    for name in ("model.safetensors", "round-1.jsonl", "round-2.jsonl"):
        assert (out / name).read_bytes() == (evolved / name).read_bytes()


def test_restarting_trains_the_first_policy_again(given: Options, evolved: Path, tmp_path: Path) -> None:
    evolve(**given, restart=True, out=tmp_path / "again")
    first, second = (read_lines(place / "round-1.jsonl") for place in (evolved, tmp_path / "again"))
    assert first == second
    assert (tmp_path / "again" / "model.safetensors").read_bytes() != (evolved / "model.safetensors").read_bytes()


def test_a_run_with_other_options_does_not_resume_a_folder(given: Options, tmp_path: Path) -> None:
    out = tmp_path / "policy"
    with pytest.raises(InputError, match=r"accepted none of 13 answers .*quality too low"):
        evolve(**given | {"min_quality": 1.0}, out=out)
    with pytest.raises(InputError, match="another seed"):
        evolve(**given, seed=7, out=out)
    with pytest.raises(InputError, match="another rounds"):
        evolve(**given, rounds=["internal", "internal", "external"], out=out)
    assert (partial(out) / "round-1-internal" / "answers.jsonl").exists(), "what is refused loses no work"
    evolve(**given, out=out)  # but looser filters do


def test_a_policy_that_only_ends_is_named(given: Options, models: dict[str, Path], tmp_path: Path) -> None:
    made: Any = tiny_model("llama", 1, max_position_embeddings=256)
    with torch.no_grad():
        made.model.norm.weight.zero_()
        made.model.norm.weight[0] = 100.0
        made.model.embed_tokens.weight[:, 0] = 1.0
        made.lm_head.weight.zero_()
    made.generation_config.eos_token_id = [*range(300)]
    made.save_pretrained(tmp_path / "mute")
    tiny_tokenizer().save_pretrained(tmp_path / "mute")
    mute = given | {"model": tmp_path / "mute", "max_new_tokens": 4, "temperature": 0.0, "completions": 1}
    with pytest.raises(InputError, match="writes nothing but the end of a text"):
        evolve(**mute, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": ("inner",)}, "`rounds='inner'` is unknown"),
        ({"max_new_tokens": 300}, "0 prompts with room"),
        ({"limit": 1}, "1 prompt with room"),
        ({"max_repetition": 2.0}, "`max_repetition` must be >= 0 and <= 1"),
    ],
)
def test_what_can_not_work_is_refused_before_it_starts(change: Any, words: str, given: Options, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        evolve(**given | change, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_ask_nothing_are_counted_before_it_starts(
    given: Options, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    rows: list[Any] = [{"messages": [{"role": "user", "content": f"the dog sat on {n}"}]} for n in range(30)]
    rows.insert(4, {"messages": [{"role": "user", "content": None}]})
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = build(EvolveConfig, given | {"prompts": tmp_path / "prompts.jsonl"})
    inputs = prepare_policy(config, torch.device("cpu"))
    assert sum(map(len, inputs.shards)) + len(inputs.probe) == 30
    announce(inputs, tmp_path / "out")
    assert "left out: 1 (a message without text (its content is null); row 5)" in " ".join(messages.text.split())


def test_a_dry_evolution_says_how_long_and_writes_nothing(
    given: Options, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    assert not evolve(**given, out=tmp_path / "out", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert "answers take about" in messages.text


# Revising -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def responses(models: dict[str, Path]) -> Path:
    path = models["policy"].parent / "responses.jsonl"
    rows = [{"instruction": f"the cat {n}?", "output": "on the dog " * (200 if n == 3 else 1)} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_responses_are_revised_and_what_is_too_long_stays(
    models: dict[str, Path], responses: Path, tmp_path: Path
) -> None:
    results = revise(responses, models["reviser"], max_new_tokens=12, device="cpu", out=tmp_path / "out")
    assert results is not None
    rows = read_lines(tmp_path / "out" / "revisions.jsonl")[1:]
    assert [row["label"] is None for row in rows] == [n == 3 for n in range(6)]
    assert rows[3]["revision"] == read_responses(str(responses))[3].response
    for row in rows:
        assert "".join(before for _, before, _ in row["difference"]) == row["response"]
        assert "".join(after for _, _, after in row["difference"]) == row["revision"]
        assert row["label"] is None or sum(row["probabilities"].values()) == pytest.approx(1)
    assert sum(results.labels.values()) == 6


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_killed_revising_goes_on_to_the_same_rows(
    models: dict[str, Path], responses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("remodeler.alignment.reviser.scoring.CHUNK", 2)
    reviser = load_reviser(str(models["reviser"]), device="cpu")
    how: Options = {"max_new_tokens": 12, "device": "cpu"}
    revise(responses, reviser, **how, out=tmp_path / "whole")
    assert load_record(tmp_path / "whole").options["reviser"] == str(models["reviser"])
    with monkeypatch.context() as patch:
        patch.setattr(page, "write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            revise(responses, models["reviser"], **how, out=tmp_path / "out")
    log = partial(tmp_path / "out") / "revisions.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]) + '{"number": 3, "pro')
    revise(responses, models["reviser"], **how, out=tmp_path / "out")
    assert (tmp_path / "out" / "revisions.jsonl").read_bytes() == (tmp_path / "whole" / "revisions.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"prompt": "x"}\n', "row 1 of .* has no response"), ('{"response": "x"}\n', "has no prompt"), ("", "is empty")],
)
def test_responses_that_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(InputError, match=words):
        read_responses(str(tmp_path / "rows.jsonl"))


# Pages and commands ---------------------------------------------------------------------------------------------------


def test_pages_show_rounds_and_what_changed(evolved: Path, models: dict[str, Path], tmp_path: Path) -> None:
    shown = Page((evolved / "report.html").read_text(encoding="utf-8"))
    assert_stands_alone(shown)
    assert "1 internal" in shown.text
    assert "after round 2" in shown.text
    shown = Page((models["reviser"] / "report.html").read_text(encoding="utf-8"))
    assert_stands_alone(shown)
    assert "Expected calibration error" in shown.text


def test_the_commands_do_it_all(models: dict[str, Path], responses: Path, tmp_path: Path) -> None:
    common = ["--device", "cpu", "--learning-rate", "1e-2", "--train-batch-size", "8"]
    loose = ["--min-quality", "0", "--min-confidence", "0", "--major-confidence", "0", "--quality-slack", "1"]
    loose += ["--shortest", "0", "--longest", "1000", "--max-repetition", "1", "--max-new-tokens", "12"]
    base, policy, rows, prompts = (str(models[name]) for name in ("base", "policy", "rows", "prompts"))
    words = ["--template", str(models["template"])]
    trained, revised = str(tmp_path / "r"), ["--responses", str(responses), "--max-new-tokens", "8", "--device", "cpu"]
    evolved, small = str(tmp_path / "e"), ["--adapters", "--rank", "2", "--completions", "2"]
    for command in (
        ["train-reviser", base, "--preferences", rows, *words, "--out", trained, *common],
        ["revise", *revised, "--reviser", trained, "--out", str(tmp_path / "v")],
        ["baseline", base, "--preferences", rows, "--out", str(tmp_path / "b"), *common],
        ["evolve", policy, "--prompts", prompts, "--reviser", trained, "--out", evolved, *loose, *common, *small],
    ):
        found = invoke(["align", *command])
        assert found.exit_code == 0, found.output
        out = Path(command[command.index("--out") + 1])
        assert (out / "report.html").exists()
        assert load_record(out).verb == f"align {command[0]}"
        dry = invoke(["align", *command, "--dry-run"])
        assert dry.exit_code == 2
        assert "exists already" in dry.stderr, "nothing is ever overwritten"


@pytest.mark.slow
def test_two_processes_train_what_one_trains(models: dict[str, Path], tmp_path: Path) -> None:
    policy, prompts, reviser = (str(models[name]) for name in ("policy", "prompts", "reviser"))
    given = ["align", "evolve", policy, "--prompts", prompts, "--reviser", reviser]
    given += ["--rounds", "internal"]
    given += [
        "--max-new-tokens",
        "12",
        "--completions",
        "2",
        "--probe",
        "0",
        "--min-quality",
        "0",
        "--min-confidence",
        "0",
    ]
    given += ["--max-repetition", "1", "--learning-rate", "1e-3", "--train-batch-size", "4"]
    given += ["--micro-batch-size", "1"]
    given += ["--device", "cpu", "--out"]
    for process in pair(COMMAND, *given, tmp_path / "two"):
        said(process)
    done = invoke([*given, str(tmp_path / "one")])
    assert done.exit_code == 0, done.output
    assert read_lines(tmp_path / "one" / "round-1.jsonl") == read_lines(tmp_path / "two" / "round-1.jsonl")
    curves = [read_lines(tmp_path / out / "training.jsonl") for out in ("one", "two")]
    one, two = ([line["loss"] for line in curve if "loss" in line] for curve in curves)
    assert one == pytest.approx(two, rel=1e-4)


def test_labels_of_the_page_are_those_of_the_template() -> None:
    from remodeler.alignment.reviser.results import LABELS as SHOWN

    assert SHOWN == LABELS


def test_policies_stand_in_one_table_whose_figures_are_those_of_the_definitions(
    models: dict[str, Path], tmp_path: Path
) -> None:
    policies = (str(models["base"]), str(models["policy"]))
    how: Options = {"preferences": models["rows"], "reviser": models["reviser"], "max_new_tokens": 12, "device": "cpu"}
    results = compare(policies, **how, out=tmp_path / "out")
    assert results is not None
    base, tuned = load_record(tmp_path / "out").results["checkpoints"]
    assert list(results.checkpoints) == [base, tuned]
    assert tuned["heldout_bits_per_byte"] < base["heldout_bits_per_byte"]
    assert tuned["pairs_right"] == 1.0, "it has learned them"
    assert 0 <= base["answer_quality"] <= 1
    model = load(models["policy"], device="cpu")
    triples = read_preferences(str(models["rows"]))[0]
    rows = [answer_row(model, each.prompt, each.chosen) for each in triples]
    bits = -sum(mean * (len(row.ids) - row.start) for mean, row in zip(mean_logprobs(model, rows), rows, strict=True))
    size = sum(len(each.chosen.encode()) for each in triples)
    assert tuned["heldout_bits_per_byte"] == pytest.approx(bits / np.log(2) / size, rel=1e-5)
    again = compare([model, policies[0]], **how)
    assert again is not None
    assert [each["name"] for each in again.checkpoints] == [policies[1], policies[0]]
    assert [each["answer_characters"] for each in again.checkpoints] == [
        tuned["answer_characters"],
        base["answer_characters"],
    ]

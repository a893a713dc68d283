"""Facts about multiple-choice tasks: lm-eval's numbers are those of the definition."""

import json
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import torch

from remodeler.checkpoint.load import Checkpoint, load
from remodeler.data.questions import Question, read_questions
from remodeler.errors import InputError
from remodeler.evaluation import tasks
from remodeler.evaluation.metrics import measure
from remodeler.evaluation.tasks import open_tasks, task_scores
from remodeler.runs import progress
from tiny import tiny_checkpoint

WORDS = ("the", "cat", "sat", "on", "mat", "and", "dog", "log", "tree", "old", "car", "rain", "snow")


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def scored(checkpoint: Checkpoint, path: str, **options: int) -> dict[str, float]:
    return task_scores(checkpoint, open_tasks([path]), **options)[path]


def phrase(generator: random.Random, least: int = 1) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(least, least + 3)))


def loglikelihood(checkpoint: Checkpoint, context: str, ending: str) -> float:
    """Sum of the log-probabilities of the ending's tokens: the definition, one sequence at a time."""
    texts = (f"{context} {ending}", context)
    whole, start = (checkpoint.tokenizer(text, return_tensors="pt").input_ids for text in texts)
    with torch.no_grad():
        logprobs = checkpoint.model(whole).logits[0, :-1].float().log_softmax(-1)
    chosen = logprobs.gather(1, whole[0, 1:, None])[:, 0]
    return float(chosen[start.shape[1] - 1 :].sum())


def accuracy(checkpoint: Checkpoint, questions: list[Question], per: Callable[[str], float]) -> float:
    right = 0
    for question in questions:
        rated = []
        for choice in question.choices:
            pair = (choice, question.ending) if question.ending else (question.prompt, choice)
            rated.append(loglikelihood(checkpoint, *pair) / per(choice))
        right += rated.index(max(rated)) == question.gold
    return right / len(questions)


@pytest.fixture(scope="module")
def llama() -> Checkpoint:
    return tiny_checkpoint("llama", max_position_embeddings=256)


@pytest.mark.parametrize("kind", ["endings", "contexts"])
def test_accuracies_are_those_of_the_definition(tmp_path: Path, llama: Checkpoint, kind: str) -> None:
    generator = random.Random(0)
    rows: list[dict[str, Any]] = []
    for _ in range(20):
        choices, gold = [phrase(generator) for _ in range(3)], generator.randrange(3)
        choices = [f"{place} {choice}" for place, choice in enumerate(choices)]
        shared = {"endings": {"query": phrase(generator, 3), "choices": choices}}
        shared["contexts"] = {"context_options": choices, "continuation": phrase(generator)}
        rows.append(shared[kind] | {"gold": gold})
    path = written(tmp_path / "file.jsonl", rows)
    questions, scores = read_questions(Path(path)), scored(llama, path)
    acc = accuracy(llama, questions, lambda _: 1.0)
    assert scores["acc"] == pytest.approx(acc)
    assert scores["acc_stderr"] == pytest.approx(math.sqrt(acc * (1 - acc) / 19))
    assert ("acc_norm" in scores) == (kind == "endings")
    assert scores.get("acc_norm", 0.0) == pytest.approx(accuracy(llama, questions, len) if kind == "endings" else 0.0)
    assert scores["questions"] == 20


def test_a_uniform_model_takes_the_shortest_choice_and_per_character_the_longest(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama")
    with torch.no_grad():
        checkpoint.model.lm_head.weight.zero_()
    rows = [{"query": f"number {n}", "choices": ["xxxxxx", "yyy", "z"]} for n in range(10)]
    short = scored(checkpoint, written(tmp_path / "short.jsonl", [row | {"gold": 2} for row in rows]))
    long = scored(checkpoint, written(tmp_path / "long.jsonl", [row | {"gold": 0} for row in rows]))
    assert (short["acc"], short["acc_norm"]) == (1.0, 0.0)
    assert (long["acc"], long["acc_norm"]) == (0.0, 1.0)


def test_a_limit_takes_the_first_questions(tmp_path: Path, llama: Checkpoint) -> None:
    rows = [{"query": "the cat", "choices": ["sat", "on the mat"], "gold": int(n > 3)} for n in range(8)]
    path = written(tmp_path / "file.jsonl", rows)
    assert scored(llama, path)["acc"] == 0.5
    assert scored(llama, path, limit=4)["acc"] in (0.0, 1.0)
    assert scored(llama, path, limit=4)["questions"] == 4
    with pytest.raises(InputError, match="raise `limit`"):
        scored(llama, path, limit=1)


def test_a_log_file_hears_how_far_it_is(
    tmp_path: Path, llama: Checkpoint, messages: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(
        tmp_path / "a.jsonl", [{"query": f"the cat {n}", "choices": ["sat", "on"], "gold": 0} for n in range(6)]
    )
    scored(llama, path)
    assert not messages.messages, "half a minute comes first"
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    scored(llama, path)
    told = [message for message in messages.messages if message.startswith(f"tasks of {llama.name}: ")]
    assert len(told) > 1
    assert told[-1].startswith(f"tasks of {llama.name}: 100%")


def test_checkpoints_share_the_questions_and_nothing_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], llama: Checkpoint
) -> None:
    row = {"query": "the cat", "choices": ["sat", "on"], "gold": 0}
    paths = [written(tmp_path / name, [row] * 3) for name in ("a.jsonl", "b.jsonl")]
    padding = llama.tokenizer.pad_token
    llama.tokenizer.pad_token = None
    first, second = measure([llama, llama], tasks=[*paths, paths[0]], speed=False)
    assert llama.tokenizer.pad_token is None  # lm-eval gives its copy one
    llama.tokenizer.pad_token = padding
    assert list(first["tasks"]) == paths
    assert first == second
    assert capfd.readouterr() == ("", "")


def test_sequence_to_sequence_models_rate_choices_and_masked_models_do_not(tmp_path: Path) -> None:
    path = written(tmp_path / "file.jsonl", [{"query": "the cat", "choices": ["sat", "on"], "gold": 0}] * 3)
    assert scored(tiny_checkpoint("t5"), path)["acc"] in (0.0, 1.0)
    with pytest.raises(InputError, match="masked language model"):
        measure([tiny_checkpoint("bert")], tasks=[path])


def test_a_single_question_has_no_standard_error(tmp_path: Path, llama: Checkpoint) -> None:
    path = written(tmp_path / "file.jsonl", [{"query": "the cat", "choices": ["sat", "on"], "gold": 0}])
    assert scored(llama, path).keys() == {"acc", "acc_norm", "questions"}


def test_a_choice_that_does_not_fit_the_context_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "file.jsonl", [{"query": "the cat", "choices": ["sat", "x" * 100], "gold": 0}] * 3)
    with pytest.raises(InputError, match="doesn't fit the 64 tokens that llama reads"):
        scored(tiny_checkpoint("llama"), path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("piqua", "no task 'piqua': give another name \\(such as piqa\\)"),
        ("piqa", "can't be read from the hub .* give a local .jsonl file"),
    ],
)
def test_tasks_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    folder = Path(lm_eval.tasks.__file__).parent / "piqa"  # reading all of lm-eval's tasks takes ten seconds
    whole = tasks.TaskManager
    few = partial(whole, include_path=folder)
    monkeypatch.setattr(tasks, "TaskManager", lambda include_defaults: few(include_defaults=False))
    with pytest.raises(InputError, match=message):
        open_tasks([name])


@pytest.mark.shared
def test_a_real_model_has_the_accuracies_of_the_definition_on_a_real_benchmark(shared: Path) -> None:
    checkpoint, path = load(shared / "models/stories260k", device="cpu"), shared / "data/arc/arc_easy_test.json"
    questions, scores = read_questions(path)[:20], scored(checkpoint, str(path), limit=20)
    assert scores["acc"] == pytest.approx(accuracy(checkpoint, questions, lambda _: 1.0))
    assert scores["acc_norm"] == pytest.approx(accuracy(checkpoint, questions, len))

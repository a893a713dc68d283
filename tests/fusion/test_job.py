"""Fusion: what is scored of a text, which teacher counts, and a run from folders to a folder."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from commands import invoke
from forks import COMMAND, pair, said
from remodeler.checkpoint.load import fingerprint, load
from remodeler.data.chat import ASSISTANT, USER, Turn
from remodeler.data.windows import IGNORED
from remodeler.errors import InputError, LeftOut
from remodeler.fusion.config import MatchConfig, TargetConfig
from remodeler.fusion.corpus import (
    Conversation,
    RenderedText,
    TokenizedTexts,
    read_conversations,
    render_conversation,
    split_texts,
    tokenize_texts,
)
from remodeler.fusion.cross_tokenizer import align_bytes
from remodeler.fusion.job import fuse
from remodeler.fusion.targets import FusedTargets, teacher_weights
from remodeler.fusion.teacher_predictions import TeacherPredictions, align_predictions
from remodeler.fusion.teachers import predict, predict_own
from remodeler.model.logprobs import TopK
from remodeler.runs.folders import partial
from remodeler.runs.records import load_record, read_lines
from remodeler.training.losses import divergence, ranks, reverse_divergence, taught
from remodeler.training.state import CURVE_FILE
from remodeler.training.teacher_store import Store, between, fill, read_from
from tiny import tiny_model, tiny_tokenizer
from tiny_tokenizers import pieces as sentence_pieces

ANSWERED = {"role": "assistant", "content": "on the mat"}
STORY = "the cat sat on the mat and the dog on the log, naïve as ever. "


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A student, a teacher with its tokenizer, and one with another."""
    root, made = tmp_path_factory.mktemp("models"), []
    for seed, tokenizer in enumerate((tiny_tokenizer(), tiny_tokenizer(), sentence_pieces())):
        size = max(300, len(tokenizer))
        folder = root / f"m{seed}"
        tiny_model("llama", seed, vocab_size=size).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made.append(folder)
    return made


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} {STORY}"}) + "\n" for number in range(20)))
    return path


# The corpus -----------------------------------------------------------------------------------------------------------


def test_only_responses_count_and_their_bytes_are_known() -> None:
    tokenizer = tiny_tokenizer()
    spoken = ("the cat?", "the mat", "the dog?", "the log")
    talk = tuple(Turn(role, text) for role, text in zip((USER, ASSISTANT) * 2, spoken, strict=True))
    text = render_conversation(talk, tokenizer)
    parts = [text.text.encode()[start:end].decode() for start, end in text.spans]
    assert parts == ["the mat\n\n", "the log\n\n"]
    found = tokenize_texts([text], tokenizer, 128, 300)
    ids = found.windows.targets[found.windows.targets != IGNORED]
    assert tokenizer.decode(ids) == "".join(parts)
    assert found.windows.bytes == found.bytes.sum() == len("".join(parts))


@pytest.mark.parametrize("length", [12, 20, 64])
def test_pieces_fit_every_tokenizer_and_lose_nothing(length: int) -> None:
    tokenizers = [tiny_tokenizer(), sentence_pieces()]
    long = (STORY + "日本語のテキスト " + "x" * 40) * 3
    found = split_texts([long], tokenizers, length)
    assert "".join(each.text for each in found) == long
    for tokenizer in tokenizers:
        cuts = tokenize_texts(found, tokenizer, 10**6, 10**6).cuts
        assert max(map(len, cuts)) <= length


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"conversations": []}], "left out: 1 .an empty conversation"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], "a turn of 'robot'"),
        ([{"messages": [{"role": "user", "content": "x"}]}], "1 .nobody answers"),
    ],
)
def test_conversations_that_are_refused(rows: list[Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "talks.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=words):
        read_conversations(str(tmp_path / "talks.json"), 10, LeftOut())


def test_both_forms_of_conversations_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([{"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}])
    )
    (tmp_path / "b.json").write_text(
        json.dumps([{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}])
    )
    one, two = (read_conversations(str(tmp_path / name), 1, LeftOut()) for name in ("a.json", "b.json"))
    assert one == two == [Conversation(1, (Turn(USER, "x"), Turn(ASSISTANT, "y")))]


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="the tokenizer is another model's"):
        tokenize_texts([RenderedText(STORY, ((0, 10),), False)], tiny_tokenizer(), 64, 5)


# Teachers -------------------------------------------------------------------------------------------------------------


def hand_made(
    name: str, ours: TokenizedTexts, folder: Path, losses: list[float], best: int, rows: list[int] | None = None
) -> TeacherPredictions:
    """Predictions for one text that are sure of one token, with given losses."""
    count = ours.windows.tokens
    store = Store(folder / name, ours.windows, {"k": 2, "vocabulary": 300, "name": name})
    ids = torch.tensor([[best, best + 1]] * count)
    top = TopK(ids, torch.tensor([[0.7, 0.2]] * count).log(), torch.full((count,), math.log(0.1)))
    fill(store, lambda start, stop: (top, {"gold": -torch.tensor(losses)}), lambda share, words: None)
    found = np.arange(count) if rows is None else np.array(rows)
    return TeacherPredictions(name, store, (found,), None, torch.tensor(losses), (0,), ours.bytes)


@pytest.fixture
def two(tmp_path: Path) -> tuple[TokenizedTexts, list[TeacherPredictions]]:
    tokenizer = tiny_tokenizer()
    ours = tokenize_texts([RenderedText("the cat sat", ((0, 11),), False)], tokenizer, 64, 300)
    count = ours.windows.tokens
    first = hand_made("first", ours, tmp_path, [1.0] * count, 10)
    second = hand_made("second", ours, tmp_path, [2.0] + [0.1] * (count - 1), 20, [*range(count - 1), -1])
    return ours, [first, second]


def test_mince_hears_the_best_voice_of_the_text_and_skips_where_it_is_silent(
    two: tuple[TokenizedTexts, list[TeacherPredictions]],
) -> None:
    ours, teachers = two
    count = ours.windows.tokens
    found = teacher_weights(ours, teachers, TargetConfig(), 0)
    assert found.tolist() == [[0, 1]] * (count - 1) + [[0, 0]]
    top, _ = FusedTargets(ours, teachers, TargetConfig(), 300)(0, 1)
    assert taught(top).tolist() == [True] * (count - 1) + [False]
    assert top.ids[0].tolist() == [20, 21]
    sure, _ = FusedTargets(ours, teachers, TargetConfig(unaligned="onehot", rest=False), 300)(0, 1)
    assert sure.ids[-1, 0] == ours.windows.targets[ours.windows.targets >= 0][-1]
    assert sure.logprobs[-1].tolist() == [0.0, -math.inf]
    torch.testing.assert_close(sure.logprobs[0].exp(), torch.tensor([0.7, 0.2]) / 0.9, rtol=1e-3, atol=1e-3)


def test_where_the_best_teacher_has_no_prediction_the_next_counts_if_asked(
    two: tuple[TokenizedTexts, list[TeacherPredictions]],
) -> None:
    ours, teachers = two
    found = teacher_weights(ours, teachers, TargetConfig(unaligned="next"), 0)
    assert found.tolist() == [[0, 1]] * (ours.windows.tokens - 1) + [[1, 0]]


def test_by_token_each_stretch_has_its_own_teacher(two: tuple[TokenizedTexts, list[TeacherPredictions]]) -> None:
    ours, teachers = two
    count = ours.windows.tokens
    found = teacher_weights(ours, teachers, TargetConfig(level="token"), 0)
    assert found.tolist() == [[1, 0]] + [[0, 1]] * (count - 2) + [[1, 0]]


def test_avgce_mixes_by_softmax_of_minus_the_loss_of_a_token(
    two: tuple[TokenizedTexts, list[TeacherPredictions]],
) -> None:
    ours, teachers = two
    found = teacher_weights(ours, teachers, TargetConfig(fusion="avgce"), 0)
    means = np.array([each.losses.mean().item() for each in teachers])
    np.testing.assert_allclose(found[0], np.exp(-means) / np.exp(-means).sum(), rtol=1e-5)
    assert found[-1].tolist() == [1.0, 0.0], "who has no prediction has no weight"
    top, _ = FusedTargets(ours, teachers, TargetConfig(fusion="avgce"), 300)(0, 1)
    torch.testing.assert_close(
        top.logprobs.exp().sum(1) + top.rest.exp(), torch.ones(ours.windows.tokens), rtol=0, atol=2e-3
    )
    place = top.ids[0].tolist().index(10)
    assert top.logprobs[0, place].exp().item() == pytest.approx(0.7 * found[0, 0], rel=2e-3)


def test_a_teacher_with_the_same_tokenizer_speaks_at_every_position(models: list[Path], tmp_path: Path) -> None:
    student, teacher = (load(each, device="cpu") for each in models[:2])
    said = split_texts([STORY], [student.tokenizer], 64)
    ours = tokenize_texts(said, student.tokenizer, 64, 300)
    own = predict_own(student, ours, 5, tmp_path / "own")
    other = predict(student, ours, teacher, said, 64, 5, tmp_path / "other", MatchConfig())
    assert own.coverage == other.coverage == 1
    assert other.mapping is None
    with torch.no_grad():
        logits = teacher.model(ours.windows.ids).logits[0].log_softmax(1)
    wanted = logits[:-1].gather(1, ours.windows.ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(-other.losses, wanted[ours.positions[0]], rtol=2e-3, atol=2e-3)


def test_another_tokenizer_speaks_where_both_read_the_same_bytes(models: list[Path], tmp_path: Path) -> None:
    student, teacher = load(models[0], device="cpu"), load(models[2], device="cpu")
    said = split_texts([STORY], [student.tokenizer, teacher.tokenizer], 64)
    ours, theirs = (tokenize_texts(said, each.tokenizer, 64, 10**6) for each in (student, teacher))
    found = predict(student, ours, teacher, said, 64, 5, tmp_path / "other", MatchConfig())
    rows, one, two = found.rows[0], ours.cuts[0], theirs.cuts[0]
    assert 0 < found.coverage < 1
    assert np.array_equal(align_bytes(one, two)[ours.positions[0]] >= 0, rows >= 0)
    for position, row in zip(ours.positions[0], rows, strict=True):
        if row >= 0:
            assert one.ends[position] == two.ends[theirs.positions[0][row]]
    with torch.no_grad():
        logits = teacher.model(theirs.windows.ids).logits[0].log_softmax(1)
    wanted = logits[:-1].gather(1, theirs.windows.ids[0, 1:, None])[:, 0][theirs.positions[0]]
    torch.testing.assert_close(-found.losses, wanted, rtol=2e-3, atol=2e-3)
    again = align_predictions("again", found.store, ours, theirs, [align_bytes(one, two)], found.mapping)
    assert np.array_equal(again.rows[0], rows)


def test_any_stretch_of_a_store_is_that_of_its_windows(two: tuple[TokenizedTexts, list[TeacherPredictions]]) -> None:
    ours, teachers = two
    whole = between(teachers[0].store, 0, 1)
    assert len(whole.ids) == ours.windows.tokens


# Losses ---------------------------------------------------------------------------------------------------------------


def test_columns_of_nothing_belong_to_the_rest_and_empty_rows_teach_nothing() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    full = TopK(torch.tensor([[1, 2]] * 3), torch.tensor([[0.5, -math.inf]] * 3).log(), torch.full((3,), math.log(0.5)))
    full = replace(full, logprobs=torch.tensor([[math.log(0.5), -math.inf]] * 3))
    short = TopK(full.ids[:, :1], full.logprobs[:, :1], full.rest)
    torch.testing.assert_close(divergence(logits, full), divergence(logits, short))
    torch.testing.assert_close(reverse_divergence(logits, full), reverse_divergence(logits, short))
    silent = TopK(full.ids, torch.full((3, 2), -math.inf), torch.zeros(3))
    for loss in (divergence, reverse_divergence, ranks):
        value = loss(logits, silent)
        assert value.item() == 0
        (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
        assert gradient is None or not gradient.any()


def test_divergences_have_their_closed_forms() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, other = torch.randn(4, 6, generator=generator), torch.randn(4, 6, generator=generator)
    p, q = other.log_softmax(1), logits.log_softmax(1)
    values, ids = p.sort(dim=1, descending=True)
    whole = TopK(ids, values, torch.full((4,), -math.inf))
    torch.testing.assert_close(divergence(logits, whole), (p.exp() * (p - q)).sum())
    torch.testing.assert_close(reverse_divergence(logits, whole), (q.exp() * (q - p)).sum())
    ranked = (values.exp() - q.exp().sort(dim=1, descending=True).values).abs().sum()
    torch.testing.assert_close(ranks(logits, whole), ranked, rtol=1e-5, atol=1e-6)


# From folders to a folder ---------------------------------------------------------------------------------------------


def asked(models: list[Path], texts: Path, **more: Any) -> dict[str, Any]:
    """Options of a fusion of a student with two teachers."""
    student, *teachers = map(str, models)
    run = {"learning_rate": 1e-2, "train_batch_size": 2, "evaluate_every": 0, "device": "cpu"}
    given = {"samples": 12, "length": 48, "steps": 8, "top_k": 4, "text_share": 0.5} | run | more
    return {"student": student, "teachers": teachers, "texts": str(texts), **given}


def test_a_student_comes_nearer_to_its_teacher(models: list[Path], texts: Path, tmp_path: Path) -> None:
    """With the text's own loss left out, what falls is the divergence from the teacher alone."""
    teachers = [str(models[1])]
    alone = asked(models, texts, steps=30, text_share=0.0, itself=False, teachers=teachers)
    assert fuse(**alone, out=tmp_path / "out")
    losses = [line["loss"] for line in read_lines(tmp_path / "out" / "training.jsonl")[1:] if "loss" in line]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    record = load_record(tmp_path / "out")
    assert record.results["teachers"][str(models[1])]["coverage"] == 1
    assert record.results["fused"]["heldout_bits_per_byte"] > 0
    assert not (tmp_path / "out" / "predictions").exists()
    assert "knowledge-fusion" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"fusion": "avgce", "level": "token"},
        {"parity": "fusellm"},
        {"parity": "fusechat"},
        {"divergence": "uld"},
        {"divergence": "hybrid"},
        {"divergence": "hybrid", "level": "token"},
        {"inside": False, "unaligned": "next"},
        {"map": "statistics", "divergence": "reverse"},
    ],
    ids=str,
)
def test_every_way_trains_and_loads(models: list[Path], texts: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    assert fuse(**asked(models, texts, steps=2, **more), out=tmp_path / "out")
    load(tmp_path / "out", device="cpu")


def test_a_killed_fusion_goes_on_to_the_same_weights(
    models: list[Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remodeler.training import loop as training

    options = asked(models, texts, save_minutes=0.0)
    fuse(**options, out=tmp_path / "whole")
    original, steps = training._step, []

    def dies(run: Any, step: int) -> Any:
        steps.append(step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return original(run, step)

    monkeypatch.setattr(training, "PENDING", 2)
    monkeypatch.setattr(training, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        fuse(**options, out=tmp_path / "out")
    assert (partial(tmp_path / "out") / "predictions").exists()
    monkeypatch.setattr(training, "_step", original)
    fuse(**options, out=tmp_path / "out")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out"))
    assert one == two


def test_loaded_models_are_fused_as_their_folders_are_and_stay_as_they_were(
    models: list[Path], texts: Path, tmp_path: Path
) -> None:
    student, *teachers = (load(folder, device="cpu") for folder in models)
    before = fingerprint(student.model)
    fuse(**asked(models, texts, steps=2), out=tmp_path / "paths")
    fuse(**asked(models, texts, steps=2, student=student, teachers=teachers), out=tmp_path / "loaded")
    one, two = (tmp_path / name / "model.safetensors" for name in ("paths", "loaded"))
    assert one.read_bytes() == two.read_bytes()
    assert fingerprint(student.model) == before
    assert load_record(tmp_path / "loaded").options["teachers"] == [str(folder) for folder in models[1:]]


@pytest.mark.parametrize("how", [[], ["--fsdp"], ["--fsdp", "--adapters"]], ids=["copies", "fsdp", "fsdp-adapters"])
def test_two_processes_write_what_one_writes(how: list[str], models: list[Path], texts: Path, tmp_path: Path) -> None:
    """The mini-batches of a step are shared out, and so are the shards of predictions."""
    given = ["fuse", str(models[0]), "--teachers", str(models[1]), "--teachers", str(models[2]), "--texts", str(texts)]
    given += ["--samples", "12", "--length", "48", "--steps", "4", "--train-batch-size", "4", "--micro-batch-size", "1"]
    given += ["--learning-rate", "1e-2", "--device", "cpu", "--out"]

    told = [said(process) for process in pair(COMMAND, *given, tmp_path / "two", *how)]
    assert told[1][0] == "", "only the first process talks"
    done = invoke([*given, str(tmp_path / "one"), *(flag for flag in how if flag != "--fsdp")])
    assert done.exit_code == 0, done.output
    one, two = (
        [line["loss"] for line in read_lines(tmp_path / out / CURVE_FILE) if "loss" in line] for out in ("one", "two")
    )
    assert one == pytest.approx(two, rel=1e-5)
    before, after = (load_file(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)


def test_conversations_are_fused_by_their_responses(models: list[Path], tmp_path: Path) -> None:
    talks = [
        {"conversations": [{"from": "human", "value": f"the cat {n}?"}, {"from": "gpt", "value": "on the mat"}]}
        for n in range(12)
    ]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    assert fuse(**asked(models, tmp_path / "talks.json", steps=2, length=64), out=tmp_path / "out")
    facts = load_record(tmp_path / "out").inputs["texts"]
    assert facts["windows"] == 11
    assert 0 < facts["tokens"] < 11 * 20


def test_one_conversation_that_is_none_costs_one_row(
    models: list[Path], tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    """It is counted in the dry run, while it is fused and in the record; and the others stay what they were."""
    good = [{"messages": [{"role": "user", "content": f"the cat {n}?"}, ANSWERED]} for n in range(12)]
    bad = [
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]},
        {"messages": [{"role": "user", "content": "the cat " * 90}, ANSWERED]},
    ]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (bad[0], *good, *bad[1:])))
    options = asked(models, tmp_path / "talks.jsonl", steps=1, length=64)
    assert fuse(**options, out=tmp_path / "out", dry_run=True) is None
    told = " ".join(messages.text.split())
    for reason in (
        "1 (a tool call or its result; row 1)",
        "1 (an empty answer; row 14)",
        "1 (no answer within 64 tokens)",
    ):
        assert reason in told
    assert fuse(**options, out=tmp_path / "out")
    assert load_record(tmp_path / "out").inputs["texts"]["left out"] == {
        "a tool call or its result": 1,
        "an empty answer": 1,
        "no answer within 64 tokens": 1,
    }
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad[:2] * 2))
    with pytest.raises(InputError, match=r"left out: 2 .a tool call or its result; row 1 first., 2 .an empty answer"):
        fuse(**{**options, "texts": str(tmp_path / "bad.jsonl")}, out=tmp_path / "other", dry_run=True)


def test_a_system_prompt_that_the_template_refuses_is_in_the_record(
    models: list[Path], tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system here') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    tiny_model("llama", 0, vocab_size=300).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    told = {"role": "system", "content": "be kind"}
    rows = [{"messages": [told, {"role": "user", "content": f"the cat {n}?"}, ANSWERED]} for n in range(8)]
    rows += [{"messages": [{"role": "user", "content": "x"}, ANSWERED, told]}]
    (tmp_path / "talks.json").write_text(json.dumps(rows))
    options = asked([tmp_path / "student", *models[1:]], tmp_path / "talks.json", steps=1, length=64)
    assert fuse(**options, out=tmp_path / "out")
    facts = load_record(tmp_path / "out").inputs["texts"]
    assert facts["system in the first turn"] == 8
    assert facts["left out"] == {"the chat template refuses it: No system here": 1}
    assert "system turns that the student's chat template does not take: 8" in " ".join(messages.text.split())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"teachers": ()}, "no teacher was given"),
        ({"parity": "other"}, "choose fusellm, fusechat"),
        ({"align": "luck"}, "choose bytes, dp"),
        ({"top_k": 0}, "`top_k` must be >= 1"),
    ],
)
def test_options_that_are_refused(
    models: list[Path], texts: Path, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        fuse(**asked(models, texts, **more), out=tmp_path / "out")


def test_a_student_that_teaches_itself_is_refused(models: list[Path], texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is given twice"):
        fuse(**asked(models, texts, teachers=str(models[0])), out=tmp_path / "out")
    with pytest.raises(InputError, match="is unknown: choose sequence, token"):
        TargetConfig(level="page")


def test_a_damaged_store_is_refused_and_made_again(models: list[Path], texts: Path, tmp_path: Path) -> None:
    kept = asked(models, texts, steps=1, teacher_store=tmp_path / "kept")
    fuse(**kept, out=tmp_path / "one")
    shards = sorted((tmp_path / "kept").rglob("*.safetensors"))
    assert len(shards) == 3
    with shards[0].open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"xx")
    with pytest.raises(InputError, match="missing or damaged: delete it"):
        fuse(**kept, out=tmp_path / "two")
    shards[0].unlink()
    fuse(**kept, out=tmp_path / "two")


def test_a_teacher_that_predicts_nan_is_refused(models: list[Path], texts: Path, tmp_path: Path) -> None:
    bad = tiny_model("llama", 3)
    with torch.no_grad():
        next(bad.parameters()).fill_(torch.nan)
    bad.save_pretrained(tmp_path / "bad")  # type: ignore[operator]
    tiny_tokenizer().save_pretrained(tmp_path / "bad")
    with pytest.raises(InputError, match="a teacher predicts NaN"):
        fuse(**asked(models, texts, teachers=[str(tmp_path / "bad")]), out=tmp_path / "out")


def test_a_full_disk_leaves_what_was_stored(
    models: list[Path], texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from remodeler.training import teacher_store as predictions

    kept = asked(models, texts, steps=1, teacher_store=tmp_path / "kept")
    original, written = predictions.save_file, []

    def full(tensors: Any, path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        original(tensors, path)

    monkeypatch.setattr(predictions, "save_file", full)
    with pytest.raises(
        InputError, match=r"no space left on the disk of .*: free some, then run the same command again"
    ):
        fuse(**kept, out=tmp_path / "out")
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) == 1
    fuse(**kept, out=tmp_path / "out")
    assert len(written) == 2 + 2 + 1, "two of the three teachers' shards, and the target, came after the failure"


def test_a_position_takes_42_bytes_and_2_for_what_came(models: list[Path], texts: Path, tmp_path: Path) -> None:
    kept = asked(models, texts, steps=1, teacher_store=tmp_path / "kept", top_k=10)
    fuse(**kept, out=tmp_path / "one")
    for shard in (tmp_path / "kept").rglob("*.safetensors"):
        tokens = json.loads(shard.with_suffix(".json").read_text())["tokens"]
        assert shard.stat().st_size <= 44 * tokens + 400


def test_the_store_is_a_teacher_for_training(two: tuple[TokenizedTexts, list[TeacherPredictions]]) -> None:
    _, teachers = two
    assert callable(read_from(teachers[0].store))

"""Answer the questions of AlpacaEval and MT-Bench, and hold the answers of two models against each other."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remodeler.alignment.data.prompts import read_prompts
from remodeler.alignment.judging.config import FORMATS, AnswerConfig, JudgeConfig
from remodeler.alignment.judging.judges import (
    JUDGES,
    annotated_win_rate,
    compare_outputs,
    mean_ratings,
    read_outputs,
    read_questions,
    write_answers,
    write_outputs,
)
from remodeler.alignment.loading import load_model, name_of
from remodeler.alignment.reviser.reviser import Judge, open_reviser
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.errors import LeftOut, count_reasons
from remodeler.generation.sampling import completions
from remodeler.runs.folders import refuse_existing
from remodeler.runs.job import enough_memory
from remodeler.runs.options import build
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import write_json
from remodeler.runs.signatures import with_signature

logger = logging.getLogger(__name__)

Turns = list[list[str]]
"""Answers of every question, turn by turn."""


@with_signature(AnswerConfig)
def answer(model: ModelLike, **options: Any) -> Turns:
    """Write a model's answers to a new file, in the format that a judge reads.

    Args:
        model: a folder, a hub id or a loaded checkpoint.
        **options: those of :class:`~remodeler.alignment.judging.config.AnswerConfig`, by name.

    Returns:
        The answers of every question, turn by turn.

    Raises:
        InputError: for what can't work.
    """
    return answer_questions(build(AnswerConfig, {"model": model, **options}))


def answer_questions(config: AnswerConfig) -> Turns:
    """Answer questions as a config says.

    Answers are kept beside the file until it is whole, so that a run that was killed is resumed.
    """
    refuse_existing(config.out)
    questions = _questions(config)
    model = load_model(config.source, config.source.model, pick_device(config.source.device))
    logs: list[Path] = []
    with enough_memory("a smaller `batch_size`"):
        answers = _answer_turns(config, model, list(questions.values()), logs)
    name = Path(name_of(config.source.model)).name
    if config.format == FORMATS[0]:
        pairs = [(turns[0], given[0]) for turns, given in zip(questions.values(), answers, strict=True)]
        write_outputs(config.out, pairs, name)
    else:
        write_answers(config.out, dict(zip(questions, answers, strict=True)), name, time.time())
    for path in logs:
        path.unlink()
    return answers


def _questions(config: AnswerConfig) -> dict[int, list[str]]:
    """The turns of every question, by its number."""
    if config.format == FORMATS[0]:
        dropped = LeftOut()
        found = read_prompts(config.questions, config.limit, dropped)
        if dropped:
            logger.warning(f"rows left out: {count_reasons(dropped)}")
        return {number: [prompt] for number, prompt in enumerate(found)}
    rows = read_questions(Path(config.questions))[: config.limit]
    return {int(row["question_id"]): list(row["turns"]) for row in rows}


def _answer_turns(
    config: AnswerConfig, model: Checkpoint, questions: Sequence[Sequence[str]], logs: list[Path]
) -> Turns:
    """Answer turn by turn: earlier turns and their answers are part of the next prompt."""
    answers: Turns = [[] for _ in questions]
    sampling, size = config.decoding.sampling(config.seed), config.decoding.batch_size
    for turn in range(max(map(len, questions))):
        chosen = [place for place, turns in enumerate(questions) if len(turns) > turn]
        log = config.out.with_name(f"{config.out.name}.turn-{turn + 1}.partial")
        logs.append(log)
        prompts = [_conversation(questions[place][: turn + 1], answers[place]) for place in chosen]
        with progress_bar(f"answers, turn {turn + 1}") as progress:
            header = {"model": fingerprint(model.model)}
            found = completions(log, header, model, prompts, sampling, size, progress)
        for place, each in zip(chosen, found, strict=True):
            answers[place].append(each.text)
    return answers


def _conversation(questions: Sequence[str], answers: Sequence[str]) -> str:
    """A question, or a conversation so far as one text."""
    if not answers:
        return questions[0]
    parts = [f"User: {one}\n\nAssistant: {two}" for one, two in zip(questions, answers, strict=False)]
    return "\n\n".join([*parts, f"User: {questions[-1]}\n\nAssistant:"])


# Judging --------------------------------------------------------------------------------------------------------------


@with_signature(JudgeConfig)
def judge(answers: Path | str, **options: Any) -> dict[str, Mapping[str, float]]:
    """Compute win rates and ratings.

    Args:
        answers: a file of AlpacaEval's outputs or annotations, or of MT-Bench's judgements.
        **options: those of :class:`~remodeler.alignment.judging.config.JudgeConfig`, by name.

    Returns:
        ``win rate`` with its figures, or ``ratings`` by model.

    Raises:
        InputError: for what can't work.
    """
    return judge_answers(build(JudgeConfig, {"answers": answers, **options}))


def judge_answers(config: JudgeConfig) -> dict[str, Mapping[str, float]]:
    """The win rate of annotations, the ratings of judgements, or two files of outputs before a local judge."""
    if config.out is not None:
        refuse_existing(config.out)
    if config.against is None:
        return _read(config.answers)
    rate, rows = compare_outputs(read_outputs(config.answers), read_outputs(config.against), _judge(config))
    if config.out is not None:
        write_json(config.out, rows)
    return {"win rate": asdict(rate)}


def _read(path: Path) -> dict[str, Mapping[str, float]]:
    if path.suffix == ".jsonl":
        return {"ratings": mean_ratings(path)}
    return {"win rate": asdict(annotated_win_rate(path))}


def _judge(config: JudgeConfig) -> Judge:
    device = pick_device(config.loading.device)
    if config.by == "reviser":
        return JUDGES["reviser"](open_reviser(config.judge, config.loading, device))
    return JUDGES["likelihood"](load_model(config.loading, config.judge, device))

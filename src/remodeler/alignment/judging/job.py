"""Answer the questions of AlpacaEval and MT-Bench, and hold the answers of two models against each other."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from remodeler.alignment.config import Loading
from remodeler.alignment.data.prompts import read_prompts
from remodeler.alignment.judging.judges import (
    JUDGES,
    WinRate,
    annotated,
    compared,
    outputs,
    questions,
    rated,
    write_answers,
    write_outputs,
)
from remodeler.alignment.reviser.reviser import load_reviser
from remodeler.checkpoint.load import Checkpoint, fingerprint, pick_device
from remodeler.errors import InputError, LeftOut, counted
from remodeler.generation.sampling import Sampling, completions
from remodeler.runs.folders import refuse_existing
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import write_json

logger = logging.getLogger(__name__)

FORMS = ("alpaca_eval", "mt_bench")


@dataclass(frozen=True)
class AnswerWish:
    """Questions to be answered."""

    model: str
    questions: str
    form: str = FORMS[0]
    limit: int | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(256, 0.0))
    size: int | None = None
    loading: Loading = field(default_factory=Loading)


def answer_questions(wish: AnswerWish, out: Path) -> int:
    """Write a model's answers in the form that a judge reads; how many there are.

    What is made is kept beside the file until it is whole, so a run that was killed goes on.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    if wish.form not in FORMS:
        raise InputError(f"--form {wish.form!r} is not known: choose {', '.join(FORMS)}")
    asked = _asked(wish)
    model = wish.loading.load(wish.model, pick_device(wish.loading.device))
    logs: list[Path] = []
    said = _turns(wish, model, asked, out, logs)
    name = Path(wish.model).name
    if wish.form == FORMS[0]:
        write_outputs(out, [(turns[0], given[0]) for turns, given in zip(asked.values(), said, strict=True)], name)
    else:
        write_answers(out, dict(zip(asked, said, strict=True)), name, time.time())
    for path in logs:
        path.unlink()
    return len(said)


def _asked(wish: AnswerWish) -> dict[int, list[str]]:
    """The turns of every question, by its number."""
    if wish.form == FORMS[0]:
        dropped = LeftOut()
        found = read_prompts(wish.questions, wish.limit, dropped)
        if dropped:
            logger.warning(f"rows left out: {counted(dropped)}")
        return {number: [prompt] for number, prompt in enumerate(found)}
    return {int(row["question_id"]): list(row["turns"]) for row in questions(Path(wish.questions))[: wish.limit]}


def _turns(
    wish: AnswerWish, model: Checkpoint, asked: dict[int, list[str]], out: Path, logs: list[Path]
) -> list[list[str]]:
    """Answers turn by turn: what was said before is part of the next prompt."""
    said: list[list[str]] = [[] for _ in asked]
    rows = list(asked.values())
    for turn in range(max(map(len, rows))):
        chosen = [place for place, turns in enumerate(rows) if len(turns) > turn]
        log = out.with_name(f"{out.name}.turn-{turn + 1}.partial")
        logs.append(log)
        prompts = [_talk(rows[place][: turn + 1], said[place]) for place in chosen]
        with progress_bar(f"answers, turn {turn + 1}") as progress:
            header = {"model": fingerprint(model.model)}
            made = completions(log, header, model, prompts, replace(wish.sampling, samples=1), wish.size, progress)
        for place, each in zip(chosen, made, strict=True):
            said[place].append(each.text)
    return said


def _talk(asked: Sequence[str], said: Sequence[str]) -> str:
    """A question, or a conversation so far as one text."""
    if not said:
        return asked[0]
    parts = [f"User: {one}\n\nAssistant: {two}" for one, two in zip(asked, said, strict=False)]
    return "\n\n".join([*parts, f"User: {asked[-1]}\n\nAssistant:"])


# Judging --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeWish:
    """Answers to be judged."""

    answers: Path
    against: Path | None = None
    judge: str | None = None
    """A model's or a reviser's folder; without one, ``answers`` is a file of annotations or of judgements."""
    by: str = "likelihood"
    loading: Loading = field(default_factory=Loading)


def judge_answers(wish: JudgeWish, out: Path | None) -> dict[str, Any]:
    """The win rate of annotations, the ratings of judgements, or two files of outputs before a local judge.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    if out is not None:
        refuse_existing(out)
    if wish.against is None:
        found: dict[str, Any] = _read(wish.answers)
    else:
        rate, rows = compared(outputs(wish.answers), outputs(wish.against), _judge(wish))
        found = {"win rate": asdict(rate)}
        if out is not None:
            write_json(out, rows)
    return found


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".jsonl":
        return {"ratings": rated(path)}
    rate: WinRate = annotated(path)
    return {"win rate": asdict(rate)}


def _judge(wish: JudgeWish) -> Any:
    if wish.judge is None:
        raise InputError("two files of outputs need a judge: name a model or a reviser with --judge")
    if wish.by not in JUDGES:
        raise InputError(f"--by {wish.by!r} is not known: choose {', '.join(JUDGES)}")
    device = pick_device(wish.loading.device)
    if wish.by == "reviser":
        return JUDGES["reviser"](load_reviser(wish.judge, **wish.loading.how(wish.judge, device)))
    return JUDGES["likelihood"](wish.loading.load(wish.judge, device))

"""The shapes that preference data comes in, each as a function from a row to a prompt and answers in order.

A shape is a row of ``SHAPES``: the keys that tell it, and its reader. The first whose keys a row has is taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from remodeler.prompts import BadRow, prompt_of, text_of

Row = Mapping[str, Any]
TURN = "\n\nAssistant:"
"""Where an answer begins in the transcripts of HH-RLHF."""


@dataclass(frozen=True)
class Ranked:
    """A prompt with answers, and how good each is: higher is better."""

    prompt: str
    answers: tuple[tuple[str, float], ...]


def _pair(prompt: str, better: str, worse: str) -> Ranked:
    return Ranked(prompt, ((better, 1.0), (worse, 0.0)))


def pairs(row: Row) -> Ranked:
    """{prompt, chosen, rejected}, as texts or as messages whose last is the answer."""
    chosen = row["chosen"]
    whole = isinstance(chosen, list) and len(chosen) > 1
    return _pair(prompt_of(chosen[:-1] if whole else row["prompt"]), text_of(chosen), text_of(row["rejected"]))


def conversations(row: Row) -> Ranked:
    """{conversations, chosen, rejected}, as LLaMA-Factory has them."""
    return _pair(prompt_of(row["conversations"]), text_of(row["chosen"]), text_of(row["rejected"]))


def corrections(row: Row) -> Ranked:
    """{question, answer, correction}, as Aligner has them."""
    return _pair(text_of(row["question"]), text_of(row["correction"]), text_of(row["answer"]))


def revised_outputs(row: Row) -> Ranked:
    """{instruction, original_output, output}, as Aligner's files for AlpacaEval have them."""
    return _pair(text_of(row["instruction"]), text_of(row["output"]), text_of(row["original_output"]))


def ranked(row: Row) -> Ranked:
    """{prompt, answers: [{answer, rank}]}, as Nectar has them: rank 1 is the best."""
    prompt = prompt_of(row["prompt"])
    if prompt.startswith("\n\nHuman: ") and prompt.count("\n\nHuman: ") == 1:
        prompt = prompt.removeprefix("\n\nHuman: ").removesuffix("Assistant: ").strip()
    return Ranked(prompt, tuple((text_of(each["answer"]), -float(each["rank"])) for each in row["answers"]))


def scored(row: Row) -> Ranked:
    """{instruction, completions: [{response, overall_score}]}, as UltraFeedback has them."""
    found = [(each, each.get("overall_score", each.get("score"))) for each in row["completions"]]
    if any(not isinstance(score, int | float) for _, score in found):
        raise BadRow("a completion has no score")
    return Ranked(prompt_of(row["instruction"]), tuple((text_of(each["response"]), float(s)) for each, s in found))


def transcripts(row: Row) -> Ranked:
    """{chosen, rejected} as whole transcripts or conversations that begin alike: HH-RLHF."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list):
        return _pair(prompt_of(chosen[:-1]), text_of(chosen), text_of(rejected))
    place = str(chosen).rfind(TURN)
    if place < 0 or not str(rejected).startswith(chosen[:place]):
        raise BadRow("the two transcripts do not begin alike")
    talk = chosen[:place].strip().removeprefix("Human: ")
    cut = place + len(TURN)
    return _pair(talk, chosen[cut:].strip(), str(rejected)[cut:].strip())


SHAPES: dict[str, tuple[tuple[str, ...], Callable[[Row], Ranked]]] = {
    "pairs": (("prompt", "chosen", "rejected"), pairs),
    "conversations": (("conversations", "chosen", "rejected"), conversations),
    "ranked": (("prompt", "answers"), ranked),
    "scored": (("instruction", "completions"), scored),
    "corrections": (("question", "answer", "correction"), corrections),
    "revised outputs": (("instruction", "original_output", "output"), revised_outputs),
    "transcripts": (("chosen", "rejected"), transcripts),
}
"""How a row is recognised, and how it is read."""

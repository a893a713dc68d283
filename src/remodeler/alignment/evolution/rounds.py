"""One round of evolution up to what is learned: answers, their labels, the best or its revision, and the filters.

An internal round keeps the best of a policy's own answers; an external one has the reviser rewrite the best where its
label says so, and accepts what it makes of it only if it likes it no less. Every step is a file of JSON lines that is
taken up again; the last, ``rows.jsonl``, says of every prompt what was learned, or why nothing was.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remodeler.alignment.config import EXTERNAL, FilterConfig
from remodeler.alignment.data.differences import difference
from remodeler.alignment.data.template import LABELS
from remodeler.alignment.evolution.filters import Candidate, rejection
from remodeler.alignment.reviser.difficulty import edit_distance
from remodeler.alignment.reviser.reviser import (
    Pair,
    Reviser,
    Revision,
    fits,
    label_probabilities,
    quality,
    revise_pairs,
)
from remodeler.alignment.reviser.scoring import map_resumably
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.errors import InputError, option
from remodeler.generation.sampling import Completion, Sampling, completions
from remodeler.runs.progress import Progress, silent
from remodeler.runs.records import digest, to_json, write_text

ANSWERS, JUDGED, REVISED, ROWS = "answers.jsonl", "judged.jsonl", "revised.jsonl", "rows.jsonl"

Row = dict[str, Any]


@dataclass(frozen=True)
class RoundTask:
    """Prompts and settings of a round."""

    kind: str
    prompts: Sequence[str]
    sampling: Sampling
    filters: FilterConfig
    use_labels: bool = True
    """Without, every first answer is revised and only texts are filtered: a control."""
    tokens: int = 256
    """Tokens per revision, at most."""
    batch_size: int | None = None
    """Texts per forward pass."""


def generate_answers(
    policy: Checkpoint, task: RoundTask, folder: Path, progress: Progress = silent
) -> list[Completion]:
    """Answer every prompt as often as the sampling says."""
    header = {"model": fingerprint(policy.model)}
    return completions(folder / ANSWERS, header, policy, task.prompts, task.sampling, task.batch_size, progress)


def label_answers(
    reviser: Reviser, pairs: Sequence[Pair], path: Path, header: Row, progress: Progress = silent
) -> list[tuple[float, ...] | None]:
    """Label probabilities of prompts and answers; None where the reviser can't read that much."""

    def label(chunk: Sequence[Pair]) -> list[Row]:
        short = [pair for pair in chunk if fits(reviser, pair)]
        found = dict(zip(short, label_probabilities(reviser, short).tolist(), strict=True))
        return [{"probabilities": found.get(pair)} for pair in chunk]

    known = header | {"pairs": digest(text for pair in pairs for text in pair)}
    lines = map_resumably(path, known, pairs, label, progress)
    return [None if line["probabilities"] is None else tuple(line["probabilities"]) for line in lines]


def collect_rows(
    reviser: Reviser,
    answers: Sequence[Completion],
    task: RoundTask,
    folder: Path,
    weights: str,
    progress: Progress = silent,
) -> list[Row]:
    """The audit trail of a round: a row per prompt, with what is learned or the reason why not.

    Args:
        reviser: labels and revises.
        answers: in their order.
        task: the round.
        folder: where its files are.
        weights: the reviser's fingerprint.
        progress: receives the share done of each step.
    """
    header = {"reviser": weights, "kind": task.kind, "labels": task.use_labels, "tokens": task.tokens}
    pairs = [(task.prompts[each.prompt], each.text) for each in answers]
    known = label_answers(reviser, pairs, folder / JUDGED, header, progress)
    best = [_best_answer(places, answers, known, task) for places in _by_prompt(answers, len(task.prompts))]
    chosen = [(pairs[place], answers[place].ended, known[place]) for place in best]
    lines = (
        _revise_chosen(reviser, chosen, task, folder / REVISED, header, progress)
        if task.kind == EXTERNAL
        else [{}] * len(best)
    )
    rows = [
        _row(number, answers[place], _candidate(*given, line, task), line, task, reviser)
        for number, (place, given, line) in enumerate(zip(best, chosen, lines, strict=True))
    ]
    write_text(folder / ROWS, "".join(to_json(row) + "\n" for row in rows))
    return rows


def _by_prompt(answers: Sequence[Completion], count: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(count)]
    for place, each in enumerate(answers):
        found[each.prompt].append(place)
    return found


def _best_answer(
    places: Sequence[int],
    answers: Sequence[Completion],
    known: Sequence[tuple[float, ...] | None],
    task: RoundTask,
) -> int:
    """The answer of highest quality, the first of several, of those that could be learned; without labels the first.

    An answer that is empty, or that was cut off and is not going to be revised, is chosen only if there is no other.
    """

    def rank(place: int) -> tuple[bool, float]:
        found, each = known[place], answers[place]
        whole = bool(each.text.strip()) and (each.ended or task.kind == EXTERNAL)
        return (False, -1.0) if found is None else (whole, quality(found))

    return max(places, key=rank) if task.use_labels else places[0]


def _revise_chosen(
    reviser: Reviser, chosen: Sequence[Any], task: RoundTask, path: Path, header: Row, progress: Progress
) -> list[Row]:
    """Revisions of the chosen answers with their quality; nothing for those that the reviser can't read."""

    def revise(chunk: Sequence[Any]) -> list[Row]:
        readable = [(pair, known) for pair, _, known in chunk if known is not None]
        pairs, rows = [pair for pair, _ in readable], np.array([known for _, known in readable])
        found = revise_pairs(reviser, pairs, rows, task.tokens, task.batch_size, not task.use_labels) if pairs else []
        scores = _revision_quality(reviser, pairs, found)
        lines = iter(_line(each, pair, score) for each, pair, score in zip(found, pairs, scores, strict=True))
        return [{} if known is None else next(lines) for _, _, known in chunk]

    texts = {"pairs": digest(text for pair, _, _ in chosen for text in pair)}
    return map_resumably(path, header | texts, chosen, revise, progress)


def _revision_quality(reviser: Reviser, pairs: Sequence[Pair], found: Sequence[Revision]) -> list[float]:
    """Quality of revisions; of one that can't be read 0."""
    again = [(prompt, each.text) for (prompt, _), each in zip(pairs, found, strict=True)]
    short = [pair for pair in again if fits(reviser, pair)]
    known = dict(zip(short, map(quality, label_probabilities(reviser, short)), strict=True))
    return [known.get(pair, 0.0) for pair in again]


def _line(each: Revision, pair: Pair, score: float) -> Row:
    same = each.text == pair[1]
    return {"label": each.label, "text": each.text, "ended": each.ended, "after": score, "same": same}


def _candidate(pair: Pair, ended: bool, known: tuple[float, ...] | None, line: Row, task: RoundTask) -> Candidate:
    label = LABELS[int(np.argmax(known))] if known is not None else None
    if not line or (line["same"] and task.use_labels and line["label"] == LABELS[0]):
        return Candidate(*pair, pair[1], ended, label if task.use_labels else None, known, None)
    given = line["label"] if task.use_labels else None
    return Candidate(*pair, line["text"], line["ended"], given, known, line["after"])


def _row(number: int, answer: Completion, each: Candidate, line: Row, task: RoundTask, reviser: Reviser) -> Row:
    reason = rejection(each, task.filters, reviser.template)
    return {
        "number": number,
        "sample": answer.sample,
        "prompt": each.prompt,
        "answer": each.answer,
        "text": each.text,
        "label": line.get("label", each.label),
        "probabilities": None if each.probabilities is None else dict(zip(LABELS, each.probabilities, strict=True)),
        "quality": each.before,
        "quality_after": each.after,
        "edit": edit_distance(each.answer, each.text),
        "difference": difference(each.answer, each.text) if each.text != each.answer else None,
        "accepted": reason is None,
        "reason": reason,
    }


def refuse_empty_round(rows: Sequence[Row], number: int, kind: str, folder: Path) -> None:
    """Raise for a round in which nothing was accepted.

    Raises:
        InputError: with the counts.
    """
    if any(row["accepted"] for row in rows):
        return
    reasons = Counter(row["reason"] for row in rows).most_common()
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
    remedy = f"raise {option('max_new_tokens')}" if reasons[0][0] == "not ended" else "loosen the filters"
    if all(not row["answer"].strip() for row in rows):
        remedy = "the policy writes nothing but the end of a text, give another"
    raise InputError(
        f"round {number} ({kind}) accepted none of {len(rows)} answers ({counts}): {remedy}; they are in {folder}"
    )


def round_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts and means of a round."""
    taken = [row for row in rows if row["accepted"]]
    return {
        "prompts": len(rows),
        "accepted": len(taken),
        "revised": sum(row["text"] != row["answer"] for row in taken),
        "reasons": dict(Counter(row["reason"] for row in rows if row["reason"])),
        "labels": dict(Counter(row["label"] for row in rows if row["label"])),
        "quality": float(np.mean([row["quality"] for row in rows])),
        "quality_learned": float(np.mean([row["quality_after"] or row["quality"] for row in taken])) if taken else None,
        "edit": float(np.mean([row["edit"] for row in taken])) if taken else None,
        "characters": float(np.mean([len(row["answer"]) for row in rows])),
        "characters_learned": float(np.mean([len(row["text"]) for row in taken])) if taken else None,
    }

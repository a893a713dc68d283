"""Policies side by side on preferences that none has learned from: evolved, fine-tuned, by DPO, by ORPO.

What better answers cost a policy; in how many pairs it holds the better one likelier (log-probability of the whole
answer, as DPO has it); and what it answers itself: how long, whether it comes to an end, and what a reviser thinks of
it. All policies answer with the same random numbers.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from remodeler.alignment.config import Loading, options
from remodeler.alignment.data.examples import Row, answer, windows
from remodeler.alignment.data.preferences import Triple, read_preferences
from remodeler.alignment.judging.results import CompareResults
from remodeler.alignment.reviser.reviser import Reviser, fits, load_reviser, probabilities, quality, read_reviser
from remodeler.alignment.reviser.scoring import mean_logprobs
from remodeler.checkpoint.load import Checkpoint, fingerprint, look, pick_device
from remodeler.checkpoint.sizes import memory
from remodeler.errors import InputError, counted
from remodeler.generation.sampling import Sampling, completions, refuse_size
from remodeler.model.logprobs import bits_per_byte, perplexity
from remodeler.report.page import write_result
from remodeler.runs.folders import empty, new_folder, refuse_existing
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, digest, versions
from remodeler.runs.runlog import RunLog

logger = logging.getLogger(__name__)

FOUND = "policies.jsonl"


@dataclass(frozen=True)
class CompareWish:
    """Policies to be held against each other."""

    policies: tuple[str, ...]
    preferences: str
    reviser: str | None = None
    samples: int | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(256, 1.0, 0.95))
    size: int | None = None
    loading: Loading = field(default_factory=Loading)


def compare_policies(wish: CompareWish, out: Path | None) -> Record:
    """Measure every policy; without ``out`` nothing is kept.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    if not wish.policies:
        raise InputError("no policy was given: name at least one")
    if out is not None:
        refuse_existing(out)
    _refuse(wish)
    triples, dropped = read_preferences(wish.preferences, wish.samples, 1)
    logger.info(
        f"{wish.preferences}: {len(triples):,} pairs, {len(wish.policies)} policies; left out: {counted(dropped)}"
    )
    with ExitStack() as after:
        work = after.enter_context(new_folder(out, True)) if out else Path(after.enter_context(TemporaryDirectory()))
        empty(work, (FOUND, *(path.name for path in work.glob("answers-*.jsonl"))))
        results = CompareResults(checkpoints=_measured(wish, triples, work), command=command_line())
        record = _record(wish, triples, results, out)
        record.inputs["preferences"] |= {"left out": dict(dropped)} if dropped else {}
        if out is not None:
            write_result(work, record, results)
    return record


def _refuse(wish: CompareWish) -> None:
    """What can't work, before the first policy is measured."""
    pick_device(wish.loading.device)
    refuse_size(wish.size)
    wish.sampling.checked()
    for name in wish.policies:
        look(name, "causal")
    if wish.reviser:
        read_reviser(wish.reviser)


def _measured(wish: CompareWish, triples: Sequence[Triple], work: Path) -> list[dict[str, Any]]:
    """A line a policy; those that are there are not measured again."""
    texts = digest(text for each in triples for text in (each.prompt, each.chosen, each.rejected))
    told = {key: value for key, value in options(wish).items() if key not in ("loading", "size")}
    log = RunLog(work / FOUND)
    found = log.resume({"pairs": texts, **told})
    device = pick_device(wish.loading.device)
    for number, name in list(enumerate(wish.policies, 1))[len(found) :]:
        policy = wish.loading.load(name, device)
        figures = {"name": name, "weights": fingerprint(policy.model), **memory(policy)}
        figures |= _likelihoods(policy, triples, wish.sampling.chat)
        figures |= _answers(wish, policy, triples, work / f"answers-{number}.jsonl", device)
        log.append([figures])
        found.append(figures)
    return found


def _likelihoods(policy: Checkpoint, triples: Sequence[Triple], chat: bool) -> dict[str, float]:
    """What better answers cost, and how often they are likelier."""
    rows = [answer(policy, each.prompt, text, chat) for each in triples for text in (each.chosen, each.rejected)]
    _refuse_long(policy, rows)
    sums = [mean * (len(row.ids) - row.start) for mean, row in zip(mean_logprobs(policy, rows), rows, strict=True)]
    better, worse = sums[::2], sums[1::2]
    read = replace(windows(policy, rows[::2]), bytes=sum(len(each.chosen.encode()) for each in triples))
    loss = -sum(better) / read.tokens
    right = fmean((one > two) + (one == two) / 2 for one, two in zip(better, worse, strict=True))
    return {
        "heldout_perplexity": perplexity(loss),
        "heldout_bits_per_byte": bits_per_byte(loss, read),
        "pairs_right": right,
    }


def _refuse_long(policy: Checkpoint, rows: Sequence[Row]) -> None:
    longest = max(len(row.ids) for row in rows)
    if policy.context and longest > policy.context:
        raise InputError(
            f"an answer has {longest} tokens with its prompt, {policy.name} reads at most {policy.context}: "
            "leave such rows out of --preferences"
        )


def _answers(
    wish: CompareWish, policy: Checkpoint, triples: Sequence[Triple], path: Path, device: Any
) -> dict[str, float]:
    """What the policy says to the prompts itself."""
    prompts = list(dict.fromkeys(each.prompt for each in triples))
    with progress_bar(f"answers of {Path(policy.name).name}") as progress:
        header = {"model": fingerprint(policy.model)}
        said = completions(path, header, policy, prompts, wish.sampling, wish.size, progress)
    figures = {
        "answer_characters": fmean(len(each.text) for each in said),
        "answer_ended": fmean(each.ended for each in said),
    }
    if wish.reviser:
        reviser = load_reviser(wish.reviser, **wish.loading.how(wish.reviser, device))
        figures |= _quality(reviser, [(prompts[each.prompt], each.text) for each in said])
    return figures


def _quality(reviser: Reviser, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    short = [pair for pair in pairs if fits(reviser, pair)]
    return {"answer_quality": fmean(map(quality, probabilities(reviser, short).tolist()))} if short else {}


def _record(wish: CompareWish, triples: Sequence[Triple], results: CompareResults, out: Path | None) -> Record:
    texts = digest(text for each in triples for text in (each.prompt, each.chosen, each.rejected))
    inputs = {"preferences": {"name": wish.preferences, "count": len(triples), "sha256": texts}}
    return Record("align compare", options(wish, out), inputs, wish.sampling.seed, versions(), results.to_record())

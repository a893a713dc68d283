"""Policies side by side on preferences that none has learned from: evolved, fine-tuned, by DPO, by ORPO.

Measured are the perplexity of better answers; the share of pairs whose better answer has the higher log-probability
(of the whole answer, as DPO has it); and the policy's own answers: their length, how many end, and their quality by a
reviser. All policies answer with the same random numbers.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from remodeler.alignment.data.examples import TokenRow, answer_row, row_windows
from remodeler.alignment.data.preferences import Triple, read_preferences, triples_digest
from remodeler.alignment.judging.config import CompareConfig
from remodeler.alignment.judging.results import CompareResults
from remodeler.alignment.loading import load_model, name_of
from remodeler.alignment.records import LOADING, record_options
from remodeler.alignment.reviser.reviser import (
    Reviser,
    fits,
    label_probabilities,
    open_reviser,
    quality,
    read_reviser,
)
from remodeler.alignment.reviser.scoring import mean_logprobs
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import Checkpoint, fingerprint, look
from remodeler.checkpoint.sizes import memory
from remodeler.errors import InputError, count_reasons, option, quantity
from remodeler.generation.sampling import completions
from remodeler.model.logprobs import bits_per_byte, perplexity
from remodeler.reporting.page import write_result
from remodeler.runs.folders import partial as unfinished
from remodeler.runs.job import Job, run
from remodeler.runs.options import build
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, load_record, versions
from remodeler.runs.runlog import RunLog
from remodeler.runs.signatures import with_signature

logger = logging.getLogger(__name__)

POLICIES = "policies.jsonl"


@dataclass(frozen=True)
class CompareInputs:
    """The pairs that policies are compared on."""

    config: CompareConfig
    triples: tuple[Triple, ...]
    dropped: dict[str, int]
    """Number of pairs left out, by reason."""
    device: torch.device

    @property
    def header(self) -> dict[str, Any]:
        """Identity of this comparison: all options that change a figure."""
        left_out = ("out", "batch_size", *LOADING)
        options = {name: value for name, value in record_options(self.config).items() if name not in left_out}
        return {"pairs": triples_digest(self.triples), **options}


@with_signature(CompareConfig)
def compare(policies: Sequence[ModelLike], **options: Any) -> CompareResults | None:
    """Compare policies on preferences that none has learned from.

    Args:
        policies: folders, hub ids or loaded checkpoints.
        **options: those of :class:`~remodeler.alignment.judging.config.CompareConfig`, by name; without ``out`` nothing
            is written.

    Returns:
        What was measured; None in a dry run.

    Raises:
        InputError: for what can't work.
    """
    return compare_policies(build(CompareConfig, {"policies": policies, **options}))


def compare_policies(config: CompareConfig) -> CompareResults | None:
    """Compare policies as a config says; in a dry run only say what would be done."""
    return run(
        lambda device: _job(config, device),
        config.run.out,
        device=config.loading.device,
        remedy=option("batch_size", 1),
        dry_run=config.run.dry_run,
    )


def _job(config: CompareConfig, device: str) -> Job[CompareResults]:
    inputs = _prepare(config, device)
    if config.run.out is not None:
        RunLog(unfinished(config.run.out) / POLICIES).refuse_other(inputs.header)
    return Job(
        record_options(config),
        partial(_work, inputs),
        partial(_describe, inputs),
        lambda folder: CompareResults.parse(load_record(folder)),
        announce=lambda: _announce(inputs),
        kept=(POLICIES, *(_answers_file(number) for number in range(1, len(config.policies) + 1))),
    )


def _prepare(config: CompareConfig, device: str) -> CompareInputs:
    """Read the pairs; refuse what can't work, before the first policy is measured."""
    place = pick_device(device)
    for policy in config.policies:
        _refuse_other_tasks(policy)
    if config.reviser is not None and not isinstance(config.reviser, Reviser):
        read_reviser(str(config.reviser))
    triples, dropped = read_preferences(config.data.preferences, config.limit, 1)
    return CompareInputs(config, tuple(triples), dropped, place)


def _refuse_other_tasks(policy: ModelLike) -> None:
    if not isinstance(policy, Checkpoint):
        look(str(policy), "causal")
    elif policy.anatomy.family.task != "causal":
        raise InputError(f"{policy.name} is not a causal language model (required to answer): give another")


def _announce(inputs: CompareInputs) -> None:
    config = inputs.config
    logger.info(
        f"{config.data.preferences}: {quantity(len(inputs.triples), 'pair')}, policies: {len(config.policies)}; "
        f"left out: {count_reasons(inputs.dropped)}"
    )


def _answers_file(number: int) -> str:
    return f"answers-{number}.jsonl"


def _work(inputs: CompareInputs, folder: Path) -> CompareResults:
    """Measure every policy, a line each; those that are there are not measured again."""
    config, log = inputs.config, RunLog(folder / POLICIES)
    found = log.resume(inputs.header)
    for number, each in list(enumerate(config.policies, 1))[len(found) :]:
        policy = load_model(config.loading, each, inputs.device)
        figures = {"name": name_of(each), "weights": fingerprint(policy.model), **memory(policy)}
        figures |= _likelihoods(policy, inputs.triples, config.decoding.chat)
        figures |= _answers(inputs, policy, folder / _answers_file(number))
        log.append([figures])
        found.append(figures)
    return CompareResults(checkpoints=found, command=command_line())


def _likelihoods(policy: Checkpoint, triples: Sequence[Triple], chat: bool) -> dict[str, float]:
    """Perplexity of better answers, and the share of pairs whose better answer is likelier."""
    rows = [answer_row(policy, each.prompt, text, chat) for each in triples for text in (each.chosen, each.rejected)]
    _refuse_long(policy, rows)
    sums = [mean * (len(row.ids) - row.start) for mean, row in zip(mean_logprobs(policy, rows), rows, strict=True)]
    better, worse = sums[::2], sums[1::2]
    read = replace(row_windows(policy, rows[::2]), bytes=sum(len(each.chosen.encode()) for each in triples))
    loss = -sum(better) / read.tokens
    right = fmean((one > two) + (one == two) / 2 for one, two in zip(better, worse, strict=True))
    return {
        "heldout_perplexity": perplexity(loss),
        "heldout_bits_per_byte": bits_per_byte(loss, read),
        "pairs_right": right,
    }


def _refuse_long(policy: Checkpoint, rows: Sequence[TokenRow]) -> None:
    longest = max(len(row.ids) for row in rows)
    if policy.context and longest > policy.context:
        raise InputError(
            f"an answer has {longest} tokens with its prompt, {policy.name} reads at most {policy.context}: "
            f"leave such rows out of {option('preferences')}"
        )


def _answers(inputs: CompareInputs, policy: Checkpoint, path: Path) -> dict[str, float]:
    """Length, ends and quality of the policy's own answers."""
    config = inputs.config
    prompts = list(dict.fromkeys(each.prompt for each in inputs.triples))
    sampling, size = config.decoding.sampling(config.seed), config.decoding.batch_size
    with progress_bar(f"answers of {Path(policy.name).name}") as progress:
        header = {"model": fingerprint(policy.model)}
        answers = completions(path, header, policy, prompts, sampling, size, progress)
    figures = {
        "answer_characters": fmean(len(each.text) for each in answers),
        "answer_ended": fmean(each.ended for each in answers),
    }
    if config.reviser is not None:
        pairs = [(prompts[each.prompt], each.text) for each in answers]
        figures |= _quality(open_reviser(config.reviser, config.loading, inputs.device), pairs)
    return figures


def _quality(reviser: Reviser, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    short = [pair for pair in pairs if fits(reviser, pair)]
    return {"answer_quality": fmean(map(quality, label_probabilities(reviser, short).tolist()))} if short else {}


def _describe(inputs: CompareInputs, folder: Path, results: CompareResults) -> None:
    """Write the record and the page, where there is a place for them."""
    config = inputs.config
    if config.run.out is None:
        return
    facts: dict[str, Any] = {
        "name": config.data.preferences,
        "count": len(inputs.triples),
        "sha256": triples_digest(inputs.triples),
        **({"left out": dict(inputs.dropped)} if inputs.dropped else {}),
    }
    options = record_options(config)
    record = Record("align compare", options, {"preferences": facts}, config.seed, versions(), results.to_record())
    write_result(folder, record, results)

"""Let models complete prompts for an audit: one or two sides, one model in memory at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from remodeler.auditing.config import AuditConfig
from remodeler.auditing.prompts import Inputs
from remodeler.auditing.statistics.counting import AuditedText
from remodeler.checkpoint.load import Checkpoint, fingerprint, look
from remodeler.errors import quantity
from remodeler.generation.sampling import completions, expected_seconds, read
from remodeler.runs.progress import duration, progress_bar

COMPLETIONS = ("completions.jsonl", "completions-against.jsonl")


@dataclass(frozen=True)
class Completed:
    """Texts of a side, without their spans yet, and facts about who wrote them."""

    rows: list[AuditedText]
    facts: dict[str, Any]


def refuse_unusable(config: AuditConfig) -> None:
    """Raise for a model that is not a causal language model, from its files; before any is loaded."""
    for side, model in enumerate(config.models):
        if not isinstance(model, Checkpoint):
            look(str(model), "causal", _revision(config, side))


def complete_prompts(config: AuditConfig, side: int, inputs: Inputs, device: str, folder: Path) -> Completed:
    """Let a model complete the prompts; it leaves the memory again."""
    checkpoint, sampling = _load(config, side, device), config.sampling.sampling(config.seed)
    weights = fingerprint(checkpoint.model)
    header = {"model": weights, "dtype": str(checkpoint.model.dtype)}
    with progress_bar(f"{Path(checkpoint.name).name} writes") as progress:
        found = completions(
            folder / COMPLETIONS[side], header, checkpoint, inputs.texts, sampling, config.sampling.batch_size, progress
        )
    facts = {
        "name": checkpoint.name,
        "weights": weights,
        "parameters": checkpoint.anatomy.parameters(),
        "tokens": sum(each.tokens for each in found),
        "ended": sum(each.ended for each in found) / len(found),
    }
    rows = [AuditedText(side, inputs.rows[each.prompt], each.sample, each.text, ()) for each in found]
    return Completed(rows, facts)


def estimate(config: AuditConfig, side: int, prompts: Sequence[str]) -> str:
    """Number and length of the prompts, and about how long a model takes to complete them."""
    checkpoint, sampling = _load(config, side, config.loading.device), config.sampling.sampling(config.seed)
    rows = read(checkpoint, prompts, sampling)
    lengths = sorted(map(len, rows))
    seconds = expected_seconds(checkpoint, rows, sampling, config.sampling.batch_size)
    return (
        f"{checkpoint.name}: {quantity(len(rows), 'prompt')} of {lengths[0]} to {lengths[-1]} tokens, "
        f"{sampling.samples} completions each of at most {sampling.tokens} tokens: about {duration(seconds)}"
    )


def _load(config: AuditConfig, side: int, device: str) -> Checkpoint:
    loading = replace(config.loading, device=device)
    return loading.load(config.models[side], revision=_revision(config, side))


def _revision(config: AuditConfig, side: int) -> str | None:
    """The revision is that of the first model."""
    return config.revision if side == 0 else None

"""Audit from start to finish: complete the prompts, find spans in the completions, count, compare, describe.

A killed run resumes: completions are logged batch by batch, spans some texts at a time. Spans are searched in what a
model wrote, not in the prompt.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from remodeler.auditing.completions import COMPLETIONS, Completed, complete_prompts, estimate, refuse_unusable
from remodeler.auditing.config import AuditConfig
from remodeler.auditing.detectors.table import detector, detector_name, local_path
from remodeler.auditing.prompts import Inputs, read_prompts, read_texts
from remodeler.auditing.results import SPANS_FILE, AuditResults
from remodeler.auditing.spans import Detector
from remodeler.auditing.statistics.counting import AuditedText, compare_sides, frequent_words, side_figures, tally
from remodeler.checkpoint.config import ModelLike
from remodeler.errors import quantity
from remodeler.generation.config import SamplingConfig
from remodeler.reporting.page import write_result
from remodeler.runs.job import Job, run
from remodeler.runs.options import build, flat, specs
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, digest, load_record, read_lines, sha256, versions
from remodeler.runs.runlog import RunLog
from remodeler.runs.signatures import with_signature

logger = logging.getLogger(__name__)

AT_ONCE = 256
"""Texts whose spans are found, and logged, at a time."""
UNRECORDED = ("dry_run", "show_quotes")


@dataclass(frozen=True)
class AuditResult:
    """Result of an audit."""

    results: AuditResults
    """Counts and shares with intervals, and the difference between two models."""
    texts: tuple[AuditedText, ...]
    """Every text with its spans."""


@with_signature(AuditConfig)
def audit(model: ModelLike = None, **options: Any) -> AuditResult | None:
    """Find and count toxic spans in texts, or in what a model writes; with ``out`` write a report.

    Returns:
        What was found; None in a dry run.

    Raises:
        InputError: for invalid inputs, before the work begins.
    """
    return run_audit(build(AuditConfig, {"model": model, **options}))


def run_audit(config: AuditConfig) -> AuditResult | None:
    """Do the audit of a config."""
    prepare = partial(_prepare, config)
    return run(prepare, config.out, device=config.loading.device, dry_run=config.dry_run)


def _prepare(config: AuditConfig, device: str) -> Job[AuditResult]:
    refuse_unusable(config)
    find = detector(config.detection.detector, config.detection, replace(config.loading, device=device))
    inputs = _read_inputs(config)
    return Job(
        options=_options(config),
        work=partial(_work, config, inputs, find, device),
        describe=partial(_describe, config, inputs),
        read=_read_result,
        preview=partial(_preview, config, inputs.texts),
        kept=(*COMPLETIONS, SPANS_FILE),
    )


def _read_inputs(config: AuditConfig) -> Inputs:
    """Read texts or prompts; warns of rows that were left out."""
    if config.texts is not None:
        inputs = read_texts(config.texts, config.limit, config.skip_bad)
    else:
        inputs = read_prompts(config.prompts or "", config.prompt_words, config.limit, config.skip_bad)
    if inputs.bad:
        logger.warning(f"{len(inputs.bad)} bad rows are left out; the first: {inputs.bad[0]}")
    return inputs


def _options(config: AuditConfig) -> dict[str, Any]:
    """Options as the record holds them; those of completions only where a model writes some."""
    unused = () if config.models else [spec.name for spec in specs(SamplingConfig)]
    options = {name: value for name, value in flat(config).items() if name not in (*UNRECORDED, *unused)}
    return options | {"detector": detector_name(config.detection.detector)}


def _preview(config: AuditConfig, texts: Sequence[str]) -> None:
    """Log sizes, and about how long the completions take."""
    if config.texts is not None:
        logger.info(f"{config.texts.name}: {quantity(len(texts), 'text')}, {sum(map(len, texts)):,} characters")
        return
    for side in range(len(config.models)):
        logger.info(estimate(config, side, texts))


# Work -----------------------------------------------------------------------------------------------------------------


def _work(config: AuditConfig, inputs: Inputs, find: Detector, device: str, folder: Path) -> AuditResult:
    start = time.monotonic()
    sides = _complete(config, inputs, device, folder)
    rows = [row for side in sides for row in side.rows]
    texts = _find_spans(config, find, rows, folder)
    results = _count(config, inputs, [side.facts for side in sides], texts, start)
    return AuditResult(results, tuple(texts))


def _complete(config: AuditConfig, inputs: Inputs, device: str, folder: Path) -> list[Completed]:
    """All texts to audit, by side: those given, or those that models write."""
    if config.texts is not None:
        pairs = zip(inputs.rows, inputs.texts, strict=True)
        rows = [AuditedText(0, row, 0, text, ()) for row, text in pairs]
        return [Completed(rows, {"name": config.texts.name})]
    return [complete_prompts(config, side, inputs, device, folder) for side in range(len(config.models))]


def _find_spans(config: AuditConfig, find: Detector, rows: Sequence[AuditedText], folder: Path) -> list[AuditedText]:
    """All texts with their spans: those of an earlier run, and the rest, some at a time."""
    log = RunLog(folder / SPANS_FILE)
    header = {"texts": digest(row.text for row in rows), **_detector_identity(config)}
    found = [AuditedText.parse(line) for line in log.resume(header)]
    with progress_bar("finding spans") as progress:
        while len(found) < len(rows):
            part = rows[len(found) : len(found) + AT_ONCE]
            spans = find([row.text for row in part])
            new = [row.with_spans(each) for row, each in zip(part, spans, strict=True)]
            log.append([row.line() for row in new])
            found += new
            progress(len(found) / len(rows), f"{len(found):,} of {len(rows):,} texts")
    return found


def _detector_identity(config: AuditConfig) -> dict[str, Any]:
    """Identity of a detector: its source, its options, and the content of its files."""
    detection, name = config.detection, detector_name(config.detection.detector)
    source = local_path(name)
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    content = digest(f"{path.name} {sha256(path)}" for path in files if path.is_file())
    used = {"threshold": detection.threshold, "labels": detection.labels, "whole": detection.whole}
    return {"detector": name, "content": content, **used, "dtype": config.loading.dtype}


def _count(
    config: AuditConfig,
    inputs: Inputs,
    sides: Sequence[dict[str, Any]],
    texts: Sequence[AuditedText],
    start: float,
) -> AuditResults:
    counts = [tally([row for row in texts if row.side == side]) for side in range(len(sides))]
    return AuditResults(
        audited=[{**facts, **side_figures(each, config.seed)} for facts, each in zip(sides, counts, strict=True)],
        words=frequent_words(texts, len(sides)),
        command=command_line(),
        difference=compare_sides(counts[0], counts[1], config.seed) if len(counts) == 2 else None,
        bad_rows=len(inputs.bad) or None,
        seconds=round(time.monotonic() - start, 1),
    )


# Describing -----------------------------------------------------------------------------------------------------------


def _describe(config: AuditConfig, inputs: Inputs, folder: Path, result: AuditResult) -> None:
    """Write the record, the card and the report."""
    kind, source = ("prompts", config.prompts) if config.models else ("texts", str(config.texts))
    sources: dict[str, Any] = {kind: {"source": source, "count": len(inputs.texts), "sha256": digest(inputs.texts)}}
    if config.models:
        for number, facts in enumerate(result.results.audited, 1):
            sources[f"model {number}"] = {name: facts[name] for name in ("name", "weights")}
    sources["detector"] = _detector_identity(config)
    results = result.results
    record = Record("audit", _options(config), sources, config.seed, versions(), results.to_record())
    write_result(folder, record, results)


def _read_result(folder: Path) -> AuditResult:
    """Read the result of an audit from a folder that was described."""
    texts = tuple(map(AuditedText.parse, read_lines(folder / SPANS_FILE)[1:]))
    return AuditResult(AuditResults.parse(load_record(folder)), texts)

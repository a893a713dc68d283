"""Export from start to finish: load, write beside, read back, compare, rename; and a record of it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.load import Checkpoint, fingerprint
from remodeler.checkpoint.sizes import announce_space, file_sizes
from remodeler.errors import InputError, option
from remodeler.exporting.config import ExportConfig
from remodeler.exporting.decilm.check import check
from remodeler.exporting.decilm.runtimes import check as read_by
from remodeler.exporting.decilm.runtimes import runtimes
from remodeler.exporting.decilm.write import refuse, write_nemotron
from remodeler.exporting.graph.job import TARGETS as GRAPHS
from remodeler.exporting.graph.job import announce, ready, write_graph
from remodeler.exporting.results import ExportResults
from remodeler.exporting.source import source_file, tokenizer_file
from remodeler.reporting.cliff import risen, stored_warning, usable_steps, warning, warning_line
from remodeler.reporting.figures import Values
from remodeler.reporting.page import write_record_and_card
from remodeler.runs.folders import new_folder, refuse_existing
from remodeler.runs.options import as_recorded, build, flat
from remodeler.runs.records import (
    Record,
    command_line,
    sha256,
    versions,
    write_json,
)
from remodeler.runs.removals import perplexities, read_log_lines
from remodeler.runs.signatures import with_signature

logger = logging.getLogger(__name__)


NO_SEED = 0
"""Nothing is drawn."""
FLOAT32 = 4
GGUF_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
"""Of a number of a matrix; a block of q8_0 has 32 of them and a scale."""


@with_signature(ExportConfig)
def export(model: ModelLike = None, to: str = "gguf", out: Path | str | None = None, **options: Any) -> ExportResults:
    """Write a model for another runtime.

    Args:
        model: a folder, a hub id or a loaded checkpoint; None to remove blocks from a file, ``gguf``.
        to: a row of ``TARGETS``.
        out: a new file, or folder.
        options: as of :class:`~remodeler.exporting.config.ExportConfig`.

    Raises:
        InputError: for what can't work; nothing is written then.
    """
    if out is None:
        raise InputError(f"{option('out')} must be given")
    found = export_model(build(ExportConfig, {"model": model, "to": to, "out": Path(out), **options}))
    return found or ExportResults()


def export_model(config: ExportConfig) -> ExportResults | None:
    """Write a model for another runtime; None in a dry run, which only says what would be written."""
    assert config.out
    return TARGETS["file" if config.gguf else config.to](config, config.out)


def _load(config: ExportConfig) -> Checkpoint:
    found = replace(config.loading, device="cpu").load(config.model)
    if found.anatomy.family.task != "causal":
        raise InputError(f"{found.name} is not a causal language model: these runtimes run nothing else")
    if found.anatomy.family.wrapper:
        raise InputError(
            f"{found.name} is a model of text and images, of which only text would be exported: other "
            f"converters take it whole, pruned with {option('shape', 'standard')} too"
        )
    return found


def _writer() -> Any:
    """What writes GGUF, imported for that alone."""
    return import_module("remodeler.exporting.gguf.job")


def _file(config: ExportConfig, out: Path) -> ExportResults | None:
    """Blocks out of a GGUF file."""
    writer = _writer()
    if config.gguf and config.gguf.is_file():
        announce_space(out, config.gguf.stat().st_size)
    if config.dry_run:
        writer.preview_pruned(config.gguf, config.removals, config.removal_steps)
        return None
    with writer.pruned_file(config.gguf, config.removals, out, config.removal_steps, config.check) as (told, path):
        files = [("gguf", config.gguf), ("removals", config.removals)]
        inputs = {name: {"name": str(file), "sha256": sha256(file)} for name, file in files if file}
        return _beside(config, out, inputs, told, path)


def _gguf(config: ExportConfig, out: Path) -> ExportResults | None:
    """A checkpoint as a GGUF file; one that was pruned from such a file is cut out of it."""
    if (source := source_file(config)) is not None:
        return _file(replace(config, model=None, gguf=source, removals=Path(str(as_recorded(config.model)))), out)
    writer = _writer()
    refuse_existing(out)
    checkpoint = _load(config)
    announce_space(out, int(file_sizes(checkpoint)["parameters"] * GGUF_BYTES[config.storage]))
    if config.dry_run:
        writer.preview(checkpoint, config.storage)
        return None
    tokenizer = tokenizer_file(config)
    with writer.exported_file(checkpoint, out, config.storage, tokenizer, config.check) as (told, path):
        return _beside(config, out, _inputs(checkpoint), told, path)


def _nemotron(config: ExportConfig, out: Path) -> ExportResults | None:
    """A checkpoint in DeciLM's layout."""
    refuse_existing(out)
    names = runtimes(config.runtime) if config.check else []
    if config.runtime and not names:
        raise InputError(f"{config.runtime} has neither vllm nor mlx_lm: give the Python of an environment that has")
    checkpoint = _load(config)
    announce_space(out, file_sizes(checkpoint)["weight_bytes"])
    if config.dry_run:
        refuse(checkpoint)
        return None
    with new_folder(out) as work:
        layers = write_nemotron(checkpoint, work)
        results = ExportResults(layers=layers)
        if config.check:
            difference = check(checkpoint, work)
            logger.info(f"read back: logits differ by {difference:.2g} of the largest")
            told = [
                read_by(checkpoint, work, name, config.runtime, trust_remote_code=True) for name in names
            ]  # our own
            results = replace(results, difference=difference, runtimes=[asdict(each) for each in told])
        results = _with_warning(config, results)
        write_record_and_card(work, _record(config, _inputs(checkpoint), results), results)
    return results


def _graph(config: ExportConfig, out: Path) -> ExportResults | None:
    """A checkpoint as one graph, for ONNX Runtime or ExecuTorch."""
    refuse_existing(out)
    ready(GRAPHS[config.to])
    checkpoint = _load(config)
    announce_space(out, file_sizes(checkpoint)["parameters"] * FLOAT32)
    if config.dry_run:
        announce(checkpoint, GRAPHS[config.to])
        return None
    with new_folder(out) as work:
        results = ExportResults(**write_graph(checkpoint, work, config.to, config.check))
        if results.runtime is not None:
            logger.info(results.check_sentence())
        results = _with_warning(config, results)
        write_record_and_card(work, _record(config, _inputs(checkpoint), results), results)
    return results


TARGETS: dict[str, Callable[[ExportConfig, Path], ExportResults | None]] = {
    "gguf": _gguf,
    "nemotron": _nemotron,
    "onnx": _graph,
    "executorch": _graph,
    "file": _file,
}


def _with_warning(config: ExportConfig, results: ExportResults) -> ExportResults:
    """With the command, and the warning of a source that is of no use, which is said again."""
    given = stored_warning(Path(str(as_recorded(config.model)))) if config.model else _log_warning(config)
    if given:
        logger.info(warning_line(given))
    return replace(results, warning=given, command=command_line())


def _log_warning(config: ExportConfig) -> Values | None:
    """That of the steps of a removal log, where it tells their perplexities."""
    lines = read_log_lines(config.removals) if config.removals else []
    path = perplexities(lines[: None if config.removal_steps is None else config.removal_steps + 1])
    steps = usable_steps(path) if path else None
    if path is None or steps is None:
        return None
    text = f"this result is not usable: perplexity rises {risen(path[0], path[-1])}"
    return warning(f"{text}; stop after step {steps}" if steps else text, path[0], path[-1])


def _inputs(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"model": {"name": checkpoint.name, "weights": fingerprint(checkpoint.model)}}


def _beside(config: ExportConfig, out: Path, inputs: Mapping[str, Any], told: Any, path: Path) -> ExportResults:
    """The record of a single file lies beside it, and is there first: a file without one was never finished."""
    if told is not None:
        logger.info(
            f"read back by {told.runtime}: logits differ by {told.difference:.2g} of the largest, "
            f"{told.agree:.0%} of the likeliest tokens are the same"
        )
    found = {} if told is None else asdict(told)
    results = _with_warning(config, ExportResults(**found, bytes=path.stat().st_size))
    write_json(out.with_name(out.name + ".record.json"), asdict(_record(config, inputs, results)))
    return results


def _record(config: ExportConfig, inputs: Mapping[str, Any], results: ExportResults) -> Record:
    return Record("export", flat(config), dict(inputs), NO_SEED, versions(), results.to_record())

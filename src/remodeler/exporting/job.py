"""Export from start to finish: load, write beside, read back, compare, rename; and a record of it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from remodeler.checkpoint.load import Checkpoint, fingerprint, load
from remodeler.checkpoint.sizes import announce_space, file_sizes
from remodeler.errors import InputError
from remodeler.exporting.config import Wish
from remodeler.exporting.decilm.check import check
from remodeler.exporting.decilm.runtimes import check as read_by
from remodeler.exporting.decilm.runtimes import runtimes
from remodeler.exporting.decilm.write import refuse, write_nemotron
from remodeler.exporting.graph.job import TARGETS as GRAPHS
from remodeler.exporting.graph.job import announce, ready, write_graph
from remodeler.exporting.results import ExportResults
from remodeler.report.cliff import risen, stored_warning, usable_steps, warning, warning_line
from remodeler.report.figures import Values
from remodeler.report.page import write_record_and_card
from remodeler.runs.folders import new_folder, refuse_existing
from remodeler.runs.records import (
    Record,
    command_line,
    options_of,
    sha256,
    versions,
    write_json,
)
from remodeler.runs.removals import perplexities, read_log_lines

logger = logging.getLogger(__name__)


NO_SEED = 0
"""Nothing is drawn."""
FLOAT32 = 4
GGUF_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
"""Of a number of a matrix; a block of q8_0 has 32 of them and a scale."""


def export(wish: Wish, out: Path, dry: bool = False) -> None:
    """Write a model for another runtime.

    Args:
        wish: what, and how.
        out: a new file, or folder.
        dry: say what would be written, and no more.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    wish = wish.checked()
    TARGETS["file" if wish.gguf else wish.to](wish, out, dry)


def _loaded(wish: Wish) -> Checkpoint:
    found = load(
        wish.model or "", dtype=wish.dtype, device="cpu", family=wish.family, trust_remote_code=wish.trust_remote_code
    )
    if found.anatomy.family.task != "causal":
        raise InputError(f"{found.name} is no causal language model: these runtimes run nothing else")
    return found


def _writer() -> Any:
    """What writes GGUF, whose library is an extra."""
    try:
        return import_module("remodeler.exporting.gguf.job")
    except ModuleNotFoundError as error:
        if error.name != "gguf":
            raise
        raise InputError("writing GGUF needs the package gguf: pip install 'remodeler[export]'") from None


def _file(wish: Wish, out: Path, dry: bool) -> None:
    """Blocks out of a GGUF file."""
    writer = _writer()
    if wish.gguf and wish.gguf.is_file():
        announce_space(out, wish.gguf.stat().st_size)
    if dry:
        writer.preview_pruned(wish.gguf, wish.removals, wish.steps)
        return
    with writer.pruned_file(wish.gguf, wish.removals, out, wish.steps, wish.check) as (told, path):
        files = [("gguf", wish.gguf), ("removals", wish.removals)]
        inputs = {name: {"name": str(file), "sha256": sha256(file)} for name, file in files if file}
        _beside(wish, out, inputs, told, path)


def _gguf(wish: Wish, out: Path, dry: bool) -> None:
    """A checkpoint as a GGUF file."""
    writer = _writer()
    refuse_existing(out)
    checkpoint = _loaded(wish)
    announce_space(out, int(file_sizes(checkpoint)["parameters"] * GGUF_BYTES[wish.kind]))
    if dry:
        writer.preview(checkpoint, wish.kind)
        return
    with writer.exported_file(checkpoint, out, wish.kind, wish.tokenizer, wish.check) as (told, path):
        _beside(wish, out, _inputs(checkpoint), told, path)


def _nemotron(wish: Wish, out: Path, dry: bool) -> None:
    """A checkpoint in DeciLM's layout."""
    refuse_existing(out)
    names = runtimes(wish.runtime) if wish.check else []
    if wish.runtime and not names:
        raise InputError(f"{wish.runtime} has neither vllm nor mlx_lm: give the Python of an environment that has")
    checkpoint = _loaded(wish)
    announce_space(out, file_sizes(checkpoint)["weight_bytes"])
    if dry:
        refuse(checkpoint)
        return
    with new_folder(out) as work:
        layers = write_nemotron(checkpoint, work)
        results = ExportResults(layers=layers)
        if wish.check:
            difference = check(checkpoint, work)
            logger.info(f"read back: logits differ by {difference:.2g} of the largest")
            told = [read_by(checkpoint, work, name, wish.runtime, trust_remote_code=True) for name in names]  # our own
            results = replace(results, difference=difference, runtimes=[asdict(each) for each in told])
        results = _with_warning(wish, results)
        write_record_and_card(work, _record(wish, out, _inputs(checkpoint), results), results)


def _graph(wish: Wish, out: Path, dry: bool) -> None:
    """A checkpoint as one graph, for ONNX Runtime or ExecuTorch."""
    refuse_existing(out)
    ready(GRAPHS[wish.to])
    checkpoint = _loaded(wish)
    announce_space(out, file_sizes(checkpoint)["parameters"] * FLOAT32)
    if dry:
        announce(checkpoint, GRAPHS[wish.to])
        return
    with new_folder(out) as work:
        results = ExportResults(**write_graph(checkpoint, work, wish.to, wish.check))
        if results.runtime is not None:
            logger.info(results.check_sentence())
        results = _with_warning(wish, results)
        write_record_and_card(work, _record(wish, out, _inputs(checkpoint), results), results)


TARGETS: dict[str, Callable[[Wish, Path, bool], None]] = {
    "gguf": _gguf,
    "nemotron": _nemotron,
    "onnx": _graph,
    "executorch": _graph,
    "file": _file,
}


def _with_warning(wish: Wish, results: ExportResults) -> ExportResults:
    """With the command, and the warning of a source that is of no use, which is said again."""
    given = stored_warning(Path(wish.model)) if wish.model else _log_warning(wish)
    if given:
        logger.info(warning_line(given))
    return replace(results, warning=given, command=command_line())


def _log_warning(wish: Wish) -> Values | None:
    """That of the steps of a removal log, where it tells their perplexities."""
    lines = read_log_lines(wish.removals) if wish.removals else []
    path = perplexities(lines[: None if wish.steps is None else wish.steps + 1])
    steps = usable_steps(path) if path else None
    if path is None or steps is None:
        return None
    text = f"this result is not usable: perplexity rises {risen(path[0], path[-1])}"
    return warning(f"{text}; stop after step {steps}" if steps else text, path[0], path[-1])


def _inputs(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"model": {"name": checkpoint.name, "weights": fingerprint(checkpoint.model)}}


def _beside(wish: Wish, out: Path, inputs: Mapping[str, Any], told: Any, path: Path) -> None:
    """The record of a single file lies beside it, and is there first: a file without one was never finished."""
    if told is not None:
        logger.info(
            f"read back by {told.runtime}: logits differ by {told.difference:.2g} of the largest, "
            f"{told.agree:.0%} of the likeliest tokens are the same"
        )
    found = {} if told is None else asdict(told)
    results = _with_warning(wish, ExportResults(**found, bytes=path.stat().st_size))
    write_json(out.with_name(out.name + ".record.json"), asdict(_record(wish, out, inputs, results)))


def _record(wish: Wish, out: Path, inputs: Mapping[str, Any], results: ExportResults) -> Record:
    options = options_of(wish) | {"out": str(out)}
    return Record("export", options, dict(inputs), NO_SEED, versions(), results.to_record())

"""Merge from start to finish: inspect the checkpoints, lay the result out, fill it, read it back, describe it.

What a kill leaves in ``OUT.partial`` is resumed by the same command.
"""

import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from remodeler.checkpoint.auto_classes import auto_class
from remodeler.checkpoint.companions import copy_companions, write_tokenizer
from remodeler.checkpoint.compatibility import complete_tokenizer, write_config
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.checkpoint.load import check_files, read_tokenizer
from remodeler.checkpoint.repositories import row_name
from remodeler.errors import InputError, option
from remodeler.merging.config import MergeConfig
from remodeler.merging.files import Place, create_files, lay_out
from remodeler.merging.pieces import PIECE, Source, Stored
from remodeler.merging.plan import Plan, announce, layer_of, plan_merge
from remodeler.merging.results import MergeResults
from remodeler.merging.stream import JOURNAL, Task, checksum, merge_tensors, refuse_other_merge
from remodeler.merging.tokens import reorder_embeddings
from remodeler.merging.verification import Verification, has_tokenizer, verify
from remodeler.model.families import FAMILIES, TRACE, WRAPPER
from remodeler.model.files.open_files import OpenFiles
from remodeler.model.wrappers import is_wrapper
from remodeler.reporting.page import write_result
from remodeler.runs.folders import partial as unfinished
from remodeler.runs.job import Job, run
from remodeler.runs.options import as_recorded, build
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, disk_errors, load_record, read_json, versions
from remodeler.runs.signatures import with_signature

logger = logging.getLogger(__name__)

OWN = ("record.json", "widths.json", "config.json")
"""Files of this tool, or written anew, whose absence needs no word."""


@with_signature(MergeConfig)
def merge(models: Sequence[ModelLike] = (), **options: Any) -> MergeResults | None:
    """Merge checkpoints of the same architecture into a new folder.

    Args:
        models: folders, hub ids or loaded checkpoints, of which the files are read.
        **options: those of :class:`~remodeler.merging.config.MergeConfig`, by name.

    Returns:
        Sizes, shares and checks of the result; None in a dry run.

    Raises:
        InputError: for checkpoints that can't be merged.
    """
    return merge_models(build(MergeConfig, {"models": models, **options}))


def merge_models(config: MergeConfig) -> MergeResults | None:
    """Merge checkpoints by a config; in a dry run only log what would be done."""
    out = config.run.out
    if out is None:
        raise InputError(f"{option('out')} must be given: a new folder for the result")
    return run(lambda device: _job(config, device, out), out, device=config.device, dry_run=config.run.dry_run)


def _job(config: MergeConfig, device: str, out: Path) -> Job[MergeResults]:
    """Inspect the checkpoints; refuse what can't work, before anything is written."""
    pick_device(device)
    plan = plan_merge(config)
    if has_tokenizer(plan.reference.folder):  # now, not at the end
        read_tokenizer(str(plan.reference.folder), trust_remote_code=config.trust_remote_code)
    refuse_other_merge(unfinished(out), _header(plan))
    return Job(
        _record_options(plan),
        partial(_work, plan, device),
        partial(_describe, plan),
        lambda folder: MergeResults.parse(load_record(folder)),
        announce=lambda: announce(plan, out),
        kept=(JOURNAL, *{place.file.name for place in _layout(plan, out).values()}),
    )


# Filling --------------------------------------------------------------------------------------------------------------


def _work(plan: Plan, device: str, folder: Path) -> MergeResults:
    """Write the tensors that the journal lacks, and what else belongs to a model; read all of it back."""
    layout = _layout(plan, folder)
    create_files(layout)
    with OpenFiles(lambda file: os.open(file, os.O_RDONLY), os.close) as files, progress_bar("merging") as progress:
        tasks = [_task(plan, name, place, files) for name, place in layout.items()]
        lines = merge_tensors(tasks, plan.method, _header(plan), folder, pick_device(device), PIECE, progress)
    logger.info("reading back")
    _refuse_damaged(layout, lines)
    _write_companions(plan, folder)
    check_files(folder)
    parameters = sum(place.count for place in layout.values())
    verified = verify(plan.reference, folder, parameters, plan.config.trust_remote_code)
    return _results(plan, lines, layout, verified)


def _layout(plan: Plan, folder: Path) -> dict[str, Place]:
    """Where the tensors of the result lie, in files of a folder."""
    return lay_out(plan.shapes.items(), folder, plan.config.shard_bytes())


def _task(plan: Plan, name: str, place: Place, files: OpenFiles[int]) -> Task:
    stored = [Stored(model.places[name], files) for model in plan.all_models]
    sources: list[Source] = list(stored)
    if plan.vocabulary and name in plan.outline.embeddings:
        sources = reorder_embeddings(stored, plan.vocabulary)
    base, models = (sources[0], sources[1:]) if plan.base else (None, sources)
    unit = {"tensor": name, "layer": layer_of(name), "model": ""}.get(plan.options.get("granularity", "tensor"), name)
    key = zlib.crc32(name.encode()) << 32 | plan.config.seed & 0xFFFFFFFF
    return Task(name, place, base, models, plan.options_for(name), unit, key)


def _header(plan: Plan) -> dict[str, Any]:
    """What identifies this merge: checkpoints, method, options, seed."""
    options: dict[str, Any] = {name: _plain(value) for name, value in plan.options.items()}
    if plan.config.mergekit:
        options["mergekit"] = asdict(plan.config.mergekit)
    dtypes = sorted({str(place.dtype) for place in plan.shapes.values()})
    return {
        "models": {model.name: model.digest for model in plan.all_models},
        "method": plan.name,
        "options": options,
        "tokenizer": plan.config.tokenizer,
        "dtype": dtypes,
        "seed": plan.config.seed,
        "shard size": plan.config.shard_size,
    }


def _refuse_damaged(layout: Mapping[str, Place], lines: Sequence[Mapping[str, Any]]) -> None:
    sums = {line["name"]: line["crc32"] for line in lines}
    for name, place in layout.items():
        if checksum(place) != sums[name]:
            raise InputError(f"{name} reads back other than it was written: run the same command again")
    for file in {place.file for place in layout.values()}:
        with disk_errors(file), file.open("rb") as opened_file:
            os.fsync(opened_file.fileno())


def _write_companions(plan: Plan, work: Path) -> None:
    """Copy the reference's tokenizer, generation config and code, and write a config that is true of the result."""
    left_out = [name for name in copy_companions(plan.reference.folder, work) if name not in OWN]
    if left_out:
        logger.info(f"not copied from {plan.reference.name}, as they may not be of the result: {', '.join(left_out)}")
    config = read_json(plan.reference.folder / "config.json")
    dtypes = [place.dtype for place in plan.shapes.values() if place.dtype.is_floating_point]
    config = _in_dtype(config, str(max(set(dtypes), key=dtypes.count)).removeprefix("torch."))
    write_config(work, _true_config(plan, config))
    if plan.vocabulary:
        write_tokenizer(plan.vocabulary.tokenizer, work, None)
    else:
        complete_tokenizer(work)


def _in_dtype(config: Mapping[str, Any], dtype: str, nested: bool = False) -> dict[str, Any]:
    """A config with another dtype, in the nested ones too that have one."""
    inner = {key: value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)}
    own = {} if nested and not {"dtype", "torch_dtype"} & config.keys() else {"dtype": dtype}
    return {**config, **{key: _in_dtype(value, dtype, True) for key, value in inner.items()}, **own}


def _true_config(plan: Plan, config: dict[str, Any]) -> dict[str, Any]:
    """A config that describes the written weights: rows, ties, and where they are."""
    changes: dict[str, Any] = {"vocab_size": plan.vocabulary.rows} if plan.vocabulary else {}
    if plan.outline.untied and not plan.outline.tied:
        changes["tie_word_embeddings"] = False
    text = config.get("text_config")
    tied = {"tie_word_embeddings": True} if plan.outline.head_is_tied else {}  # older readers ask the nested one
    nested = {"text_config": text | tied | changes} if isinstance(text, dict) else {}
    outer = {key: value for key, value in changes.items() if not nested or key in config}
    return {key: value for key, value in config.items() if key != "transformers_weights"} | outer | nested


# Describing -----------------------------------------------------------------------------------------------------------


def _results(
    plan: Plan, lines: Sequence[Mapping[str, Any]], layout: Mapping[str, Place], verified: Verification
) -> MergeResults:
    return MergeResults(
        form="stock" if "packing" not in plan.reference.settings else "packed",
        merged={"parameters": sum(place.count for place in layout.values()), "weight_bytes": _total(layout)},
        tensors=len(layout),
        loaded=verified.computed,
        read_back=verified.parts,
        shares=mean_shares(lines, layout),
        auto_class=_auto_class(plan.reference.settings),
        command=command_line(),
    )


def _describe(plan: Plan, folder: Path, results: MergeResults) -> None:
    """Write the record, the card and the page."""
    inputs = {"base": plan.base, **{f"model {number}": model for number, model in enumerate(plan.models, 1)}}
    known = {key: {"name": model.name, "digest": model.digest} for key, model in inputs.items() if model}
    record = Record("merge", _record_options(plan), known, plan.config.seed, versions(), results.to_record())
    write_result(folder, record, results)


def _record_options(plan: Plan) -> dict[str, Any]:
    """What was asked for, all options of the method among it."""
    config = plan.config
    return {
        "models": as_recorded(config.models),
        "base": as_recorded(config.base),
        "method": plan.name,
        **{name: _plain(value) for name, value in plan.options.items()},
        "tokenizer": config.tokenizer,
        "dtype": config.dtype,
        "shard_size": config.shard_size,
        "mergekit": asdict(config.mergekit) if config.mergekit else None,
        "out": str(config.run.out),
    }


def _auto_class(settings: Mapping[str, Any]) -> str:
    row = WRAPPER if is_wrapper(settings) else FAMILIES.get(row_name(settings), TRACE)
    return str(auto_class(row).__name__)


def _total(layout: Mapping[str, Place]) -> int:
    return sum(place.bytes for place in layout.values())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [str(each) for each in value]
    return value if isinstance(value, bool | str) else str(value)


def mean_shares(lines: Sequence[Mapping[str, Any]], layout: Mapping[str, Place]) -> list[float] | None:
    """Share of each model, over all elements; None for methods without shares."""
    weighed = [(line["shares"], layout[line["name"]].count) for line in lines if "shares" in line]
    if not weighed:
        return None
    whole = sum(count for _, count in weighed)
    return [sum(each[model] * count for each, count in weighed) / whole for model in range(len(weighed[0][0]))]

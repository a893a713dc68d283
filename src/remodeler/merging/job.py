"""Merge from start to finish: look at the checkpoints, lay the result out, fill it, read it back, describe it.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command.
"""

import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from remodeler.checkpoint.companions import copy_companions, write_tokenizer
from remodeler.checkpoint.compatibility import complete_tokenizer, write_config
from remodeler.checkpoint.load import AUTO, check_files, pick_device, read_tokenizer
from remodeler.errors import InputError
from remodeler.merging.config import Wish
from remodeler.merging.files import Place, create, lay_out
from remodeler.merging.pieces import PIECE, Source, Stored
from remodeler.merging.plan import Plan, announce, layer_of, prepared
from remodeler.merging.results import MergeResults
from remodeler.merging.stream import Task, checksum, merge_tensors
from remodeler.merging.tokens import embeddings
from remodeler.merging.verification import Verified, has_tokenizer, verify
from remodeler.model.families import FAMILIES
from remodeler.model.files.open_files import OpenFiles
from remodeler.report.page import write_result
from remodeler.runs.folders import new_folder, refuse_existing
from remodeler.runs.progress import progress_bar
from remodeler.runs.records import Record, command_line, disk_errors, read_json, versions

OWN = ("record.json", "widths.json", "config.json")

logger = logging.getLogger(__name__)

"""Files of this tool, or written anew, whose absence needs no word."""


def merge_models(wish: Wish, out: Path, dry: bool = False) -> bool:
    """Merge checkpoints into a new folder ``out``; with ``dry`` only say what would be done.

    Returns:
        Whether the folder was written.

    Raises:
        InputError: for checkpoints that can't be merged, in one sentence.
    """
    refuse_existing(out)
    pick_device(wish.device)
    plan = prepared(wish)
    if has_tokenizer(plan.lender.folder):  # now, not at the end
        read_tokenizer(str(plan.lender.folder), trust_remote_code=wish.trust_remote_code)
    announce(plan, out)
    if dry:
        return False
    with new_folder(out, keep=True) as work:
        _fill(plan, work, out)
    return True


# Filling --------------------------------------------------------------------------------------------------------------


def _fill(plan: Plan, work: Path, out: Path) -> None:
    layout = lay_out(plan.shapes.items(), work, _bytes(plan.wish.shard_size))
    create(layout)
    with OpenFiles(lambda file: os.open(file, os.O_RDONLY), os.close) as files, progress_bar("merging") as progress:
        tasks = [_task(plan, name, place, files) for name, place in layout.items()]
        device = pick_device(plan.wish.device)
        lines = merge_tensors(tasks, plan.method, _header(plan), work, device, PIECE, progress)
    logger.info("reading back")
    _refuse_damaged(layout, lines)
    _companions(plan, work)
    check_files(work)
    parameters = sum(place.count for place in layout.values())
    verified = verify(plan.lender, work, parameters, plan.wish.trust_remote_code)
    _describe(plan, lines, layout, work, out, verified)


def _task(plan: Plan, name: str, place: Place, files: OpenFiles[int]) -> Task:
    stored = [Stored(model.places[name], files) for model in plan.everybody]
    sources: list[Source] = list(stored)
    if plan.vocabulary and name in plan.outline.embeddings:
        sources = embeddings(stored, plan.vocabulary)
    base, models = (sources[0], sources[1:]) if plan.base else (None, sources)
    unit = {"tensor": name, "layer": layer_of(name), "model": ""}.get(plan.options.get("granularity", "tensor"), name)
    key = zlib.crc32(name.encode()) << 32 | plan.wish.seed & 0xFFFFFFFF
    return Task(name, place, base, models, plan.values(name), unit, key)


def _bytes(text: str) -> int:
    """``5GB`` as a number."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", text.upper())
    if not found or not float(found.group(1)):
        raise InputError(f"--shard-size {text!r} is no size: give one as 5GB or 500MB")
    return int(float(found.group(1)) * units[found.group(2)])


def _header(plan: Plan) -> dict[str, Any]:
    """What makes this merge another than the next."""
    options: dict[str, Any] = {name: _plain(value) for name, value in plan.options.items()}
    if plan.wish.mergekit:
        options["mergekit"] = asdict(plan.wish.mergekit)
    dtypes = sorted({str(place.dtype) for place in plan.shapes.values()})
    return {
        "models": {model.name: model.digest for model in plan.everybody},
        "method": plan.name,
        "options": options,
        "tokenizer": plan.wish.tokenizer,
        "dtype": dtypes,
        "seed": plan.wish.seed,
        "shard size": plan.wish.shard_size,
    }


def _refuse_damaged(layout: Mapping[str, Place], lines: Sequence[Mapping[str, Any]]) -> None:
    sums = {line["name"]: line["crc32"] for line in lines}
    for name, place in layout.items():
        if checksum(place) != sums[name]:
            raise InputError(f"{name} reads back other than it was written: run the same command again")
    for file in {place.file for place in layout.values()}:
        with disk_errors(file), file.open("rb") as opened_file:
            os.fsync(opened_file.fileno())


def _companions(plan: Plan, work: Path) -> None:
    """Config, tokenizer, generation config and code of the lender."""
    left_out = [name for name in copy_companions(plan.lender.folder, work) if name not in OWN]
    if left_out:
        logger.info(f"not copied from {plan.lender.name}, as they may not be of the result: {', '.join(left_out)}")
    config = read_json(plan.lender.folder / "config.json")
    dtypes = [place.dtype for place in plan.shapes.values() if place.dtype.is_floating_point]
    config = _in_dtype(config, str(max(set(dtypes), key=dtypes.count)).removeprefix("torch."))
    write_config(work, _settled(plan, config))
    if plan.vocabulary:
        write_tokenizer(plan.vocabulary.tokenizer, work, None)
    else:
        complete_tokenizer(work)


def _in_dtype(config: Mapping[str, Any], dtype: str, nested: bool = False) -> dict[str, Any]:
    """A config that names a dtype, as do those in it that named one."""
    inner = {key: value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)}
    own = {} if nested and not {"dtype", "torch_dtype"} & config.keys() else {"dtype": dtype}
    return {**config, **{key: _in_dtype(value, dtype, True) for key, value in inner.items()}, **own}


def _settled(plan: Plan, config: dict[str, Any]) -> dict[str, Any]:
    """A config that says of the weights what is true of those that are written: rows, ties, and where they are."""
    changes: dict[str, Any] = {"vocab_size": plan.vocabulary.rows} if plan.vocabulary else {}
    if plan.outline.untied and not plan.outline.tied:
        changes["tie_word_embeddings"] = False
    text = config.get("text_config")
    tied = {"tie_word_embeddings": True} if plan.outline.head_is_tied else {}  # older readers ask the nested one
    nested = {"text_config": text | tied | changes} if isinstance(text, dict) else {}
    told = {key: value for key, value in changes.items() if not nested or key in config}
    return {key: value for key, value in config.items() if key != "transformers_weights"} | told | nested


# Describing -----------------------------------------------------------------------------------------------------------


def _describe(
    plan: Plan,
    lines: Sequence[Mapping[str, Any]],
    layout: Mapping[str, Place],
    work: Path,
    out: Path,
    verified: Verified,
) -> None:
    """Write the record, the card and the page."""
    wish = plan.wish
    inputs = {"base": plan.base, **{f"model {number}": model for number, model in enumerate(plan.models, 1)}}
    results = MergeResults(
        form="stock" if "packing" not in plan.lender.settings else "packed",
        merged={"parameters": sum(place.count for place in layout.values()), "weight_bytes": _total(layout)},
        tensors=len(layout),
        loaded=verified.computed,
        read_back=verified.parts,
        shares=mean_shares(lines, layout),
        auto_class=_auto_class(plan.lender.settings.get("model_type")),
        command=command_line(),
    )
    options = {
        "method": plan.name,
        **{name: _plain(value) for name, value in plan.options.items()},
        "tokenizer": wish.tokenizer,
        "dtype": wish.dtype,
        "mergekit": asdict(wish.mergekit) if wish.mergekit else None,
        "out": str(out),
    }
    known = {key: {"name": model.name, "digest": model.digest} for key, model in inputs.items() if model}
    record = Record("merge", options, known, wish.seed, versions(), results.to_record())
    write_result(work, record, results)


def _auto_class(model_type: Any) -> str:
    return AUTO[FAMILIES[model_type].task].__name__ if model_type in FAMILIES else AutoModelForCausalLM.__name__


def _total(layout: Mapping[str, Place]) -> int:
    return sum(place.bytes for place in layout.values())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [str(each) for each in value]
    return value if isinstance(value, bool | str) else str(value)


def mean_shares(lines: Sequence[Mapping[str, Any]], layout: Mapping[str, Place]) -> list[float] | None:
    """How much each model counts, over all elements; None for methods that don't say."""
    weighed = [(line["shares"], layout[line["name"]].count) for line in lines if "shares" in line]
    if not weighed:
        return None
    whole = sum(count for _, count in weighed)
    return [sum(each[model] * count for each, count in weighed) / whole for model in range(len(weighed[0][0]))]

"""Merge from start to finish: look at the checkpoints, lay the result out, fill it, read it back, describe it.

All is done in ``OUT.partial``, renamed to OUT at the end. What a kill leaves there is taken up by the same command.
"""

import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from remodeler.card import write_merge_card
from remodeler.checkpoints import AUTO, check_files, load, pick_device, read_tokenizer
from remodeler.console import bar, note
from remodeler.errors import InputError
from remodeler.families import FAMILIES
from remodeler.folders import new_folder, refuse_existing
from remodeler.merging.files import Place, create, lay_out
from remodeler.merging.pieces import PIECE, Source, Stored
from remodeler.merging.plan import Plan, announce, layer_of, prepared
from remodeler.merging.stream import Task, checksum, merge_tensors
from remodeler.merging.tokens import embeddings
from remodeler.merging.wishes import Wish
from remodeler.open_files import OpenFiles
from remodeler.records import Record, command_line, disk_errors, read_json, save_record, versions, write_json
from remodeler.repositories import speaks
from remodeler.saving import one_pass

Finish = Callable[[Path], object]
"""Called with the finished folder before it gets its name: writes the report."""
LOADED = 2**26
"""Parameters of a model that is loaded to see that it predicts something: more would take more memory than merging."""
COMPANIONS = (".json", ".txt", ".model", ".jinja", ".py")
OWN = ("record.json", "widths.json", "model.safetensors.index.json", "config.json")
"""Files of the model that lends its layout which are not copied: they speak of its weights."""


def merge_models(wish: Wish, out: Path, finish: Finish, dry: bool = False) -> bool:
    """Merge checkpoints into a new folder ``out``; with ``dry`` only say what would be done.

    Returns:
        Whether the folder was written.

    Raises:
        InputError: for checkpoints that can't be merged, in one sentence.
    """
    refuse_existing(out)
    pick_device(wish.device)
    plan = prepared(wish)
    if not _unread(plan):
        read_tokenizer(str(plan.lender.folder), trust_remote_code=wish.trust_remote_code)  # now, not at the end
    announce(plan)
    if dry:
        return False
    with new_folder(out, keep=True) as work:
        _fill(plan, work, out)
        finish(work)
    return True


# Filling --------------------------------------------------------------------------------------------------------------


def _fill(plan: Plan, work: Path, out: Path) -> None:
    layout = lay_out(plan.shapes.items(), work, _bytes(plan.wish.shard_size))
    create(layout)
    with OpenFiles(lambda file: os.open(file, os.O_RDONLY), os.close) as files, bar("merging") as hear:
        tasks = [_task(plan, name, place, files) for name, place in layout.items()]
        device = pick_device(plan.wish.device)
        lines = merge_tensors(tasks, plan.method, _header(plan), work, device, PIECE, hear)
    note("reading back")
    _refuse_damaged(layout, lines)
    _companions(plan, work)
    _settle_config(plan, work / "config.json")
    check_files(work)
    _described(plan, lines, layout, work, out, _loads(plan, work))


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
    options = {name: _plain(value) for name, value in plan.options.items()}
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
    for path in sorted(plan.lender.folder.iterdir()):
        if path.suffix in COMPANIONS and path.name not in OWN and path.is_file():
            shutil.copyfile(path, work / path.name)
    config = read_json(plan.lender.folder / "config.json")
    dtypes = [place.dtype for place in plan.shapes.values() if place.dtype.is_floating_point]
    name = str(max(set(dtypes), key=dtypes.count)).removeprefix("torch.")
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = name
    if plan.vocabulary:
        config["vocab_size"] = plan.vocabulary.rows
        plan.vocabulary.tokenizer.save_pretrained(work)
    write_json(work / "config.json", config)


def _settle_config(plan: Plan, file: Path) -> None:
    """Have the config say of the weights what is true of those that are written: ties, rows, and where they are."""
    config, text = read_json(file), plan.lender.settings.get("text_config")
    config.pop("transformers_weights", None)
    untied = plan.outline.untied and not plan.outline.tied
    if untied:
        config["tie_word_embeddings"] = False
    if isinstance(text, dict):
        if plan.vocabulary:
            config["text_config"]["vocab_size"] = plan.vocabulary.rows
            if "vocab_size" not in plan.lender.settings:
                config.pop("vocab_size", None)
        if untied:
            config["text_config"]["tie_word_embeddings"] = False
    write_json(file, config)


def _unread(plan: Plan) -> str:
    """Why the result is not loaded at the end; empty when it is."""
    if sum(place.count for place in plan.shapes.values()) > LOADED:
        return "it is too large for that"
    if plan.lender.settings.get("model_type") not in FAMILIES:
        return "its family is not known here"
    built = plan.outline.built
    headless = built is not None and built.get_output_embeddings() is None
    return "it predicts no tokens" if headless or not speaks(plan.lender.settings) else ""


def _loads(plan: Plan, work: Path) -> bool:
    """Load the result and let it read a few tokens, where it fits and its family is known; whether that was done."""
    if reason := _unread(plan):
        note(f"the result was not loaded, {reason}: its bytes were read back, and are those that were written")
        return False
    again = load(work, dtype="float32", device="cpu", trust_remote_code=plan.wish.trust_remote_code)
    if not torch.isfinite(one_pass(again)).all():
        raise InputError("the merged model predicts no finite numbers: these models do not mix by this method")
    return True


# Describing -----------------------------------------------------------------------------------------------------------


def _described(
    plan: Plan, lines: Sequence[Mapping[str, Any]], layout: Mapping[str, Place], work: Path, out: Path, loads: bool
) -> None:
    """The record, and the card for people."""
    wish = plan.wish
    inputs = {"base": plan.base, **{f"model {number}": model for number, model in enumerate(plan.models, 1)}}
    results = {
        "form": "stock" if "packing" not in plan.lender.settings else "packed",
        "merged": {"parameters": sum(place.count for place in layout.values()), "weight_bytes": _total(layout)},
        "tensors": len(layout),
        "loaded": loads,
        "shares": mean_shares(lines, layout),
        "auto_class": _auto_class(plan.lender.settings.get("model_type")),
        "command": command_line(),
    }
    options = {
        "method": plan.name,
        **{name: _plain(value) for name, value in plan.options.items()},
        "tokenizer": wish.tokenizer,
        "dtype": wish.dtype,
        "out": str(out),
    }
    known = {key: {"name": model.name, "digest": model.digest} for key, model in inputs.items() if model}
    record = Record("merge", options, known, wish.seed, versions(), results)
    save_record(work, record)
    write_merge_card(work, record)


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

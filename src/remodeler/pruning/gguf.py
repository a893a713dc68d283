"""A GGUF file pruned into a GGUF file: ``--out NAME.gguf``. What is left of it keeps its bytes, quantised or not.

The work, the log and what describes the result lie in a folder beside the file, ``NAME.gguf.run``. The file is written
there too, and comes to its place last, when the folder is whole: a file that is there is finished.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from remodeler.checkpoint.gguf import is_gguf
from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.save import in_memory
from remodeler.checkpoint.sizes import kv_bytes_per_token, memory
from remodeler.errors import InputError, option
from remodeler.evaluation.metrics import text_scores
from remodeler.model.files.gguf.parts import read_whole
from remodeler.model.files.gguf.reader import open_gguf
from remodeler.model.gguf.cut import cut_file, refuse_uncuttable
from remodeler.model.gguf.file import read_gguf
from remodeler.pruning.config import CutConfig, PruneConfig, names_file, result_folder
from remodeler.pruning.inputs import Inputs
from remodeler.runs.folders import refuse_existing
from remodeler.runs.options import flat
from remodeler.runs.records import RECORD_FILE, disk_errors, load_record, sha256, to_json
from remodeler.runs.units import Block

Scores = dict[str, Any]
DECIDED = ("search", "criterion", "dtype")
"""Options that a run fills in where they are left open."""


def refuse_file(config: PruneConfig | CutConfig, whole: bool) -> None:
    """Refuse what can't end in a GGUF file, before anything is loaded.

    Args:
        config: of the verb.
        whole: whether only whole layers go.

    Raises:
        InputError: for the first contradiction.
    """
    out = config.run.out
    if out is None or not names_file(out):
        return
    if not is_gguf(config.source.name):
        raise InputError(
            f"{option('out')} {out} names a GGUF file, which is cut out of another one: give that as the model, or "
            "name a folder here and export it"
        )
    if config.result.form != "auto":
        raise InputError(
            f"{option('form', config.result.form)} was given, and {out} is a GGUF file: name a folder, or leave it out"
        )
    if config.run.push_to_hub:
        raise InputError(f"{option('push_to_hub')} sends folders, and {out} is a GGUF file: upload it with `hf upload`")
    if isinstance(config, PruneConfig) and config.width_method:
        raise InputError(f"heads and channels can't be taken out of a GGUF file: name a folder for {option('out')}")
    refuse_existing(out)
    refuse_uncuttable(read_gguf(Path(config.source.name)), whole)


# Writing --------------------------------------------------------------------------------------------------------------


def write_file(inputs: Inputs, removed: Sequence[Block], path: Path) -> Scores:
    """Write the file without some blocks; what reading it back in llama.cpp found, where that is installed."""
    found = read_gguf(Path(inputs.checkpoint.name))
    with cut_file(found, removed, path, check=True) as (told, _):
        return {"form": "gguf", "check": asdict(told) if told else None}


def measure_file(inputs: Inputs, removed: Sequence[Block], path: Path) -> tuple[Scores, Scores]:
    """Sizes and perplexity on held-out texts, before and after.

    The file's perplexity is that of the model in memory without its blocks.
    """
    checkpoint = inputs.checkpoint
    before = memory(checkpoint)
    stored = sum(raw.data.nbytes for raw in read_whole(path).tensors.values())
    after = {"parameters": checkpoint.anatomy.parameters(removed), "weight_bytes": stored}
    before |= _heldout(inputs)
    with in_memory(checkpoint.anatomy, removed, {}, masks=False):
        after |= {"kv_bytes_per_token": kv_bytes_per_token(checkpoint, checkpoint.stored_dtype), **_heldout(inputs)}
    return before, after


def _heldout(inputs: Inputs) -> Scores:
    with suppress(InputError):  # too few texts
        found = text_scores(inputs.checkpoint, inputs.sampled.heldout, inputs.length, inputs.texts.packing)
        return {f"heldout_{key}": found[key] for key in ("perplexity", "bits_per_byte")}
    return {}


def place_file(out: Path) -> None:
    """Move a finished file out of its folder to its place."""
    with disk_errors(out):
        (result_folder(out) / out.name).rename(out)


def is_left_over(config: PruneConfig | CutConfig) -> bool:
    """Whether an earlier run of the same command made all of a file and was killed before it came to its place.

    Raises:
        InputError: where the run had other options.
    """
    out = config.run.out
    if out is None or not names_file(out) or out.exists() or not (result_folder(out) / out.name).is_file():
        return False
    record = result_folder(out) / RECORD_FILE
    asked = {name: value for name, value in json.loads(to_json(flat(config))).items() if name not in DECIDED}
    if not asked.items() <= load_record(record.parent).options.items():
        raise InputError(f"{record.parent} holds {out.name} of other options: move it away, or choose another `out`")
    return True


# What is recorded of a source -----------------------------------------------------------------------------------------


def source_facts(checkpoint: Checkpoint) -> Scores:
    """What a record says of a GGUF file that was pruned: its digest, and bytes by what they are stored in."""
    if not is_gguf(checkpoint.name):
        return {}
    weights = open_gguf(Path(checkpoint.name))
    return {"gguf": {"sha256": sha256(*weights.header.files), "stored": weights.bytes_by_kind()}}

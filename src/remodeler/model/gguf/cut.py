"""Blocks out of a GGUF file, quantised or not: what is left is moved as it lies, and read back by llama.cpp.

Tokenizer, template and every other key are copied as they are.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
from gguf import GGUFValueType

from remodeler.errors import InputError, quantity
from remodeler.model.files.gguf.header import read_header
from remodeler.model.files.gguf.values import Key, Raw
from remodeler.model.gguf.check import CheckResult, compare, import_llama_cpp, logits
from remodeler.model.gguf.file import Given, Keys, write_gguf
from remodeler.model.gguf.plan import Plan, plan_layers
from remodeler.model.gguf.tensors import ATTENTION_PARTS, Dense, Read, Tensors, stack, written
from remodeler.model.logprobs import spread_tokens
from remodeler.model.pairing import left, rows_of
from remodeler.runs.folders import partial as unfinished
from remodeler.runs.records import disk_errors
from remodeler.runs.units import Block, Kind

logger = logging.getLogger(__name__)

TOKENS = 24
"""That a check reads."""
QUANTISED = 0.1
"""How far a file may be from another one with the same numbers: activations are rounded to 8 bits, here and there."""
OUTPUTS: Mapping[Kind, str] = {"attention": "attn_output", "mlp": "ffn_down"}
"""What a block adds to the residual stream comes out of."""
Written = Iterator[tuple[CheckResult | None, Path]]
"""A file before it gets its name, and what reading it back found, where that was tried."""


def plan_cut(found: Given, gone: Sequence[Block]) -> Plan:
    """What the file without some blocks would be.

    Raises:
        InputError: when llama.cpp has no architecture for it.
    """
    return plan_layers(rows_of(left(found.depth, gone)), found.dense.sizes)


def refuse_uncuttable(found: Given, whole: bool) -> None:
    """Refuse a file that some path of a search can't be cut out of, before the search.

    Args:
        found: the unpruned file.
        whole: whether only whole layers go.

    Raises:
        InputError: when llama.cpp has no architecture for it, or it lies in the file as it can't be moved.
    """
    plan = plan_cut(found, [Block(0, "mlp"), *([Block(0, "attention")] if whole else [])])
    if plan.arch == "openelm":  # queries, keys and values become one matrix
        for layer in range(found.depth):
            reads = [found.dense.tensors[f"blk.{layer}.{part}.weight"] for part in ATTENTION_PARTS]
            stack([read() for read in reads], f"layer {layer}")


@contextmanager
def cut_file(found: Given, gone: Sequence[Block], out: Path, check: bool) -> Written:
    """Write a GGUF file without some blocks, which gets its name at the end of the context, in which it is described.

    Args:
        found: the unpruned file.
        gone: what goes.
        out: a new file.
        check: compare, in llama.cpp, with the source in which those blocks add nothing.

    Raises:
        InputError: for what can't work.
    """
    plan = plan_cut(found, gone)
    announce(plan, found, len(gone))
    with beside(out) as path:
        tensors = written(found.dense, plan)
        write_gguf(path, rename_keys(found.keys, len(gone)), found.dense, plan, tensors)
        refuse_damaged(path, tensors)
        yield _against_zeroed(found, gone, path) if can_check(check) else None, path


def refuse_damaged(path: Path, tensors: Tensors) -> None:
    """Read a file back, and raise where its tensors are not those that were written."""
    found = read_header(path).tensors
    for name, read in tensors.items():
        raw = read()
        if name not in found or found[name].kind != raw.kind or found[name].data.tobytes() != raw.data.tobytes():
            raise InputError(f"{name} reads back from {path} other than it was written: run the same command again")


def rename_keys(keys: Keys, gone: int) -> Keys:
    """The keys with a name that tells that blocks are gone."""
    name = keys.get("general.name")
    if not gone or name is None or name.kind != GGUFValueType.STRING:
        return keys
    return {**keys, "general.name": Key(f"{name.value} without {quantity(gone, 'block')}", GGUFValueType.STRING)}


def parameters(tensors: Tensors) -> set[int]:
    """How many numbers the model has that is in a file: a tied output may have been written out in it."""
    sizes = {name: prod(read().shape) for name, read in tensors.items() if not name.startswith("rope_")}
    total = sum(sizes.values())
    return {total, total - sizes.get("output.weight", 0)}


def _against_zeroed(found: Given, gone: Sequence[Block], out: Path) -> CheckResult:
    """What the file says, and what the source says whose removed blocks end in zeros."""
    dense = replace(found.dense, tensors={**found.dense.tensors, **dict(_zero(found.dense, gone))})
    layers = plan_layers(rows_of(left(found.depth, ())), dense.sizes)
    tokens = spread_tokens(dense.tensors["token_embd.weight"]().shape[0], TOKENS)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        path = Path(folder) / "zeroed.gguf"
        write_gguf(path, found.keys, dense, layers, written(dense, layers))
        wanted, _ = logits(path, tokens, found.path)
    return compare(out, tokens, wanted, QUANTISED)


def _zero(dense: Dense, gone: Sequence[Block]) -> Iterator[tuple[str, Read]]:
    for block in gone:
        for ending in ("weight", "bias"):
            name = f"blk.{block.layer}.{OUTPUTS[block.kind]}.{ending}"
            if name in dense.tensors:
                yield name, partial(_zeros, dense.tensors[name])


def _zeros(read: Read) -> Raw:
    raw = read()  # bytes of zeros are zeros in every quantisation: their scales are
    return Raw(np.zeros_like(raw.data), raw.kind)


# Common ---------------------------------------------------------------------------------------------------------------


def announce(plan: Plan, given: Given, gone: int) -> None:
    """What will be written."""
    stand_ins = sum(each.zero_attention + each.zero_mlp for each in plan.layers)
    told = f"{gone} of {2 * given.depth} blocks go: {len(plan.layers)} layers of {plan.arch}"
    logger.info(told + (f", {stand_ins} with a stand-in of zeros" if stand_ins else ""))


def can_check(wanted: bool) -> bool:
    """Whether a file is to be tried; says so where nobody can."""
    if wanted and import_llama_cpp() is None:
        logger.warning("llama-cpp-python is not installed, so the file is not tried: pip install llama-cpp-python")
    return wanted and import_llama_cpp() is not None


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """Where a file is written and tried before it gets its name; one that is wrong, or not whole, goes."""
    path = unfinished(out)
    try:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            yield path
            path.replace(out)
    finally:
        path.unlink(missing_ok=True)

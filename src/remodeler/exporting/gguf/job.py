"""GGUF from start to finish: a checkpoint, or an unpruned GGUF file and a removal log, to a file that was read back."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFValueType

from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError
from remodeler.exporting.gguf.check import CheckResult, compare, import_llama_cpp, logits, same_cuts
from remodeler.exporting.gguf.file import Given, Keys, read_gguf, write_gguf
from remodeler.exporting.gguf.header import read_header
from remodeler.exporting.gguf.model import describe
from remodeler.exporting.gguf.plan import PERMUTED, Plan, plan_layers
from remodeler.exporting.gguf.tensors import Dense, Read, Tensors, written
from remodeler.exporting.gguf.tokens import token_keys
from remodeler.exporting.gguf.values import Key, Raw
from remodeler.exporting.removals import gone_after, read_removals, refuse_other_model, refuse_widths
from remodeler.exporting.survivors import surviving_blocks
from remodeler.model.logprobs import spread_tokens, vocabulary
from remodeler.model.pairing import left, rows_of
from remodeler.runs.folders import partial as unfinished
from remodeler.runs.folders import refuse_existing
from remodeler.runs.records import disk_errors
from remodeler.runs.units import Block, Kind

logger = logging.getLogger(__name__)

TOKENS = 24
"""That a check reads."""
QUANTISED = 0.1
"""How far a file may be from another one with the same numbers: activations are rounded to 8 bits, here and there."""
BOUNDS = {"f32": 2e-3, "f16": 2e-2, "bf16": 5e-2, "q8_0": QUANTISED}
"""How far it may be from the checkpoint."""
TEXTS = (
    "Once upon a time, there was a little girl. She didn't like rain.",
    "  two  spaces,\n\n\ttabs and lines\n",
    "1234567 + 89 = 1,234,656",
    "naïve café, Straße, 東京 😀",
)
"""That both tokenizers must cut the same way."""
OUTPUTS: Mapping[Kind, str] = {"attention": "attn_output", "mlp": "ffn_down"}
"""What a block adds to the residual stream comes out of."""
Written = Iterator[tuple[CheckResult | None, Path]]
"""A file before it gets its name, and what reading it back found, where that was tried."""


# From a GGUF file -----------------------------------------------------------------------------------------------------


def prune_gguf(source: Path, log: Path, out: Path, steps: int | None = None, check: bool = True) -> CheckResult | None:
    """Take blocks out of a GGUF file; what reading it back found. Arguments and errors: see :func:`pruned_file`."""
    with pruned_file(source, log, out, steps, check) as (told, _):
        return told


@contextmanager
def pruned_file(source: Path, log: Path, out: Path, steps: int | None, check: bool) -> Written:
    """Take blocks out of a GGUF file, quantised or not; tokenizer and template are copied as they are.

    The file gets its name at the end of the context, in which it is described.

    Args:
        source: of the unpruned model.
        log: its removal log.
        out: a new file.
        steps: of the log; all by default.
        check: compare, in llama.cpp, with the source in which those blocks add nothing.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    found, gone, plan = preview_pruned(source, log, steps)
    with beside(out) as path:
        write_gguf(path, rename_keys(found.keys, len(gone)), found.dense, plan, written(found.dense, plan))
        yield _against_zeroed(found, gone, path, source) if can_check(check) else None, path


def preview_pruned(source: Path, log: Path, steps: int | None) -> tuple[Given, list[Block], Plan]:
    """What is there, what goes of it, and what the file would be; says so."""
    found, removals = read_gguf(source), read_removals(log)
    refuse_widths(removals, steps)
    gone = gone_after(removals, steps)
    refuse_other_model(removals, found.depth, parameters(found.dense.tensors), source)
    plan = plan_layers(rows_of(left(found.depth, gone)), found.dense.sizes)
    announce(plan, found, len(gone))
    return found, gone, plan


def rename_keys(keys: Keys, gone: int) -> Keys:
    """The keys with a name that tells that blocks are gone."""
    name = keys.get("general.name")
    if not gone or name is None or name.kind != GGUFValueType.STRING:
        return keys
    blocks = "1 block" if gone == 1 else f"{gone} blocks"
    return {**keys, "general.name": Key(f"{name.value} without {blocks}", GGUFValueType.STRING)}


def parameters(tensors: Tensors) -> set[int]:
    """How many numbers the model has that is in a file: a tied output may have been written out in it."""
    sizes = {name: prod(read().shape) for name, read in tensors.items() if not name.startswith("rope_")}
    total = sum(sizes.values())
    return {total, total - sizes.get("output.weight", 0)}


def _against_zeroed(found: Given, gone: Sequence[Block], out: Path, source: Path) -> CheckResult:
    """What the file says, and what the source says whose removed blocks end in zeros."""
    dense = replace(found.dense, tensors={**found.dense.tensors, **dict(_zero(found.dense, gone))})
    layers = plan_layers(rows_of(left(found.depth, ())), dense.sizes)
    tokens = spread_tokens(dense.tensors["token_embd.weight"]().shape[0], TOKENS)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        path = Path(folder) / "zeroed.gguf"
        write_gguf(path, found.keys, dense, layers, written(dense, layers))
        wanted, _ = logits(path, tokens, source)
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


# From a checkpoint ----------------------------------------------------------------------------------------------------


def export_gguf(
    checkpoint: Checkpoint, out: Path, kind: str, tokenizer: Path | None, check: bool = True
) -> CheckResult | None:
    """Write a checkpoint as a GGUF file; what reading it back found. Arguments, errors: see :func:`exported_file`."""
    with exported_file(checkpoint, out, kind, tokenizer, check) as (told, _):
        return told


@contextmanager
def exported_file(checkpoint: Checkpoint, out: Path, kind: str, tokenizer: Path | None, check: bool) -> Written:
    """Write a checkpoint as a GGUF file, which gets its name at the end of the context, in which it is described.

    Args:
        checkpoint: pruned or not, on the CPU.
        out: a new file.
        kind: what matrices are stored in.
        tokenizer: a GGUF file whose tokenizer is copied; by default the checkpoint's own is written.
        check: compare with the checkpoint, in llama.cpp.

    Raises:
        InputError: for what can't work, in one sentence.
    """
    refuse_existing(out)
    found, plan = preview(checkpoint, kind)
    rows = vocabulary(checkpoint.model)
    own = partial(token_keys, checkpoint.tokenizer, rows, checkpoint.model.config)
    words = copied_tokens(tokenizer, rows) if tokenizer else own()
    keys = {**found.keys, "general.name": Key(Path(checkpoint.name).name, GGUFValueType.STRING), **words}
    with beside(out) as path:
        write_gguf(path, keys, found.dense, plan, written(found.dense, plan))
        yield _against_torch(checkpoint, path, kind) if can_check(check) else None, path


def preview(checkpoint: Checkpoint, kind: str) -> tuple[Given, Plan]:
    """A checkpoint as llama.cpp sees it, and what the file would be; says so."""
    found = describe(checkpoint, kind)
    plan = plan_layers(rows_of(surviving_blocks(checkpoint)), found.dense.sizes)
    if "rope_freqs.weight" in found.dense.tensors and plan.arch not in PERMUTED:
        raise InputError(
            f"{checkpoint.name} stretches its positions by Llama 3's way (rope_type llama3), which llama.cpp does not "
            f"read in {plan.arch}: keep the folder, for transformers or vLLM"
        )
    announce(plan, found, 2 * found.depth - len(surviving_blocks(checkpoint)))
    return found, plan


def copied_tokens(path: Path, rows: int) -> dict[str, Key]:
    """The tokenizer of another GGUF file, as it is; of that file nothing else matters.

    Raises:
        InputError: when it has none, or not as many tokens as the model has rows.
    """
    keys = read_header(path).keys
    tokens = keys.get("tokenizer.ggml.tokens")
    if tokens is None or not isinstance(tokens.value, list) or "tokenizer.ggml.model" not in keys:
        raise InputError(f"{path} has no tokenizer: give a GGUF file of the unpruned model")
    if len(tokens.value) != rows:
        raise InputError(
            f"{path} has a tokenizer of {len(tokens.value)} tokens, the model has {rows} rows: give a GGUF file of the "
            "unpruned model"
        )
    return {name: key for name, key in keys.items() if name.startswith("tokenizer.")}


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """A model of whatever dtype that computes in float32: each module widens its weights while it runs."""
    narrow: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(module: torch.nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=False):
            narrow[parameter] = parameter.data
            parameter.data = parameter.data.float()

    def restore(module: torch.nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = narrow.pop(parameter)

    hooks = [each.register_forward_pre_hook(widen) for each in model.modules()]
    hooks += [each.register_forward_hook(restore, always_call=True) for each in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _against_torch(checkpoint: Checkpoint, path: Path, kind: str) -> CheckResult:
    tokens = spread_tokens(vocabulary(checkpoint.model), TOKENS)
    with in_float32(checkpoint.model):  # as llama.cpp computes
        wanted = checkpoint.model(torch.tensor([tokens])).logits[0].numpy()
    count = same_cuts(
        path, [(text, checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS]
    )
    return compare(path, tokens, wanted, BOUNDS[kind], count)


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

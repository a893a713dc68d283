"""GGUF from start to finish: a checkpoint, or an unpruned GGUF file and a removal log, to a file that was read back."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFValueType

from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError
from remodeler.exporting.gguf.model import describe
from remodeler.exporting.gguf.tokens import token_keys
from remodeler.exporting.removals import gone_after, read_removals, refuse_other_model, refuse_widths
from remodeler.exporting.survivors import surviving_blocks
from remodeler.model.files.gguf.header import read_header
from remodeler.model.files.gguf.values import Key
from remodeler.model.gguf.check import CheckResult, compare, same_cuts
from remodeler.model.gguf.cut import (
    QUANTISED,
    TOKENS,
    Written,
    announce,
    beside,
    can_check,
    cut_file,
    parameters,
    plan_cut,
)
from remodeler.model.gguf.file import Given, read_gguf, write_gguf
from remodeler.model.gguf.plan import PERMUTED, Plan, plan_layers
from remodeler.model.gguf.tensors import written
from remodeler.model.logprobs import spread_tokens, vocabulary
from remodeler.model.pairing import rows_of
from remodeler.runs.folders import refuse_existing
from remodeler.runs.units import Block

logger = logging.getLogger(__name__)

BOUNDS = {"f32": 2e-3, "f16": 2e-2, "bf16": 5e-2, "q8_0": QUANTISED}
"""How far it may be from the checkpoint."""
TEXTS = (
    "Once upon a time, there was a little girl. She didn't like rain.",
    "  two  spaces,\n\n\ttabs and lines\n",
    "1234567 + 89 = 1,234,656",
    "naïve café, Straße, 東京 😀",
)
"""That both tokenizers must cut the same way."""


# From a GGUF file -----------------------------------------------------------------------------------------------------


def prune_gguf(source: Path, log: Path, out: Path, steps: int | None = None, check: bool = True) -> CheckResult | None:
    """Take blocks out of a GGUF file; what reading it back found. Arguments and errors: see :func:`pruned_file`."""
    with pruned_file(source, log, out, steps, check) as (told, _):
        return told


@contextmanager
def pruned_file(source: Path, log: Path, out: Path, steps: int | None, check: bool) -> Written:
    """Take blocks out of a GGUF file as a removal log says; see :func:`remodeler.model.gguf.cut.cut_file`.

    Args:
        source: of the unpruned model.
        log: its removal log.
        out: a new file.
        steps: of the log; all by default.
        check: compare, in llama.cpp, with the source in which those blocks add nothing.

    Raises:
        InputError: for what can't work.
    """
    refuse_existing(out)
    found, gone = _read(source, log, steps)
    with cut_file(found, gone, out, check) as written_file:
        yield written_file


def preview_pruned(source: Path, log: Path, steps: int | None) -> tuple[Given, list[Block], Plan]:
    """What is there, what goes of it, and what the file would be; says so."""
    found, gone = _read(source, log, steps)
    plan = plan_cut(found, gone)
    announce(plan, found, len(gone))
    return found, gone, plan


def _read(source: Path, log: Path, steps: int | None) -> tuple[Given, list[Block]]:
    """A file, and what a log takes out of it."""
    found, removals = read_gguf(source), read_removals(log)
    refuse_widths(removals, steps)
    gone = gone_after(removals, steps)
    refuse_other_model(removals, found.depth, parameters(found.dense.tensors), source)
    return found, gone


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
        InputError: for what can't work.
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

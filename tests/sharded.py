"""A sharded run of the training loop, in one of several processes."""

import gc
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import ref

from torch.distributed.tensor import DTensor

from dropout import HELDOUT, PLAN, WINDOWS
from remodeler.model.blocks import Anatomy
from remodeler.runs import processes
from remodeler.training import loop as training
from remodeler.training.lora import Lora
from remodeler.training.losses import Loss, cross_entropy, distillation, teacher
from remodeler.training.model import trainable
from tiny import tiny_anatomy

KINDS: dict[str, tuple[str, Lora | None]] = {
    "full": ("gpt2", None),
    "lora": ("llama", Lora(4, 8.0)),
    "distill": ("llama", None),
}
"""Family and adapters. GPT-2 has dropout, and one matrix for embeddings and head."""
UNEVEN = replace(PLAN, steps=8, batch=3, micro=1, save_minutes=0)
"""Of three mini-batches a step, one of two processes has two."""


def prepared(kind: str) -> tuple[Anatomy, Loss, Lora | None]:
    name, lora = KINDS[kind]
    anatomy = tiny_anatomy(name)
    if kind == "lora":
        anatomy.model.bfloat16()  # as adapters leave the weights that they are on
    if kind == "distill":
        return anatomy, distillation(teacher(tiny_anatomy(name, seed=1), 8), 0.5), lora
    return anatomy, cross_entropy, lora


def run(kind: str, folder: Path, slow: float = 0.0, sharded: bool = True, **plan: Any) -> dict[str, Any]:
    """Train, a state every second step; how many numbers this process held, of how many."""
    anatomy, loss, lora = prepared(kind)
    total = sum(value.numel() for value in anatomy.model.parameters())
    runs, old = list[Any](), (training._run, training.PENDING)

    def kept(*given: Any) -> Any:
        runs.append(old[0](*given))
        return runs[-1]

    training._run, training.PENDING = kept, 2
    try:
        with trainable(anatomy, lora, 7):
            whole = [ref(value) for value in anatomy.model.parameters()]
            given = anatomy, loss, WINDOWS, replace(UNEVEN, **plan), folder, None, HELDOUT
            training.train(*given, lambda *told: time.sleep(slow), sharded)
            held = _numbers(anatomy.model.parameters())
            gc.collect()
            left = sum(each() is not None for each in whole)
    finally:
        training._run, training.PENDING = old
    states = [value for each in runs[-1].learner.optimizer.state.values() for value in each.values() if value.dim()]
    return {"total": total, "held": held, "moments": _numbers(states), "whole": left}


def _numbers(tensors: Any) -> int:
    return sum((each.to_local() if isinstance(each, DTensor) else each).numel() for each in tensors)


def main(kind: str, folder: str, slow: str = "0", sharded: str = "True", **plan: Any) -> None:
    with processes.group("cpu"):
        print(json.dumps(run(kind, Path(folder), float(slow), sharded == "True", **plan)))

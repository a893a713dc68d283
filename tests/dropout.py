"""A run of the training loop that can be repeated in another process."""

import time
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from remodeler.model.blocks import Anatomy
from remodeler.runs import processes
from remodeler.training import loop as training
from remodeler.training.adapters import everything
from remodeler.training.loop import train
from remodeler.training.losses import cross_entropy
from remodeler.training.plan import Training
from tiny import tiny_anatomy, tiny_windows

WINDOWS = tiny_windows(count=10, seed=1)
HELDOUT = tiny_windows(count=3, seed=2)
PLAN = Training(steps=6, batch=4, micro=2, learning_rate=1e-2, warmup=1)


def weights(anatomy: Anatomy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in anatomy.model.state_dict().items()}


def run_with_dropout(folder: Path, slow: float = 0.0) -> None:
    """Twenty steps of a model that has dropout, a state every second one; its weights go into the folder."""
    anatomy, old = tiny_anatomy("gpt2"), training.PENDING
    training.PENDING = 2
    try:
        with everything(anatomy):
            plan = replace(PLAN, steps=20, save_minutes=0)
            train(anatomy, cross_entropy, WINDOWS, plan, folder, None, HELDOUT, lambda *told: time.sleep(slow))
    finally:
        training.PENDING = old
    save_file(weights(anatomy), folder / f"weights-{processes.rank()}.safetensors")

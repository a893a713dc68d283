"""The loss of every piece of every window without every candidate, along an exact search: measured once, on the disk.

A mini-batch at a time, so that a killed recording goes on where it was: on a real model it takes hours. What races and
lazy races would have done with these losses is found offline (``race_check.py``).

    python benchmarks/recorded_losses.py MODEL --texts FILE --samples 64 --length 512 --steps 8 --tables FILE
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from common import add_loading, add_numbers, add_paths, load_float32, new_parser, run_main
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from remodeler.checkpoint.load import Checkpoint
from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.evaluation.metrics import model_windows
from remodeler.model.blocks import Anatomy
from remodeler.model.minibatches import batch_size
from remodeler.pruning.criteria.sweep import window_scores
from remodeler.pruning.search.candidates import candidates
from remodeler.pruning.search.racing import loss_of_pieces, pieces
from remodeler.runs.records import write_bytes
from remodeler.runs.units import Block, Unit


@dataclass(frozen=True, eq=False)
class Step:
    """What an exact search measured in one step, in the order of the text."""

    units: list[Unit]
    losses: NDArray[np.float64]  # [windows that were read, units, pieces]

    @property
    def best(self) -> int:
        """Column of the unit that goes."""
        return int(self.losses.sum((0, 2)).argmin())


@dataclass(frozen=True, eq=False)
class Recording:
    """An exact search as far as it was measured."""

    intact: NDArray[np.float64]  # [windows, pieces]
    steps: tuple[Step, ...] = ()
    """The last one may have read some windows only."""

    @property
    def done(self) -> tuple[Step, ...]:
        """Steps that read the whole text."""
        return tuple(step for step in self.steps if len(step.losses) == len(self.intact))

    @property
    def removed(self) -> list[Block]:
        """What went in these."""
        return [block for step in self.done for block in step.units[step.best]]


def record(anatomy: Anatomy, windows: Windows, found: Recording | None, wanted: int) -> Iterator[Recording]:
    """Go on behind what is known, a mini-batch at a time; yields all so far."""
    found = found or Recording(_losses(anatomy, windows, [], [()])[:, 0])
    while len(found.done) < wanted:
        if len(found.done) == len(found.steps):
            units = candidates(anatomy, "block", "free", found.removed)
            found = replace(found, steps=(*found.steps, Step(units, np.zeros((0, len(units), pieces(windows))))))
        last = found.steps[-1]
        start = len(last.losses)
        part = windows[start : start + batch_size(anatomy, windows)]
        read = _losses(anatomy, part, found.removed, last.units)
        last = replace(last, losses=np.concatenate([last.losses, read]))
        found = replace(found, steps=(*found.steps[:-1], last))
        yield found


def _losses(anatomy: Anatomy, windows: Windows, removed: list[Block], units: list[Unit]) -> NDArray[np.float64]:
    measure, shape = loss_of_pieces(pieces(windows))
    found = window_scores(anatomy, windows, removed, units, prepare=measure, shape=shape)
    return found.cpu().numpy()


def keep(path: Path, found: Recording) -> None:
    """Write what was measured; a kill leaves the file as it was."""
    names = {str(k): json.dumps([str(unit[0]) for unit in step.units]) for k, step in enumerate(found.steps)}
    losses = {str(k): np.ascontiguousarray(step.losses) for k, step in enumerate(found.steps)}
    write_bytes(path, save({"intact": found.intact, **losses}, metadata=names))


def kept(path: Path) -> Recording | None:
    """Read it again."""
    if not path.exists():
        return None
    with safe_open(path, framework="np") as file:
        names = file.metadata()
        units = [[(Block.parse(name),) for name in json.loads(names[str(k)])] for k in range(len(names))]
        steps = [Step(each, file.get_tensor(str(k))) for k, each in enumerate(units)]
        return Recording(file.get_tensor("intact"), tuple(steps))


def calibration(given: argparse.Namespace) -> tuple[Checkpoint, Windows]:
    """The model and the windows that ``remodel prune`` would read."""
    checkpoint = load_float32(given.model, given)
    texts = sample(given.texts, given.samples).calibration
    return checkpoint, model_windows(checkpoint, texts, given.length)


def go_on(given: argparse.Namespace) -> Recording:
    """Record what a script's options ask for, as far as it was not, with a line for every mini-batch."""
    checkpoint, windows = calibration(given)
    note(f"{len(windows)} windows, {windows.tokens} scored tokens")
    found, last = kept(given.tables) if given.tables else None, time.perf_counter()
    for found in record(checkpoint.anatomy, windows, found, given.steps):  # noqa: B020  what was found grows
        if given.tables:
            keep(given.tables, found)
        now, read = time.perf_counter(), len(found.steps[-1].losses)
        best = f": {found.removed[-1]}" if read == len(windows) else ""
        note(f"step {len(found.steps)}, {read} of {len(windows)} windows, {now - last:.0f} s{best}")
        last = now
    assert found
    return found


def main() -> None:
    """Record, on the disk."""
    parser = new_parser(__doc__, tables=False)
    parser.add_argument("model")
    parser.add_argument("--texts", default="python")
    add_numbers(parser, samples=256, length=512, steps=12, threads=2)
    add_loading(parser)
    add_paths(parser, "tables")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    go_on(given)


if __name__ == "__main__":
    run_main(main)

"""How often a race drops the best candidate, and what it saves: many races over losses that were measured once.

Claim: the share of wrong removals stays below the error that was asked for, at errors large enough to count them.

First an exact search keeps the loss of every piece of every window without every candidate, step by step. Then the
same steps are raced offline, over many random orders of the windows; a step counts as wrong when its race ends with
another winner than the exact search, and the next step is that of the exact search all the same. Block evaluations are
counted as the sweep makes them, one for each block and window.

    python benchmarks/race_check.py MODEL --texts FILE --length 512 --steps 12 --tables tables.safetensors
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, add_loading, add_numbers, add_paths, load_float32, new_parser, publish, run_main
from measurements import Column, Table
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.data.windows import IGNORED, Windows
from remodeler.evaluation.metrics import model_windows
from remodeler.pruning.search.candidates import candidates
from remodeler.pruning.search.racing import PIECE, race
from remodeler.pruning.search.racing import Table as Losses
from remodeler.runs.records import write_json
from remodeler.runs.units import Block, Unit


@dataclass(frozen=True, eq=False)
class Step:
    """What the exact search measured in one step."""

    units: list[Unit]
    losses: NDArray[np.float64]  # [windows, units, pieces]

    @property
    def best(self) -> int:
        """Column of the unit that goes."""
        return int(self.losses.sum((0, 2)).argmin())


# ---- measured once ---------------------------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> list[Step]:
    """An exact search, as a race that nobody leaves."""
    checkpoint = load_float32(given.model, given)
    texts = sample(given.texts, given.samples).calibration
    windows = model_windows(checkpoint, texts, given.length)
    removed: list[Block] = []
    steps = []
    for _ in range(given.steps):
        memory: list[Losses] = []
        units = candidates(checkpoint.anatomy, "block", "free", removed)
        race(checkpoint.anatomy, windows, removed, units, error=0, past_races=memory)
        steps.append(Step(units, memory[0].losses))
        removed += units[steps[-1].best]
        note(f"step {len(steps)}: {removed[-1]}")
        keep(given.tables, steps)
    return steps


def keep(path: Path | None, steps: Sequence[Step]) -> None:
    """Write what was measured."""
    if path:
        names = {str(k): json.dumps([str(unit[0]) for unit in step.units]) for k, step in enumerate(steps)}
        save_file({str(k): np.ascontiguousarray(step.losses) for k, step in enumerate(steps)}, path, metadata=names)


def kept(path: Path) -> list[Step]:
    """Read it again."""
    with safe_open(path, framework="np") as file:
        names = file.metadata()
        return [
            Step([(Block.parse(name),) for name in json.loads(names[str(k)])], file.get_tensor(str(k)))
            for k in range(len(names))
        ]


# ---- raced often -----------------------------------------------------------------------------------------------------


def place(block: Block) -> int:
    """In the order of computation."""
    return 2 * block.layer + (block.kind == "mlp")


def evaluations(left: Sequence[Unit], units: Sequence[Unit]) -> int:
    """Blocks that one window takes in a sweep over ``units``, of a model that has ``left``."""
    places = [place(unit[0]) for unit in left]
    if len(units) == 1:
        return len(left) - 1
    starts = [place(unit[0]) for unit in units]
    recorded = sum(each <= max(starts) | 1 for each in places)
    return recorded + sum(each > start for start in starts for each in places)


@dataclass
class Replayed:
    """Stands where the sweep was: looks losses up, and counts the evaluations."""

    step: Step
    count: int = 0

    def __call__(self, _: Any, windows: Windows, __: Any, units: Sequence[Unit], *___: Any) -> Tensor:
        columns = [self.step.units.index(unit) for unit in units]
        self.count += len(windows) * evaluations(self.step.units, units)
        return torch.from_numpy(self.step.losses[windows.ids[:, 0].numpy()][:, columns])


def search(steps: Sequence[Step], windows: Windows, error: float, seed: int, remember: bool) -> tuple[int, int]:
    """Races of one search: block evaluations, and wrong steps."""
    memory: list[Losses] = []
    count = wrong = 0
    for step in steps:
        removed = [unit[0] for unit in steps[0].units if unit not in step.units]
        replayed = Replayed(step)
        past = memory if remember else None
        share = error / len(steps)
        found = race(None, windows, removed, step.units, error=share, seed=seed, memory=past, losses=replayed)  # type: ignore[arg-type]
        count += replayed.count
        wrong += int(np.argmin(found.losses)) != step.best
    return count, wrong


def check(steps: Sequence[Step], errors: Sequence[float], orders: int) -> list[Row]:
    """For every error, with and without memory: how many evaluations are saved, and how many removals are wrong."""
    count, _, pieces = steps[0].losses.shape
    ids = torch.arange(count)[:, None].expand(count, pieces * PIECE)
    windows = Windows(ids, ids.masked_fill(torch.zeros_like(ids, dtype=torch.bool), IGNORED))
    exact = sum(count * evaluations(step.units, step.units) for step in steps)
    plain = sum(count * len(step.units) * (len(step.units) - 1) for step in steps)
    rows = []
    for error in errors:
        for remember in (True, False):
            found = [search(steps, windows, error, seed, remember) for seed in range(orders)]
            mean = float(np.mean([cost for cost, _ in found]))
            wrong = sum(bad for _, bad in found)
            row = {"error": error, "memory": remember, "exact": exact / mean, "plain": plain / mean}
            rows.append(row | {"wrong": wrong, "searches": orders})
    return rows


COLUMNS = (
    Column("error", "error asked for", "{value:g}"),
    Column("memory", "memory"),
    Column("exact", "× fewer evaluations than exact", "{value:.2f}"),
    Column("plain", "than plain", "{value:.2f}"),
    Column("wrong", "wrong removals a search", "{share:.3f} ({count} in {searches})"),
)


def table(rows: Sequence[Row], caption: str) -> Table:
    """A line for each error, with and without memory."""
    return Table(COLUMNS, tuple(row | {"memory": _memory(row), "wrong": _wrong(row)} for row in rows), caption)


def _memory(row: Row) -> str:
    return "yes" if row["memory"] else "no"


def _wrong(row: Row) -> Row:
    return {"share": row["wrong"] / row["searches"], "count": row["wrong"], "searches": row["searches"]}


def main() -> None:
    """Print the table and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--texts", default="python")
    add_numbers(parser, samples=256, length=512, steps=12, orders=100)
    parser.add_argument("--errors", type=float, nargs="*", default=[0.01, 0.1, 1.0, 3.0])
    parser.add_argument("--tables", type=Path, help="what was measured: read where it exists, else written")
    add_loading(parser)
    add_paths(parser, "json", required=False)
    given = parser.parse_args()
    steps = kept(given.tables) if given.tables and given.tables.exists() else measure(given)
    rows = check(steps, given.errors, given.orders)
    windows, _, pieces = steps[0].losses.shape
    publish(given, {"errors": table(rows, f"{len(steps)} steps, {windows} windows of {pieces} pieces")})
    if given.json:
        write_json(given.json, {"model": given.model, "rows": rows})


if __name__ == "__main__":
    run_main(main)

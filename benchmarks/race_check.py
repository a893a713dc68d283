"""How often a race drops the best candidate, and what it saves: many searches over losses that were measured once.

Claim: the share of wrong removals stays below the error that was asked for, at errors large enough to count them; and
a lazy race removes what a race of all does, with fewer block evaluations.

First an exact search keeps the loss of every piece of every window without every candidate, step by step
(``recorded_losses.py``). Then the same steps are raced offline, over many random orders of the windows; a step counts
as wrong when its race ends with another winner than the exact search, and the next step is that of the exact search all
the same. Block evaluations are counted as the sweep makes them, one for each block and window.

    python benchmarks/race_check.py MODEL --texts FILE --length 512 --steps 12 --tables tables.safetensors
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import Row, add_loading, add_numbers, add_paths, new_parser, publish, run_main
from measurements import Column, Table
from numpy.typing import NDArray
from recorded_losses import Recording, Step, go_on, kept
from torch import Tensor

from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.logprobs import perplexity
from remodeler.pruning.search.lazy import NOTHING_KNOWN, bounds_of, race_lazily
from remodeler.pruning.search.racing import PIECE, Raced
from remodeler.pruning.search.racing import Table as Losses
from remodeler.runs.records import write_json
from remodeler.runs.removals import Step as Logged
from remodeler.runs.units import Block, Unit, name


def measure(given: argparse.Namespace) -> Recording:
    """An exact search, recorded as far as it was not."""
    found = go_on(given) if given.model else kept(given.tables) if given.tables else None
    if found is None:
        raise InputError("nothing was recorded: give a MODEL, or --tables with what was measured before")
    return found


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


@dataclass(frozen=True)
class How:
    """A kind of search."""

    error: float
    remember: bool = True
    lazy: bool = False


def search(recording: Recording, windows: Windows, how: How, seed: int) -> tuple[int, int]:
    """Races of one search: block evaluations, and wrong steps."""
    steps, past = recording.done, list[Losses]()
    logged: list[Logged] = []
    count = wrong = 0
    for number, step in enumerate(steps):
        replayed = Replayed(step)
        bounds = bounds_of(worth(recording.intact), logged) if how.lazy else NOTHING_KNOWN
        options = {"error": how.error / len(steps), "seed": seed, "losses": replayed}
        options |= {"past_races": past if how.remember else []}
        units, found = race_lazily(None, windows, recording.removed[:number], step.units, bounds, **options)  # type: ignore[arg-type]
        logged.append(as_logged(step, units, found))
        count += replayed.count
        wrong += units[int(np.argmin(found.losses))] != step.units[step.best]
    return count, wrong


def as_logged(step: Step, units: Sequence[Unit], found: Raced) -> Logged:
    """What a log would hold after the step, had the best one gone."""
    known = {name(unit): perplexity(loss) for unit, loss in zip(units, found.losses, strict=True)}
    return Logged(0, step.units[step.best], known, worth(step.losses[:, step.best]), 0, 0.0)


def worth(losses: NDArray[np.float64]) -> float:
    """Perplexity by the losses of all pieces, as if each had ``PIECE`` tokens: what a race over them says."""
    return perplexity(losses.sum().item() / (losses.size * PIECE))


def check(recording: Recording, errors: Sequence[float], orders: int) -> list[Row]:
    """For every error and kind of race: how many evaluations are saved, and how many removals are wrong."""
    count, pieces = recording.intact.shape
    ids = torch.arange(count)[:, None].expand(count, pieces * PIECE)
    windows = Windows(ids, ids)
    exact = sum(count * evaluations(step.units, step.units) for step in recording.done)
    plain = sum(count * len(step.units) * (len(step.units) - 1) for step in recording.done)
    rows = []
    for how in (How(error, *kind) for error in errors for kind in ((False, False), (True, False), (True, True))):
        found = [search(recording, windows, how, seed) for seed in range(orders)]
        mean = float(np.mean([cost for cost, _ in found]))
        wrong = sum(bad for _, bad in found)
        row = {"error": how.error, "memory": how.remember, "lazy": how.lazy}
        rows.append(row | {"exact": exact / mean, "plain": plain / mean, "wrong": wrong, "searches": orders})
    return rows


COLUMNS = (
    Column("error", "error asked for", "{value:g}"),
    Column("kind", "race"),
    Column("exact", "× fewer evaluations than exact", "{value:.2f}"),
    Column("plain", "than plain", "{value:.2f}"),
    Column("wrong", "wrong removals a search", "{share:.3f} ({count} in {searches})"),
)


def table(rows: Sequence[Row], caption: str) -> Table:
    """A line for each error and kind of race."""
    return Table(COLUMNS, tuple(row | {"kind": _kind(row), "wrong": _wrong(row)} for row in rows), caption)


def _kind(row: Row) -> str:
    return "lazy" if row["lazy"] else "with memory" if row["memory"] else "without memory"


def _wrong(row: Row) -> Row:
    return {"share": row["wrong"] / row["searches"], "count": row["wrong"], "searches": row["searches"]}


def main() -> None:
    """Print the table and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--texts", default="python")
    add_numbers(parser, samples=256, length=512, steps=12, orders=100)
    parser.add_argument("--errors", type=float, nargs="*", default=[0.01, 0.1, 1.0, 3.0])
    add_loading(parser)
    add_paths(parser, "json", "tables", required=False)
    given = parser.parse_args()
    recording = measure(given)
    rows = check(recording, given.errors, given.orders)
    windows, pieces = recording.intact.shape
    publish(given, {"errors": table(rows, f"{len(recording.done)} steps, {windows} windows of {pieces} pieces")})
    if given.json:
        write_json(given.json, {"model": given.model, "rows": rows})


if __name__ == "__main__":
    run_main(main)

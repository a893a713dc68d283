"""A training run on disk: the loss curve, and as safetensors the weights that are trained and the optimiser's moments.

accelerate and torch pickle an optimiser; here its tensors go by the parameters' names, so a state can be read by
anything. The learning rate, the order of the windows and all random numbers are functions of the step and the seed, so
there is nothing else to keep. A state is written beside the one before and renamed: a kill leaves the older one.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from remodeler.errors import InputError
from remodeler.runs import processes
from remodeler.runs.folders import partial
from remodeler.runs.records import (
    append_line,
    disk_errors,
    drop_torn_line,
    read_json,
    read_lines,
    to_json,
    write_json,
    write_text,
)
from remodeler.training.sharding import placed_like, whole

Line = dict[str, Any]

CURVE_FILE = "training.jsonl"
STATES = "training"
"""Folder inside a result that holds a run until it is done."""
BEGUN = f"{STATES}/{CURVE_FILE}"
"""Is there until all is done."""
WEIGHTS, MOMENTS, FACTS = "trained.safetensors", "optimizer.safetensors", "state.json"
PREFIX = "step-"


@dataclass(frozen=True)
class Learner:
    """What changes while training: parameters by name, and their optimiser."""

    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer


def latest(folder: Path) -> Path | None:
    """The newest whole state in a folder."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.suffix != ".partial"]
    return max(found, key=step_of, default=None)


def step_of(state: Path) -> int:
    """How many steps were done when a state was written."""
    return int(state.name.removeprefix(PREFIX))


def write(folder: Path, step: int, learner: Learner, facts: dict[str, Any]) -> None:
    """Write a state, then delete older ones; every process calls it, the first writes."""
    weights = {name: whole(value) for name, value in learner.parameters.items()}
    moments = {name: whole(value) for name, value in _moments(learner)}
    if processes.is_first():
        _write(folder, step, weights, moments, facts)


def _write(
    folder: Path, step: int, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor], facts: dict[str, Any]
) -> None:
    place = folder / f"{PREFIX}{step:08d}"
    work = partial(place)
    with disk_errors(folder):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        save_file(dict(weights), work / WEIGHTS)
        save_file(dict(moments), work / MOMENTS)
        write_json(work / FACTS, facts)
        work.rename(place)
        for path in folder.glob(f"{PREFIX}*"):
            if path != place:
                shutil.rmtree(path)


def _moments(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """Everything that the optimiser keeps for a parameter, as ``name:key``."""
    for name, parameter in learner.parameters.items():
        for key, value in learner.optimizer.state.get(parameter, {}).items():
            yield f"{name}:{key}", value


def read(state: Path, learner: Learner) -> dict[str, Any]:
    """Put weights and moments back, in place; the facts that were written with them."""
    read_weights(state, learner.parameters)
    for place, value in load_file(state / MOMENTS).items():
        name, _, key = place.rpartition(":")
        parameter = learner.parameters[name]
        # Adam counts its steps on the CPU; what is as large as the parameter lies beside it.
        learner.optimizer.state[parameter][key] = placed_like(parameter, value) if value.dim() else value
    facts: dict[str, Any] = read_json(state / FACTS)
    return facts


@torch.no_grad()
def read_weights(state: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the weights of a state back into parameters, in place.

    Raises:
        InputError: when it is of others.
    """
    weights = load_file(state / WEIGHTS)
    if {name: value.shape for name, value in weights.items()} != {n: p.shape for n, p in parameters.items()}:
        raise InputError(f"{state} is of another model or method: remove it, or choose another `out`")
    for name, value in weights.items():
        parameters[name].copy_(placed_like(parameters[name], value))


# The loss curve -------------------------------------------------------------------------------------------------------


@dataclass
class Curve:
    """The loss curve: lines of ``training.jsonl``, written in groups so that the device need not wait at every step."""

    path: Path
    pending: list[tuple[Line, dict[str, Tensor]]] = field(default_factory=list)

    def add(self, line: Line, **measured: Tensor) -> None:
        """One more step, with numbers that are still on the device."""
        self.pending.append((line, measured))

    def flush(self) -> Line:
        """Write what is pending; the last line."""
        lines = [line | {name: value.item() for name, value in measured.items()} for line, measured in self.pending]
        self.pending.clear()
        for line in lines:
            if processes.is_first():
                append_line(self.path, {name: value if _finite(value) else None for name, value in line.items()})
            if not _finite(line.get("loss", 0.0)):
                raise InputError(
                    f"the loss of step {line['step']} is {line['loss']}: lower `learning_rate`, or compute in float32"
                )
        return lines[-1] if lines else {}


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def settle(folder: Path, header: Line) -> None:
    """Leave the loss curve as it was at the last state, or begin one."""
    path, state, header = folder / CURVE_FILE, latest(folder), json.loads(to_json(header))
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    if path.exists():
        drop_torn_line(path)
        lines = read_lines(path)
    if lines and lines[0] != header:
        raise InputError(
            f"{folder} holds another training run: give the same command, remove it or choose another `out`"
        )
    done = step_of(state) if state else -1
    kept = [header, *(line for line in lines[1:] if line["step"] <= done)]
    write_text(path, "".join(to_json(line) + "\n" for line in kept))

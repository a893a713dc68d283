"""Where a search that learns is kept: its tensors in one safetensors file, its history as JSON lines.

The file is written beside its place and renamed, so that a kill leaves the last whole one. The history may be ahead of
it then; its lines are cut back when the search goes on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from remodeler.errors import InputError
from remodeler.runs import processes
from remodeler.runs.records import disk_errors, drop_torn_line, read_lines, to_json, write_bytes, write_text

STATE_FILE = "width.safetensors"
HISTORY_FILE = "width.jsonl"
Line = dict[str, Any]


@dataclass(frozen=True)
class Store:
    """The state of one search in a folder; without a folder nothing is kept."""

    folder: Path | None
    identity: Mapping[str, Any]
    """What makes the search this one: model, texts, options. As JSON."""

    def load(self) -> dict[str, Tensor] | None:
        """What an interrupted search left, in all processes; None when it left nothing.

        Raises:
            InputError: when it is the state of another search, or no state.
        """
        return processes.from_first(self._load() if self.folder and processes.is_first() else None)

    def _load(self) -> dict[str, Tensor] | None:
        assert self.folder
        path = self.folder / STATE_FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                found = json.loads((file.metadata() or {}).get("identity", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        except SafetensorError as error:
            raise InputError(f"{path} can't be read ({error}): delete it to start over") from None
        wanted = json.loads(to_json(dict(self.identity)))
        for key in {**found, **wanted}:
            if found.get(key) != wanted.get(key):
                raise InputError(
                    f"{path} belongs to another search ({key} was {found.get(key)!r}, is {wanted.get(key)!r}): "
                    "give the same arguments to go on, or another `out`"
                )
        return tensors

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors in the place of those of before."""
        if not self.folder or not processes.is_first():
            return
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self.folder / STATE_FILE, save(own, metadata={"identity": to_json(dict(self.identity))}))

    def log(self, lines: Sequence[Line]) -> None:
        """Add lines to the history."""
        if self.folder and processes.is_first() and lines:
            path = self.folder / HISTORY_FILE
            with disk_errors(path), path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(to_json(line) + "\n" for line in lines)

    def history(self, lines: int) -> list[Line]:
        """The first lines of the history; what a kill left behind them is cut off."""
        return processes.from_first(self._history(lines) if self.folder and processes.is_first() else [])

    def _history(self, lines: int) -> list[Line]:
        assert self.folder
        path = self.folder / HISTORY_FILE
        if not path.exists():
            return []
        drop_torn_line(path)
        found = read_lines(path)[:lines]
        write_text(path, "".join(to_json(line) + "\n" for line in found))
        return found

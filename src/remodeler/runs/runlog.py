"""The log of a run, in JSON lines: the first says which run it is, each other one what was done, when it was done.

A kill may tear the last line, which is dropped. The log of another run is refused, not continued.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.runs.records import append_lines, drop_torn_line, read_lines, to_json


@dataclass(frozen=True)
class RunLog:
    """A log from which a run that was killed resumes."""

    path: Path

    def resume(self, header: Mapping[str, Any]) -> list[Any]:
        """The rows of an earlier run with the same header; begins the log where there is none.

        Raises:
            InputError: when the log is of another run, and says what differs.
        """
        found = self.lines()
        if not found:
            self.append([header])
            return []
        self._refuse_other(found[0], header)
        return found[1:]

    def mismatches(self, header: Mapping[str, Any]) -> list[str]:
        """Keys whose values in the log's header are other than in this one; nothing is changed."""
        found = read_lines(self.path)[:1] if self.path.exists() else []
        wanted = json.loads(to_json(header))
        return [key for key in {**wanted, **found[0]} if found[0].get(key) != wanted.get(key)] if found else []

    def refuse_other(self, header: Mapping[str, Any]) -> None:
        """Raise when the log is of another run than this header's; nothing is changed."""
        if self.path.exists() and (found := read_lines(self.path)):
            self._refuse_other(found[0], header)

    def append(self, rows: Sequence[Any]) -> None:
        """Add rows, and wait until they are on the disk."""
        append_lines(self.path, rows)

    def lines(self) -> list[Any]:
        """All lines, the header first; what a kill left of an unfinished one is cut off."""
        if not self.path.exists():
            return []
        drop_torn_line(self.path)
        return read_lines(self.path)

    def _refuse_other(self, first: Mapping[str, Any], header: Mapping[str, Any]) -> None:
        for key in {**first, **header}:
            old, new = first.get(key), json.loads(to_json(header.get(key)))
            if old != new:
                raise InputError(
                    f"{self.path} is of a run with another {key} (it was {old!r:.60}, is {new!r:.60}): "
                    "give the same arguments to go on, or another `out`"
                )

"""Where a path of removals stops being usable: the step at which perplexity jumps, and the command that stops before.

Perplexity is 2 to the power of the bits that a token costs. A step that doubles it costs one bit of every token at
once, a result at four times the intact model's two bits: text of such a model breaks up. Above the number of tokens in
its vocabulary, a model predicts worse than drawing them blindly.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from remodeler.runs.records import RECORD_FILE, load_record
from remodeler.runs.streams import shell_line

JUMP = 2.0
"""Times the perplexity before it: a step that costs so much is a cliff."""
RUIN = 4.0
"""Times the intact model's perplexity: a result that costs so much is of no use, however it came about."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A model on a path of removals."""

    perplexity: float
    """On the calibration text; infinite where a float can't hold it."""
    words: str = ""
    """Which step led to it."""
    removals: int = 0
    """Units that ``remodel cut --remove`` takes away to make it; 0 where it can't."""


def cliff(perplexities: Sequence[float]) -> int | None:
    """How many steps come before the first cliff that the path never climbs again; None where there is none.

    Args:
        perplexities: of the intact model, and after every step; infinite or NaN where it is no number.
    """
    for place, (before, after) in enumerate(pairwise(perplexities)):
        if _times(before, after, JUMP) and _times(before, perplexities[-1], JUMP):
            return place
    return None


def is_ruined(perplexities: Sequence[float], vocabulary: int | None = None) -> bool:
    """Whether the end of a path is of no use.

    Args:
        perplexities: of the intact model, and after every step.
        vocabulary: tokens that the model can predict.
    """
    first, last = perplexities[0], perplexities[-1]
    guessing = vocabulary is not None and first < vocabulary and not last < vocabulary
    return guessing or _times(first, last, RUIN)


def usable_steps(perplexities: Sequence[float], vocabulary: int | None = None) -> int | None:
    """After how many steps a path should have stopped; None where its end is usable.

    That is before a cliff; of a path that is ruined little by little, the last step at which perplexity was less than
    twice the intact model's. What is left by then is usable by the same measure.
    """
    end = len(perplexities) - 1
    while (stop := _stop(perplexities[: end + 1], vocabulary)) is not None:
        end = stop
    return end if end < len(perplexities) - 1 else None


def _stop(perplexities: Sequence[float], vocabulary: int | None) -> int | None:
    """A place before the end of a path that is of no use; None of one that is."""
    found = cliff(perplexities)
    if found is not None or not is_ruined(perplexities, vocabulary):
        return found
    limit = min(JUMP * perplexities[0], vocabulary or math.inf)
    return max((place for place, each in enumerate(perplexities) if each < limit), default=0)


def _times(before: float, after: float, factor: float) -> bool:
    return not after < factor * before


def risen(before: float, after: float) -> str:
    """How perplexity rose, in words."""
    times = f" ({after / before:.3g} times)" if math.isfinite(after) else ""
    return f"from {_number(before)} to {_number(after)}{times}"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "infinity"


def warning(text: str, before: float, after: float, command: str | None = None) -> dict[str, Any]:
    """A warning as a record holds it: what happened, and the command that makes a usable result."""
    found = {"text": text, "perplexity_before": before, "perplexity_after": after, "command": command}
    return {key: value for key, value in found.items() if value is not None}


def warning_line(given: Values) -> str:
    """A warning in a line."""
    return f"{given['text']}: {given['command']}" if given.get("command") else str(given["text"])


def cut_command(options: Values, steps: int, source: str | None = None) -> str:
    """The command that makes a result of the first steps of a search.

    Args:
        options: of the record of a search or a cut.
        steps: how many.
        source: the folder with its log; by default where the options say that it was written.
    """
    place = _no_option(source or str(options["out"]))
    words = ["remodel", "cut", place, _no_option(str(options["model"])), "--remove", str(steps)]
    for name in ("revision", "family", "dtype", "device", "form"):
        if options.get(name) not in (None, "auto"):
            words += [f"--{name}", str(options[name])]
    words += ["--trust-remote-code"] * bool(options.get("trust_remote_code"))
    return shell_line([*words, "--out", f"{place.rstrip('/')}-{steps}"])


def stored_warning(folder: Path) -> dict[str, Any] | None:
    """The warning in the record of a result, whose command names the folder where it lies now; None without one."""
    if not (folder / RECORD_FILE).is_file():
        return None
    record = load_record(folder)
    given = record.results.get("warning")
    steps = re.search(r" --remove (\d+)", (given or {}).get("command") or "")
    if not given or not steps or record.verb not in ("prune", "cut"):
        return given
    return {**given, "command": cut_command(record.options, int(steps.group(1)), str(folder))}


def _no_option(place: str) -> str:
    """A path that no command takes for an option; no hub id begins with a dash."""
    return f"./{place}" if place.startswith("-") else place


def path_warning(path: Sequence[Point], vocabulary: int | None, options: Values) -> dict[str, Any] | None:
    """The warning of a search or a cut; None where its result is usable.

    Args:
        path: the intact model, and what every step left.
        vocabulary: tokens that the model can predict.
        options: of the record.
    """
    perplexities = [point.perplexity for point in path]
    steps = usable_steps(perplexities, vocabulary)
    if steps is None:
        return None
    sudden = steps == cliff(perplexities)
    before, after = (perplexities[steps], path[steps + 1]) if sudden else (perplexities[0], path[-1])
    text = f"this result is not usable: perplexity rises {risen(before, after.perplexity)}"
    text += f" {after.words}" if sudden else " over all steps"
    if after is not path[-1]:
        text += f", and is {_number(perplexities[-1])} in the end"
    if count := path[steps].removals:
        text += f"; stop after step {steps}, at {_number(perplexities[steps])}"
        return warning(text, before, after.perplexity, cut_command(options, count))
    return warning(f"{text}; remove less, or choose another method", before, after.perplexity)


def guessing_warning(
    names: Sequence[str], perplexities: Sequence[float | None], sizes: Sequence[int]
) -> dict[str, Any] | None:
    """The warning of models that predict no better than drawing tokens blindly; None where all do better.

    Args:
        names: of the models.
        perplexities: of each; None where it was not measured.
        sizes: of their vocabularies.
    """
    rows = [(name, value, size) for name, value, size in zip(names, perplexities, sizes, strict=True) if value]
    bad = [f"{name} ({value:.4g} among {size:,} tokens)" for name, value, size in rows if not value < size]
    return {"text": f"no better than drawing tokens blindly, by perplexity: {', '.join(bad)}"} if bad else None


def result_warning(
    before: float, after: float, vocabulary: int | None, what: str, command: str | None = None
) -> dict[str, Any] | None:
    """The warning of a result whose path is not known, as after training; None where it is usable.

    Args:
        before: perplexity of the intact model.
        after: of the result.
        vocabulary: tokens that the model can predict.
        what: on which text.
        command: what makes a usable result.
    """
    if not is_ruined([before, after], vocabulary):
        return guessing_warning([f"this result on {what} text"], [after], [vocabulary]) if vocabulary else None
    text = f"this result is not usable: {what} perplexity rises {risen(before, after)}"
    return warning(text + ("; remove less" if command else ""), before, after, command)

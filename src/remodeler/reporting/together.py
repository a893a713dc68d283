"""One self-contained page from any number of records: figures side by side, trade-offs in one plot, memory, block maps.

Everything on the page comes from the folders' ``record.json`` and the logs beside them. It fetches nothing; a few lines
of script copy tables as CSV and compute memory for the context and batch that the reader gives. Without scripts the
page says the same for 4,096 tokens and one text.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.errors import InputError, one_line
from remodeler.reporting.figures import Measured, comparison, number, size
from remodeler.reporting.page import REPORT_FILE, command
from remodeler.reporting.plots import tradeoffs_svg
from remodeler.reporting.rendering import PAGE_ERRORS, render_template
from remodeler.reporting.results import Results, source
from remodeler.reporting.steps import curve_points
from remodeler.runs.folders import refuse_existing
from remodeler.runs.records import Record, load_record, write_text
from remodeler.runs.removals import REMOVALS_FILE, LogLine, read_log_lines

CONTEXT, BATCH = 4096, 1
"""Tokens and texts for which memory is told at first."""

Parse = Callable[[Record], Results]
"""What a verb found, from its record."""


@dataclass(frozen=True)
class Entry:
    """A folder with a record."""

    name: str
    folder: Path
    record: Record
    results: Results
    steps: Sequence[LogLine]
    """Of its removal log; none where it has none."""


def write_together(folders: Sequence[Path], page: Path, parse: Parse) -> Path:
    """Write the page of some folders.

    Raises:
        InputError: when a folder has no record, or one that can't be shown, or the page is there already.
    """
    refuse_existing(page)
    found = entries(folders, parse)
    try:
        text = render(found, page)
    except PAGE_ERRORS as error:
        raise _refusal([entry.name for entry in found], error) from error
    write_text(page, text)
    return page


def _refusal(names: Sequence[str], error: Exception) -> InputError:
    return InputError(
        f"the records of {', '.join(names)} can't be shown ({type(error).__name__}: {one_line(error)}): "
        "give folders as a verb wrote them"
    )


def entries(folders: Sequence[Path], parse: Parse) -> list[Entry]:
    """What lies in some folders, by names that tell them apart."""
    if not folders:
        raise InputError("no folders were given: name those that a verb of remodel wrote")
    return [_entry(name, folder, parse) for name, folder in zip(names(folders), folders, strict=True)]


def _entry(name: str, folder: Path, parse: Parse) -> Entry:
    record = load_record(folder)
    try:
        return Entry(name, folder, record, parse(record), read_log_lines(folder / REMOVALS_FILE))
    except PAGE_ERRORS as error:
        raise _refusal([name], error) from error


def names(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, as few as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        twice = next(folder for folder in folders if parts.count(folder.resolve().parts) > 1)
        raise InputError(f"{twice} was given twice: give each folder once")
    depth = 1
    while max(Counter(each[-depth:] for each in parts).values()) > 1:
        depth += 1
    return ["/".join(each[-depth:]) for each in parts]


def render(found: Sequence[Entry], page: Path) -> str:
    """The page."""
    figures = measured_checkpoints(found)
    curves = tradeoffs(found)
    values = {
        "title": page.stem.replace("-", " ").replace("_", " "),
        "entries": [_describe(entry, page) for entry in found],
        "comparison": comparison(figures),
        "memory": memory(figures),
        "context": CONTEXT,
        "batch": BATCH,
        "curve": tradeoffs_svg(curves) if curves else None,
    }
    return render_template("reporting/templates/together.html.jinja", values)


# What the page shows --------------------------------------------------------------------------------------------------


def measured_checkpoints(found: Sequence[Entry]) -> Measured:
    """Every checkpoint that was measured, a source once, under the names that readers know."""
    listed: Measured = []
    for entry in found:
        several = entry.results.figures()
        if entry.results.of_models:
            listed += [(Path(name).name, values) for name, values in several]
            continue
        model = Path(source(entry.record)).name
        for _, values in several[:-1][:1]:
            if model not in [name for name, _ in listed]:
                listed.append((model, values))
        listed += [(entry.name, values) for _, values in several[-1:]]
    return listed


def tradeoffs(found: Sequence[Entry]) -> dict[str, list[tuple[float, float]]]:
    """By name the curves of those that were searched, up to what was written."""
    points = {entry.name: [point for point in curve_points(entry.steps) if point] for entry in found}
    return {name: each for name, each in points.items() if len(each) > 1}


def memory(figures: Measured) -> list[dict[str, Any]]:
    """By checkpoint the bytes of its weights, and of the KV cache a token; those of both at first."""
    rows = []
    for name, values in figures:
        weights, cache = number(values.get("weight_bytes")), number(values.get("kv_bytes_per_token"))
        if weights is not None and cache is not None:
            kept = cache * CONTEXT * BATCH
            shown = {"weights_text": size(weights), "cache_text": size(kept), "all_text": size(weights + kept)}
            rows.append({"name": name, "weights": weights, "cache": cache, **shown})
    return rows


def _describe(entry: Entry, page: Path) -> dict[str, Any]:
    """One folder: what was done, its map of blocks, its command, and its own page."""
    own = entry.folder / REPORT_FILE
    return {
        "name": entry.name,
        "verb": entry.record.verb,
        "lead": entry.results.lead(entry.record, entry.folder),
        "warning": entry.results.warning,
        "map": entry.results.block_map(entry.folder),
        "command": command(entry.record, entry.results),
        "link": _relative(own, page) if own.exists() else None,
    }


def _relative(target: Path, page: Path) -> str:
    """How a page reaches another file: by a relative path where there is one."""
    try:
        return target.resolve().relative_to(page.resolve().parent).as_posix()
    except ValueError:
        return target.resolve().as_uri()

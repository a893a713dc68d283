"""One self-contained HTML page from a folder's ``record.json`` and the logs beside it: no network, no scripts.

A verb's results say what there is to show; what they show in no place of its own is listed as it is. Templates escape
every value; only figures drawn by `plots.py` go in as they come.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from remodeler.errors import one_line
from remodeler.reporting.rendering import PAGE_ERRORS, render_sections, render_template
from remodeler.reporting.results import Results, source
from remodeler.runs.records import Record, load_record, save_record, write_text
from remodeler.runs.streams import shell_line

CARD_FILE, REPORT_FILE = "README.md", "report.html"

logger = logging.getLogger(__name__)


def write_result(folder: Path, record: Record, results: Results) -> None:
    """Describe a result in its folder: the record, the card where it has one, and the page."""
    write_record_and_card(folder, record, results)
    write_report(folder, type(results))


def write_record_and_card(folder: Path, record: Record, results: Results) -> None:
    """Write ``record.json`` and, where the results have a card, ``README.md``."""
    save_record(folder, record)
    card = results.card(record)
    if card is not None:
        write_text(folder / CARD_FILE, card)


def write_report(folder: Path, kind: type[Results]) -> Path:
    """Write ``report.html`` beside the record of a folder, whose results are of a kind.

    Where a record or a log holds what no page can show, that is said, and there is none: a finished result stays whole.
    """
    record = load_record(folder)
    try:
        page = render(record, kind.parse(record), folder)
    except PAGE_ERRORS as error:
        logger.warning(
            f"{REPORT_FILE} is left out, this record can't be shown ({type(error).__name__}: {one_line(error)})"
        )
    else:
        write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def render(record: Record, results: Results, folder: Path) -> str:
    """The page of a record.

    Args:
        record: what was done.
        results: what it found.
        folder: with the logs.
    """
    values = {
        "verb": record.verb,
        "title": results.title(record),
        "lead": results.lead(record, folder),
        "warning": results.warning,
        "tiles": results.tiles(),
        "sections": render_sections(results.report_sections(record, folder)),
        "how": results.how,
        "command": command(record, results),
        "facts_by_subject": facts(record, results),
    }
    return render_template("reporting/templates/page.html.jinja", values)


def command(record: Record, results: Results) -> str:
    """The command that makes the result again: as it was given, if one was, or put together from the options."""
    if results.command or "command" in record.results or not record.options:
        return results.command
    flags = [word for name, value in record.options.items() for word in _flag(name.replace("_", "-"), value)]
    return shell_line(["remodel", record.verb, *filter(None, [source(record)]), *flags])


def _flag(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    return [f"--{name}"] if value is True else [f"--{name}", _plain(value)]


def facts(record: Record, results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything else that the record says, by subject: the model and its texts first."""
    inputs = {"model": None, "texts": None} | record.inputs
    options = record.options | {"seed": record.seed}
    subjects = inputs | {"options": options, "result": results.others(record), "versions": record.versions}
    return [(subject[:1].upper() + subject[1:], list(_facts(value))) for subject, value in subjects.items()]


def _facts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _facts(inner, f"{name} {key}".strip().replace("_", " "))
    elif value is not None:
        yield name or "name", _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)

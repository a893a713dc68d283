"""The kinds of sections that several verbs' pages have. A function gives None where there is nothing to show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remodeler.reporting.card import llama_cpp_line
from remodeler.reporting.figures import Measured, comparison
from remodeler.reporting.results import Section
from remodeler.runs.records import Record, read_lines

HERE = "reporting/templates"


def nonempty(*sections: Section | None) -> list[Section]:
    """Those that show something."""
    return [each for each in sections if each is not None]


def log_lines(path: Path) -> list[Any]:
    """The lines of a log; none where there is no file."""
    return read_lines(path) if path.exists() else []


def figure(title: str, svg: str | None, caption: str) -> Section | None:
    """A drawing and the words below it."""
    return Section(f"{HERE}/figure.html.jinja", {"title": title, "svg": svg, "caption": caption}) if svg else None


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Section | None:
    """A table whose first column names its rows."""
    return Section(f"{HERE}/table.html.jinja", {"title": title, "head": head, "rows": rows}) if rows else None


def comparison_table(figures: Measured, title: str = "Measured") -> Section | None:
    """All measurements: a column a checkpoint and, for two, the change between them."""
    drawn = comparison(figures)
    return Section(f"{HERE}/comparison.html.jinja", {"title": title, "comparison": drawn}) if drawn else None


def caution(text: str, head: str = "") -> Section:
    """What a reader should keep in mind."""
    return Section(f"{HERE}/caution.html.jinja", {"head": head, "text": text})


def loading_code(form: str, auto_class: str, record: Record) -> Section | None:
    """The lines that load the result, by its form; nothing of a result that is no model."""
    if not form:
        return None
    if form == "gguf":
        return Section(f"{HERE}/loading.html.jinja", {"code": llama_cpp_line(str(record.options.get("out")))})
    place = repr(str(record.options.get("out") or "."))
    known = ["import remodeler.packed  # or, without this package: trust_remote_code=True below"]
    lines = [
        f"from transformers import AutoTokenizer, {auto_class}",
        "",
        f"model = {auto_class}.from_pretrained({place})",
        f"tokenizer = AutoTokenizer.from_pretrained({place})",
    ]
    code = "\n".join([*(known if form == "packed" else []), *lines])
    return Section(f"{HERE}/loading.html.jinja", {"code": code})

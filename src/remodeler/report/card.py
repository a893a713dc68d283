"""Parts of model cards (README.md): what machines read, tables, warnings, how to load a model and how it was made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from remodeler.report.card_text import fenced, markdown, plain
from remodeler.report.figures import Values, comparison, written
from remodeler.runs.records import disk_errors

INHERITED = ("license", "license_name", "license_link", "language")
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""PyYAML raises more than its own, for dates and tagged values that are none, and for what is nested too deeply."""
LONGEST_HEAD = 2**20
"""Characters of a card in which its front matter is looked for."""


def inherited(source: Path) -> dict[str, Any]:
    """Licence and language from the source's own card, where it lies on this disk."""
    readme = source / "README.md"
    if not readme.is_file():
        return {}
    with disk_errors(readme), readme.open(encoding="utf-8-sig", errors="replace") as file:
        found = REGEX_YAML_BLOCK.match(file.read(LONGEST_HEAD))
    try:  # as strings: else the language `no` is False, and a date is no string
        meta = yaml.load(found.group(2), yaml.BaseLoader) if found else None
    except YAML_ERRORS:
        return {}
    given = {key: meta.get(key) for key in INHERITED} if isinstance(meta, dict) else {}
    return {key: value for key, value in given.items() if _is_words(value)}


def _is_words(value: Any) -> bool:
    """Whether a field of a card has what the hub reads there: a word or a list of words."""
    every = value if isinstance(value, list) else [value]
    return bool(every) and all(isinstance(each, str) and each not in ("", "~", "null") for each in every)


class Model(Protocol):
    """Results that are a model, made of another."""

    @property
    def form(self) -> str: ...
    @property
    def auto_class(self) -> str: ...
    @property
    def pipeline_tag(self) -> str: ...
    @property
    def command(self) -> str: ...


def model_card(model: Model, base: str, title: str, tags: Sequence[str], story: Sequence[str]) -> str:
    """The card of a model that was made of another, whose folder or hub id is ``base``."""
    head = {
        "base_model": known_as(base),
        "library_name": "peft" if model.form == "adapters" else "transformers",
        "pipeline_tag": model.pipeline_tag,
        "tags": [*tags, *(["custom_code"] if model.form == "packed" else [])],
        **inherited(Path(base)),
    }
    return page(head, title, story, loading_lines(model.form, model.auto_class, base), model.command)


def known_as(source: str) -> str:
    """A hub id, or the name of a folder."""
    return Path(source).resolve().name if Path(source).exists() else source


def page(head: dict[str, Any], title: str, story: Sequence[str], loading: Sequence[str], command: str) -> str:
    """A card: what machines read, the story, how to load the model, and the command that made it."""
    top = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {plain(title)}", ""]
    again = ["", "## Make it again", "", *fenced([command]), ""]
    return "\n".join([*top, *story, "", "## Load", "", *loading, *again])


def warned(given: Values | None) -> list[str]:
    """The warning that a result is of no use, where there is one."""
    if not given:
        return []
    again = ["", "To stop before that:", "", *fenced([given["command"]])] if given.get("command") else []
    return ["", f"> **Warning:** {plain(given['text'])}.", *again]


def measurements(**checkpoints: Values | None) -> list[str]:
    """The table of all measurements, a column a checkpoint that was measured."""
    drawn = comparison([(name, each) for name, each in checkpoints.items() if each is not None])
    return [] if drawn is None else markdown(*written(drawn))


def loading_lines(form: str, auto_class: str, source: str) -> list[str]:
    """The code that loads a model, line by line."""
    lines = [f"from transformers import {auto_class}", ""]
    if form == "adapters":
        base = json.dumps(source, ensure_ascii=False)  # a Python string too, in the quotes that people use
        lines[1:] = ["from peft import PeftModel", "", f"base = {auto_class}.from_pretrained({base})"]
        return fenced([*lines, 'model = PeftModel.from_pretrained(base, "path/to/this/folder")'], "python")
    if form == "packed":
        lines += ["import remodeler.packed  # or pass trust_remote_code=True", ""]
    return fenced([*lines, f'model = {auto_class}.from_pretrained("path/to/this/folder")'], "python")

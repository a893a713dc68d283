"""Parts of model cards (README.md): what machines read, tables, warnings, how to load a model and how it was made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from huggingface_hub import ModelCardData

from remodeler.reporting.card_data import front_matter, inherited_metadata
from remodeler.reporting.card_text import fenced, markdown, plain
from remodeler.reporting.figures import Values, comparison, written
from remodeler.runs.streams import shell_line


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
    head = ModelCardData(
        base_model=known_as(base),
        library_name={"adapters": "peft", "gguf": "gguf"}.get(model.form, "transformers"),
        pipeline_tag=model.pipeline_tag,
        tags=[*tags, *(["custom_code"] if model.form == "packed" else [])],
        **inherited_metadata(Path(base)),
    )
    return page(head, title, story, loading_lines(model.form, model.auto_class, base), model.command)


def known_as(source: str) -> str:
    """A hub id, or the name of a folder."""
    return Path(source).resolve().name if Path(source).exists() else source


def page(data: ModelCardData, title: str, story: Sequence[str], loading: Sequence[str], command: str) -> str:
    """A card: what machines read, the story, how to load the model, and the command that made it, if one did."""
    top = [*front_matter(data), "", f"# {plain(title)}", ""]
    again = ["", "## Make it again", "", *fenced([command]), ""] if command else [""]
    return "\n".join([*top, *story, "", "## Load", "", *loading, *again])


def warnings_of(given: Values | None) -> list[str]:
    """The warning that a result is of no use, where there is one."""
    if not given:
        return []
    again = ["", "To stop before that:", "", *fenced([given["command"]])] if given.get("command") else []
    return ["", f"> **Warning:** {plain(given['text'])}.", *again]


def measurements(**checkpoints: Values | None) -> list[str]:
    """The table of all measurements, a column a checkpoint that was measured."""
    drawn = comparison([(name, each) for name, each in checkpoints.items() if each is not None])
    return [] if drawn is None else markdown(*written(drawn))


def llama_cpp_line(file: str) -> str:
    """The command of llama.cpp that runs a GGUF file."""
    return shell_line(["llama-cli", "-m", file])


def loading_lines(form: str, auto_class: str, source: str) -> list[str]:
    """The code that loads a model, line by line."""
    if form == "gguf":
        return fenced([llama_cpp_line("path/to/this/file.gguf")], "sh")
    lines = [f"from transformers import {auto_class}", ""]
    if form == "adapters":
        base = json.dumps(source, ensure_ascii=False)  # a Python string too, in the quotes that people use
        lines[1:] = ["from peft import PeftModel", "", f"base = {auto_class}.from_pretrained({base})"]
        return fenced([*lines, 'model = PeftModel.from_pretrained(base, "path/to/this/folder")'], "python")
    if form == "packed":
        lines += ["import remodeler.packed  # or pass trust_remote_code=True", ""]
    return fenced([*lines, f'model = {auto_class}.from_pretrained("path/to/this/folder")'], "python")

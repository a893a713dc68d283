"""Format of a reviser's input and output: four labelled sections, and a label in front of its revision.

Aligner was trained with one template and is deployed with another. So the template is kept in ``reviser.json`` beside
the weights, with its digest, and nothing else is ever used with them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from remodeler.errors import InputError
from remodeler.runs.records import read_json, to_json

NONE, MINOR, MAJOR = "NONE", "MINOR", "MAJOR"
LABELS = (NONE, MINOR, MAJOR)
"""How much of a response has to change, in the order of their probabilities."""


@dataclass(frozen=True)
class Template:
    """The words around a prompt and a response."""

    task: str = "### Task:\nImprove the response if needed."
    prompt: str = "\n\n### Prompt:\n"
    response: str = "\n\n### Response:\n"
    revision: str = "\n\n### Revision:\n"
    markers: Mapping[str, str] = field(default_factory=lambda: {label: label for label in LABELS})
    """Spelling of each label."""

    def fill(self, prompt: str, response: str) -> str:
        """Fill in a prompt and a response: the text that a reviser reads."""
        return f"{self.task}{self.prompt}{prompt}{self.response}{response}{self.revision}"

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that must not occur in an answer: the section marks."""
        return tuple(each.strip() for each in (self.prompt, self.response, self.revision) if each.strip())

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(to_json(asdict(self)).encode()).hexdigest()


def parse_template(value: Any, name: str) -> Template:
    """Read a template from the value of a file.

    Raises:
        InputError: when a section or a marker is missing, or two labels are written alike.
    """
    names = {each.name for each in fields(Template)}
    if not isinstance(value, Mapping) or set(value) != names or not isinstance(value["markers"], Mapping):
        raise InputError(f"the template of {name} is another one: its keys must be {', '.join(sorted(names))}")
    sections = [value[each] for each in names - {"markers"}]
    markers = {label: value["markers"].get(label) for label in LABELS}
    if not all(isinstance(each, str) and each for each in (*sections, *markers.values())):
        raise InputError(f"the template of {name} has empty parts: sections and {', '.join(LABELS)} need text")
    if len(set(markers.values())) < len(LABELS) or set(value["markers"]) != set(LABELS):
        raise InputError(f"the template of {name} must write {', '.join(LABELS)}, each in its own way: change it")
    return Template(**{**value, "markers": markers})


def read_template(path: Path | None) -> Template:
    """The template of a JSON file; the usual one without a file."""
    return Template() if path is None else parse_template(read_json(path), str(path))

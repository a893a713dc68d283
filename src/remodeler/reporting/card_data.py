"""What machines read of a model card: the front matter, in YAML, as the hub and its library take it."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from remodeler.runs.records import disk_errors

INHERITED = ("license", "license_name", "license_link", "language")
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""PyYAML raises more than its own, for dates and tagged values that are none, and for what is nested too deeply."""
LONGEST_HEAD = 2**20
"""Characters of a card in which its front matter is looked for."""


def front_matter(data: ModelCardData) -> list[str]:
    """The lines above a card, in ASCII.

    Not those of ``data.to_yaml``: signs that turn a text round stand in them as they are, and line separators get lost.
    """
    return ["---", yaml.safe_dump(data.to_dict(), sort_keys=False).strip(), "---"]


def inherited_metadata(source: Path) -> dict[str, Any]:
    """Licence and language from the source's own card, where it lies on this disk.

    ``ModelCard.load`` reads all of a file, takes the language `no` for False, and raises for a card that is no YAML.
    """
    readme = source / "README.md"
    if not readme.is_file():
        return {}
    with disk_errors(readme), readme.open(encoding="utf-8-sig", errors="replace") as file:
        found = REGEX_YAML_BLOCK.match(file.read(LONGEST_HEAD))
    try:  # as strings: a date would be none
        meta = yaml.load(found.group(2), yaml.BaseLoader) if found else None
    except YAML_ERRORS:
        return {}
    given = {key: meta.get(key) for key in INHERITED} if isinstance(meta, dict) else {}
    return {key: value for key, value in given.items() if _is_words(value)}


def _is_words(value: Any) -> bool:
    """Whether a field of a card has what the hub reads there: a word or a list of words."""
    every = value if isinstance(value, list) else [value]
    return bool(every) and all(isinstance(each, str) and each not in ("", "~", "null") for each in every)

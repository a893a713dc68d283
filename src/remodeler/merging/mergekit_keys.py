"""The pieces that a YAML file for mergekit is made of: mappings with known keys, lists, names of models."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from remodeler.errors import InputError
from remodeler.reporting.card_data import YAML_ERRORS

MERGE_KEY = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which PyYAML would take the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) and key.tag != MERGE_KEY else None
            if name in seen:
                raise yaml.YAMLError(f"the key {key.value} is there twice, line {key.start_mark.line + 1}")
            seen.update([name] if name else [])
        return node


def load_yaml(path: Path) -> dict[Any, Any]:
    """A document that names a merge_method.

    Raises:
        InputError: for what is not one YAML document, or is another one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}): check the path") from None
    except YAML_ERRORS as error:
        raise InputError(f"{path} is not valid YAML ({' '.join(str(error).split())}): check the file") from None
    if not isinstance(content, dict) or "merge_method" not in content:
        raise InputError(f"{path} names no merge_method: give a file written for mergekit-yaml")
    return content


def short(value: Any) -> str:
    """A value in a few words, on one line, whatever it is."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 100 else reprlib.repr(value)


def checked(where: str, value: Any, keys: Sequence[str], unused: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping that has no other keys than those that are read, and null for those that are not acted on."""
    if not isinstance(value, dict):
        raise InputError(f"has {where.rstrip('.') or 'a document'} {short(value)}, a mapping was expected")
    for key, each in value.items():
        if key not in keys and not (key in unused and each is None):
            raise InputError(f"has {where}{short(key)}, which is not read here: remove it, or run mergekit")
    return value


def list_of(where: str, value: Any) -> list[Any]:
    """A list that is not empty."""
    if not isinstance(value, list) or not value:
        raise InputError(f"has {where} {short(value)}, a list was expected")
    return value


def text_of(where: str, value: Any) -> str:
    """Text that can be a name."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InputError(f"has {where} {short(value)}, a name was expected")
    return value


def model_of(where: str, value: Any) -> str:
    """A model as mergekit lets it be written: a name, or a mapping with one; without revision, adapter or class."""
    if isinstance(value, dict):
        inner = checked(f"{where}.", value, ("model",), ("lora", "override_architecture")).get("model")
        if isinstance(inner, dict):
            path = checked(f"{where}.model.", inner, ("path",), ("revision",)).get("path")
            return text_of(f"{where}.model.path", path)
        return _plain(f"{where}.model", inner, "@")
    return _plain(where, value, "+@")


def _plain(where: str, value: Any, marks: str) -> str:
    """A plain name, without the suffixes of ``model+adapter`` and ``model@revision``."""
    name = text_of(where, value)
    for mark, what in (("+", "an adapter"), ("@", "a revision")):
        if mark in marks and mark in name:
            raise InputError(f"has {where} {name}, {what} behind {mark}, which is not read here: give a merged folder")
    return name

"""From the options of a recovery to its recipe: the method's row of the table, with what was given."""

from dataclasses import asdict, replace
from typing import Any

from remodeler.checkpoint.gguf import is_gguf
from remodeler.errors import InputError, option
from remodeler.recovery.config import RecoverConfig
from remodeler.recovery.recipes import METHODS, Recipe
from remodeler.training.lora import Lora

OPTIONS = {"k": "top_k", "share": "text_share", "batch": "train_batch_size"}
"""Options of settings that have another name."""


def recipe_of(config: RecoverConfig) -> Recipe:
    """The method's row with what was given.

    Raises:
        InputError: for a setting that the method has no use for, and what contradicts it.
    """
    row, adapters, teacher = METHODS[config.method], config.adapters.adapters, config.teacher
    if adapters is not None:
        row = replace(row, lora=(row.lora or METHODS["lora"].lora) if adapters else None)
    if row.distill and not teacher.teacher:
        raise InputError(
            f"{option('method', config.method)} learns from the unpruned model: name it with {option('teacher')}"
        )
    if row.lora is None and not config.merge:
        raise InputError(
            f"{option('merge', False)} was given, but no adapters are trained: add {option('adapters', True)} or leave "
            "it out"
        )
    if not config.merge and is_gguf(config.source.name):
        raise InputError(
            f"{option('merge', False)} was given, and peft loads no adapters onto a GGUF file: leave it out, or make a "
            "folder of the file first (merge it alone)"
        )
    row = _with(row, config.settings())
    if teacher.teacher_store and (row.distill is None or row.distill.temperature != 1):
        raise InputError(
            f"{option('teacher_store')} holds predictions at temperature 1, for {option('method', 'distill')}: "
            "leave it out"
        )
    return row


def _with(row: Recipe, settings: dict[str, Any]) -> Recipe:
    """A row with other settings, each where it belongs."""
    parts: dict[str, Any] = {"lora": row.lora, "distill": row.distill}
    for name, value in settings.items():
        if name in Recipe.__dataclass_fields__:
            row = replace(row, **{name: value})
            continue
        part = "lora" if name in Lora.__dataclass_fields__ else "distill"
        if parts[part] is None:
            what = "adapters" if part == "lora" else "a teacher's predictions"
            given = option(OPTIONS.get(name, name), value)
            raise InputError(f"{given} was given, but this method has no use for {what}: leave it out")
        parts[part] = replace(parts[part], **{name: value})
    return replace(row, **parts)


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Settings of a recipe, as a record holds them."""
    return {name: value for name, value in asdict(recipe).items() if name != "summary"}

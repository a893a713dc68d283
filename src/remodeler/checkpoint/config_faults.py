"""Fields of a config.json that transformers 5 stumbles over, in words of its own: a table of tests, with what to do.

A test returns what it found, which its sentence names, or "". Nested configs (``text_config``) are looked at too.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from remodeler.errors import InputError

Settings = Mapping[str, Any]
Row = tuple[Callable[[Settings], str], str]
DTYPES = ("float32", "bfloat16", "float16", "float64", "float", "half", "double")
"""Names of torch that a model can be computed in."""
FLASH = ("flash_attn", "flash_attn_interface", "kernels")
"""Packages that bring such a kernel."""
ATTENTION = ("attn_implementation", "_attn_implementation")


def _dtype(settings: Settings) -> str:
    """One that torch has no such name for; a dict names those of the parts of a model."""
    found = [(key, settings[key]) for key in ("dtype", "torch_dtype") if settings.get(key) is not None]
    return next((f"{key} {value!r}" for key, value in found if value not in DTYPES and not isinstance(value, dict)), "")


def _quantisation(settings: Settings) -> str:
    return "quantization_config" if settings.get("quantization_config") == {} else ""


def _flash(settings: Settings) -> str:
    """A kernel of a package that is not here."""
    wanted = [(key, settings[key]) for key in ATTENTION if str(settings.get(key)).startswith("flash_attention")]
    return "" if any(map(find_spec, FLASH)) else next((f"{key} {value!r}" for key, value in wanted), "")


def _rope(settings: Settings) -> str:
    """The first name of longrope, from before transformers knew its ranges."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = settings.get(key)
        if isinstance(scaling, dict) and "su" in (scaling.get("type"), scaling.get("rope_type")):
            return f"{key} of type su"
    return ""


FAULTS: tuple[Row, ...] = (
    (_dtype, "config.json of {name} has {found}, which is no dtype: remove it, or name float32, bfloat16 or float16"),
    (_quantisation, "config.json of {name} has an empty {found}: remove it if the weights are not quantised"),
    (
        _flash,
        "config.json of {name} asks for {found}, and the package flash-attn is not installed: remove that from it",
    ),
    (_rope, "config.json of {name} has {found}, the first name of longrope: write longrope there"),
)


def refuse_config(name: str, settings: Settings) -> None:
    """Refuse a config that can't be read as it is.

    Args:
        name: of the checkpoint, for people.
        settings: its ``config.json``.

    Raises:
        InputError: by the field, with what to do.
    """
    for each in _with_nested(settings):
        for test, sentence in FAULTS:
            if found := test(each):
                raise InputError(sentence.format(name=name, found=found))


def _with_nested(settings: Settings) -> Iterator[Settings]:
    yield settings
    yield from (value for key, value in settings.items() if key.endswith("_config") and isinstance(value, dict))

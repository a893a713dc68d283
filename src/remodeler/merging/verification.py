"""A merged folder read back: all of it computed where its family is known, else config, tokenizer, names and shapes.

A model too large for memory is computed layer by layer, as ``--stream`` does; one whose family is not known is loaded
by its transformers class, on the meta device (no numbers) where it is large. That every number is finite, and every
byte on the disk the one that was written, is checked while merging.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING

from remodeler.checkpoint.companions import matching
from remodeler.checkpoint.library_errors import one_sentence
from remodeler.checkpoint.load import load, read_config, read_tokenizer
from remodeler.checkpoint.repositories import classes, predicts_tokens
from remodeler.checkpoint.save import one_pass
from remodeler.errors import InputError
from remodeler.merging.inputs import Model
from remodeler.model.families import FAMILIES
from remodeler.model.files.names import TOKENIZER

logger = logging.getLogger(__name__)


IN_MEMORY = 2**26
"""Parameters of a model that is loaded whole: more would take more memory than merging."""


@dataclass(frozen=True)
class Verification:
    """What was read back of a result."""

    computed: bool
    """Whether it computed logits for a few tokens."""
    parts: tuple[str, ...]
    """What else was checked, in words."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer."""
    return any(matching(folder, TOKENIZER))


def verify(source: Model, work: Path, parameters: int, trust_remote_code: bool) -> Verification:
    """Read a merged folder back, as far as that goes.

    Args:
        source: the model whose layout, config and tokenizer the result has.
        work: the folder.
        parameters: of the result.
        trust_remote_code: run code that came with the source.

    Raises:
        InputError: when it does not load, or produces NaN or infinite logits.
    """
    known = _known(source.settings)
    if known and predicts_tokens(source.settings) and has_tokenizer(work):
        again = load(
            work, dtype="float32", device="cpu", trust_remote_code=trust_remote_code, stream=parameters > IN_MEMORY
        )
        if not torch.isfinite(one_pass(again)).all():
            raise InputError("the merged model produces NaN or infinite logits: choose another method or other models")
        return Verification(True, ("logits",))
    parts = (*_tokenizer(work, trust_remote_code), *_shapes(source, work, parameters))
    logger.warning(f"the result was not computed ({_why_not(source, known)}); {_checked_parts(parts)}")
    return Verification(False, parts)


def _known(settings: Mapping[str, Any]) -> bool:
    """Whether it is of a known family, or such a model packed, without code of its own."""
    packing = settings.get("packing") or {}
    return settings.get("model_type") in FAMILIES or (packing.get("family") in FAMILIES and "auto_map" not in packing)


def _why_not(source: Model, known: bool) -> str:
    if not known:
        return f"{source.settings.get('model_type')} is not a known family"
    return "it has no tokenizer" if predicts_tokens(source.settings) else "it does not predict tokens"


def _checked_parts(parts: tuple[str, ...]) -> str:
    return f"read back: {', '.join(parts)}" if parts else "its bytes are those that were written"


def _tokenizer(work: Path, trust_remote_code: bool) -> tuple[str, ...]:
    if not has_tokenizer(work):
        return ()
    read_tokenizer(str(work), trust_remote_code=trust_remote_code)("a few words")
    return ("tokenizer",)


def _shapes(source: Model, work: Path, parameters: int) -> tuple[str, ...]:
    """Load by the class that the config names, if transformers has it."""
    named = classes(source.settings)
    model_class: Any = getattr(transformers, named[0], None) if named else None
    if source.settings.get("model_type") not in CONFIG_MAPPING or model_class is None:
        return ()
    read_config(str(work))
    where: dict[str, Any] = {"device_map": "meta"} if parameters > IN_MEMORY else {"device_map": "cpu"}
    with one_sentence(str(work), "the result"):
        _, info = model_class.from_pretrained(
            work, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True, **where
        )
        lacking = [*sorted(info["missing_keys"]), *(key[0] for key in info["mismatched_keys"])]
        if lacking:
            raise ValueError(f"{len(lacking)} weights are missing or of another shape, the first: {lacking[0]}")
    return ("config", "names and shapes of all weights")

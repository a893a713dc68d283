"""Tensors that results have from the source's files byte for byte: what pruning and training do not touch.

Of a model of text and images all but its text part; and the layers that predict tokens further ahead (MTP), which
transformers does not load: they read the last hidden state, so they are of use still, if of less. Of quantised files
these are dequantised as all else is.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from remodeler.checkpoint.configs import set_ahead
from remodeler.checkpoint.gguf import is_gguf
from remodeler.checkpoint.load import Checkpoint, read_settings
from remodeler.checkpoint.quantised import slices_of
from remodeler.checkpoint.repositories import folder_of
from remodeler.errors import quantity
from remodeler.model.ahead import depth, is_ahead, renumbered
from remodeler.model.files.dequantised import open_slices
from remodeler.model.files.renaming import made_of
from remodeler.model.files.shards import FLOATS
from remodeler.model.files.weights import tensor_files

logger = logging.getLogger(__name__)

Slices = Mapping[str, Any]
"""Tensors on disk by their names, read when they are asked for their numbers."""


@dataclass(frozen=True)
class Carried:
    """Tensors of other files, by their names in the result."""

    slices: dict[str, Any] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    """Names in the model of those that are in memory too, so that they are not written from there."""

    def others(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the tensors of a model those that are written from memory."""
        return {name: tensor for name, tensor in tensors.items() if name not in self.loaded}

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors, one after the other."""
        return ((name, each[...]) for name, each in self.slices.items())


def carried_along(checkpoint: Checkpoint, config: PreTrainedConfig, keep_ahead: bool = True) -> Carried:
    """What a result takes over from the files of its source.

    Args:
        checkpoint: the source.
        config: of the result; says from here on how many layers predict further tokens.
        keep_ahead: whether these are taken over.
    """
    ahead = carried_ahead(checkpoint) if keep_ahead else {}
    if ahead:
        set_ahead(config, checkpoint.model.config)
    before, after = depth(checkpoint.model.config), depth(config)
    parts = _carried_parts(checkpoint)
    named = {key: each for key, each in parts.values()}
    return Carried(named | {renumbered(key, before, after): each for key, each in ahead.items()}, frozenset(parts))


def _carried_parts(checkpoint: Checkpoint) -> dict[str, tuple[str, Any]]:
    """What lies beside the text part, as far as files hold it as the model does: by its name there, that in the files.

    What is joined or cut when it is loaded, or quantised, is written from memory.
    """
    names = checkpoint.anatomy.carried
    slices = _stored(checkpoint) if names else {}
    made = made_of(checkpoint.model, slices)
    plain = {each.name: key for key, each in made.items() if not each.converted and each.name in names}
    return {name: (key, slices[key]) for name, key in plain.items() if slices[key].get_dtype() in FLOATS}


def carried_ahead(checkpoint: Checkpoint) -> dict[str, Any]:
    """The layers that predict tokens further ahead, by their names in the files."""
    model, slices = checkpoint.model, _stored(checkpoint)
    asked = [key for key in slices if is_ahead(model.config, key)]
    known = model.state_dict().keys() if asked else frozenset()
    found = {key: slices[key] for key, made in made_of(model, asked).items() if not made.names & known}
    if not found or not checkpoint.quantised:
        return found
    computed = slices_of(checkpoint.name, _folder(checkpoint), read_settings(checkpoint.name, checkpoint.revision))
    if computed is None:
        logger.warning(
            f"{quantity(len(found), 'tensor')} of layers that predict further tokens (MTP) can't be dequantised, and "
            "are left out"
        )
        return {}
    return {key: computed[key] for key in found if key in computed}


def _folder(checkpoint: Checkpoint) -> Any:
    return None if is_gguf(checkpoint.name) else folder_of(checkpoint.name, checkpoint.revision)


def _stored(checkpoint: Checkpoint) -> Slices:
    """What is in the files of a checkpoint; nothing of one that has none, and of GGUF files."""
    folder = _folder(checkpoint)
    return open_slices(tensor_files(folder)) if folder else {}


def in_parts(carried: Carried, limit: int) -> Iterator[dict[str, Tensor]]:
    """The tensors in parts of about so many bytes."""
    part: dict[str, Tensor] = {}
    for name, tensor in carried.read():
        part[name] = tensor
        if sum(each.nbytes for each in part.values()) >= limit:
            yield part
            part = {}
    if part:
        yield part

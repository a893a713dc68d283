"""Tensors that results have from the source's files byte for byte: what pruning and training do not touch.

Of a model of text and images all but its text part; and the layers that predict tokens further ahead (MTP), which
transformers does not load: they read the last hidden state, so they are of use still, if of less.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig

from remodeler.checkpoint.configs import set_ahead
from remodeler.checkpoint.gguf import is_gguf
from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.repositories import folder_of
from remodeler.model.ahead import depth, is_ahead, renumbered
from remodeler.model.files.renaming import Made, made_of
from remodeler.model.files.shards import FLOATS
from remodeler.model.files.weights import tensor_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Carried:
    """Tensors of other files, by their names in the result."""

    places: dict[str, tuple[Path, str]] = field(default_factory=dict)
    """The file that each is in, and its name there."""
    loaded: frozenset[str] = frozenset()
    """Names in the model of those that are in memory too, so that they are not written from there."""

    def __or__(self, other: "Carried") -> "Carried":
        return Carried({**self.places, **other.places}, self.loaded | other.loaded)

    def others(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the tensors of a model those that are written from memory."""
        return {name: tensor for name, tensor in tensors.items() if name not in self.loaded}

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors, one file after the other."""
        for file in sorted({file for file, _ in self.places.values()}):
            with safe_open(file, framework="pt") as opened:
                for name, (place, key) in self.places.items():
                    if place == file:
                        yield name, opened.get_tensor(key)


def carried_along(checkpoint: Checkpoint, config: PreTrainedConfig, keep_ahead: bool = True) -> Carried:
    """What a result takes over from the files of its source.

    Args:
        checkpoint: the source.
        config: of the result; says from here on how many layers predict further tokens.
        keep_ahead: whether these are taken over.
    """
    ahead = carried_ahead(checkpoint, depth(config)) if keep_ahead else Carried()
    if ahead.places:
        set_ahead(config, checkpoint.model.config)
    return _carried_parts(checkpoint) | ahead


def _carried_parts(checkpoint: Checkpoint) -> Carried:
    """What lies beside the text part, as far as the files hold it as the model does."""
    names = checkpoint.anatomy.carried
    found = _in_files(checkpoint, lambda made: not made.converted and made.name in names) if names else {}
    plain = {key: (file, made) for key, (file, made) in found.items() if _dtype(file, key) in FLOATS}
    places = {key: (file, key) for key, (file, _) in plain.items()}
    return Carried(places, frozenset(made.name for _, made in plain.values()))


def carried_ahead(checkpoint: Checkpoint, behind: int) -> Carried:
    """The layers that predict tokens further ahead.

    Args:
        checkpoint: the source.
        behind: number of layers that they are counted behind in the result.
    """
    config = checkpoint.model.config
    known = checkpoint.model.state_dict().keys()
    found = _in_files(checkpoint, lambda made: not made.names & known, lambda key: is_ahead(config, key))
    if found and checkpoint.quantised:
        logger.warning(
            f"{len(found)} weights of layers that predict further tokens (MTP) are quantised, and are left out"
        )
        return Carried()
    return Carried({renumbered(key, depth(config), behind): (file, key) for key, (file, _) in found.items()})


def _in_files(
    checkpoint: Checkpoint, wanted: Callable[[Made], bool], asked: Callable[[str], bool] = lambda _: True
) -> dict[str, tuple[Path, Made]]:
    """By the name in the files of a checkpoint: where a tensor is, and what it becomes in the model.

    Args:
        checkpoint: the source.
        wanted: by what it becomes.
        asked: whether that is looked up for a name.
    """
    folder = None if is_gguf(checkpoint.name) else folder_of(checkpoint.name, checkpoint.revision)
    if folder is None:
        return {}
    files = {key: file for key, file in tensor_files(folder).items() if asked(key)}
    return {key: (files[key], made) for key, made in made_of(checkpoint.model, files).items() if wanted(made)}


def _dtype(file: Path, key: str) -> str:
    with safe_open(file, framework="pt") as opened:
        return str(opened.get_slice(key).get_dtype())


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

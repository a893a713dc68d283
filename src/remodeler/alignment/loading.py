"""Load the models of an alignment, to use or to train them; one that is loaded already is taken as it is."""

import copy
from typing import Any

import torch

from remodeler.checkpoint.config import LoadConfig, ModelConfig, ModelLike
from remodeler.checkpoint.devices import DTYPES
from remodeler.checkpoint.load import Checkpoint, load, read_settings
from remodeler.model.families import FAMILIES
from remodeler.runs.options import as_recorded
from remodeler.training.model import training_dtype


def load_model(config: LoadConfig, model: ModelLike, device: torch.device) -> Checkpoint:
    """Load a model to use it."""
    if isinstance(model, Checkpoint):
        return model
    return load(str(model), **load_options(config, model, device))


def load_for_training(config: LoadConfig, model: ModelLike, device: torch.device, everything: bool) -> Checkpoint:
    """Load a model to train it: ``everything`` of it, which needs float32, or adapters alone.

    One that is loaded already is copied, so that it stays as it is.
    """
    if not isinstance(model, Checkpoint):
        return load(str(model), **load_options(config, model, device, everything))
    copied, dtype = copy.deepcopy(model), training_dtype(config.dtype, everything, device)
    copied.model.to(device, DTYPES.get(dtype, model.model.dtype))
    return copied


def load_options(
    config: LoadConfig, model: ModelLike, device: torch.device, everything: bool = False
) -> dict[str, Any]:
    """Arguments of :func:`remodeler.checkpoint.load.load` for a folder or hub id.

    The family that was named is that of models which are in no row; a revision is that of the config's own model.
    """
    own = isinstance(config, ModelConfig) and model is config.model
    revision = config.revision if isinstance(config, ModelConfig) and own else None
    known = read_settings(str(model), revision)["model_type"] in FAMILIES
    return {
        "revision": revision,
        "dtype": training_dtype(config.dtype, everything, device),
        "device": str(device),
        "family": None if known else config.family,
        "trust_remote_code": config.trust_remote_code,
    }


def name_of(model: ModelLike) -> str:
    """The folder or hub id of a model, loaded or not."""
    return str(as_recorded(model))

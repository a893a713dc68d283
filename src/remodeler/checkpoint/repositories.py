"""A model by its name, a folder or a hub id: what is no language model is refused, and its files are on this disk."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from transformers import CONFIG_MAPPING, GenerationConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils.peft_utils import find_adapter_config_file

from remodeler.checkpoint.gguf import as_folder, is_gguf, place_of
from remodeler.errors import InputError, one_line
from remodeler.model.blocks import Anatomy
from remodeler.model.families import BOTH, FAMILIES, unpacked_type
from remodeler.model.files.diagnosis import ADAPTER_CONFIG, CONFIG, MERGE_ADAPTER, refuse_folder
from remodeler.model.files.file_checks import json_object
from remodeler.model.files.names import COMPANIONS, GENERATION
from remodeler.model.files.renaming import made_of
from remodeler.model.files.shards import stored_dtype
from remodeler.model.files.weights import WHOLE, start_file, tensor_files, weight_files
from remodeler.model.wrappers import is_wrapper
from remodeler.runs.records import disk_errors

BESIDE = (*COMPANIONS, "*.json", "*.txt", "*.model", "*.jinja", "README.md")
"""Files of a repository beside its weights: what results carry on, and what else is read, or named as left out."""

logger = logging.getLogger(__name__)

OTHER_TASKS = re.compile(
    r"(For\w*Classification|ForQuestionAnswering|ForMultipleChoice|ForNextSentencePrediction|For\w*Reward\w*"
    r"|RewardModel\w*|ForScore|ForRegression|WithValueHead|EncoderModel)$"
)
"""Endings of the classes that have no head for tokens."""
BASE_CLASS = re.compile(r"(?<!LMHead)Model$")
"""The ending of classes that have no head at all; its weights may be the embeddings."""
WRITES = (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    | MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    | MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.keys()
    | MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.keys()
)
"""Model types of transformers that have a head for tokens."""
PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "vision_config", "audio_config")
"""Configs inside the config of a model that reads more than text."""


def refuse_no_model(name: str, revision: str | None) -> None:
    """Refuse what can't be a model, before anything of it is read.

    Raises:
        InputError: what it is instead, and what to do.
    """
    with disk_errors(Path(name)):
        if is_gguf(name):
            as_folder(Path(name))
            return
        folder, file = Path(name).is_dir(), Path(name).is_file()
    if folder:
        refuse_folder(Path(name))
        json_object(Path(name) / CONFIG)
        refuse_generation_config(Path(name))
        return
    if file:
        raise InputError(f"{name} is a file: give {_instead_of(Path(name))}")
    if "+" in name:
        raise InputError(
            f"{name} is no folder, and a model and its adapter, as mergekit joins them by +, are not read: "
            + MERGE_ADAPTER
        )
    if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"{name} is no folder: give a model folder or a hub id like org/name")
    refuse_unreachable(name, revision)
    if find_adapter_config_file(name, revision=revision):
        raise InputError(f"{name} has an {ADAPTER_CONFIG}, as adapters of other models have: {MERGE_ADAPTER}")


def refuse_unreachable(name: str, revision: str | None) -> None:
    """Refuse what is neither here nor to be had, at once: each file would be asked for six times otherwise."""
    if is_offline_mode() or isinstance(try_to_load_from_cache(name, CONFIG, revision=revision), str):
        return
    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except HfHubHTTPError:
        return  # it was reached, and says later what is wrong
    except Exception as error:  # of whichever HTTP library it takes
        raise InputError(
            f"there is no folder {name}, and the hub can't be reached ({one_line(error)}): check the path, or the "
            "connection"
        ) from None


def refuse_generation_config(folder: Path) -> None:
    """Refuse settings for writing texts that transformers can't read; results of every verb would carry them on."""
    if not (folder / GENERATION).is_file():
        return
    json_object(folder / GENERATION)
    try:
        GenerationConfig.from_pretrained(folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{folder / GENERATION} can't be read ({one_line(error)}): correct it, or take it away"
        ) from None


def _instead_of(file: Path) -> str:
    if (file.parent / CONFIG).is_file():
        return f"the folder that it is in, {file.parent}"
    return "a model folder or a hub id like org/name"


def classes(settings: Mapping[str, Any]) -> list[str]:
    """The classes that a config names."""
    named = settings.get("architectures")
    return [str(each) for each in named] if isinstance(named, list) else []


def encodes(settings: Mapping[str, Any]) -> bool:
    """Whether it is an encoder-decoder model, and not the decoder of one by itself, as BartForCausalLM is."""
    name = str(settings.get("model_type"))
    usual = getattr(CONFIG_MAPPING[name], "is_encoder_decoder", False) if name in CONFIG_MAPPING else False
    alone = any(each.endswith("ForCausalLM") for each in classes(settings))
    return not alone and bool(settings.get("is_encoder_decoder", usual))


def row_name(settings: Mapping[str, Any]) -> str:
    """The row of the family table that a ``config.json`` asks for; of types that have two, by its model's class."""
    recorded, name = (settings.get("packing") or {}).get("family"), unpacked_type(str(settings.get("model_type")))
    both = name + BOTH
    return str(recorded or (both if both in FAMILIES and encodes(settings) else name))


def predicts_tokens(settings: Mapping[str, Any]) -> bool:
    """Whether the class that a config names has a head for tokens."""
    return not any(OTHER_TASKS.search(each) or BASE_CLASS.search(each) for each in classes(settings))


def refuse_other_models(name: str, settings: dict[str, Any]) -> None:
    """Refuse models that are no language models of their own: classifiers, and those that read more than text."""
    other = [each for each in classes(settings) if OTHER_TASKS.search(each)]
    if other:
        raise InputError(f"{name} is a {other[0]} and no language model, it predicts no tokens: give another")
    row = FAMILIES.get(row_name(settings))
    whole = next((each for each in classes(settings) if each.endswith("ForConditionalGeneration")), None)
    if whole and row and row.task == "causal" and encodes(settings):
        raise InputError(
            f"{name} is a {whole}: of {settings['model_type']} only decoders by themselves are read (docs/reference/"
            "model_types.md has the encoder-decoder models that are)"
        )
    kind, parts = settings.get("model_type"), [part for part in PARTS if isinstance(settings.get(part), dict)]
    if kind in FAMILIES or is_wrapper(settings):
        return
    if unpacked_type(str(kind)) in CONFIG_MAPPING and unpacked_type(str(kind)) not in WRITES:
        raise InputError(f"{name} is a {kind}, which has no language model in it: give one, or a model that holds one")
    if parts:
        raise InputError(
            f"{name} is a {kind}, which reads more than text ({parts[0]}): save its text model by itself, as "
            "docs/reference/models.md shows, and give that"
        )


def folder_of(name: str, revision: str | None = None, fetch: Sequence[str] = ()) -> Path | None:
    """Where a model's files lie: its folder, or its place in the hub's cache; None where it has neither.

    Args:
        name: folder, hub id, or the name of a model that was made in memory.
        revision: of the hub id.
        fetch: patterns of files of a hub id to download first, where there is a network.
    """
    if Path(name).is_dir() or is_gguf(name):
        return Path(place_of(name))
    with suppress(OSError, ValueError):
        patterns = list(fetch) or None
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=not fetch))
    return None


def stored_in(name: str, revision: str | None, anatomy: Anatomy) -> torch.dtype | None:
    """What the files of a checkpoint hold, whatever its config says; those of a hub id were downloaded before.

    Of a model of text and images those of its text part count: the others are carried along as they are.
    """
    folder, carried = folder_of(name, revision), anatomy.carried
    files = tensor_files(folder) if folder else {}
    if carried:
        files = {key: files[key] for key, made in made_of(anatomy.model, files).items() if not made.names <= carried}
    return stored_dtype(files) if folder else None


def download(name: str, revision: str | None = None) -> Path:
    """A model's folder on this disk: its own, or that of a hub id with the weights that count and no others."""
    if Path(name).is_dir() or is_gguf(name):
        return Path(place_of(name))
    folder = _snapshot(name, revision)
    named = json_object(folder / CONFIG).get("transformers_weights", WHOLE)
    folder = _snapshot(name, revision, str(named))
    if start_file(folder).suffix != ".json":
        return folder
    return _snapshot(name, revision, *(file.relative_to(folder).as_posix() for file in weight_files(folder)))


def _snapshot(name: str, revision: str | None, *weights: str) -> Path:
    return Path(snapshot_download(name, revision=revision, allow_patterns=[*BESIDE, *weights]))


def note_adapter(folder: Path) -> None:
    """Say that the config of an adapter that has no weights adds nothing to a model; transformers would not load it."""
    if (folder / ADAPTER_CONFIG).is_file():
        logger.warning(f"{folder} has an {ADAPTER_CONFIG} and no weights of an adapter: it is left out")


def without_adapter(name: str) -> dict[str, Any]:
    """For transformers' loading of a folder: an adapter is looked for where there is none, so the model stays alone."""
    return {"adapter_kwargs": {"subfolder": "no adapter"}} if Path(name).is_dir() else {}

"""Load a model with its tokenizer and find its blocks; refuse what can't be pruned before hours are spent on it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

import remodeler.packed
from remodeler.checkpoint import gguf as gguf_files
from remodeler.checkpoint import repositories
from remodeler.checkpoint.auto_classes import auto_class
from remodeler.checkpoint.config import STRATEGIES, DeviceMapConfig
from remodeler.checkpoint.config_faults import refuse_config
from remodeler.checkpoint.device_maps import DeviceMap, Limits, placed, quiet_dispatch
from remodeler.checkpoint.devices import auto_dtype, fits_twice, pick_device, pick_dtype
from remodeler.checkpoint.library_errors import CONFIG_PART, LIBRARY_ERRORS, one_sentence
from remodeler.checkpoint.mismatches import settle
from remodeler.checkpoint.placing import laid_out
from remodeler.checkpoint.quantised import Quantised, dequantisable, dequantised_model
from remodeler.checkpoint.skipping import skipping_model, skips
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy
from remodeler.model.families import FAMILIES, WRAPPER, Family, config_names, family, unpacked_type
from remodeler.model.files.diagnosis import tokenizer_fault
from remodeler.model.files.weights import tensor_files
from remodeler.model.minibatches import device_of
from remodeler.model.offloading import hold_whole_layers
from remodeler.model.streaming import open_model, tensors_by_name
from remodeler.model.tracing import probe, trace
from remodeler.model.wrappers import is_wrapper, refuse_unfit
from remodeler.packed import text_of
from remodeler.runs.records import disk_errors


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """A model ready to be measured or pruned."""

    anatomy: Anatomy
    tokenizer: PreTrainedTokenizerBase
    name: str
    """Path or hub id, as given."""
    revision: str | None = None
    like: str | None = None
    """Family named by the user for remote code."""
    stored_dtype: torch.dtype | None = None
    """What the weights are stored in, as their files say; None for a model that was never in files."""
    quantised: str | None = None
    """Method by which its files are quantised, which are read as ``stored_dtype``; None for others."""
    device_map: str | Path | Mapping[str, Any] | None = None
    """How it was laid over devices, as given; None for one device."""
    max_memory: Limits | None = None
    """What its weights might take of each of them."""

    def __repr__(self) -> str:
        kind, number_type = type(self.model).__name__, str(self.model.dtype).removeprefix("torch.")
        return f"<Checkpoint {self.name}: {kind}, {self.anatomy.parameters():,} parameters, {number_type}>"

    @property
    def model(self) -> Any:
        """The transformers model, in eval mode."""
        return self.anatomy.model

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        return device_of(self.model)

    def where(self) -> dict[str, Any]:
        """Where a model made of this one is loaded, as keywords of :func:`load`; by a map of one's own no layer is."""
        if self.device_map is None:
            return {"device": str(self.device)}
        told = self.device_map if self.device_map in STRATEGIES else "auto"
        return {"device_map": told, "max_memory": self.max_memory}

    @property
    def context(self) -> int | None:
        """Longest window the model takes; None when it has no limit."""
        return context_of(self.model.config)


def context_of(config: PreTrainedConfig) -> int | None:
    """Longest window that a model of this config takes; None when it has no limit."""
    config = text_of(config)
    names = config_names(unpacked_type(config.model_type))
    longest = next((int(each) for name in names.context if (each := getattr(config, name, None) or 0) > 0), None)
    behind = config.pad_token_id + 1 if names.behind_padding else 0
    return int(longest - behind) if longest else None


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of the weights: names, shapes and every byte; a streamed model's are read for it."""
    digest = hashlib.sha256()
    for name, tensor in tensors_by_name(model):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    family: str | None = None,
    trust_remote_code: bool = False,
    stream: bool = False,
    stream_memory: int | None = None,
    device_map: str | Path | Mapping[str, Any] | None = None,
    max_memory: Limits | None = None,
) -> Checkpoint:
    """Load a local folder, a GGUF file or a hub id.

    Args:
        name: folder, GGUF file or hub id.
        revision: branch, tag or commit on the hub.
        dtype: what to compute in: ``auto`` (as stored; on a CPU float32 where that is faster, and for GGUF files),
            ``float32``, ``bfloat16``, ``float16``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...
        family: row of the family table that remote code looks like.
        trust_remote_code: run modelling code that comes with the checkpoint.
        stream: leave the layers on disk and read each when a pass reaches it (:mod:`remodeler.model.streaming`).
        stream_memory: bytes of hidden states that a pass over a streamed model may keep; by default from what is free.
        device_map: a strategy, a map or a file of one, for several devices (:mod:`remodeler.checkpoint.device_maps`).
        max_memory: with a strategy, what weights may take by device: ``{0: "20GiB", "cpu": "64GiB"}``.

    Raises:
        InputError: for anything about the checkpoint that can't work.
    """
    name = str(name)
    where: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    DeviceMapConfig(device_map=device_map, max_memory=max_memory).refuse_others(device, stream)
    target, number_type = pick_device(device), pick_dtype(dtype)
    settings = read_settings(name, revision)
    repositories.refuse_other_models(name, settings)
    quantised = dequantisable(name, settings, stream)
    row = row_of(settings, family)
    remodeler.packed.register(unpacked_type(str(settings["model_type"])))
    check_files(Path(name))
    repositories.note_adapter(Path(name))
    config = _read_fit_config(name, row, where)
    if number_type == "auto":
        number_type = _auto_dtype(name, config, target, stream, quantised)
    place: torch.device | DeviceMap = target
    if device_map is not None:
        told = auto_class(row), row, config, number_type, quantised
        place = laid_out(name, *told, device_map, max_memory, **where)
    reader = partial(streamed_model, config, target, stream_memory) if stream else partial(whole_model, place)
    if quantised:
        reader = partial(dequantised_model, auto_class(row), place, quantised, config)
    if skips(name, settings, "stream" if stream else ""):
        reader = partial(skipping_model, auto_class(row), target, config)
    model = read_model(name, row, number_type, reader, **where).eval()
    hold_whole_layers(model, row)
    anatomy = trace(model, row, probe(row, device_of(model)))
    stored = torch.bfloat16 if quantised else repositories.stored_in(name, revision, anatomy)
    known = name, revision, family, stored, quantised.method if quantised else None
    return Checkpoint(anatomy, read_tokenizer(name, **where), *known, device_map, max_memory)


def _read_fit_config(name: str, row: Family, where: dict[str, Any]) -> PreTrainedConfig:
    """The config of a checkpoint; of a model of text and images only one whose text part can be told."""
    config = read_config(name, **where)
    if row.wrapper:
        refuse_unfit(name, config)
    return config


def _auto_dtype(
    name: str, config: PreTrainedConfig, device: torch.device, stream: bool, quantised: Quantised | None
) -> torch.dtype | str:
    """What ``auto`` means for a checkpoint; where its config says nothing, transformers looks into its files."""
    if gguf_files.is_gguf(name):
        return gguf_files.auto_dtype(name, device)
    if quantised:
        return auto_dtype(torch.bfloat16, device, fits=fits_twice(Path(name), 16 / quantised.bits))
    if not isinstance(config.dtype, torch.dtype):
        return "auto"
    return auto_dtype(config.dtype, device, fits=stream or fits_twice(Path(name)))


def look(name: str, task: str | None = None, revision: str | None = None) -> None:
    """Refuse a checkpoint that can't be loaded, before there is work that waits for it; weights are not read.

    Raises:
        InputError: for what is wrong with it; also when it is a model for another task.
    """
    settings = read_settings(name, revision)
    repositories.refuse_other_models(name, settings)
    dequantisable(name, settings)
    check_files(Path(name))
    known = FAMILIES.get(repositories.row_name(settings))
    if task and known and known.task != task:
        raise InputError(f"{name} is no {task} language model, which is needed here: give another")


def row_of(settings: dict[str, Any], like: str | None) -> Family:
    """The family row for a ``config.json``."""
    if is_wrapper(settings):
        return WRAPPER
    return family(repositories.row_name(settings), like)


def read_settings(name: str, revision: str | None) -> dict[str, Any]:
    """What ``config.json`` says, whatever the model type."""
    with disk_errors(Path(name)):
        local = Path(name).is_dir() or gguf_files.is_gguf(name)
    if local and revision:
        raise InputError(f"`revision` {revision} was given for {name}, which has none: leave it out")
    with one_sentence(name, CONFIG_PART):
        repositories.refuse_no_model(name, revision)
        place = gguf_files.place_of(name)
        settings: dict[str, Any] = PreTrainedConfig.get_config_dict(place, revision=revision)[0]
        if not isinstance(settings.get("model_type"), str):
            raise InputError(f"config.json of {name} says no model_type: give the folder of a transformers model")
        refuse_config(name, settings)
    return settings


def read_config(name: str, **where: Any) -> PreTrainedConfig:
    """The config of a checkpoint."""
    with one_sentence(name, CONFIG_PART):
        config: PreTrainedConfig = AutoConfig.from_pretrained(gguf_files.place_of(name), **where)
    return config


def read_tokenizer(name: str, **where: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint."""
    with one_sentence(name, "the tokenizer"):
        if gguf_files.is_gguf(name):
            return gguf_files.tokenizer_of(name)
        try:
            return AutoTokenizer.from_pretrained(name, **where)
        except LIBRARY_ERRORS:
            if Path(name).is_dir() and (why := tokenizer_fault(Path(name))):
                raise InputError(f"the tokenizer of {name} can't be loaded: {why}") from None
            raise


def whole_model(
    device: torch.device | DeviceMap, name: str, row: Family, dtype: torch.dtype | str, **where: Any
) -> Any:
    """A model in memory, and what transformers says of its loading."""
    if gguf_files.is_gguf(name):
        return gguf_files.load_whole(device, name, dtype)
    where |= placed(device)
    where |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with quiet_dispatch():
        return auto_class(row).from_pretrained(name, dtype=dtype, **where, **repositories.without_adapter(name))


def streamed_model(
    config: PreTrainedConfig,
    device: torch.device,
    memory: int | None,
    name: str,
    row: Family,
    dtype: torch.dtype | str,
    revision: str | None = None,
    **code: bool,
) -> Any:
    """A model whose layers stay on disk, and what transformers says of its loading."""
    folder = repositories.download(name, revision)
    return open_model(auto_class(row), config, folder, row, dtype, device, memory, **code)


def read_model(name: str, row: Family, dtype: torch.dtype | str, reader: Callable[..., Any], **where: Any) -> nn.Module:
    """The model of a checkpoint; refuses one of which some weights would be random."""
    with one_sentence(name, "the weights"):
        model, info = reader(name, row, dtype, **where)
    settle(name, model, info)
    loaded: nn.Module = model
    return loaded


def check_files(folder: Path) -> None:
    """Missing shards and damaged files of a local folder, found before minutes are spent on loading."""
    if folder.is_dir():
        tensor_files(folder)

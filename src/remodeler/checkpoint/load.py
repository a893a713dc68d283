"""Load a model with its tokenizer and find its blocks; refuse what can't be pruned before hours are spent on it."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

import remodeler.packed
from remodeler.checkpoint import gguf as gguf_files
from remodeler.checkpoint import repositories
from remodeler.checkpoint.config_faults import refuse_config
from remodeler.checkpoint.devices import auto_dtype, fits_twice, pick_device, pick_dtype
from remodeler.checkpoint.mismatches import settle
from remodeler.checkpoint.quantised import Quantised, dequantisable, dequantised_model
from remodeler.checkpoint.skipping import skipping_model, skips
from remodeler.errors import InputError, one_line, out_of_memory
from remodeler.model.blocks import Anatomy
from remodeler.model.families import FAMILIES, Family, config_names, family, unpacked_type
from remodeler.model.files.diagnosis import tokenizer_fault
from remodeler.model.files.weights import tensor_files
from remodeler.model.streaming import open_model, tensors_by_name
from remodeler.model.tracing import probe, trace
from remodeler.runs.progress import on_terminal
from remodeler.runs.records import disk_errors

AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
PIPELINES = {"causal": "text-generation", "masked": "fill-mask", "seq2seq": "text2text-generation"}
IN_FILES = (OSError, SafetensorError, StrictDataclassError)
IN_CODE = (ValueError, KeyError, AttributeError, TypeError, RuntimeError, ImportError)
LIBRARY_ERRORS = (*IN_FILES, *IN_CODE)
CONFIG_PART = "the config"


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

    def __repr__(self) -> str:
        kind, number_type = type(self.model).__name__, str(self.model.dtype).removeprefix("torch.")
        return f"<Checkpoint {self.name}: {kind}, {self.anatomy.parameters():,} parameters, {number_type}>"

    @property
    def model(self) -> Any:
        """The transformers model, in eval mode."""
        return self.anatomy.model

    @property
    def context(self) -> int | None:
        """Longest window the model takes; None when it has no limit."""
        return context_of(self.model.config)


def context_of(config: PreTrainedConfig) -> int | None:
    """Longest window that a model of this config takes; None when it has no limit."""
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

    Raises:
        InputError: for anything about the checkpoint that can't work.
    """
    name = str(name)
    where: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    target = pick_device(device)
    number_type = pick_dtype(dtype)
    settings = read_settings(name, revision)
    repositories.refuse_other_models(name, settings)
    quantised = dequantisable(name, settings, stream)
    row = row_of(settings, family)
    remodeler.packed.register(unpacked_type(str(settings["model_type"])))
    check_files(Path(name))
    repositories.note_adapter(Path(name))
    config = read_config(name, **where)
    if number_type == "auto":
        number_type = _auto_dtype(name, config, target, stream, quantised)
    reader = partial(streamed_model, config, target, stream_memory) if stream else partial(whole_model, target)
    reader = partial(dequantised_model, AUTO[row.task], target, quantised, config) if quantised else reader
    reader = partial(skipping_model, AUTO[row.task], target, config) if skips(name, settings, stream) else reader
    model = read_model(name, row, number_type, reader, **where).eval()
    anatomy = trace(model, row, probe(row, target))
    stored = torch.bfloat16 if quantised else repositories.stored_in(name, revision)
    method = quantised.method if quantised else None
    return Checkpoint(anatomy, read_tokenizer(name, **where), name, revision, family, stored, method)


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
    return family(repositories.row_name(settings), like)


@contextmanager
def one_sentence(name: str, what: str) -> Iterator[None]:
    """Library errors about a checkpoint, as one sentence; the transformers logger keeps quiet meanwhile."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    bars = transformers_logging.is_progress_bar_enabled() and not on_terminal()
    if bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    except InputError:
        raise
    except LIBRARY_ERRORS as error:
        advice = _advice(name, what, error)
        raise InputError(f"{what} of {name} can't be loaded ({one_line(error)}): {advice}") from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _advice(name: str, what: str, error: BaseException) -> str:
    text = str(error)
    if out_of_memory(error):
        return "memory ran out, use a machine with more, or `stream` where there is one"
    if "trust_remote_code" in text or "custom code" in text:
        return "if you trust that code, say so with `trust_remote_code` (and `family`)"
    if gguf_files.is_gguf(name):
        return "get the file again, or the folder that it was made from"
    if Path(name).is_dir():
        return "correct that in config.json" if what == CONFIG_PART else "check that the folder is complete"
    if "use_safetensors" in text:
        return "the repository has no safetensors, convert a copy with transformers' save_pretrained and give that"
    return "check the hub id or path, `revision` and the network"


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


def whole_model(device: torch.device, name: str, row: Family, dtype: torch.dtype | str, **where: Any) -> Any:
    """A model in memory, and what transformers says of its loading."""
    if gguf_files.is_gguf(name):
        return gguf_files.load_whole(device, name, dtype)
    if device.type != "cpu":
        where["device_map"] = device  # straight to the device, shard by shard
    where |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    return AUTO[row.task].from_pretrained(name, dtype=dtype, **where, **repositories.without_adapter(name))


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
    return open_model(AUTO[row.task], config, folder, row, dtype, device, memory, **code)


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

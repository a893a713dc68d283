"""A GGUF file as a model: read like a folder that has its config, its tokenizer and its weights.

The folder is a temporary one of this process, without the weights: these stay where they are, and are computed tensor
by tensor (:mod:`remodeler.model.files.gguf.reader`).
"""

import atexit
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from remodeler.checkpoint.compatibility import complete_config, complete_tokenizer
from remodeler.checkpoint.device_maps import DeviceMap
from remodeler.checkpoint.from_tensors import model_of_tensors
from remodeler.errors import InputError
from remodeler.model.files.gguf.header import Header
from remodeler.model.files.gguf.reader import SUFFIX, Weights, open_gguf
from remodeler.model.files.gguf.tokenizer import read_tokenizer
from remodeler.model.files.names import GENERATION
from remodeler.model.files.weights import GGUF_PATH
from remodeler.runs.records import write_bytes

ENDS = ("eos", "eot", "eom")
"""Roles of tokens that end an answer."""


def is_gguf(name: str | Path) -> bool:
    """Whether a model's name is that of a GGUF file, there or not."""
    return Path(name).suffix == SUFFIX and not Path(name).is_dir()


def place_of(name: str | Path) -> str:
    """Where transformers reads config and tokenizer of a model: its folder or hub id, or what stands for its file.

    Raises:
        InputError: for a GGUF file that holds no model that is known here.
    """
    return str(as_folder(Path(name))) if is_gguf(name) else str(name)


def as_folder(file: Path) -> Path:
    """A folder with the config and the tokenizer of a GGUF file, and where its weights lie; made once in a process."""
    weights = open_gguf(file)
    seen = file.stat()
    return _folder(file.absolute(), seen.st_size, seen.st_mtime_ns, weights)


@lru_cache(maxsize=8)
def _folder(file: Path, size: int, date: int, weights: Weights) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="remodeler-gguf-"))
    atexit.register(_remove, folder, os.getpid())
    AutoConfig.for_model(**weights.settings).save_pretrained(folder)
    complete_config(folder)
    generation_config(weights.header).save_pretrained(folder)
    if tokenizer := read_tokenizer(file, weights.header):
        tokenizer.save_pretrained(folder)
        complete_tokenizer(folder)
    write_bytes(folder / GGUF_PATH, os.fsencode(file))
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def generation_config(header: Header) -> GenerationConfig:
    """Which tokens begin a text and end an answer: a chat model's turns end otherwise than its texts."""
    ids = {name.split(".")[-1]: key.value for name, key in header.keys.items() if name.endswith("_token_id")}
    ends = list(dict.fromkeys(ids[f"{role}_token_id"] for role in ENDS if f"{role}_token_id" in ids))
    return GenerationConfig(
        bos_token_id=ids.get("bos_token_id"),
        eos_token_id=ends if len(ends) > 1 else next(iter(ends), None),
        pad_token_id=ids.get("padding_token_id"),
    )


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file, as the file has it: transformers' Auto class would make some types' by their class.

    Raises:
        InputError: when it has none.
    """
    folder = as_folder(Path(name))
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{name} has no tokenizer (tokenizer.ggml.model): give a file that has one")
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def load_whole(device: torch.device | DeviceMap, name: str, dtype: torch.dtype | str) -> Any:
    """The model of a GGUF file in memory, and what transformers says of its loading.

    Args:
        device: where it is to be, or the layers of it.
        name: of the file.
        dtype: what to compute in.
    """
    weights, folder = open_gguf(Path(name)), as_folder(Path(name))
    model_class: Any = getattr(transformers, weights.settings["architectures"][0])
    tensors = {key: weights.get_slice(key) for key in weights.sources}
    model, info = model_of_tensors(model_class, AutoConfig.from_pretrained(folder), tensors, name, dtype, device)
    model.generation_config = GenerationConfig.from_pretrained(folder, GENERATION)
    return model, info


def auto_dtype(name: str, device: torch.device) -> torch.dtype:
    """What a GGUF model is computed in: float32 on a CPU; elsewhere as it is stored, bfloat16 where it is quantised."""
    if device.type == "cpu":
        return torch.float32
    weights = open_gguf(Path(name))
    kinds = set(weights.bytes_by_kind())
    return weights.dtype() if kinds <= {"F32", "F16", "BF16"} else torch.bfloat16

"""What libraries raise about a checkpoint, as one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from remodeler.checkpoint.gguf import is_gguf
from remodeler.errors import InputError, one_line, out_of_memory
from remodeler.runs.progress import on_terminal

IN_FILES = (OSError, SafetensorError, StrictDataclassError)
IN_CODE = (ValueError, KeyError, AttributeError, TypeError, RuntimeError, ImportError)
LIBRARY_ERRORS = (*IN_FILES, *IN_CODE)
CONFIG_PART = "the config"


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
    if "offload_folder" in text:
        return "its files hold them otherwise: allow more memory (`max_memory`), or use `stream` where there is one"
    if is_gguf(name):
        return "get the file again, or the folder that it was made from"
    if Path(name).is_dir():
        return "correct that in config.json" if what == CONFIG_PART else "check that the folder is complete"
    if "use_safetensors" in text:
        return "the repository has no safetensors, convert a copy with transformers' save_pretrained and give that"
    return "check the hub id or path, `revision` and the network"

"""Load a GGUF file in llama.cpp, where it is installed, and see whether it says what it should.

The KV cache is float32, so that what differs is the file. A file is read in one pass and token by token: a layer that
is wrong in one of the two only is not found otherwise.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remodeler.errors import InputError

Logits = NDArray[np.float32]
"""[tokens, vocabulary]"""
FLOAT32 = 0
"""llama.cpp's number for it."""


@dataclass(frozen=True)
class CheckResult:
    """What the check found."""

    runtime: str
    difference: float
    """Largest difference of a logit, as a share of the largest one."""
    stepwise: float
    """The same between one pass and token by token, in llama.cpp alone."""
    agree: float
    """Share of positions with the same likeliest token."""
    texts: int
    """Texts that both tokenizers cut the same way; all that were tried, or it would not be here."""


def import_llama_cpp() -> Any:
    """llama-cpp-python, or None."""
    try:
        llama_cpp = import_module("llama_cpp")
    except (ImportError, OSError):  # a library that does not load is as good as none
        return None
    return llama_cpp


@contextmanager
def open_file(path: Path, context: int, given: Path | None = None) -> Iterator[Any]:
    """A file in llama.cpp.

    Args:
        path: the file.
        context: how many tokens are read at most.
        given: the file that it stands for, which somebody else wrote.

    Raises:
        InputError: when llama.cpp does not take it.
    """
    runtime = import_llama_cpp()
    try:
        model = runtime.Llama(
            model_path=str(path), n_ctx=context, n_batch=context, logits_all=True, verbose=False,
            type_k=FLOAT32, type_v=FLOAT32, n_gpu_layers=0,
        )  # fmt: skip
    except (ValueError, RuntimeError, AssertionError) as error:
        if given is not None:
            raise InputError(f"llama.cpp does not load {given} as it is: get it again, or another one") from error
        raise InputError(f"llama.cpp does not load {path} ({error}): report it, with the options you gave") from error
    with closing(model):
        yield model


def logits(path: Path, tokens: Sequence[int], given: Path | None = None) -> tuple[Logits, float]:
    """What a file says of some tokens, and how far one pass and token by token are apart; ``given`` as above."""
    with open_file(path, len(tokens) + 8, given) as model:
        model.eval(list(tokens))
        whole = np.array(model.scores[: len(tokens)])
        model.reset()
        for token in tokens:
            model.eval([token])
        steps = np.array(model.scores[: len(tokens)])
    return whole, float(np.abs(whole - steps).max() / np.abs(whole).max())


def compare(path: Path, tokens: Sequence[int], wanted: Logits, bound: float, texts: int = 0) -> CheckResult:
    """Compare a file with the logits that it should give.

    Args:
        path: the file.
        tokens: what is read.
        wanted: [tokens, vocabulary].
        bound: how far apart they may be, as a share of the largest logit.
        texts: that were cut the same way.

    Raises:
        InputError: when it says something else.
    """
    found, stepwise = logits(path, tokens)
    largest = float(np.abs(wanted).max())
    difference = float(np.abs(found - wanted).max()) / largest
    if not difference <= bound or not stepwise <= bound:
        raise InputError(
            f"the file gives other logits in llama.cpp than the model (by {difference:.3g} of the largest, and "
            f"{stepwise:.3g} between one pass and token by token, at most {bound:g} was expected): nothing was kept, "
            "report it with the options you gave"
        )
    agree = float((found.argmax(1) == wanted.argmax(1)).mean())
    return CheckResult(f"llama-cpp-python {import_llama_cpp().__version__}", difference, stepwise, agree, texts)


def same_cuts(path: Path, texts: Iterable[tuple[str, Sequence[int]]]) -> int:
    """How many texts llama.cpp cuts as the tokenizer did.

    Raises:
        InputError: for one that it cuts in another way.
    """
    count = 0
    with open_file(path, 8) as model:
        for text, ids in texts:
            found = model.tokenize(text.encode(), add_bos=False, special=True)
            if list(found) != list(ids):
                raise InputError(
                    f"llama.cpp cuts {text[:40]!r} into other tokens than the model's tokenizer: give a GGUF file of "
                    "the unpruned model with `tokenizer_from`, whose tokenizer is copied as it is"
                )
            count += 1
    return count

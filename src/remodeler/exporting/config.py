"""Options of an export: what is written, for which runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from remodeler.checkpoint.config import LoadConfig, ModelLike
from remodeler.errors import InputError, option
from remodeler.runs.options import Option, config
from remodeler.runs.removals import REMOVALS_FILE

GRAPHS = ("onnx", "executorch")
"""Hold float32."""
Target = Literal["gguf", "nemotron", "onnx", "executorch"]
Storage = Literal["f32", "f16", "bf16", "q8_0"]
TARGET, FILE, CHECK = "Target", "From a GGUF file", "Check"


@config
class ExportConfig:
    """Write a pruned model so that another runtime runs it, faster than the whole one.

    vLLM needs no export: install this package beside it, and it serves the packed folder as it is.

    Example: `remodel export pruned --to gguf --store q8_0 --out pruned.gguf`

    Example: `remodel export pruned --to onnx --out pruned-onnx`

    Example: `remodel export --gguf whole-Q4_K_M.gguf --removals pruned/removals.jsonl --out pruned-Q4_K_M.gguf`
    """

    model: Annotated[ModelLike, Option(positional=True)] = None
    """A model, pruned or not: a folder or a hub id."""
    out: Annotated[Path | None, Option(required=True)] = None
    """New file, or folder, for the result."""
    dry_run: bool = False
    """Say what would be written; write nothing."""
    to: Annotated[Target, Option(TARGET)] = "gguf"
    """gguf (llama.cpp), nemotron (vLLM's own class, mlx-lm, SGLang), onnx or executorch."""
    store: Annotated[str | None, Option(TARGET, get_args(Storage), default="f16, or as in that file")] = None
    """gguf: type that matrices are stored in: f32, f16, bf16 or q8_0. Without it, what was pruned from a GGUF file is
    cut out of that file."""
    tokenizer_from: Annotated[Path | None, Option(TARGET)] = None
    """gguf: a GGUF file of the unpruned model, whose tokenizer is copied."""
    gguf: Annotated[Path | None, Option(FILE)] = None
    """Remove blocks from this unpruned file, quantised or not."""
    removals: Annotated[Path | None, Option(FILE)] = None
    """The removals.jsonl that says which blocks, or its folder."""
    removal_steps: Annotated[int | None, Option(FILE, low=1, default="all")] = None
    """Only its first steps."""
    check: Annotated[bool, Option(CHECK)] = True
    """Read the result back and compare logits."""
    runtime: Annotated[str | None, Option(CHECK, default="this one")] = None
    """nemotron: the Python of an environment with vLLM or mlx-lm, which read the result too."""
    loading: LoadConfig = LoadConfig()

    def __post_init__(self) -> None:
        self._refuse_contradictions()
        if self.removals is not None and self.removals.is_dir():
            object.__setattr__(self, "removals", self.removals / REMOVALS_FILE)
        if self.gguf is None and self.to in GRAPHS:
            self._in_float32()

    @property
    def storage(self) -> str:
        """What matrices of a checkpoint are stored in."""
        return self.store or "f16"

    def _refuse_contradictions(self) -> None:
        to, gguf = option("to", self.to), option("gguf")
        if (self.model is None) == (self.gguf is None):
            raise InputError(f"{option('model')} or {gguf} was expected, one of the two: name what to export")
        if self.gguf is not None and self.removals is None:
            raise InputError(
                f"{gguf} was given without {option('removals')}: name the removals.jsonl of the pruned model"
            )
        if self.gguf is None and (self.removals is not None or self.removal_steps is not None):
            names = f"{option('removals')} and {option('removal_steps')}"
            raise InputError(f"{names} go with {gguf}; of a model, cut takes another size")
        if self.to != "gguf" and (self.gguf is not None or self.tokenizer_from is not None):
            names = f"{gguf} or {option('tokenizer_from')}"
            raise InputError(f"{to} was given with {names}: those are for {option('to', 'gguf')}")
        if self.runtime is not None and (self.to != "nemotron" or not self.check):
            names = f"{option('to', 'nemotron')} and {option('check', True)}"
            raise InputError(f"{option('runtime')} goes with {names}: other forms are read by what is here")

    def _in_float32(self) -> None:
        dtype = self.loading.dtype
        if dtype not in ("auto", "float32"):
            names = f"{option('dtype', dtype)} was given, {option('to', self.to)}"
            raise InputError(f"{names} writes float32 only: leave it out")
        object.__setattr__(self, "loading", replace(self.loading, dtype="float32"))

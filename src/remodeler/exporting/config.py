"""Options of an export: what is written, for which runtime."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from remodeler.checkpoint.config import LoadConfig, ModelLike, refuse_non_model
from remodeler.errors import InputError, option
from remodeler.runs.config import OUTPUT
from remodeler.runs.options import Option, config
from remodeler.runs.removals import REMOVALS_FILE

GRAPHS = ("onnx", "executorch")
"""Hold float32."""
Target = Literal["gguf", "nemotron", "onnx", "executorch"]
Storage = Literal["f32", "f16", "bf16", "q8_0"]
TARGET, FILE, CHECK = "Target", "From a GGUF file", "Check"


@config
class ExportConfig:
    """Write a model, pruned or not, for another runtime: llama.cpp, mlx-lm, SGLang, ONNX Runtime, ExecuTorch.

    vLLM needs no export: where remodeler is installed beside it, it serves packed folders as they are.

    Example: `remodel export pruned --to gguf --store q8_0 --out pruned.gguf`

    Example: `remodel export pruned --to onnx --out pruned-onnx`

    Example: `remodel export --gguf whole-Q4_K_M.gguf --removals pruned/removals.jsonl --out pruned-Q4_K_M.gguf`
    """

    model: Annotated[ModelLike, Option(positional=True)] = None
    """A model, pruned or not: a folder, or an id on the Hugging Face Hub."""
    out: Annotated[Path | None, Option(OUTPUT, required=True)] = None
    """New .gguf file with `to='gguf'`, else a new folder."""
    dry_run: Annotated[bool, Option(OUTPUT)] = False
    """Check everything, print what would be written, and write nothing."""
    to: Annotated[Target, Option(TARGET)] = "gguf"
    """Format: gguf (llama.cpp), nemotron (DeciLM's layout: mlx-lm, SGLang, vLLM), onnx or executorch."""
    store: Annotated[str | None, Option(TARGET, get_args(Storage), default="f16, or as in that file")] = None
    """gguf: type that matrices are stored in: f32, f16, bf16, or q8_0 (8 bits). Without it, what was pruned from a GGUF
    file is cut out of that file."""
    tokenizer_from: Annotated[Path | None, Option(TARGET)] = None
    """gguf: copy the tokenizer from this GGUF file of the unpruned model."""
    gguf: Annotated[Path | None, Option(FILE)] = None
    """Instead of MODEL: a GGUF file of the unpruned model, quantised or not; blocks are removed from it."""
    removals: Annotated[Path | None, Option(FILE)] = None
    """With `gguf`: the removals.jsonl that says which blocks, or the folder that holds it."""
    removal_steps: Annotated[int | None, Option(FILE, low=1, default="all")] = None
    """With `gguf`: remove only the blocks of the first N steps."""
    check: Annotated[bool, Option(CHECK)] = True
    """Read the result back, run it, and compare its logits with the model's."""
    runtime: Annotated[str | None, Option(CHECK, default="this Python")] = None
    """nemotron: the Python of an environment that has vLLM or mlx-lm, to check the result there."""
    loading: LoadConfig = LoadConfig()

    def __post_init__(self) -> None:
        refuse_non_model("model", self.model)
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

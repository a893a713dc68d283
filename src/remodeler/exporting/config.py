"""What a person asks of an export."""

from dataclasses import dataclass, replace
from pathlib import Path

from remodeler.errors import InputError
from remodeler.runs.removals import REMOVALS_FILE

GRAPHS = ("onnx", "executorch")
"""Hold float32."""
TARGETS = ("gguf", "nemotron", *GRAPHS)
GGUF_KINDS = ("f32", "f16", "bf16", "q8_0")


@dataclass(frozen=True)
class Wish:
    """A checkpoint in another form, or a GGUF file without some blocks."""

    model: str | None
    to: str = "gguf"
    kind: str = "f16"
    """What a GGUF file stores matrices in."""
    tokenizer: Path | None = None
    """A GGUF file whose tokenizer is copied."""
    gguf: Path | None = None
    """An unpruned GGUF file, in the place of a model."""
    removals: Path | None = None
    steps: int | None = None
    """Of the removal log."""
    check: bool = True
    dtype: str = "auto"
    family: str | None = None
    trust_remote_code: bool = False
    runtime: str | None = None
    """The Python of an environment whose runtimes read the result too; by default this one."""

    def checked(self) -> "Wish":
        """Itself; what holds float32 is loaded so, and a folder stands for its removal log.

        Raises:
            InputError: for what contradicts itself.
        """
        if (self.model is None) == (self.gguf is None):
            raise InputError("a model or --gguf FILE was expected, one of the two: name what to export")
        if self.gguf is not None and self.removals is None:
            raise InputError("--gguf was given without --removals: name the removals.jsonl of the pruned model")
        if self.gguf is None and (self.removals is not None or self.steps is not None):
            raise InputError("--removals and --steps go with --gguf; of a model `remodel cut` takes another size")
        if self.to not in TARGETS:
            raise InputError(f"--to {self.to!r} is not known: choose {', '.join(TARGETS)}")
        if self.to != "gguf" and (self.gguf is not None or self.tokenizer is not None):
            raise InputError(f"--to {self.to} was given with --gguf or --tokenizer-from: those are for --to gguf")
        if self.runtime is not None and (self.to != "nemotron" or not self.check):
            raise InputError("--runtime goes with --to nemotron and --check: other forms are read by what is here")
        if self.kind not in GGUF_KINDS:
            raise InputError(f"--store {self.kind!r} is not known: choose {', '.join(GGUF_KINDS)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps {self.steps} was given, at least 1 was expected: raise it")
        if self.gguf is None and self.to in GRAPHS:
            return self._graph()
        if self.removals is not None and self.removals.is_dir():
            return replace(self, removals=self.removals / REMOVALS_FILE)
        return self

    def _graph(self) -> "Wish":
        if self.dtype not in ("auto", "float32"):
            raise InputError(f"--dtype {self.dtype} was given, --to {self.to} writes float32 only: leave it out")
        return replace(self, dtype="float32")

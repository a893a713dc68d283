"""A decoder's graph for ExecuTorch, which wants to know before how long a text may be: its memory is laid out for that.

One text at a time, as a phone has it. Where we deviate: left to itself, transformers' exporter guesses the longest of
every size from what is traced (64 tokens, with a KV cache), and takes batches.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch.export import Dim
from transformers.activations import GELUTanh

from remodeler.checkpoint.load import context_of
from remodeler.exporting.graph.tracing import exporters, sample
from remodeler.model.blocks import swapped
from remodeler.model.caches import NAME, OLD_NAME

LONGEST = 1024
"""Tokens of a text, prompt and all. The attention of a prompt of so many is laid out too, so more takes much more."""


def longest(model: Any) -> int:
    """Tokens that a program of this model takes."""
    return min(LONGEST, context_of(model.config) or LONGEST)


def sizes(inputs: dict[str, Any], most: int) -> dict[str, Any]:
    """Which sizes of the inputs are free, and within what."""
    some, past = Dim.AUTO(min=1, max=most), Dim.AUTO(min=0, max=most)
    cache = NAME if NAME in inputs else OLD_NAME
    free: dict[str, Any] = {name: {1: some} for name in inputs if name != cache}
    return free | {cache: [{2: past}] * 2 * len(inputs[cache].layers)}


def executorch(model: Any) -> Any:
    """A model as transformers' ``ExportedModel``, lowered for CPUs (XNNPACK)."""
    library, inputs = exporters(), sample(model, 1)
    settings = library.ExecutorchConfig(dynamic=True, dynamic_shapes=sizes(inputs, longest(model)))
    with spelled_out(model):
        return library.ExecutorchExporter().export(model, inputs | {"use_cache": True}, settings)


@contextmanager
def spelled_out(model: Any) -> Iterator[None]:
    """GELU by tanh as its formula: XNNPACK (executorch 1.5) computes every GELU operator by the error function."""
    places = [name for name, part in model.named_modules(remove_duplicate=False) if isinstance(part, GELUTanh)]
    with ExitStack() as swaps:
        for name in places:
            swaps.enter_context(swapped(model, name, GELUTanh(use_gelu_tanh_python=True)))
        yield

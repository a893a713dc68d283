"""ONNX and ExecuTorch from start to finish: trace, write, read back, compare; and a card that says how it is run."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from remodeler.checkpoint.companions import write_tokenizer
from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError
from remodeler.exporting.graph.check import check
from remodeler.exporting.graph.executorch import executorch
from remodeler.exporting.graph.onnx import onnx
from remodeler.exporting.graph.tracing import refuse, traced
from remodeler.report.card import known_as, page, warned
from remodeler.report.card_text import code, fenced
from remodeler.runs.records import write_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A format that transformers has an exporter for, and a runtime that runs it."""

    word: str
    """What people call it."""
    extra: str
    needs: tuple[str, ...]
    """Packages that write it."""
    runtime: str
    """The package that runs it."""
    write: Callable[[Any], Any]
    """A model to transformers' ``ExportedModel``."""
    files: tuple[str, ...]
    batch: bool
    """Whether it takes several texts at once."""
    code: str
    """How it is run."""


ONNX_CODE = """
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # where this file lies
session = onnxruntime.InferenceSession("model.onnx")
sizes = {each.name: each.shape for each in session.get_inputs()}
names = [each.name for each in session.get_outputs()]
new = ids = np.array([tokenizer("Once upon a time")["input_ids"]], np.int64)
past = {name: np.zeros((1, size[1], 0, size[3]), np.float32) for name, size in sizes.items() if "past" in name}
for _ in range(32):
    places = np.arange(ids.shape[1])[None, -new.shape[1] :]
    given = {"input_ids": new, "attention_mask": np.ones_like(ids), "position_ids": places}
    given = {name: value for name, value in given.items() if name in sizes}
    found = dict(zip(names, session.run(None, given | past)))
    past = {name: found[name.replace("input.", "output.", 1)] for name in past}
    new = found["logits"][:, -1:].argmax(-1)
    if new[0, 0] == tokenizer.eos_token_id:
        break
    ids = np.concatenate([ids, new], 1)
print(tokenizer.decode(ids[0]))
"""

EXECUTORCH_CODE = """
import torch
from executorch.runtime import Runtime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # where this file lies
method = Runtime.get().load_program("model.pte").load_method("forward")
sizes = [method.metadata.input_tensor_meta(each).sizes() for each in range(method.metadata.num_inputs())]
new = ids = torch.tensor([tokenizer("Once upon a time")["input_ids"]])
past = [torch.zeros(1, size[1], 0, size[3]) for size in sizes if len(size) == 4]
for _ in range(32):
    places = torch.arange(ids.shape[1])[None, -new.shape[1] :].contiguous()
    given = [new, torch.ones_like(ids), places][: len(sizes) - len(past)]
    logits, *past = method.execute([*given, *past])[-1 - len(past) :]
    new = logits[:, -1:].argmax(-1)
    if new[0, 0] == tokenizer.eos_token_id:
        break
    ids = torch.cat([ids, new], 1)
print(tokenizer.decode(ids[0]))
"""

TARGETS = {
    "onnx": Target(
        "ONNX", "onnx", ("onnx", "onnxscript"), "onnxruntime", onnx, ("model.onnx", "model.onnx.data"), True, ONNX_CODE
    ),
    "executorch": Target(
        "ExecuTorch", "executorch", ("executorch",), "executorch", executorch, ("model.pte",), False, EXECUTORCH_CODE
    ),
}
BESIDE = ("export.json", "config.json", "generation_config.json", "tokenizer", "README.md", "record.json")


def ready(target: Target) -> None:
    """Refuse a target whose packages are not all here.

    Raises:
        InputError: that names the missing one.
    """
    for name in target.needs:
        if not there(name):
            raise InputError(f"writing {target.word} needs the package {name}: pip install 'remodeler[{target.extra}]'")
    if not there("transformers.exporters"):
        raise InputError(f"writing {target.word} needs transformers 5.23 or newer: pip install -U transformers")


def there(name: str) -> bool:
    """Whether a module can be imported."""
    try:
        import_module(name)
    except (ImportError, OSError):  # a library that does not load is as good as none
        return False
    return True


def announce(checkpoint: Checkpoint, target: Target) -> None:
    """Say what will be written, or why it can't be."""
    refuse(checkpoint)
    counts = count(checkpoint)
    size = sum(parameter.numel() for parameter in checkpoint.model.parameters()) * 4 / 1e6
    logger.info(
        f"{counts.get('attention', 0)} attentions, each with its cache, and {counts.get('mlp', 0)} MLPs in one graph "
        f"of about {size:,.1f} MB: {', '.join(target.files + BESIDE)}"
    )


def count(checkpoint: Checkpoint) -> dict[str, int]:
    """How many blocks of a kind there are."""
    return dict(Counter(block.kind for block in checkpoint.anatomy.blocks()))


def write_graph(checkpoint: Checkpoint, folder: Path, name: str, tried: bool) -> dict[str, Any]:
    """Fill a folder with a graph and what else generating needs.

    Args:
        checkpoint: pruned or not, in float32, on the CPU.
        folder: an existing one.
        name: of the target.
        tried: read it back and compare.

    Returns:
        What there is to tell.

    Raises:
        InputError: for what can't be traced, and for a result that says something else.
    """
    target = TARGETS[name]
    ready(target)
    announce(checkpoint, target)
    exported = traced(checkpoint, target.write, target.word)
    exported.save_pretrained(folder)
    write_tokenizer(checkpoint.tokenizer, folder, checkpoint.name, checkpoint.revision)
    told = check(checkpoint, folder, target.runtime, target.batch) if tried and runs(target) else None
    return {
        "blocks": count(checkpoint),
        "bytes": sum((folder / file).stat().st_size for file in target.files),
        **(asdict(told) if told else {}),
    }


def runs(target: Target) -> bool:
    """Whether the runtime is here; says so where nobody can check."""
    if there(target.runtime):
        return True
    logger.warning(
        f"{target.runtime} is not installed, so what was written could not be checked: pip install {target.runtime}"
    )
    return False


def write_graph_card(folder: Path, name: str, source: str, results: dict[str, Any]) -> None:
    """``README.md`` beside a graph: what it is, and how it is run."""
    target = TARGETS[name]
    head = ModelCardData(base_model=known_as(source), pipeline_tag="text-generation", tags=[name, "remodeler"])
    story = [
        f"{code(known_as(source))} as one {target.word} graph in float32. It takes tokens, a mask, positions and "
        "the KV cache, and gives logits and the longer cache; an empty cache starts a text.",
        "",
        seen(results),
        *warned(results),
    ]
    loading = fenced(target.code.strip().split("\n"), "python")
    write_text(
        folder / "README.md", page(head, f"{known_as(source)}, {target.word}", story, loading, results["command"])
    )


def seen(results: dict[str, Any]) -> str:
    """What the check found, in a sentence."""
    if "runtime" not in results:
        return "It was not checked: no runtime was at hand, or nobody asked."
    return (
        f"In {results['runtime']} its logits differ from torch's by {results['difference']:.2g} of the largest, and "
        f"{results['same']} of {results['tokens']} tokens that torch decodes greedily are its own choice too."
    )

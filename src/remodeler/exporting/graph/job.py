"""ONNX and ExecuTorch from start to finish: trace, write, read back, compare."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from remodeler.checkpoint.companions import write_tokenizer
from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError
from remodeler.exporting.graph.check import check
from remodeler.exporting.graph.executorch import executorch
from remodeler.exporting.graph.onnx import onnx
from remodeler.exporting.graph.tracing import refuse, trace
from remodeler.exporting.snippets import NAMES

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


TARGETS = {
    "onnx": Target(
        NAMES["onnx"], "onnx", ("onnx", "onnxscript"), "onnxruntime", onnx, ("model.onnx", "model.onnx.data"), True
    ),
    "executorch": Target(
        NAMES["executorch"], "executorch", ("executorch",), "executorch", executorch, ("model.pte",), False
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
    exported = trace(checkpoint, target.write, target.word)
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

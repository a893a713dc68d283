"""A decoder's graph for ONNX, without what need not travel: where it was traced, and sizes that look like names."""

from collections.abc import Iterator
from typing import Any

from remodeler.exporting.graph.tracing import exporters, sample


def onnx(model: Any) -> Any:
    """A model as transformers' ``ExportedModel``; all sizes are free but those of the model."""
    library = exporters()
    found = library.OnnxExporter().export(model, sample(model) | {"use_cache": True}, library.OnnxConfig(dynamic=True))
    tidy(found.program)
    return found


def tidy(program: Any) -> None:
    """Leave out stack traces, which name folders of this machine, and turn sizes that are text back into numbers.

    Args:
        program: an ``onnx_ir.Model``, changed in place.
    """
    for graph in program.graphs():
        for value in (*graph.inputs, *graph.outputs):
            value.shape = type(value.shape)([number(size) for size in value.shape])
        for each in (graph, *parts(graph)):
            each.metadata_props.clear()
            each.doc_string = None
    program.metadata_props.clear()


def parts(graph: Any) -> Iterator[Any]:
    """All that a graph is made of."""
    yield from (*graph.inputs, *graph.initializers.values())
    for node in graph:
        yield node
        yield from node.outputs


def number(size: Any) -> Any:
    """A size that is known, as a number; a name stays."""
    text = str(getattr(size, "value", size))
    return int(text) if text.isdecimal() else size

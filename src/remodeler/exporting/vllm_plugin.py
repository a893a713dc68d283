"""vLLM serves packed models through its Transformers backend, without remote code: the entry point that says so.

vLLM calls ``register`` in each of its processes (``vllm.general_plugins``), so installing this package beside it is
all that is needed. Nothing is imported before. Its backend finds attentions by their ``layer_idx``, which the packed
form numbers without holes, so every cache has its attention and none is left over.
"""

from importlib import import_module

MODULE = "vllm.model_executor.models.transformers"
BACKEND, EXPERTS = f"{MODULE}:TransformersForCausalLM", f"{MODULE}:TransformersMoEForCausalLM"
"""vLLM's classes for any model that transformers has, without and with mixtures of experts."""


def register() -> None:
    """Tell transformers and vLLM about the packed forms of all families."""
    import_module("remodeler.packed")  # its own registration is with transformers
    registry = import_module("vllm").ModelRegistry
    for name, backend in packed_names().items():
        registry.register_model(name, backend)


def packed_names() -> dict[str, str]:
    """What ``architectures`` says in the config of a packed decoder, of every family, and the class that serves it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names

    families = import_module("remodeler.model.families").FAMILIES
    rows = {kind: row for kind, row in families.items() if row.task == "causal" and kind in names}
    return {f"Packed{names[kind]}": EXPERTS if row.experts else BACKEND for kind, row in rows.items()}

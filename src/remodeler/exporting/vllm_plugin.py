"""vLLM serves packed models through its Transformers backend, without remote code: the entry point that says so.

vLLM calls ``register`` in each of its processes (``vllm.general_plugins``), so installing this package beside it is
all that is needed. Nothing is imported before. Its backend finds attentions by their ``layer_idx``, which the packed
form numbers without holes, so every cache has its attention and none is left over.
"""

from importlib import import_module

BACKEND = "vllm.model_executor.models.transformers:TransformersForCausalLM"
"""vLLM's class for any model that transformers has."""


def register() -> None:
    """Tell transformers and vLLM about the packed forms of all families."""
    import_module("remodeler.packed")  # its own registration is with transformers
    registry = import_module("vllm").ModelRegistry
    for name in packed_names():
        registry.register_model(name, BACKEND)


def packed_names() -> list[str]:
    """What ``architectures`` says in the config of a packed decoder, of every family."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names

    families = import_module("remodeler.families").FAMILIES
    rows = [kind for kind, row in families.items() if row.task == "causal" and kind in names]
    return sorted({f"Packed{names[kind]}" for kind in rows})

"""Models of text and images: a language model in a wrapper, whose other parts (vision tower, projector) only feed it.

All parts but the text's stay as they are, so a wrapper is pruned like the language model in it, by its own class. That
holds where images enter as embeddings among those of the tokens. Features that are added between the layers (deepstack)
are known here; a text model that takes something else of an image is refused by that argument's name.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from remodeler.errors import InputError, one_line
from remodeler.model.families import FAMILIES, TRACE, Family, unpacked_type
from remodeler.packed import TEXT, text_of
from remodeler.runs.units import MIXING, Block

DEEPSTACK = "deepstack_visual_embeds"
"""Features of an image that are added behind the first layers, one a layer."""
TAKEN = {
    *("input_ids", "inputs_embeds", "attention_mask", "position_ids", "cache_position", "token_type_ids"),
    *("cache", "past_key_values", "use_cache", "output_attentions", "output_hidden_states", "output_router_logits"),
    *("return_dict", "kwargs", "logits_to_keep", "per_layer_inputs", "visual_pos_masks", DEEPSTACK),
}
"""What a text model may take: embeddings, by layer too, and what comes with them."""


_BOTH_WAYS = "reads a prompt without an image in both directions, so that no perplexity tells what a block is worth"
UNFIT = {
    "mistral_large4": "names by number the layers whose keys and values its layers share",
    "paligemma": _BOTH_WAYS,
    "qwen3_omni_moe_thinker": "decodes text otherwise with its cache than in one pass",
    "shieldgemma2": "judges images and writes no text",
    "unlimited_ocr": "forgets what it decoded, but not its prompt, so that text is not computed as it is decoded",
}
"""Model types that can't be pruned by their text, and why."""


def is_wrapper(settings: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a model of text and images."""
    kind = unpacked_type(str(settings.get("model_type")))
    return kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and kind not in FAMILIES


def refuse_unfit(name: str, config: Any) -> None:
    """Refuse a model of images that has no language model by itself inside, or one that is not read from left to right.

    Raises:
        InputError: with its type.
    """
    kind = unpacked_type(config.model_type)
    if why := UNFIT.get(kind):
        raise InputError(f"{name} is of model type {kind!r}, which {why}: choose another model")
    if text_of(config) is config:
        raise InputError(
            f"{name} is of model type {kind!r}, which has no text part with a config of its own ({TEXT}): give a model "
            "of text and images that has one, or a language model"
        )


def row_of_text(row: Family, config: Any) -> Family:
    """What is known of the type of the language model inside, where it is traced as the row is."""
    found = FAMILIES.get(text_of(config).model_type, TRACE)
    return found if found.traced else row


def trunk_of(model: Any, layers: str) -> str:
    """The module whose first output the head reads: the model without its head, or what holds the layer list."""
    prefix = model.base_model_prefix
    return str(prefix) if prefix and layers.startswith(f"{prefix}.") else layers.rpartition(".")[0]


@contextmanager
def text_alone(model: Any) -> Iterator[None]:
    """Passes over text without an image, which some models can't do.

    Raises:
        InputError: with what their code says.
    """
    try:
        yield
    except (TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError) as error:
        raise InputError(
            f"model type {unpacked_type(model.config.model_type)!r} can't be run on text alone ({one_line(error)}), so "
            "its blocks can't be told: choose another model"
        ) from error


def refuse_reached(model: Any, layers: str) -> None:
    """Refuse a text model that takes more of an image than embeddings.

    Raises:
        InputError: with the arguments that it takes.
    """
    text = model.get_submodule(layers.rpartition(".")[0])
    others = [each for each in inspect.signature(text.forward).parameters if each not in TAKEN]
    if others:
        raise InputError(
            f"the text model of model type {unpacked_type(model.config.model_type)!r} is given more of an image than "
            f"embeddings ({', '.join(others)}), so its layers can't be told apart from that: choose another model"
        )


def carried_names(model: Any, layers: str) -> frozenset[str]:
    """Names of the tensors that are in no part of the text model: all but its layers' parent, embeddings and head."""
    parts = [
        model.get_submodule(layers.rpartition(".")[0]),
        model.get_input_embeddings(),
        model.get_output_embeddings(),
    ]
    own = {id(tensor) for part in parts if part is not None for tensor in _tensors(part).values()}
    return frozenset(name for name, tensor in _tensors(model).items() if id(tensor) not in own)


def _tensors(module: nn.Module) -> dict[str, Any]:
    every = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return dict(every)


def fed_behind(model: Any, layers: str, blocks: list[Block]) -> dict[Block, str]:
    """Blocks that stay because features of images are added behind the first layers.

    The k-th features come in behind the k-th layer. So the blocks that make those layers stay, and that of the layer
    behind them: its MLP alone would be computed with the layer before, ahead of the features.

    Raises:
        InputError: where the config does not say behind how many.
    """
    if DEEPSTACK not in inspect.signature(model.get_submodule(layers.rpartition(".")[0]).forward).parameters:
        return {}
    config = model.config
    places = [getattr(each, "deepstack_visual_indexes", None) for each in (getattr(config, "vision_config", 0), config)]
    count = next((len(each) for each in places if each is not None), None)
    if count is None:
        raise InputError(
            f"the config of model type {config.model_type!r} does not say behind how many layers features of images "
            "are added (deepstack_visual_indexes): choose another model"
        )
    why = f"features of images are added behind layers 0 to {count - 1} (deepstack)"
    return {block: why for block in blocks if count and block.layer <= count and block.kind in MIXING}

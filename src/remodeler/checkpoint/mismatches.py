"""Why the weights of a checkpoint do not fit its model, and what to do: a table of tests on names and shapes.

A test returns what its sentence names, or "". The first row that fits tells.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remodeler.errors import InputError
from remodeler.model.ahead import is_ahead
from remodeler.model.families import config_names

logger = logging.getLogger(__name__)


Shape = tuple[int, ...]

ADAPTER = re.compile(r"\.lora_|\.base_layer\.|\.modules_to_save\.|\.original_module\.")
QUANTISED = re.compile(
    r"\.(qweight|qzeros|SCB|absmax|quant_map|weight_packed|weight_scale|weight_scale_inv|g_idx)$|\.quant_"
)
WRAPPERS = {
    "base_model.model": "peft: save what its merge_and_unload() returns",
    "_orig_mod": "torch.compile: save model._orig_mod",
    "_fsdp_wrapped_module": "FSDP: save its full state dict",
    "_forward_module": "Lightning: save the model in it",
}
"""By the part of a name that a wrapper adds: which wrapper, and what to do."""
WRAPPER = re.compile(rf"^(?:\w+\.)*?({'|'.join(map(re.escape, WRAPPERS))})\.")
CLASSIFIER = re.compile(r"(^|\.)(score|classifier|v_head|value_head|reward_head|qa_outputs|regression_head)(\.|$)")
HEAD = re.compile(r"^(lm_head|embed_out|output_projection|cls)\.|(^|\.)lm_head\.")
LAYER = re.compile(r"\.(\d+)\.")
BESIDE = ("encoder_layers", "decoder_layers", "num_decoder_layers")
"""What configs of an encoder and a decoder call their depths, besides."""
DROPPED = ("drop_attn_list", "drop_mlp_list", "block_configs")


@dataclass(frozen=True)
class Fit:
    """What a model needs and a checkpoint has."""

    name: str
    """Of the checkpoint, as given."""
    settings: Mapping[str, Any]
    """Its ``config.json``."""
    missing: Sequence[str] = ()
    """Weights that the model needs and nothing stored becomes, by the model's names."""
    unexpected: Sequence[str] = ()
    """What is stored and has no place in the model."""
    shapes: Sequence[tuple[str, Shape, Shape]] = field(default=())
    """Weights of another shape: name, as stored, as the model needs it."""


Row = tuple[Callable[[Fit], str], str]


def _one(pattern: re.Pattern[str]) -> Callable[[Fit], str]:
    return lambda fit: next((name for name in fit.unexpected if pattern.search(name)), "")


def _describe_wrapper(fit: Fit) -> str:
    """The part of the names that a wrapper added, and what to do."""
    part = next((found.group(1) for name in fit.unexpected if (found := WRAPPER.match(name))), None)
    return f"'{part}.', as they were saved from inside {WRAPPERS[part]}" if part else ""


def _prefix(fit: Fit) -> str:
    """What stands before the names of the model, where most of those that it lacks are stored with something before."""
    stored = set(fit.unexpected)
    first = next((name for name in fit.missing if not HEAD.search(name)), None)
    for name in stored if first else ():
        before = name.removesuffix(str(first))
        if before and before != name and sum(before + each in stored for each in fit.missing) * 2 > len(fit.missing):
            return before
    return ""


def _headless(fit: Fit) -> str:
    return fit.missing[0] if fit.missing and all(HEAD.search(name) for name in fit.missing) else ""


def _classifier(fit: Fit) -> str:
    return _one(CLASSIFIER)(fit) if any(HEAD.search(name) for name in fit.missing) else ""


def _shallow(fit: Fit) -> str:
    """How many layers are stored, where all those behind are missing."""
    numbers = [int(found.group(1)) for name in fit.missing if (found := LAYER.search(name))]
    if len(numbers) < len(fit.missing) or not numbers:
        return ""
    depth = next((count for count in _depths(fit) if count == max(numbers) + 1), 0)
    behind = range(min(numbers), depth)
    whole = set(numbers) == set(behind) and all(
        numbers.count(number) == numbers.count(behind[0]) > 3 for number in behind
    )
    return f"{depth} layers in config.json and {behind.start} in the files" if whole else ""


def _depths(fit: Fit) -> list[int]:
    """How many layers a config says; of an encoder and a decoder each."""
    names = (*config_names(fit.settings.get("model_type")).depth, *BESIDE)
    return [value for name in names if isinstance(value := fit.settings.get(name), int)]


def _cut_off(fit: Fit) -> str:
    """How many layers of an encoder or a decoder a config says, where more are stored behind them.

    A decoder by itself may have such: they predict tokens further ahead.
    """
    numbers = [int(found.group(1)) for name in fit.unexpected if (found := LAYER.search(name))]
    if not fit.settings.get("is_encoder_decoder") or not numbers or min(numbers) not in _depths(fit):
        return ""
    return f"{min(numbers)} layers in config.json and {max(numbers) + 1} in the files"


def _describe_resize(fit: Fit) -> str:
    """Rows stored and rows needed, where only the number of tokens differs."""
    if not fit.shapes or any(len(has) != len(needs) or has[1:] != needs[1:] for _, has, needs in fit.shapes):
        return ""
    rows = {(has[0], needs[0]) for _, has, needs in fit.shapes}
    (stored, wanted), *others = rows
    text = fit.settings.get("text_config")
    known = [part.get("vocab_size") for part in (fit.settings, text) if isinstance(part, Mapping)]
    if others or wanted not in known:
        return ""
    return f"has {stored} rows in the files and {wanted} in config.json (vocab_size)"


def _describe_dropped(fit: Fit) -> str:
    """A list of layers without an attention or an MLP, which only the makers' own code knows."""
    return next((name for name in DROPPED if fit.settings.get(name)), "")


ALWAYS: tuple[Row, ...] = (
    (
        _one(ADAPTER),
        "the weights of {fit.name} hold adapters that are not merged ({found}): merge them first (peft: "
        "merge_and_unload(), then save_pretrained)",
    ),
    (_describe_wrapper, "the weights of {fit.name} have names that begin with {found}"),
    (_one(QUANTISED), "the weights of {fit.name} are quantised ({found}): give the unquantised checkpoint"),
    (_cut_off, "{fit.name} has {found}: get the config that belongs to the weights"),
)
"""What is wrong even where the model lacks nothing."""

MISSING: tuple[Row, ...] = (
    (
        _describe_dropped,
        "{fit.name} was pruned by another tool, whose own code alone knows which blocks are gone ({found} in "
        "config.json): prune the model that it was made of",
    ),
    (
        _prefix,
        "the weights of {fit.name} were saved from inside another module, whose {found!r} is in front of their names: "
        "save the language model itself (of a parallel one: model.module)",
    ),
    (
        _classifier,
        "{fit.name} is a classification or reward model ({found}), which has no head for tokens: give a language model",
    ),
    (
        _headless,
        "{fit.name} has no head ({found}), as a base class (LlamaModel, BertModel) has none: save the class with the "
        "head, or say tie_word_embeddings in config.json if the head is the embeddings",
    ),
    (_shallow, "{fit.name} has {found}: get the other layers, or the config that belongs to the weights"),
    (
        _describe_resize,
        "{fit.shapes[0][0]} of {fit.name} {found}, as after resizing one of them alone: set vocab_size to "
        "{fit.shapes[0][1][0]}, or resize with resize_token_embeddings and save both",
    ),
)
"""What explains weights that are missing or of another shape."""


def refuse_misfit(fit: Fit) -> None:
    """Refuse weights that do not fit the model that they are for.

    Raises:
        InputError: what they are instead, and what to do.
    """
    lacking = fit.missing or fit.shapes
    for test, sentence in (*ALWAYS, *(MISSING if lacking else ())):
        if found := test(fit):
            raise InputError(sentence.format(fit=fit, found=found))
    if fit.missing:
        raise InputError(
            f"{len(fit.missing)} weights that the model needs are not in {fit.name} (the first: {fit.missing[0]}): "
            "get the complete checkpoint"
        )
    if fit.shapes:
        name, has, needs = fit.shapes[0]
        raise InputError(
            f"{name} of {fit.name} is {list(has)} in the files and {list(needs)} by config.json: "
            "give the config that belongs to the weights"
        )


def settle(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Hold what transformers says of a loading against what was wanted: refuse, or say what was left out.

    Args:
        name: of the checkpoint.
        model: the loaded model; where a head that differs from the embeddings is stored, transformers does not tie the
            two, and then its config says so from here on.
        info: transformers' report of the loading.

    Raises:
        InputError: when some weights would be random.
    """
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    shapes = [(key, tuple(has), tuple(needs)) for key, has, needs in sorted(info.get("mismatched_keys", ()))]
    unexpected = [each for each in unexpected if not is_ahead(model.config, each)]  # which results may carry along
    refuse_misfit(Fit(name, model.config.to_dict(), missing, unexpected, shapes))
    if unexpected:
        logger.warning(
            f"{len(unexpected)} weights of {name} have no place in its model and are left out (the first: "
            f"{unexpected[0]})"
        )
    if model.get_expanded_tied_weights_keys(all_submodels=True) and not model.all_tied_weights_keys:
        logger.warning(f"{name} says tie_word_embeddings and has another head than its embeddings: they are not tied")
        model.config.tie_word_embeddings = False

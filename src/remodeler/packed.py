"""Load a block-pruned model: a stock transformers model repacked to one layer per remaining attention.

This file and ``packed_layers.py`` lie beside the weights and need only torch and transformers. Attention-major packing:
layer ``j`` is the j-th attention that was kept, with its own MLP if that was kept too; an MLP whose attention was
removed runs behind the attention before it (``post``) or, at the very start, in front of the first (``pre``). A mixer,
as a linear attention or a convolution, counts as an attention: it has a state in the cache. ``num_hidden_layers`` then
counts those and ``layer_idx`` has no holes, so every cache is right and no larger than it must be. No forward of any
model family is rewritten.

``config.packing`` says what was kept: see ``Packing`` there. Source layer numbers stay in it, so that the model can
be pruned again.
"""

import copy
import importlib
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from .packed_layers import (  # noqa: TID252  also beside the weights
    Packing,
    arrange,
    cached_layers,
    cross_attentions,
    main_layers,
    renumber,
    set_module,
    stack_packings,
)

FILES = ("packed.py", "packed_layers.py")
OF = "_of_"
TEXT = "text_config"


def text_of(config: Any) -> Any:
    """The config of the layers that are packed: of a model of text and images the text's, else the config itself."""
    inner = getattr(config, TEXT, None)
    return inner if isinstance(inner, PreTrainedConfig) else config


def deepened(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of the config with the source's depth, to build the stock model from."""
    deep = copy.deepcopy(config)
    text = text_of(deep)
    if "overrides" in config.packing:
        text.per_layer_config = None
    text.num_hidden_layers = config.packing["num_hidden_layers"]
    for stack in config.packing.get("stacks", ()):
        setattr(deep, stack["depth"], stack["num_layers"])
    for name, values in [*config.packing["per_layer"].items(), *config.packing.get("whole", {}).items()]:
        setattr(text, name, values)
    renumber_overrides(text, config.packing, {number: number for number in range(text.num_hidden_layers)})
    deep.packing = {**config.packing, "derived": {}}  # its class works them out for the source's depth
    return deep


def shallow(config: PreTrainedConfig, packing: Packing) -> None:
    """Give a config the packed depth, in place: a layer per attention that was kept."""
    if "stacks" in packing:
        for stack, part in stack_packings(packing):
            setattr(config, stack["depth"], len(main_layers(part)))
        return
    mains, text = main_layers(packing), text_of(config)
    if "overrides" in packing:
        text.per_layer_config = None  # its numbers would be refused
    text.num_hidden_layers = len(mains)
    for name, values in packing["per_layer"].items():
        setattr(text, name, of_mains(packing, values))
    renumber_overrides(text, packing, {place: number for place, number in enumerate(mains)})


def of_mains(packing: Packing, values: list[Any]) -> list[Any]:
    """A list with an entry per source layer as one with an entry per packed layer."""
    kept = {number: kinds for number, kinds in packing["kept"]}
    alone = {n for n, kinds in kept.items() if n in kept and "attention" not in kinds}  # no keys are cached there
    return ["linear_attention" if values[n] == "hybrid" and n in alone else values[n] for n in main_layers(packing)]


def renumber_overrides(config: Any, packing: Packing, sources: dict[int, int]) -> None:
    """Give a config what single layers have otherwise. ``sources``: by layer its number in the source."""
    overrides = packing.get("overrides", {})
    if overrides:
        found = {place: overrides.get(str(number)) for place, number in sources.items()}
        config.per_layer_config = {place: values for place, values in found.items() if values}


def cut_lists(model: Any, packing: Packing) -> None:
    """Lists that modules keep of the config's, with an entry per layer, without the layers that are gone."""
    lists = [*packing["per_layer"].values(), *packing.get("derived", {}).values()]
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, list) and value and value in lists:
                setattr(module, name, of_mains(packing, value))


def pack(model: Any, packing: Packing) -> None:
    """Rearrange a stock model of the source depth, in place."""
    if "stacks" in packing:
        for stack, part in stack_packings(packing):
            renumber(cross_attentions(pack_list(model, stack["layers"], part), part))
    else:
        pack_list(model, packing["layers"], packing)
        cut_lists(model, packing)
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    texts = text_of(model.config) is not model.config
    for config in configs.values():
        if texts and type(config) not in (type(model.config), type(text_of(model.config))):
            continue  # of images
        if not texts or type(config) is type(model.config):
            config.packing = packing
        shallow(config, packing)


def pack_list(model: Any, path: str, packing: Packing) -> Any:
    """Rearrange one list of layers, in place."""
    if not hasattr(model, path.partition(".")[0]):
        path = path.partition(".")[2]  # the model without its head
    layers = arrange(model.get_submodule(path), packing)
    renumber(layers)
    set_module(model, path, layers)
    return layers


class PackedModel:
    """Mixed into a stock model class: builds it at the source depth, then packs it."""

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(deepened(config), *args, **kwargs)  # type: ignore[call-arg]
        pack(self, config.packing)
        whole = set(self._no_split_modules or ())  # type: ignore[has-type]
        self._no_split_modules = whole | {f"Packed{name}" for name in whole}
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether the stock class initialises by code of its own: transformers passes over parts of such models."""
        return not cls.__mro__[2].__module__.startswith("transformers.")

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As usual, and this file beside the weights."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        write_code(Path(save_directory))


def write_code(folder: Path) -> None:
    """Put this code beside the weights in a folder, unless it is there."""
    for name in FILES:
        if not (folder / name).exists():
            shutil.copyfile(Path(__file__).with_name(name), folder / name)


class PackedConfig:
    """Mixed into a stock config class: makes its model classes known to the Auto classes when it is first used."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        announce(type(self))

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> Any:
        """As usual; that of a decoder beside an encoder counts the layers of its caches, which are made from it."""
        found = super().get_text_config(decoder=decoder, encoder=encoder)  # type: ignore[misc]
        packing: Any = getattr(self, "packing", None) or {}
        if not decoder or "stacks" not in packing:
            return found
        found = copy.deepcopy(found)
        found.num_hidden_layers = cached_layers(stack_packings(packing)[-1][1])
        return found


def derived(name: str) -> property:
    """A property that a stock config works out for every layer, of the layers that are left."""

    def values(config: Any) -> Any:
        packing: Any = getattr(config, "packing", None) or {}
        if name not in packing.get("derived", {}):
            return getattr(super(type(config), config), name)
        return of_mains(packing, packing["derived"][name])

    return property(values)


def computed(config_class: Any) -> list[str]:
    """What a config class works out by itself, which may have an entry per layer."""
    own = [name for name in dir(config_class) if not hasattr(PreTrainedConfig, name)]
    found = {name: getattr(config_class, name) for name in own}
    return [name for name, value in found.items() if isinstance(value, property) and value.fset is None]


def same_names_in_files(stock: str, packed: str) -> None:
    """Tensors have the names (and one tensor an expert) that the stock family's files have."""
    conversions = get_checkpoint_conversion_mapping(stock)
    if conversions:
        register_checkpoint_conversion_mapping(packed, conversions, overwrite=True)


def packed_name(stock: Any, config_class: Any = None) -> str:
    """What the packed form of a class is called."""
    own = config_class in (None, getattr(stock, "config_class", None))
    return f"Packed{stock.__name__}" if own else f"Packed{stock.__name__}{OF}{config_class.__name__}"


@cache
def packed_class(stock: Any, config_class: Any = None) -> type[Any]:
    """The packed form of a stock config or model class, by the name ``Packed`` + its own.

    ``config_class``: of a model that is built from another class's config, as several types are Llamas.
    """
    is_config = issubclass(stock, PreTrainedConfig)
    body: dict[str, Any] = {"__module__": __name__, "_auto_class": None}  # keep the auto_map that is in the config
    if is_config:
        body["model_type"] = f"packed_{stock.model_type}"
        body |= {name: derived(name) for name in computed(stock)}
        same_names_in_files(stock.model_type, body["model_type"])
    else:
        body["config_class"] = packed_class(config_class or stock.config_class)
        same_names_in_files(stock.__name__, f"Packed{stock.__name__}")
    return type(packed_name(stock, config_class), (PackedConfig if is_config else PackedModel, stock), body)


def announce(config_class: type) -> None:
    """Tell AutoModel and its siblings which packed class belongs to a packed config class."""
    source = config_class.__mro__[2]
    autos = (AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoModelForImageTextToText)
    for auto in (AutoModel, *autos):
        known: Any = auto._model_mapping
        if source in known and config_class not in known:
            stock = known[source][0] if isinstance(known[source], tuple) else known[source]
            auto.register(config_class, packed_class(stock, None if source is stock.config_class else source))


def __getattr__(name: str) -> type:
    """``PackedLlamaForCausalLM`` is the packed form of transformers' ``LlamaForCausalLM``; so are all other names."""
    parts = name.removeprefix("Packed").split(OF)
    if not name.startswith("Packed") or not all(hasattr(transformers, part) for part in parts):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return packed_class(*(getattr(transformers, part) for part in parts))


def register(model_type: str) -> None:
    """Let transformers load packed models of a type without remote code; nothing for a type that it does not know."""
    stocks: Any = transformers.CONFIG_MAPPING
    if model_type in stocks and stocks[model_type].model_type == model_type:
        AutoConfig.register(f"packed_{model_type}", packed_class(stocks[model_type]), exist_ok=True)


class Registered(dict[str, type]):
    """transformers' own dictionary of registered configs, in which packed ones appear when they are asked for."""

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name) and isinstance(name, str) and name in waiting:
            waiting.discard(name)
            register(name.removeprefix("packed_"))
        return super().__contains__(name)


if __package__ == "remodeler":  # installed, not the copy beside the weights
    # Not an import statement: transformers looks for those in the copy, and would ask for this package.
    families = importlib.import_module(f"{__package__}.model.families").FAMILIES
    waiting = {f"packed_{name}" for name in (*families, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)}
    mapping: Any = transformers.CONFIG_MAPPING
    mapping._extra_content = Registered(mapping._extra_content)

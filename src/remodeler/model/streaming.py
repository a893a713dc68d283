"""Layers that are read from disk when a pass reaches them and let go after it: a model larger than memory.

What lies outside the layer lists (embeddings, last norm, head) is loaded for good; a layer's parameters are on the
meta device, which holds no numbers, except while somebody holds the layer. A forward of the model holds each layer for
the time it runs, so a streamed model is used like any other and only slower; :func:`held` holds one for longer, so
that many passes share one reading. A layer's tensors go through transformers' own loading, which renames, fuses and
casts them as it does for the whole model. Parameters of modules that are swapped for others are not read.

Deviation from transformers' and accelerate's offloading (``device_map``, ``dispatch_model``): theirs reads each module
again at every call, and writes a second copy of weights that are stored under other names.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.initialization import meta_device_safe_creation_ops
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging as transformers_logging

from remodeler.errors import InputError
from remodeler.model.families import Family
from remodeler.model.files.renaming import made_of
from remodeler.model.files.shards import pieces, stored_dtype
from remodeler.model.files.weights import tensor_files
from remodeler.model.layer_lists import completed
from remodeler.model.placeholders import Place, empty_parameters, let_go
from remodeler.runs import processes

try:
    import resource
except ImportError:  # Windows, which has no such limits
    resource = None  # type: ignore[assignment]


class LayersElsewhere(Protocol):
    """The layers of a model that are not where it runs, except while somebody holds them."""

    @property
    def paths(self) -> tuple[str, ...]: ...

    @property
    def memory(self) -> int | None: ...

    @property
    def state(self) -> str: ...

    @property
    def remedy(self) -> str: ...

    def acquire(self, index: int) -> None: ...

    def release(self, index: int) -> None: ...

    def layer_of(self, name: str) -> int | None: ...


@dataclass(frozen=True)
class Weights:
    """Where a streamed model's weights lie, and which layers are in memory."""

    model: Any
    paths: tuple[str, ...]
    """Of the top-level layers, in the order they are computed."""
    files: dict[str, Path]
    """By the tensor's name in the files."""
    targets: dict[str, frozenset[str]]
    """By the tensor's name in the files: the model's parameters that are made of it."""
    settings: LoadStateDictConfig
    memory: int | None
    """Bytes of states that a pass may keep; None: a part of what is free."""
    read: Counter[str] = field(default_factory=Counter)
    """Bytes read so far, by the tensor's name in the files."""
    holders: Counter[int] = field(default_factory=Counter)
    """By layer: how many want it in memory."""
    empty: dict[int, list[Place]] = field(default_factory=dict)
    """By layer in memory: the meta parameters that stand there otherwise."""
    state: str = "streamed"
    """What the weights are, in messages."""
    remedy: str = "leave out `stream`"
    """How they come into memory."""

    def acquire(self, index: int) -> None:
        """Read a layer, unless somebody holds it already."""
        self.holders[index] += 1
        if self.holders[index] == 1:
            layer = self.model.get_submodule(self.paths[index])
            self.empty[index] = empty_parameters(layer)
            wanted = {f"{self.paths[index]}.{name}" for name, value in layer.named_parameters() if value.is_meta}
            self.load([key for key, made in self.targets.items() if made & wanted])
            self._complete(index)

    def release(self, index: int) -> None:
        """Let a layer go, if nobody else holds it."""
        let_go(self.holders, self.empty, index)

    def layer_of(self, name: str) -> int | None:
        """Which layer a tensor of the model is in, if any."""
        return layer_of(self.paths, name)

    def load(self, keys: Iterable[str]) -> Any:
        """Read tensors into the model; what transformers says of it."""
        try:
            with ExitStack() as opened, _no_bars(), torch.no_grad():
                found = dict(pieces(opened, self.files, keys, self.read))
                info, _ = convert_and_load_state_dict_in_model(self.model, found, self.settings, None)
        except (OSError, SafetensorError) as error:
            raise InputError(f"the weights can't be read again ({error}): put the checkpoint back and go on") from error
        return info

    def _complete(self, index: int) -> None:
        path = self.paths[index]
        lacking = [name for name, value in self.model.get_submodule(path).named_parameters() if value.is_meta]
        if lacking:
            raise InputError(
                f"{len(lacking)} weights of {path} are not in the checkpoint or of another shape (the first: "
                f"{lacking[0]}): get the complete checkpoint"
            )


def open_model(
    auto: Any,
    config: PreTrainedConfig,
    folder: Path,
    row: Family,
    dtype: torch.dtype | str,
    device: torch.device,
    memory: int | None = None,
    **code: Any,
) -> tuple[Any, dict[str, Any]]:
    """A model whose layers stay on disk, and what transformers says of its loading (missing keys and so on).

    Args:
        auto: transformers' Auto class.
        config: the checkpoint's config.
        folder: where its safetensors lie; they must stay there.
        row: where its family keeps the layer lists.
        dtype: what to compute in, or ``auto``.
        device: where to compute.
        memory: bytes of states that a pass over many windows may keep; by default a part of what is free.
        code: ``trust_remote_code``.
    """
    files = tensor_files(folder)
    number_type: Any = dtype if isinstance(dtype, torch.dtype) else config.dtype or stored_dtype(files)
    with torch.device("meta"), meta_device_safe_creation_ops():
        model = auto.from_config(copy.deepcopy(config), dtype=number_type, **code)
    model.config.name_or_path = str(folder)
    rules: list[Any] = get_model_conversion_mapping(model)
    settings = LoadStateDictConfig(
        pretrained_model_name_or_path=str(folder),
        ignore_mismatched_sizes=True,
        device_map={"": device},
        dtype=number_type,
        dtype_plan=model._get_dtype_plan(number_type),
        weight_mapping=rules,
    )
    targets = {key: made.names for key, made in made_of(model, files).items()}
    lists = [stack.layers for stack in completed(row, model).stacks]
    paths = tuple(f"{path}.{name}" for path in lists for name, _ in model.get_submodule(path).named_children())
    weights = Weights(model, paths, files, targets, settings, memory)
    info = _load_outside(weights)
    model.streamed_weights = weights
    for index, path in enumerate(paths):
        hold_on_call(weights, index, model.get_submodule(path))
    read_generation(model, folder)
    return model.eval(), info


def streamed_weights(model: Any) -> LayersElsewhere | None:
    """Where the layers of a model are that is streamed, or partly offloaded; None for one that is where it runs."""
    return getattr(model, "streamed_weights", None)


def is_streamed(model: Any) -> bool:
    """Whether the layers of a model are read from its checkpoint."""
    return isinstance(streamed_weights(model), Weights)


def layer_of(paths: tuple[str, ...], name: str) -> int | None:
    """Which of some layers a tensor of the model is in, if any."""
    return next((i for i, path in enumerate(paths) if name.startswith(f"{path}.")), None)


@contextmanager
def held(model: Any, index: int) -> Iterator[None]:
    """A top-level layer, counted over all layer lists, stays in memory meanwhile; nothing to do for other models."""
    weights = streamed_weights(model)
    if weights is None:
        yield
        return
    with ExitStack() as after:
        after.callback(weights.release, index)
        weights.acquire(index)
        yield


def tensors_by_name(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the state dict, sorted by name; of a streamed model one layer is in memory at a time."""
    weights = streamed_weights(model)
    names = sorted(model.state_dict())
    for index, group in groupby(names, weights.layer_of if weights else lambda _: None):
        with nullcontext() if index is None else held(model, index):
            for name in group:
                module, _, local = name.rpartition(".")
                yield name, getattr(model.get_submodule(module), local).detach()


def main_device(model: nn.Module) -> torch.device:
    """Where a model's inputs go: of one that lies on several devices, where it was laid out from."""
    told = getattr(vars(model).get("_hf_hook"), "execution_device", None)
    return next(model.parameters()).device if told is None else torch.device(told)


def room(device: torch.device) -> int:
    """Bytes that are free on a device, as far as this process may take them."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, unused
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    process, free = psutil.Process().memory_info(), [int(psutil.virtual_memory().available)]
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):  # of the control group, version 2 and 1
        with suppress(OSError, ValueError):
            free.append(int((Path("/sys/fs/cgroup") / limit).read_text(encoding="ascii")) - process.rss)
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    if address_space > 0:
        free.append(address_space - process.vms)
    return max(0, min(free))


def allowance(model: Any) -> int:
    """Bytes of states that a pass over a streamed model may keep: as told, or half of what is free beside a layer."""
    weights = streamed_weights(model)
    if weights and weights.memory is not None:
        return weights.memory
    device = main_device(model)
    layers = [model.get_submodule(path).parameters() for path in (weights.paths if weights else ())]
    largest = max((sum(value.nbytes for value in layer) for layer in layers), default=0)
    return max(0, room(device) - largest) // 2 // processes.world()


# Opening --------------------------------------------------------------------------------------------------------------


def _load_outside(weights: Weights) -> dict[str, Any]:
    """Load what is in no layer, and finish the model as transformers does; its report of the whole loading."""
    model = weights.model
    inside = {name for name, _ in model.named_parameters() if weights.layer_of(name) is not None}
    info = weights.load([key for key, made in weights.targets.items() if not made & inside])
    info.missing_keys -= inside & frozenset[str]().union(*weights.targets.values())
    with _no_bars():
        report: dict[str, Any] = PreTrainedModel._finalize_model_loading(model, weights.settings, info).to_dict()
    return report


def hold_on_call(weights: LayersElsewhere, index: int, layer: nn.Module) -> None:
    """Hold a layer for the time it runs."""
    layer.register_forward_pre_hook(lambda *_: weights.acquire(index))
    layer.register_forward_hook(lambda *_: weights.release(index), always_call=True)


def read_generation(model: Any, folder: Path) -> None:
    """Give a model the settings for generating that lie in a folder, if there are any."""
    if model.can_generate() and (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers draws a bar for every loading."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()

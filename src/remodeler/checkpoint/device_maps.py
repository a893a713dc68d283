"""Which layer of a model lies on which device, where one is too small: accelerate's device maps, of whole layers.

All that is in no layer (embeddings, last norm, head) lies on the first device. So a pass ends where it began, logits
are made beside the tokens that they are compared with, and nothing but states goes from device to device. Deviation
from accelerate's own maps, which fill devices in the order of the modules, and offload the head first.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import convert_file_size_to_int, get_balanced_memory, get_max_memory
from torch import nn
from transformers import PreTrainedConfig
from transformers.initialization import meta_device_safe_creation_ops

from remodeler.checkpoint.devices import pick_device
from remodeler.errors import InputError, option
from remodeler.model.families import Family
from remodeler.model.layer_lists import completed
from remodeler.model.offloading import layer_paths

logger = logging.getLogger(__name__)

Device = int | str
"""An accelerator by its number, ``cpu``, ``disk``, or another device by its name."""
DeviceMap = dict[str, Device]
"""By the path of a module, or of a parameter that is in none of them."""
Limits = Mapping[Device, int | str]
HOSTS = ("cpu", "disk")


def device_map_for(
    name: str,
    auto: Any,
    config: PreTrainedConfig,
    row: Family,
    dtype: torch.dtype,
    told: str | Path | Mapping[str, Any],
    limits: Limits | None = None,
    **code: Any,
) -> DeviceMap:
    """Where each layer of a model is to be, and all that is in no layer.

    Args:
        name: of the checkpoint, for people.
        auto: transformers' Auto class.
        config: of the checkpoint.
        row: where its family keeps the layer lists.
        dtype: what it is computed in.
        told: a strategy of accelerate's, or a map, or a JSON file of one.
        limits: bytes that weights may take by device, or texts like 20GiB; by default what is free.
        code: ``trust_remote_code``.

    Raises:
        InputError: for a map that does not fit the model or this machine.
    """
    with torch.device("meta"), meta_device_safe_creation_ops():
        model = auto.from_config(config, dtype=dtype, **code)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    layers = layer_paths(model, row)
    others = outside(model, [stack.layers for stack in completed(row, model).stacks])
    if isinstance(told, str) and not told.endswith(".json"):
        found = _inferred(model, layers, others, told, limits)
    else:
        found = _as_told(name, model, layers, others, told)
    _refuse_offloaded_outside(found, others)
    _announce(found, layers)
    return _short(found)


def outside(model: nn.Module, lists: Sequence[str]) -> list[str]:
    """The largest parts of a model that hold no layer list, by their paths, and parameters that are in none of them."""
    found, waiting = list[str](), [("", model)]
    while waiting:
        place, module = waiting.pop(0)
        prefix = f"{place}." if place else ""
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        found += [f"{prefix}{name}" for name, _ in own]
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if any(each.startswith(f"{path}.") for each in lists):
                waiting.append((path, child))
            elif path not in lists:
                found.append(path)
    return found


def main_device_of(found: DeviceMap) -> torch.device:
    """Where the inputs of a model go that is laid out so."""
    accelerators = [each for each in found.values() if each not in HOSTS]
    return torch.device(_name(accelerators[0]) if accelerators else "cpu")


def offloads(found: DeviceMap) -> bool:
    """Whether some layers lie where they are not computed."""
    return "disk" in found.values() or (main_device_of(found).type != "cpu" and "cpu" in found.values())


# By a strategy --------------------------------------------------------------------------------------------------------


class _Outside(nn.Module):
    """All that is in no layer, as one module that accelerate puts first and doesn't split."""

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        super().__init__()
        for path in paths:
            place, _, name = path.rpartition(".")
            part = getattr(model.get_submodule(place), name)
            self.register_module(path.replace(".", "_"), part) if isinstance(part, nn.Module) else self._tensor(
                path.replace(".", "_"), part
            )

    def _tensor(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)


def _inferred(
    model: nn.Module, layers: Sequence[str], others: Sequence[str], strategy: str, limits: Limits | None
) -> DeviceMap:
    parts = nn.ModuleList([_Outside(model, others), *(model.get_submodule(path) for path in layers)])
    whole = list({type(part).__name__ for part in parts})
    memory = None if limits is None else {_known(name): _bytes(size) for name, size in limits.items()}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what torch keeps for itself counts as taken otherwise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of buffers of offloaded layers, which stay where they are used
        if strategy == "sequential":
            room = get_max_memory(memory)
        else:
            room = get_balanced_memory(parts, memory, whole, low_zero=strategy == "balanced_low_0")
        placed = infer_auto_device_map(parts, room, whole, clean_result=False)
    first = placed["0"]
    if first == "disk" or (first == "cpu" and any(device not in HOSTS for device in room)):
        raise InputError(
            "no device has room for the embeddings, the head and a layer beside them: allow one more of its memory "
            f"({option('max_memory')})"
        )
    return dict.fromkeys(others, first) | {path: placed[str(place)] for place, path in enumerate(layers, start=1)}


def _known(name: Device) -> Device:
    """A device that sizes can be given for."""
    count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if name in ("cpu", "mps") or (isinstance(name, int) and 0 <= name < count):
        return name
    has = f"the GPUs 0 to {count - 1}" if count > 1 else "GPU 0" if count else "no GPU"
    raise InputError(f"{option('max_memory')} names the device {name!r}: choose a GPU's number or cpu (here is {has})")


def _bytes(size: int | str) -> int:
    try:
        return int(convert_file_size_to_int(size))
    except ValueError:
        raise InputError(f"{option('max_memory')} {size!r} is no size: give bytes, or a text like 20GiB") from None


# As told --------------------------------------------------------------------------------------------------------------


def _as_told(
    owner: str, model: nn.Module, layers: Sequence[str], others: Sequence[str], told: str | Path | Mapping[str, Any]
) -> DeviceMap:
    given = told if isinstance(told, Mapping) else _read(Path(told))
    for name in given:
        if name and not _is_part(model, name):
            raise InputError(f"{option('device_map')} names {name!r}, which {owner} does not have: correct it")
    named = {name: _device(device) for name, device in given.items()}
    return {part: _place_of(part, named) for part in (*others, *layers)}


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{option('device_map')} {file} can't be read ({error.strerror}): check the path") from None
    except ValueError as error:
        raise InputError(f"{option('device_map')} {file} is no JSON ({error}): correct it") from None
    if not isinstance(found, dict) or not found:
        raise InputError(f"{option('device_map')} {file} must hold an object of modules and devices")
    return found


def _is_part(model: nn.Module, name: str) -> bool:
    place, _, last = name.rpartition(".")
    try:
        return hasattr(model.get_submodule(place), last)
    except AttributeError:
        return False


def _device(given: Any) -> Device:
    if given in HOSTS:
        return str(given)
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise InputError(f"{option('device_map')} holds {given!r}: give a GPU's number, cpu or disk")
    found = pick_device(_name(int(given) if isinstance(given, str) and given.isdecimal() else given))
    return found.index if found.index is not None and found.type == _accelerator() else str(found)


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found else "cuda"


def _place_of(part: str, named: Mapping[str, Device]) -> Device:
    """Where the entry with the longest path puts a part; what is inside it must lie there too."""
    above = [name for name in named if name in ("", part) or part.startswith(f"{name}.")]
    inside = {named[name] for name in named if name.startswith(f"{part}.")}
    if not above and not inside:
        raise InputError(f"{option('device_map')} says nothing of {part}: add it")
    devices = inside | ({named[max(above, key=len)]} if above else set())
    if len(devices) > 1:
        several = " and ".join(sorted(map(str, devices)))
        raise InputError(
            f"{option('device_map')} splits {part} over {several}: a layer, and each part outside of the layers, must "
            "lie on one device"
        )
    return devices.pop()


# Both -----------------------------------------------------------------------------------------------------------------


def _refuse_offloaded_outside(found: DeviceMap, others: Sequence[str]) -> None:
    """Only layers are fetched when they are needed."""
    away = HOSTS if main_device_of(found).type != "cpu" else ("disk",)
    wrong = next((part for part in others if found[part] in away), None)
    if wrong:
        raise InputError(
            f"{option('device_map')} offloads {wrong}, and only layers can be: give it a device that computes"
        )


def _short(found: DeviceMap) -> DeviceMap:
    """One entry where all is on one device: then nothing needs hooks."""
    devices = set(found.values())
    return {"": devices.pop()} if len(devices) == 1 and "disk" not in devices else found


def _announce(found: DeviceMap, layers: Sequence[str]) -> None:
    runs = groupby(enumerate(layers), lambda each: found[each[1]])
    main = main_device_of(found)
    spans = [(device, [number for number, _ in run]) for device, run in runs]
    away = HOSTS if main.type != "cpu" else ("disk",)
    words = [f"{_span(numbers)} {'offloaded to' if d in away else 'on'} {_name(d)}" for d, numbers in spans]
    logger.info(f"layers {', '.join(words)}; all else on {main}")


def _span(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _name(device: Device) -> str:
    """As torch has it, and the disk."""
    if device == "disk":
        return "the disk"
    return f"{_accelerator()}:{device}" if isinstance(device, int) else device


def placed(place: torch.device | DeviceMap) -> dict[str, Any]:
    """As transformers is told it: straight to the devices, shard by shard; on a CPU that goes without saying."""
    return {} if isinstance(place, torch.device) and place.type == "cpu" else {"device_map": place}


@contextmanager
def quiet_dispatch() -> Iterator[None]:
    """accelerate warns of what was asked for."""
    noisy = logging.getLogger("accelerate.big_modeling")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        yield
    finally:
        noisy.setLevel(level)

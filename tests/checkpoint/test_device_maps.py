"""Which layer goes where: accelerate's maps of whole layers, maps as told, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import utils as accelerate_utils
from gguf import GGMLQuantizationType
from transformers import AutoConfig, AutoModelForCausalLM

from gguf_models import write_model
from quantised_files import write_fp8
from remodeler.checkpoint import device_maps
from remodeler.checkpoint.config import DeviceMapConfig, memory_by_device
from remodeler.checkpoint.device_maps import DeviceMap, device_map_for, main_device_of, outside
from remodeler.checkpoint.load import fingerprint, load
from remodeler.errors import InputError
from remodeler.model.families import FAMILIES
from tiny import CONFIGS, LAYERS, TOKENS, tiny_model, tiny_tokenizer

MANY: dict[str, Any] = CONFIGS["llama"] | {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 512}
OUTSIDE = ["lm_head", "model.embed_tokens", "model.norm", "model.rotary_emb"]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, as far as the making of a map asks."""
    monkeypatch.setattr(device_maps.torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(device_maps.torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(device_maps.torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(accelerate_utils.modeling.torch.cuda, "device_count", lambda: 2)


def map_of(told: Any, limits: Any = None, settings: dict[str, Any] = MANY, kind: str = "llama") -> DeviceMap:
    config = AutoConfig.for_model(kind, **settings)
    return device_map_for("it", AutoModelForCausalLM, config, FAMILIES[kind], torch.float32, told, limits)


def layers_of(found: DeviceMap) -> list[Any]:
    return [device for path, device in found.items() if path.startswith("model.layers.")]


def sizes() -> tuple[int, int]:
    """Bytes of a layer, and of all that is in none."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **MANY))
    layer = sum(value.nbytes for value in model.model.layers[0].parameters())
    return layer, sum(value.nbytes for value in model.parameters()) - 12 * layer


@pytest.mark.usefixtures("gpus")
def test_two_gpus_share_the_layers_and_all_else_is_on_the_first() -> None:
    layer, rest = sizes()
    found = map_of("sequential", {0: rest + 6 * layer, 1: 20 * layer})
    assert [found[part] for part in OUTSIDE] == [0] * len(OUTSIDE)
    placed = layers_of(found)
    assert placed == sorted(placed)
    assert set(placed) == {0, 1}
    assert rest + placed.count(0) * layer <= rest + 6 * layer
    assert main_device_of(found) == torch.device("cuda:0")
    balanced = layers_of(map_of("balanced", {0: 40 * layer, 1: 40 * layer}))
    assert abs(balanced.count(0) - balanced.count(1)) <= 4
    assert layers_of(map_of("auto", {0: 40 * layer, 1: 40 * layer})) == balanced
    assert map_of("balanced_low_0", {0: 40 * layer, 1: 40 * layer}) == {"": 1}


@pytest.mark.usefixtures("gpus")
def test_what_no_gpu_has_room_for_goes_to_the_host_and_the_head_never_does() -> None:
    layer, rest = sizes()
    found = map_of("auto", {0: rest + 4 * layer, 1: 3 * layer, "cpu": 4 * layer})
    assert {device for part, device in found.items() if part in OUTSIDE} == {0}
    assert set(layers_of(found)) == {0, 1, "cpu", "disk"}
    with pytest.raises(InputError, match="no device has room for the embeddings, the head and a layer"):
        map_of("auto", {0: rest, "cpu": 40 * layer})


def test_on_a_cpu_alone_all_is_on_it_or_layers_are_on_the_disk() -> None:
    layer, rest = sizes()
    assert map_of("auto") == {"": "cpu"}
    assert set(layers_of(map_of("auto", {"cpu": rest + 5 * layer}))) == {"cpu", "disk"}
    with pytest.raises(InputError, match="no device has room"):
        map_of("auto", {"cpu": rest})


def test_the_parts_outside_of_the_layers_of_any_family() -> None:
    for name, lists in (("llama", ["model.layers"]), ("gpt2", ["transformer.h"])):
        model = tiny_model(name)
        found = outside(model, lists)
        inside = [f"{path}." for path in (*found, *lists)]
        assert all(any(f"{each}.".startswith(path) for path in inside) for each, _ in model.named_parameters())


def test_a_map_as_told_gives_whole_layers_and_one_device_needs_none() -> None:
    told = {"": "cpu", "model.layers.1": "disk", "model.layers.10": "cpu"}
    found = map_of(told)
    assert [number for number, device in enumerate(layers_of(found)) if device == "disk"] == [1]
    assert map_of({"": "cpu", "model.layers.3.mlp": "cpu"}) == {"": "cpu"}


@pytest.mark.parametrize(
    ("told", "limits", "words"),
    [
        ({"": "cpu", "model.layers.1.mlp": "disk"}, None, "splits model.layers.1 over cpu and disk"),
        ({"": "cpu", "model.layerz": "disk"}, None, "names 'model.layerz', which it does not have"),
        ({"model.layers": "cpu"}, None, "says nothing of lm_head"),
        ({"": "cpu", "lm_head": "disk"}, None, "offloads lm_head, and only layers can be"),
        ({"": 0}, None, "device 'cuda:0' can't be used here"),
        ({"": 1.5}, None, "holds 1.5: give a GPU's number, cpu or disk"),
        ("auto", {3: "1GiB"}, "names the device 3: choose a GPU's number or cpu"),
        ("auto", {"cpu": "lots"}, "'lots' is no size"),
    ],
)
def test_maps_that_can_not_be_are_refused(told: Any, limits: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        map_of(told, limits)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "can't be read"), ("{", "is no JSON"), ("[]", "must hold an object")]
)
def test_files_that_hold_no_map_are_refused(content: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=words):
        map_of(file)
    file.write_text(json.dumps({"": "cpu"}))
    assert map_of(str(file)) == {"": "cpu"}


def test_sizes_of_memory_are_read_as_accelerate_takes_them() -> None:
    assert memory_by_device("0=20GiB, cpu=1000") == {0: "20GiB", "cpu": 1000}
    with pytest.raises(ValueError, match="0=20GiB"):
        memory_by_device("cpu")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device_map": "everywhere"}, "'everywhere' is unknown: choose auto"),
        ({"device_map": 3}, "must be a name, a file or a dict"),
        ({"max_memory": {"cpu": 1}}, "add `device_map='auto'`"),
        ({"device_map": {"": "cpu"}, "max_memory": {"cpu": 1}}, "leave it out"),
        ({"device_map": "auto", "max_memory": 7}, "must be a dict"),
    ],
)
def test_options_that_mean_nothing_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        DeviceMapConfig(**given)


def test_another_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="with `stream`: give one of them"):
        load("nowhere", device_map="auto", stream=True)
    with pytest.raises(InputError, match="with `device='cpu'`: give one of them"):
        load("nowhere", device_map="auto", device="cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several processes were started"):
        load("nowhere", device_map="auto")


def test_fused_experts_are_not_offloaded_to_the_disk(tmp_path: Path) -> None:
    """Their files hold them apart: transformers would write them a second time."""
    model: Any = tiny_model("mixtral")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="its files hold them otherwise: allow more memory"):
        load(tmp_path, device_map={"": "cpu", "model.layers.1": "disk"})
    assert load(tmp_path, device_map="auto").anatomy.parameters()


def test_tied_weights_lie_together() -> None:
    tied = MANY | TOKENS | {"tie_word_embeddings": True}
    layer, rest = sizes()
    found = map_of("auto", {"cpu": rest + 5 * layer}, tied)
    assert found["lm_head"] == found["model.embed_tokens"] == "cpu"
    assert len(layers_of(found)) > LAYERS


@pytest.mark.parametrize("kind", ["gguf", "fp8"])
def test_numbers_that_are_computed_when_they_are_read_are_on_devices_or_the_host(kind: str, tmp_path: Path) -> None:
    source = tmp_path / ("model.gguf" if kind == "gguf" else "model")
    if kind == "gguf":
        model = tiny_model("llama", hidden_size=32, intermediate_size=64)
        write_model(source, model, tiny_tokenizer(), GGMLQuantizationType.Q4_0)
    else:
        write_fp8(source)
    assert fingerprint(load(source, device_map="auto").model) == fingerprint(load(source).model)
    with pytest.raises(InputError, match=r"would offload layers of .* to the disk, where they are not as they are"):
        load(source, device_map={"": "cpu", "model.layers.1": "disk"})

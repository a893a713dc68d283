"""Models of text and images: with an image, what is pruned is what the intact wrapper is without those blocks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, CLIPConfig, ViTConfig

import remodeler as rm
from remodeler.checkpoint.forms import refusal
from remodeler.checkpoint.load import load
from remodeler.checkpoint.save import save_pruned
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed, projection
from remodeler.model.families import WRAPPER
from remodeler.model.logprobs import mean_nll
from remodeler.model.tracing import probe, trace
from remodeler.pruning.criteria.sweep import sweep
from remodeler.pruning.search.budget import share
from remodeler.runs.units import MIXING, Block
from remodeler.training.adapters import adapted, everything, linear_layers
from remodeler.training.lora import Lora
from tiny import TEXT, plain_losses, tiny_windows
from tiny_wrappers import SEEN, logits, tiny_wrapper, with_image, wrapper_checkpoint, wrapper_folder

CPU = torch.device("cpu")
STACKED = ["qwen3_vl", "qwen3_vl_moe"]
"""Whose features are added behind the first two layers, so that the attentions of three stay."""


def free(anatomy: Anatomy, kind: str) -> list[Block]:
    """Blocks of a kind that may go; a mixer counts as an attention."""
    kinds = MIXING if kind == "attention" else (kind,)
    return [block for block in sorted(anatomy.blocks()) if block.kind in kinds]


def removed_for(anatomy: Anatomy, form: str) -> list[Block]:
    """A whole layer for stock, else an attention and an MLP of two layers."""
    first, last = free(anatomy, "attention")[0], free(anatomy, "mlp")[-2]
    if form == "stock":
        return [first, Block(first.layer, "mlp")]
    return [first, last]


WRITTEN = [(kind, form) for kind in SEEN for form in ("stock", "packed") if (kind, form) != ("qwen3_vl_moe", "stock")]


@pytest.mark.parametrize(("kind", "form"), [*WRITTEN, ("gemma3", "portable")])
def test_with_an_image_a_pruned_wrapper_is_the_intact_one_without_those_blocks(
    kind: str, form: Any, tmp_path: Path
) -> None:
    source = wrapper_checkpoint(kind)
    removed = removed_for(source.anatomy, form)
    save_pruned(source, removed, tmp_path, form)
    found = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert type(found).__name__ == ("Packed" * (form == "packed")) + type(source.model).__name__
    inputs = with_image(kind)
    with bypassed(source.anatomy, removed):
        wanted = logits(source.model, inputs)
    torch.testing.assert_close(logits(found, inputs), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(found, inputs), logits(found, with_image(kind, seed=1)), atol=1e-3)
    assert not torch.allclose(logits(source.model, inputs), wanted, atol=1e-3)


@pytest.mark.parametrize("kind", SEEN)
def test_with_an_image_bypassing_a_block_is_zeroing_its_projection(kind: str) -> None:
    anatomy, inputs = wrapper_checkpoint(kind).anatomy, with_image(kind)
    for block in anatomy.blocks():
        with bypassed(anatomy, [block]):
            wanted = logits(anatomy.model, inputs)
        kept = {each: each.detach().clone() for each in projection(anatomy.branches[block]).values()}
        with torch.no_grad():
            for each in kept:
                each.zero_()
        assert torch.equal(logits(anatomy.model, inputs), wanted), block
        with torch.no_grad():
            for each, old in kept.items():
                each.copy_(old)


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_5", "qwen3_vl"])
def test_a_packed_wrapper_writes_on_behind_an_image_with_its_cache(kind: str, tmp_path: Path) -> None:
    source = wrapper_checkpoint(kind)
    packed = save_pruned(source, removed_for(source.anatomy, "packed"), tmp_path, "packed").checkpoint.model
    greedy = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain, cached = (packed.generate(**with_image(kind), use_cache=cache, **greedy) for cache in (False, True))
    assert torch.equal(plain, cached)


def test_a_packed_wrapper_is_pruned_again_to_any_form(tmp_path: Path) -> None:
    source, inputs = wrapper_checkpoint("gemma3"), with_image("gemma3")
    once, rest = [Block(1, "attention"), Block(2, "mlp")], [Block(1, "mlp"), Block(2, "attention")]
    for name in ("packed", "stock"):
        (tmp_path / name).mkdir()
    packed = save_pruned(source, once, tmp_path / "packed", "packed").checkpoint
    assert packed.anatomy.carried == source.anatomy.carried
    save_pruned(packed, rest, tmp_path / "stock", "stock")
    config = json.loads((tmp_path / "stock/config.json").read_text())
    assert (config["model_type"], config["text_config"]["num_hidden_layers"]) == ("gemma3", 2)
    with bypassed(source.anatomy, [*once, *rest]):
        wanted = logits(source.model, inputs)
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "stock").eval()
    torch.testing.assert_close(logits(found, inputs), wanted, atol=1e-5, rtol=1e-5)


# Features between the layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STACKED)
def test_attentions_stay_in_the_layers_that_features_are_added_behind(kind: str, tmp_path: Path) -> None:
    anatomy = wrapper_checkpoint(kind).anatomy
    assert {str(block) for block in anatomy.fixed} == {"attention.0", "attention.1", "attention.2"}
    why = refusal(anatomy, frozenset([Block(1, "attention")]), "stock")
    assert why == "attention.1 can't go, features of images are added behind layers 0 to 1 (deepstack)"
    packed = save_pruned(wrapper_checkpoint(kind), [Block(0, "mlp")], tmp_path, "packed").checkpoint
    assert packed.anatomy.fixed == anatomy.fixed


@pytest.mark.parametrize(("gone", "form"), [("attention.1 mlp.1", "stock"), ("attention.2", "packed")])
def test_without_that_rule_features_would_be_added_behind_other_layers(gone: str, form: Any, tmp_path: Path) -> None:
    """The control: text alone does not tell, images do."""
    source, removed = wrapper_checkpoint("qwen3_vl"), [Block.parse(each) for each in gone.split()]
    free_of_it = replace(source, anatomy=replace(source.anatomy, fixed={}))
    found = save_pruned(free_of_it, removed, tmp_path, form).checkpoint.model
    inputs, text = with_image("qwen3_vl"), {"input_ids": torch.arange(3, 12)[None]}
    with bypassed(source.anatomy, removed):
        torch.testing.assert_close(logits(found, text), logits(source.model, text), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(logits(found, inputs), logits(source.model, inputs), atol=1e-2)


# What is carried along ------------------------------------------------------------------------------------------------


def in_half(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """Store a part of a model in other numbers than the rest; all its tensors then."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: value.half() if part in name else value for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("kind", "part"), [("gemma3", "vision_tower"), ("qwen3_vl", "visual")])
def test_all_but_the_text_part_is_carried_along_byte_for_byte(
    kind: str, part: str, stream: bool, tmp_path: Path
) -> None:
    before = in_half(wrapper_folder(kind, tmp_path / "source"), part)
    source = load(tmp_path / "source", device="cpu", stream=stream)
    (tmp_path / "small").mkdir()
    save_pruned(source, removed_for(source.anatomy, "packed"), tmp_path / "small", "packed")
    after = load_file(tmp_path / "small/model.safetensors")
    seen = {name for name in before if part in name}
    assert seen
    assert {name: before[name].dtype for name in seen} == {name: after[name].dtype for name in seen}
    assert all(torch.equal(before[name], after[name]) for name in before if "layers" not in name or name in seen)
    assert {value.dtype for name, value in after.items() if name not in seen} == {torch.float32}


def test_files_of_the_processor_are_the_sources_own(tmp_path: Path) -> None:
    folder = wrapper_folder("gemma3", tmp_path / "source")
    files = ("preprocessor_config.json", "processor_config.json", "chat_template.jinja", "LICENSE")
    for number, name in enumerate(files):
        (folder / name).write_text(f'{{"own":  {number}}}\n')
    (tmp_path / "small").mkdir()
    save_pruned(load(folder, device="cpu"), [Block(1, "mlp")], tmp_path / "small")
    for name in files:
        assert (tmp_path / "small" / name).read_bytes() == (folder / name).read_bytes()


def test_a_config_changes_in_its_text_part_alone(tmp_path: Path) -> None:
    folder = wrapper_folder("qwen3_5", tmp_path / "source")
    (tmp_path / "small").mkdir()
    save_pruned(load(folder, device="cpu"), [Block(1, "attention"), Block(1, "mlp")], tmp_path / "small", "stock")
    before, after = (AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("source", "small"))
    old, new = before.pop("text_config"), after.pop("text_config")
    assert before == after | {"_name_or_path": before["_name_or_path"]}
    changed = {name for name in old if old[name] != new[name]}
    assert changed == {"num_hidden_layers", "layer_types"}
    assert new["layer_types"] == [old["layer_types"][number] for number in (0, 2, 3)]


def test_names_of_older_files_are_kept(tmp_path: Path) -> None:
    """Llava's files from before transformers 5 have the language model's own names in front."""
    folder = wrapper_folder("llava", tmp_path / "source")
    tensors = load_file(folder / "model.safetensors")
    new = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.", "model.": ""}
    old = {}
    for name, value in tensors.items():
        start = next((each for each in new if name.startswith(each)), "")
        old[new.get(start, "") + name.removeprefix(start)] = value
    assert any(name.startswith("language_model.model.layers.0.") for name in old)
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "small").mkdir()
    save_pruned(load(folder, device="cpu"), [Block(3, "attention"), Block(3, "mlp")], tmp_path / "small", "stock")
    after = load_file(tmp_path / "small/model.safetensors")
    assert after.keys() == {name for name in old if "language_model.model.layers.3." not in name}
    assert all(torch.equal(old[name], value) for name, value in after.items())


# What a user does with it ---------------------------------------------------------------------------------------------


def test_a_ratio_is_a_share_of_the_text_part() -> None:
    anatomy = wrapper_checkpoint("gemma3").anatomy
    text = anatomy.parameters() - anatomy.carried_parameters()
    assert (
        0
        < anatomy.carried_parameters()
        == sum(
            value.numel() for name, value in anatomy.model.named_parameters() if "vision" in name or "projector" in name
        )
    )
    gone = [Block(1, "mlp")]
    assert share(anatomy, gone) == pytest.approx((anatomy.parameters() - anatomy.parameters(gone)) / text)


def test_training_leaves_the_other_parts_alone() -> None:
    anatomy = wrapper_checkpoint("gemma3").anatomy
    with everything(anatomy):
        trained = {name for name, each in anatomy.model.named_parameters() if each.requires_grad}
    assert trained == {name for name, _ in anatomy.model.named_parameters() if name not in anatomy.carried}
    assert all("language_model" in name for name in linear_layers(anatomy))
    with adapted(anatomy, Lora()) as wrapper:
        adapters = [name for name, each in wrapper.named_parameters() if each.requires_grad]
        assert adapters
        assert all("language_model.layers" in name for name in adapters)


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_vl"])
def test_a_wrapper_is_scored_as_its_own_class_scores_text(kind: str) -> None:
    anatomy, windows = wrapper_checkpoint(kind).anatomy, few_tokens(tiny_windows())
    found = mean_nll(anatomy, windows)
    wanted = [
        torch.nn.functional.cross_entropy(logits(anatomy.model, {"input_ids": ids[None]})[0], targets)
        for ids, targets in zip(windows.ids, windows.targets, strict=True)
    ]
    assert found == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)


def few_tokens(windows: Windows) -> Windows:
    """Ids below the small vocabulary, and that of no image."""
    targets = torch.where(windows.targets < 0, windows.targets, windows.targets % 50)
    return Windows(windows.ids % 50, targets)


@pytest.mark.parametrize("kind", ["gemma3", "qwen3_vl"])
def test_a_sweep_over_a_wrapper_equals_the_plain_loop_bit_for_bit(kind: str) -> None:
    anatomy, windows = wrapper_checkpoint(kind).anatomy, few_tokens(tiny_windows())
    units = [(block,) for block in anatomy.blocks()]
    assert sweep(anatomy, windows, [], units, size=2) == plain_losses(anatomy, windows, units)


def test_prune_recover_and_cut_of_a_wrapper(tmp_path: Path) -> None:
    folder = wrapper_folder("gemma3", tmp_path / "whole")
    model = tiny_wrapper("gemma3")
    model.resize_token_embeddings(300)
    model.save_pretrained(folder)
    (tmp_path / "texts.txt").write_text("\n\n".join(f"{number} {TEXT}" for number in range(12)))
    text = {"texts": str(tmp_path / "texts.txt"), "length": 16}
    found = rm.prune(folder, remove=2, samples=4, **text)
    found.save(tmp_path / "small")
    told = json.loads((tmp_path / "small/record.json").read_text())["results"]
    assert told["dense"]["text_parameters"] < told["dense"]["parameters"]
    assert (told["auto_class"], told["pipeline_tag"]) == ("AutoModelForImageTextToText", "image-text-to-text")
    rm.recover(tmp_path / "small", teacher=folder, out=tmp_path / "better", steps=2, **text)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "better"))
    seen = [name for name in before if "vision" in name or "projector" in name]
    assert all(torch.equal(before[name], after[name]) for name in seen)
    rm.cut(found, remove=1).save(tmp_path / "medium")
    sizes = [load(tmp_path / name, device="cpu").anatomy.parameters() for name in ("whole", "medium", "small")]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(InputError, match=r"is a model of text and images, of which only text would be exported"):
        rm.export(tmp_path / "small", out=tmp_path / "small.gguf")
    assert not (tmp_path / "small.gguf").exists()


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ViTConfig(hidden_size=8, num_hidden_layers=1), "is a vit, which has no language model in it: give one"),
        (CLIPConfig(), "is a clip, which has no language model in it"),
        (small_models.small_wrapper_config("paligemma"), "which reads a prompt without an image in both directions"),
        (
            small_models.small_wrapper_config("git"),
            r"is of model type 'git', which has no text part with a config of its own",
        ),
    ],
)
def test_what_has_no_text_part_is_refused_in_one_line(config: Any, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path / "model")
    save_file({"x": torch.zeros(1)}, tmp_path / "model/model.safetensors")
    with pytest.raises(InputError, match=message) as told:
        rm.prune(tmp_path / "model", remove=1, out=tmp_path / "out", texts=str(tmp_path / "none.txt"))
    assert "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_text_part_that_skips_blocks_is_refused_and_not_loaded_with_random_ones(tmp_path: Path) -> None:
    folder = wrapper_folder("gemma3", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["per_layer_config"] = {"1": {"skip": ["mlp"]}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"skips blocks of its text part \(per_layer_config\)"):
        load(folder, device="cpu")


def test_a_packed_wrapper_carries_the_standard_form_of_its_text_part(tmp_path: Path) -> None:
    save_pruned(wrapper_checkpoint("gemma3"), [Block(1, "attention"), Block(2, "mlp")], tmp_path, "packed")
    told = json.loads((tmp_path / "config.json").read_text())["packing"]["standard"]
    assert told["per_layer_config"] == {"1": {"skip": ["attention"]}, "2": {"skip": ["mlp"]}}
    assert told["num_hidden_layers"] == 4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "mllama",
            r"text model of model type 'mllama' is given more of an image than embeddings \(cross_attention_states, ",
        ),
        ("blip-2", r"model type 'blip-2' can't be run on text alone \(Blip2.*pixel_values"),
    ],
)
def test_wrappers_that_work_otherwise_are_refused_with_what_was_found(kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trace(small_models.small_wrapper(kind), WRAPPER, probe(WRAPPER, CPU))

"""Which files of a folder are its weights: as transformers reads it, the same in every verb; and what is none."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
)
from transformers.modeling_utils import _get_resolved_checkpoint_files

from remodeler.auditing.tagger.files import TaggerSettings, new_tagger
from remodeler.checkpoint import repositories
from remodeler.checkpoint.load import fingerprint, load, look, read_tokenizer
from remodeler.checkpoint.repositories import download
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.merging.inputs import inspect_model
from remodeler.merging.job import merge
from remodeler.model.files import open_files
from remodeler.model.files.open_files import OpenFiles, most_open
from remodeler.model.files.weights import INDEX, tensor_files, weight_files
from remodeler.runs.records import disk_refusal
from tiny import EVERY, tiny_model, tiny_tokenizer, tiny_vision_model
from tiny_encoders import tiny_encoder

Tensors = dict[str, torch.Tensor]
META = {"format": "pt"}


def written(folder: Path, name: str = "llama", seed: int = 0, **more: Any) -> Path:
    tiny_model(name, seed, **more).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("other") / "model", seed=5)


def edited(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def shards(source: Path, folder: Path, index: bool = True) -> None:
    """The weights of a folder as two shards in another."""
    tensors = load_file(source / "model.safetensors")
    names = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(tensors)}
    for file in set(names.values()):
        save_file({key: tensors[key] for key in names if names[key] == file}, folder / file, metadata=META)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def tensors_of(folder: Path) -> Tensors:
    return {key: value for file in weight_files(folder) for key, value in load_file(file).items()}


# Which files count ----------------------------------------------------------------------------------------------------


def with_shards(folder: Path, other: Path) -> None:
    shards(other, folder)


def with_stale_index(folder: Path, other: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00009.safetensors"}}))


def with_broken_index(folder: Path, other: Path) -> None:
    (folder / INDEX).write_text("{")


def with_makers_layout(folder: Path, other: Path) -> None:
    found = load_file(other / "model.safetensors")
    save_file({f"makers.{key}": value for key, value in found.items()}, folder / "consolidated.safetensors")


def with_other_files(folder: Path, other: Path) -> None:
    for name in ("adapter_model.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "optimizer.safetensors"):
        shutil.copyfile(other / "model.safetensors", folder / name)


def only_shards(folder: Path, other: Path) -> None:
    shards(folder, folder)
    (folder / "model.safetensors").unlink()
    shutil.copyfile(other / "model.safetensors", folder / "zz.safetensors")
    shutil.copyfile(other / "model.safetensors", folder / "model-00003-of-00003.safetensors")


def named_in_config(folder: Path, other: Path) -> None:
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    shutil.copyfile(other / "model.safetensors", folder / "model.safetensors")
    edited(folder / "config.json", transformers_weights="mine.safetensors")


LAYOUTS = [with_shards, with_stale_index, with_broken_index, with_makers_layout, with_other_files]
LAYOUTS += [only_shards, named_in_config]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_verb_reads_the_files_that_transformers_reads(
    layout: Callable[[Path, Path], None], plain: Path, other: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    layout(folder, other)
    named = json.loads((folder / "config.json").read_text()).get("transformers_weights")
    theirs, _ = _get_resolved_checkpoint_files(folder, None, None, True, None, False, named)
    assert [str(file) for file in weight_files(folder)] == sorted(theirs or ())
    wanted = fingerprint(load(plain).model)
    assert wanted != fingerprint(load(other).model)
    assert fingerprint(load(folder).model) == fingerprint(load(folder, stream=True).model) == wanted
    merge((str(folder), str(plain)), out=tmp_path / "out")
    assert fingerprint(load(tmp_path / "out").model) == wanted
    assert "transformers_weights" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_of_a_tensor_in_several_shards_the_last_counts(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    only_shards(folder, plain)
    last = folder / "model-00002-of-00002.safetensors"
    found = load_file(last) | {"model.norm.weight": torch.full((32,), 7.0)}
    save_file(found, last, metadata=META)
    for stream in (False, True):
        model: Any = load(folder, stream=stream).model
        assert (model.model.norm.weight == 7).all()
    assert tensor_files(folder)["model.norm.weight"] == last


def test_an_index_may_name_what_the_model_does_not_need(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    only_shards(folder, plain)
    names = json.loads((folder / INDEX).read_text())["weight_map"] | {"gone": "model-00001-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert fingerprint(load(folder).model) == fingerprint(load(plain).model)
    edited(folder / "config.json", model_type="nobody-knows")
    with pytest.raises(InputError, match="gone is in the index of"):
        inspect_model(str(folder))


def test_of_a_repository_only_the_weights_that_count_are_fetched(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        for file in (tmp_path / name).iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(file, tmp_path / "here" / file.name)
        return str(tmp_path / "here")

    monkeypatch.setattr(repositories, "snapshot_download", fetched)
    whole = Path(shutil.copytree(plain, tmp_path / "whole"))
    with_shards(whole, plain)
    with_makers_layout(whole, plain)
    cut = Path(shutil.copytree(plain, tmp_path / "cut"))
    only_shards(cut, plain)
    for name in ("whole", "cut"):
        (tmp_path / "here").mkdir()
        found = sorted(path.name for path in download(name).glob("*.safetensors"))
        assert found == sorted(path.name for path in weight_files(tmp_path / name))
        shutil.rmtree(tmp_path / "here")


# What is none ---------------------------------------------------------------------------------------------------------


def empty(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def put(folder: Path, name: str, content: str | bytes = b"x") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"
ADAPTER = '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'
NO_CONFIG = ("config.json", "model.safetensors")
FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "adapter": (
        lambda m: put(put(without(m, *NO_CONFIG), "adapter_config.json", ADAPTER), "adapter_model.safetensors"),
        r"holds an adapter \(LORA for org/base\) and no model: merge it into its base first",
    ),
    "adapter and the config of its base": (
        lambda m: put(put(without(m, NO_CONFIG[1]), "adapter_config.json", ADAPTER), "adapter_model.bin"),
        "and no model: merge it into its base first",
    ),
    "adapter beside the model": (
        lambda m: put(put(m, "adapter_config.json", ADAPTER), "adapter_model.safetensors"),
        r"a model and an adapter \(LORA for org/base\) beside it .*: take both files of the adapter away",
    ),
    "cache": (
        lambda m: put(put(without(m, *NO_CONFIG), "snapshots/b/config.json"), "snapshots/a/config.json"),
        r"a folder of the hub's cache: give the snapshot in it, .*snapshots/b",
    ),
    "cache with a branch": (
        lambda m: put(put(put(without(m, *NO_CONFIG), "snapshots/b/x"), "snapshots/a/x"), "refs/main", "a\n"),
        r"give the snapshot in it, .*snapshots/a",
    ),
    "whole cache": (lambda m: put(without(m, *NO_CONFIG), "models--o--n/refs/main"), r"models--o--n/snapshots/HASH"),
    "pickles": (
        lambda m: put(without(m, NO_CONFIG[1]), "pytorch_model.bin"),
        r"as PyTorch's pickles \(pytorch_model.bin\).*transformers.LlamaForCausalLM.from_pretrained\(.*save_pretrained",
    ),
    "training": (lambda m: put(without(m, NO_CONFIG[1]), "training_args.bin"), "holds what a training left"),
    "training without a config": (lambda m: put(without(m, *NO_CONFIG), "optimizer.pt"), "what a training left"),
    "trainer": (
        lambda m: put(put(without(m, NO_CONFIG[1]), "checkpoint-20/x"), "checkpoint-100/x"),
        r"give one of them, the last is .*checkpoint-100",
    ),
    "gguf": (lambda m: put(without(m, *NO_CONFIG), "m-q4.gguf"), r"holds a GGUF file \(m-q4.gguf\)"),
    "pipeline": (lambda m: put(without(m, *NO_CONFIG), "model_index.json"), "a pipeline of diffusers"),
    "deepspeed": (lambda m: put(without(m, NO_CONFIG[1]), "global_step9/x"), "zero_to_fp32.py . NEW"),
    "fsdp": (lambda m: put(without(m, NO_CONFIG[1]), "pytorch_model_fsdp_0/x"), "accelerate merge-weights"),
    "distributed": (lambda m: put(m, "shard-00001-model-00001-of-00001.safetensors"), "shards of a distributed run"),
    "makers": (lambda m: put(put(without(m, *NO_CONFIG), "params.json"), "consolidated.00.pth"), "the model's makers"),
    "variant": (lambda m: put(without(m, NO_CONFIG[1]), "model.fp16.safetensors"), "has a variant of the weights"),
    "shards alone": (lambda m: put(without(m, NO_CONFIG[1]), "model-00001-of-00002.safetensors"), "which says what is"),
    "another name": (lambda m: put(without(m, NO_CONFIG[1]), "mine.safetensors"), "give the file that name if it"),
    "other framework": (lambda m: put(without(m, NO_CONFIG[1]), "tf_model.h5"), "weights of another framework"),
    "no weights": (lambda m: without(m, NO_CONFIG[1]), "has no weights, neither model.safetensors nor its index"),
    "no config": (lambda m: without(m, NO_CONFIG[0]), r"has weights \(model.safetensors\) and no config.json"),
    "one level up": (lambda m: put(without(m, *NO_CONFIG), "final/config.json"), r"give .*final"),
    "pointer": (lambda m: put(m, "model.safetensors", POINTER), "is a pointer of git-lfs"),
    "pointer for a config": (lambda m: put(m, "config.json", POINTER), r"config.json is a pointer of git-lfs"),
    "zero bytes": (lambda m: put(m, "model.safetensors", b""), "has 0 bytes"),
    "page": (lambda m: put(m, "model.safetensors", "<!DOCTYPE html><html>"), "is a web page"),
    "pickle": (lambda m: put(m, "model.safetensors", b"PK\x03\x04" + bytes(60)), "a pickle of PyTorch under another"),
    "broken config": (lambda m: put(m, "config.json", "{"), "config.json is not valid JSON"),
    "list for a config": (lambda m: put(m, "config.json", "[]"), "config.json holds a list, an object"),
    "no type": (lambda m: put(m, "config.json", "{}"), "says no model_type"),
    "weights elsewhere": (
        lambda m: put(m, "config.json", '{"model_type": "llama", "transformers_weights": "../model.safetensors"}'),
        "a safetensors file in it was expected",
    ),
    "index without shards": (
        lambda m: put(without(m, NO_CONFIG[1]), INDEX, '{"metadata": {}, "weight_map": {"a": "s.safetensors"}}'),
        "shard s.safetensors named in model.safetensors.index.json is missing",
    ),
    "index without metadata": (
        lambda m: put(without(m, NO_CONFIG[1]), INDEX, '{"weight_map": {"a": "s.safetensors"}}'),
        "has no metadata",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_what_holds_no_model_is_told_and_what_to_do(case: str, plain: Path, tmp_path: Path) -> None:
    make, words = FOLDERS[case]
    folder = str(make(Path(shutil.copytree(plain, tmp_path / "m"))))
    for read in (look, load, lambda name: load(name, stream=True), inspect_model):
        with pytest.raises(InputError, match=words):
            read(folder)


def test_names_that_are_no_folders(plain: Path) -> None:
    with pytest.raises(InputError, match=r"is a file: give the folder that it is in, .*model$"):
        look(str(plain / "model.safetensors"))
    with pytest.raises(InputError, match=r"joins them by \+, are not read: merge it into its base first"):
        look("org/model+org/adapter")
    with pytest.raises(InputError, match=r"joins them by \+"):
        inspect_model("model+adapter")


def test_the_config_of_an_adapter_that_is_not_there_adds_nothing(
    plain: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    folder = put(Path(shutil.copytree(plain, tmp_path / "m")), "adapter_config.json", ADAPTER)
    wanted = fingerprint(load(plain).model)
    assert "adapter" not in messages.text
    assert fingerprint(load(folder).model) == fingerprint(load(folder, stream=True).model) == wanted
    assert "has an adapter_config.json and no weights of an adapter: it is left out" in messages.text
    assert inspect_model(str(folder))[0].places.keys() == inspect_model(str(plain))[0].places.keys()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_of_peft_is_recognised(tmp_path: Path) -> None:
    """Control of the table above, with what peft writes."""
    model: Any = tiny_model("llama")
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"holds an adapter \(LORA for its base\) and no model"):
        look(str(tmp_path))


# Weights that do not fit ----------------------------------------------------------------------------------------------


def renamed(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {change(key): value for key, value in tensors.items()}


def lacking(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: value for key, value in tensors.items() if not any(part in key for part in parts)}


NAMES: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = {
    "peft's prefix": (
        renamed(lambda key: f"base_model.model.{key}"),
        {},
        r"inside peft: save what its merge_and_unload\(\)",
    ),
    "compiled": (renamed(lambda key: f"_orig_mod.{key}"), {}, r"inside torch.compile: save model._orig_mod"),
    "parallel": (renamed(lambda key: f"module.{key}"), {}, r"inside another module, whose 'module.'"),
    "adapters inside": (
        lambda t: t | {"model.layers.0.mlp.up_proj.lora_A.default.weight": torch.zeros(1)},
        {},
        "merged",
    ),
    "base layers": (renamed(lambda key: key.replace("q_proj.", "q_proj.base_layer.")), {}, "adapters that are not"),
    "quantised": (renamed(lambda key: key.replace("up_proj.weight", "up_proj.qweight")), {}, "are quantised"),
    "no head": (lacking("lm_head"), {}, r"has no head \(lm_head.weight\), as a base class"),
    "base class": (lambda t: renamed(lambda key: key.removeprefix("model."))(lacking("lm_head")(t)), {}, "has no head"),
    "reward": (lambda t: lacking("lm_head")(t) | {"score.weight": torch.zeros(1, 32)}, {}, "classification or reward"),
    "fewer layers": (lacking("layers.2.", "layers.3."), {}, "4 layers in config.json and 2 in the files"),
    "dropped": (
        lacking("layers.1.self_attn."),
        {"drop_attn_list": [1], "drop_mlp_list": []},
        r"was pruned by another tool, whose own code .* \(drop_attn_list in",
    ),
    "one missing": (lacking("layers.3.mlp.up_proj"), {}, "1 weights that the model needs are not in"),
    "resized": (lambda t: t, {"vocab_size": 296}, r"has 300 rows in the files and 296 in .*set vocab_size to 300"),
    "another size": (lambda t: t, {"intermediate_size": 64}, "give the config that belongs to the weights"),
}


@pytest.mark.parametrize("case", NAMES)
def test_weights_that_do_not_fit_are_told_apart(case: str, plain: Path, tmp_path: Path) -> None:
    change, config, words = NAMES[case]
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    save_file(change(load_file(plain / "model.safetensors")), folder / "model.safetensors", metadata=META)
    edited(folder / "config.json", **config)
    readers = [load, lambda name: load(name, stream=True), lambda name: inspect_model(str(name))]
    for read in readers if case != "another size" else [readers[0], readers[2]]:
        with pytest.raises(InputError, match=words):
            read(folder)


def test_names_without_the_prefix_of_the_base_class_fit(plain: Path, tmp_path: Path) -> None:
    """transformers adds it; the control of "base class" above."""
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    found = renamed(lambda key: key.removeprefix("model."))(load_file(plain / "model.safetensors"))
    save_file(found, folder / "model.safetensors", metadata=META)
    assert fingerprint(load(folder).model) == fingerprint(load(plain).model)
    assert inspect_model(str(folder))[0].places.keys() == found.keys()


def test_classifiers_are_no_language_models(tmp_path: Path) -> None:
    config = tiny_model("llama").config
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "c")
    tiny_tokenizer().save_pretrained(tmp_path / "c")
    for read in (load, lambda name: load(name, stream=True), lambda name: look(str(name), "causal")):
        with pytest.raises(InputError, match="is a LlamaForSequenceClassification and no language model"):
            read(tmp_path / "c")
    merge((str(tmp_path / "c"), f"{tmp_path}/./c"), out=tmp_path / "out")  # that needs no tokens
    assert tensors_of(tmp_path / "out").keys() == tensors_of(tmp_path / "c").keys()


def test_a_classifier_is_an_encoder_still(tmp_path: Path) -> None:
    encoder = tiny_encoder("bert", tmp_path / "e")
    BertForSequenceClassification(
        type(new_tagger(str(encoder), TaggerSettings(), 0, "cpu").model.encoder.config)(
            **json.loads((tmp_path / "e" / "config.json").read_text())
        )
    ).save_pretrained(tmp_path / "e")
    found = new_tagger(str(tmp_path / "e"), TaggerSettings(), 0, "cpu").model.encoder
    stored = load_file(tmp_path / "e" / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(found.embeddings.word_embeddings.weight, stored)


@pytest.mark.parametrize("family", EVERY)
def test_the_files_of_every_family_fit_its_class(family: str, tmp_path: Path) -> None:
    found, outline = inspect_model(str(written(tmp_path, family)))
    assert outline.built is not None
    assert outline.embeddings
    assert set(outline.embeddings) <= found.places.keys()
    assert not outline.tied.keys() & found.places.keys()


# A head that differs from the embeddings it is tied to ---------------------------------------------------------------


@pytest.fixture
def differing(tmp_path: Path) -> Path:
    folder = written(tmp_path / "differs", "llama-tied")
    found = load_file(folder / "model.safetensors")
    found["lm_head.weight"] = found["model.embed_tokens.weight"] * -2
    save_file(found, folder / "model.safetensors", metadata=META)
    return folder


def logits(folder: Path) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(3, 15)[None]).logits
    return found


def test_a_head_that_differs_is_kept_and_the_result_says_so(differing: Path, tmp_path: Path) -> None:
    wanted = logits(differing)
    assert not torch.allclose(wanted, logits(written(tmp_path / "tied", "llama-tied")))
    shutil.copytree(differing, tmp_path / "copy")
    merge((str(differing), str(tmp_path / "copy")), out=tmp_path / "merged")
    for name, stream in (("whole", False), ("streamed", True)):
        (tmp_path / name).mkdir()
        save_pruned(load(differing, stream=stream, device="cpu"), [], tmp_path / name, "stock")
    for name in ("merged", "whole", "streamed"):
        assert not json.loads((tmp_path / name / "config.json").read_text())["tie_word_embeddings"]
        torch.testing.assert_close(logits(tmp_path / name), wanted)


def test_a_model_that_ties_more_than_its_head_stays_so(tmp_path: Path) -> None:
    """T5 ties its embeddings, too, and scales by what its config says: the head is kept, the config is as it was."""
    folder = written(tmp_path / "m", "t5")
    found = load_file(folder / "model.safetensors")
    found["lm_head.weight"] = found["shared.weight"] * -2
    save_file(found, folder / "model.safetensors", metadata=META)
    shutil.copytree(folder, tmp_path / "copy")
    merge((str(folder), str(tmp_path / "copy")), out=tmp_path / "out")
    (tmp_path / "written").mkdir()
    save_pruned(load(folder, device="cpu"), [], tmp_path / "written", "portable")
    wanted = fingerprint(load(folder).model)
    for name in ("out", "written"):
        assert json.loads((tmp_path / name / "config.json").read_text())["tie_word_embeddings"]
        assert fingerprint(load(tmp_path / name).model) == wanted


def test_models_of_which_one_ties_are_not_merged(differing: Path, tmp_path: Path) -> None:
    tied = written(tmp_path / "tied", "llama-tied", seed=1)
    with pytest.raises(InputError, match="only one ties its embeddings"):
        merge((str(differing), str(tied)), out=tmp_path / "out")


def test_a_head_that_is_merged_by_token_has_the_rows_of_the_embeddings(differing: Path, tmp_path: Path) -> None:
    shutil.copytree(differing, tmp_path / "copy")
    merge((str(differing), str(tmp_path / "copy")), tokenizer="union", out=tmp_path / "out")
    found, source = tensors_of(tmp_path / "out"), tensors_of(differing)
    torch.testing.assert_close(found["lm_head.weight"], source["lm_head.weight"])


# More files than the system opens ------------------------------------------------------------------------------------


def test_few_files_are_open_at_once_and_all_are_closed() -> None:
    open_now: list[Path] = []
    most = 0

    def take(path: Path) -> Path:
        nonlocal most
        open_now.append(path)
        most = max(most, len(open_now))
        return path

    with OpenFiles(take, open_now.remove, most=3) as files:
        for number in (0, 1, 2, 3, 1, 4, 5):
            with files.reading(Path(str(number))) as handle:
                assert handle in open_now
        assert open_now == [Path("1"), Path("4"), Path("5")]  # 1 was read again after 2 and 3
    assert (open_now, most) == ([], 3)


def test_a_file_that_is_read_stays_open() -> None:
    closed: list[Path] = []
    with OpenFiles(lambda path: path, closed.append, most=1) as files, files.reading(Path("a")):
        with files.reading(Path("b")), files.reading(Path("a")):
            assert closed == []
        with files.reading(Path("c")):
            assert closed == [Path("b")]


def test_where_the_system_opens_no_more_the_others_are_closed_first() -> None:
    room, open_now = 2, set[Path]()

    def take(path: Path) -> Path:
        if len(open_now) == room:
            raise OSError(errno.EMFILE, "Too many open files")
        open_now.add(path)
        return path

    with OpenFiles(take, open_now.remove) as files:
        for name in "abca":
            with files.reading(Path(name)):
                pass
        with files.reading(Path("d")), files.reading(Path("e")):  # noqa: SIM117  the third has no room
            with pytest.raises(InputError, match="raise the limit"), files.reading(Path("f")):
                pass


def test_room_is_left_below_the_limit_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else results could not be opened, nor libraries loaded, while inputs that nobody reads stay open."""
    resource = pytest.importorskip("resource")
    for limit, most in ((256, 64), (64, 16), (20, 5), (2, 1), (resource.RLIM_INFINITY, 64)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=limit: (soft, soft))
        assert most_open() == most
    assert "raise the limit (ulimit -n)" in str(disk_refusal(Path("a"), OSError(errno.EMFILE, "Too many open files")))


def test_threads_share_the_files(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / str(number)).write_text(str(number) * 100)
    wrong: list[str] = []
    with OpenFiles(lambda path: path.open("rb"), lambda file: file.close(), most=2) as files:

        def read() -> None:
            for turn in range(200):
                with files.reading(tmp_path / str(turn % 8)) as file:
                    wrong.extend(["closed"] if file.closed else [])

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_many_shards_are_merged_and_streamed_with_two_files_open(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        tiny_model("llama", seed).save_pretrained(tmp_path / name, max_shard_size="10KB")
        tiny_tokenizer().save_pretrained(tmp_path / name)
    pair = (str(tmp_path / "a"), str(tmp_path / "b"))
    merge(pair, out=tmp_path / "many")
    wanted = fingerprint(load(tmp_path / "a").model)
    monkeypatch.setattr(OpenFiles.__init__, "__defaults__", (2,))
    merge(pair, out=tmp_path / "few")
    assert (tmp_path / "few/model.safetensors").read_bytes() == (tmp_path / "many/model.safetensors").read_bytes()
    assert fingerprint(load(tmp_path / "a", stream=True).model) == wanted
    assert open_files.MOST > 2


# Models of text and images -------------------------------------------------------------------------------------------


def test_models_of_text_and_images_are_merged_by_token(tmp_path: Path) -> None:
    known = len(tiny_tokenizer())
    one, two = (
        tiny_vision_model(tmp_path / "a", 0, known),
        tiny_vision_model(tmp_path / "b", 1, known + 2, ("<x>", "<y>")),
    )
    with pytest.raises(InputError, match="`tokenizer='base'` or union merges them by token"):
        merge((str(one), str(two)), out=tmp_path / "out")
    merge((str(one), str(two)), tokenizer="union", out=tmp_path / "out")
    name = "language_model.model.embed_tokens.weight"
    found, first, second = (tensors_of(folder)[name] for folder in (tmp_path / "out", one, two))
    torch.testing.assert_close(found[:known], (first + second[:known]) / 2)
    torch.testing.assert_close(found[known:], second[known:])
    again, told = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values())
    assert again.config.text_config.vocab_size == known + 2


def test_of_a_model_of_text_and_sound_the_text_model_is_wanted(tmp_path: Path) -> None:
    put(tmp_path, "config.json", '{"model_type": "moss_transcribe_diarize", "text_config": {"model_type": "qwen3"}}')
    for read in (load, lambda name: load(name, family="qwen3"), lambda name: look(str(name), "causal")):
        with pytest.raises(InputError, match=r"reads more than text .*save its text model by itself, as docs/"):
            read(tmp_path)


# Tokenizers -----------------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_lacks_something_is_told(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    put(folder, "tokenizer.json", POINTER)
    with pytest.raises(InputError, match=r"tokenizer.json is a pointer of git-lfs"):
        load(folder)
    without(folder, "tokenizer.json")
    with pytest.raises(InputError, match="the folder has no tokenizer: copy"):
        load(folder)
    put(put(folder, "tokenizer.model"), "tokenizer_config.json", '{"tokenizer_class": "LlamaTokenizer"}')
    monkeypatch.setattr("remodeler.model.files.diagnosis.find_spec", lambda module: None)
    with pytest.raises(InputError, match="needs more packages: pip install sentencepiece protobuf"):
        load(folder)


def test_tokens_that_were_added_without_rows(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{number}>" for number in range(300)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"tokens and the model 300 rows, as after adding tokens without resize"):
        merge((str(plain), str(folder)), tokenizer="union", out=tmp_path / "out")


def test_only_rows_of_tokens_are_merged_by_token(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a"), written(tmp_path / "b", intermediate_size=64)
    with pytest.raises(InputError, match="only equal shapes can be merged"):
        merge((str(one), str(two)), out=tmp_path / "out")
    for folder in (one, two):
        edited(folder / "config.json", model_type="nobody-knows")
    with pytest.raises(InputError, match="have a row per token is not known: leave `tokenizer` out"):
        merge((str(one), str(two)), tokenizer="union", out=tmp_path / "out")


# What has a file's name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "is a folder, a file was expected"),
        (os.mkfifo, "is a pipe or a device, a file was expected"),
        (lambda path: path.symlink_to("nowhere"), "is a link to a file that is not there"),
    ],
    ids=["folder", "pipe", "link"],
)
def test_what_has_a_files_name_and_is_none_is_refused_before_work(
    plain: Path, tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(InputError, match=f"{name} {message}"):
        look(str(folder))


def test_a_link_to_a_file_is_a_file(plain: Path, tmp_path: Path) -> None:
    for file in plain.iterdir():
        (tmp_path / file.name).symlink_to(file)
    look(str(tmp_path))


@pytest.mark.parametrize("name", ["LICENSE.txt", "README.md", "tokenizer_config.json", "modeling.py"])
def test_what_a_result_would_carry_on_can_be_read(
    plain: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    (folder / name).touch()
    (folder / "notes.md").touch()  # stays behind
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name not in (name, "notes.md"))
    with pytest.raises(InputError, match=f"{name} can't be read"):
        look(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds a list"),
        ("{", "is not valid JSON"),
        ('{"max_new_tokens": -5}', "must be greater than 0, but is -5.*correct it, or take it away"),
    ],
)
def test_settings_for_writing_texts_are_read_before_work(plain: Path, tmp_path: Path, text: str, message: str) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        look(str(folder))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tokenizer_config.json", b"[1]", "holds a list"),
        ("special_tokens_map.json", b"[", "is not valid JSON"),
        ("added_tokens.json", b"{", "is not valid JSON"),
        ("chat_template.jinja", b"\xff", "is not UTF-8"),
    ],
)
def test_of_a_tokenizer_that_does_not_load_the_broken_file_is_named(
    plain: Path, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "model"))
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name} {message}"):
        read_tokenizer(str(folder))

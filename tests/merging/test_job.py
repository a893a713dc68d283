"""A merge from folders to a folder: the plain result, resumed, sharded, by token, from a mergekit file, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from merges import tensors, written
from remodeler.checkpoint.load import load
from remodeler.errors import InputError
from remodeler.merging import stream
from remodeler.merging.files import create_files, lay_out, tensor_places
from remodeler.merging.job import merge
from remodeler.merging.table import Method
from remodeler.merging.tokens import gather_rows
from remodeler.runs.folders import partial
from remodeler.runs.records import load_record, read_lines
from tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A base and two models."""
    root = tmp_path_factory.mktemp("family")
    return [str(written(root / f"m{seed}", seed, shard="40kB" if seed == 1 else "5GB")) for seed in range(3)]


def test_the_result_is_the_mean_and_loads(family: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert merge((family[1], family[2]), weight=["1", "3"], out=out)
    first, second, found = (tensors(each) for each in (family[1], family[2], out))
    for name, each in found.items():
        torch.testing.assert_close(each, 0.25 * first[name] + 0.75 * second[name], rtol=1e-6, atol=1e-7)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model(torch.arange(5)[None]).logits.isfinite().all()
    assert len(AutoTokenizer.from_pretrained(out)) == len(tiny_tokenizer())
    assert load_record(out).results["loaded"] is True
    assert "merged by `linear`" in (out / "README.md").read_text()


def test_shards_and_one_file_hold_the_same(family: list[str], tmp_path: Path) -> None:
    merge((family[1], family[2]), base=family[0], method="ties", out=tmp_path / "one")
    merge((family[1], family[2]), base=family[0], method="ties", shard_size="30KB", out=tmp_path / "many")
    one, many = tensors(tmp_path / "one"), tensors(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    AutoModelForCausalLM.from_pretrained(tmp_path / "many")


def test_a_killed_merge_goes_on_to_the_same_bytes(
    family: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"models": family[1:], "base": family[0], "method": "sce", "select": 0.3}
    merge(**asked, out=tmp_path / "whole")
    made, original = [], stream._merge_tensor

    def dies(task: Any, *more: Any) -> dict[str, Any]:
        if len(made) == 7:
            raise KeyboardInterrupt
        made.append(task.name)
        return original(task, *more)

    out = tmp_path / "out"
    monkeypatch.setattr(stream, "_merge_tensor", dies)
    with pytest.raises(KeyboardInterrupt):
        merge(**asked, out=out)
    damaged = tensor_places(partial(out))[made[2]]
    with damaged.file.open("r+b") as file:
        file.seek(damaged.start)
        file.write(b"\x01\x02")
    with (partial(out) / "merge.jsonl").open("a") as journal:
        journal.write('{"name": "torn')
    made.clear()
    monkeypatch.setattr(stream, "_merge_tensor", lambda task, *more: made.append(task.name) or original(task, *more))
    merge(**asked, out=out)
    assert len(made) == len(tensors(out)) - 6, "all but the six that were whole"
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_the_report_shows_what_each_model_counts(family: list[str], tmp_path: Path) -> None:
    merge((family[1], family[2]), base=family[0], method="varm", out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>m1 and m2</h1>" in page
    assert "How much each model counts" in page
    assert "2 models became one by varm" in page


def test_a_method_of_ones_own_may_return_what_it_was_given(family: list[str], tmp_path: Path) -> None:
    """Pieces live in memory that is used again; what is written and summed up must not."""
    first = Method(lambda piece, facts: piece.tensors[0], {}, needs_base=False)
    merge((family[1], family[2]), method=first, out=tmp_path / "out")
    wanted, found = tensors(family[1]), tensors(tmp_path / "out")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_another_merge_in_the_way_is_told_apart(
    family: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_write_pieces", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        merge((family[1], family[2]), out=tmp_path / "out")
    monkeypatch.undo()
    left = {path.name: path.read_bytes() for path in partial(tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match="a merge of another models, method, options"):
        merge((family[1], family[2]), base=family[0], method="ties", out=tmp_path / "out")
    assert left == {path.name: path.read_bytes() for path in partial(tmp_path / "out").iterdir()}


def test_loaded_models_are_merged_as_their_folders_are(family: list[str], tmp_path: Path) -> None:
    base, *models = (load(folder, device="cpu") for folder in family)
    assert merge(models, base=base, method="ties", density=0.5, out=tmp_path / "loaded")
    merge(family[1:], base=family[0], method="ties", density=0.5, out=str(tmp_path / "paths"))
    one, two = (tmp_path / name / "model.safetensors" for name in ("loaded", "paths"))
    assert one.read_bytes() == two.read_bytes()
    assert load_record(tmp_path / "loaded").options["models"] == family[1:]


def test_a_result_needs_a_place(family: list[str]) -> None:
    with pytest.raises(InputError, match="`out` must be given"):
        merge(family[1:])


def test_tied_embeddings_are_merged_and_written_once(tmp_path: Path) -> None:
    folders = [str(written(tmp_path / f"t{seed}", seed, "llama-tied")) for seed in range(3)]
    twice = tensors(folders[1])
    twice["lm_head.weight"] = twice["model.embed_tokens.weight"].clone()
    save_file(twice, Path(folders[1]) / "model.safetensors", metadata={"format": "pt"})
    merge((folders[1], folders[2]), base=folders[0], method="varm", out=tmp_path / "out")
    assert "lm_head.weight" not in tensors(tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.tie_word_embeddings


def test_mixed_dtypes_are_computed_in_float32_and_stored_as_the_base(family: list[str], tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(family[2], dtype=torch.bfloat16).save_pretrained(half)
    shutil.copyfile(Path(family[2]) / "tokenizer.json", half / "tokenizer.json")
    shutil.copyfile(Path(family[2]) / "tokenizer_config.json", half / "tokenizer_config.json")
    merge((family[1], str(half)), out=tmp_path / "wide")
    merge((family[1], str(half)), dtype="bfloat16", out=tmp_path / "narrow")
    wide, narrow = tensors(tmp_path / "wide"), tensors(tmp_path / "narrow")
    first, second = tensors(family[1]), tensors(half)
    for name, each in wide.items():
        assert each.dtype == torch.float32
        torch.testing.assert_close(each, (first[name] + second[name].float()) / 2)
        assert torch.equal(narrow[name], each.bfloat16())
    assert json.loads((tmp_path / "narrow" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("granularity", ["tensor", "layer", "model"])
def test_varm_weighs_by_tensor_layer_or_model(family: list[str], tmp_path: Path, granularity: str) -> None:
    out = tmp_path / "out"
    merge((family[1], family[2]), base=family[0], method="varm", granularity=granularity, out=out)
    base, models = tensors(family[0]), [tensors(each) for each in family[1:]]
    unit: dict[str, Callable[[str], str]] = {
        "tensor": lambda name: name,
        "layer": lambda name: ".".join(name.split(".")[:3]) if "layers" in name else name,
        "model": lambda name: "",
    }
    for line in read_lines(out / "merge.jsonl")[1:]:
        place = unit[granularity](line["name"])
        names = [name for name in base if unit[granularity](name) == place]
        squares = [sum((each[name] - base[name]).double().square().sum().item() for name in names) for each in models]
        assert line["shares"] == pytest.approx([each / sum(squares) for each in squares], rel=1e-6)


def test_rows_are_merged_by_token(tmp_path: Path) -> None:
    base = written(tmp_path / "base", 0)
    one = written(tmp_path / "one", 1, words=("<|a|>", "<|b|>"))
    two = written(tmp_path / "two", 2, words=("<|b|>",))
    models = (str(one), str(two))
    with pytest.raises(InputError, match=r"weight is \[300, 32\] in .*`tokenizer="):
        merge(models, base=str(base), method="task_arithmetic", out=tmp_path / "none")
    weights = {"weight": 0.5}
    merge(models, base=str(base), method="task_arithmetic", tokenizer="base", **weights, out=tmp_path / "kept")
    merge(models, base=str(base), method="task_arithmetic", tokenizer="union", **weights, out=tmp_path / "union")
    name = "model.embed_tokens.weight"
    rows = [tensors(each)[name] for each in (base, one, two)]
    kept, union = tensors(tmp_path / "kept")[name], tensors(tmp_path / "union")[name]
    words = AutoTokenizer.from_pretrained(tmp_path / "union")
    a, b = words.convert_tokens_to_ids(["<|a|>", "<|b|>"])
    known = len(AutoTokenizer.from_pretrained(base))
    ids = [AutoTokenizer.from_pretrained(each).convert_tokens_to_ids("<|b|>") for each in (one, two)]
    assert kept.shape == rows[0].shape
    assert union.shape[0] == max(300, a + 1, b + 1)
    torch.testing.assert_close(kept[:known], rows[0][:known] / 2 * 0 + (rows[1][:known] + rows[2][:known]) / 2)
    torch.testing.assert_close(union[:known], kept[:known])
    torch.testing.assert_close(union[b], (rows[1][ids[0]] + rows[2][ids[1]]) / 2)
    torch.testing.assert_close(union[a], rows[1][AutoTokenizer.from_pretrained(one).convert_tokens_to_ids("<|a|>")])
    assert words.encode("<|b|>", add_special_tokens=False) == [b]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "union").config.vocab_size == union.shape[0]


def test_rows_behind_a_missing_one_are_found() -> None:
    """A token that a model lacks, before one that has its first row."""
    stored: Any = SimpleNamespace(read=lambda start, stop: torch.arange(12.0)[start:stop])
    found = gather_rows(stored, np.array([-1, 0, 1, -1, -1, 3, 2]), 3)
    assert found[:, 0].tolist() == [0, 0, 3, 0, 0, 9, 6]
    assert found[1].tolist() == [0, 1, 2]


def spoiled(folder: str, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> str:
    """A copy of a model with other tensors."""
    shutil.copytree(folder, target)
    found = tensors(target)
    change(found)
    save_file(found, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def narrower(found: dict[str, torch.Tensor]) -> None:
    found["model.norm.weight"] = found["model.norm.weight"][:-1].clone()


def without(found: dict[str, torch.Tensor]) -> None:
    del found["model.norm.weight"]


def broken(found: dict[str, torch.Tensor]) -> None:
    found["model.norm.weight"][3] = torch.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (narrower, r"model.norm.weight of .*bad is \[31\] in the files and \[32\] by config.json"),
        (without, "1 weights that the model needs are not in .*bad .the first: model.norm.weight"),
        (broken, "model.norm.weight becomes NaN or infinite"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    family: list[str], tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], words: str
) -> None:
    bad = spoiled(family[2], tmp_path / "bad", change)
    with pytest.raises(InputError, match=words):
        merge((family[2], bad), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truncated_file_is_refused(family: list[str], tmp_path: Path) -> None:
    shutil.copytree(family[2], tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="truncated or damaged"):
        merge((family[2], str(tmp_path / "cut")), out=tmp_path / "out")


def test_a_dry_run_writes_nothing(family: list[str], tmp_path: Path) -> None:
    assert merge((family[1], family[2]), out=tmp_path / "out", dry_run=True) is None
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_are_kept_where_they_agree(family: list[str], tmp_path: Path) -> None:
    folders = []
    for number, value in enumerate((2**40, 2**40, 2**40 + 1)):
        folder = tmp_path / f"n{number}"
        with_count = lambda found, value=value: found.update(count=torch.tensor([value]))  # noqa: E731
        folders.append(spoiled(family[number], folder, with_count))
        for extra in folder.glob("model-*"):
            extra.unlink()
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    merge((folders[0], folders[1]), out=tmp_path / "out")
    assert tensors(tmp_path / "out")["count"].tolist() == [2**40]
    with pytest.raises(InputError, match="count holds integers that differ"):
        merge((folders[0], folders[2]), out=tmp_path / "other")


def test_a_layout_is_a_file_that_safetensors_reads(tmp_path: Path, family: list[str]) -> None:
    found = tensor_places(Path(family[1]))
    layout = lay_out(found.items(), tmp_path, 10**9)
    create_files(layout)
    assert {name: each.shape for name, each in load_file(tmp_path / "model.safetensors").items()} == {
        name: each.shape for name, each in found.items()
    }
    for (_, one), (_, two) in zip(found.items(), list(found.items())[1:], strict=False):
        assert (str(one.file), one.start) < (str(two.file), two.start)

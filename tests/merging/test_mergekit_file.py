"""Files written for mergekit: mergekit's meaning and defaults; and what is not acted on is refused by name."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from commands import invoke
from merges import tensors, written
from remodeler.errors import InputError
from remodeler.merging.config import MergeConfig
from remodeler.merging.from_mergekit import read_merge
from remodeler.merging.job import merge
from remodeler.merging.plan import plan_merge
from remodeler.merging.settings import Setting

HEAD, UP, LAST = "lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"
EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A base and two models; each has a generation config and a chat template of its own."""
    root = tmp_path_factory.mktemp("family")
    folders = [written(root / f"m{seed}", 8 * seed) for seed in range(3)]
    for place, folder in enumerate(folders):
        (folder / "generation_config.json").write_text(json.dumps({"max_length": 20 + place}))
        (folder / "chat_template.jinja").write_text(f"template {place}")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64 + place}))
    return [str(each) for each in folders]


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Models with other added tokens: none, a and b, b alone."""
    root = tmp_path_factory.mktemp("worded")
    words = ((), ("<|a|>", "<|b|>"), ("<|b|>",))
    return [str(written(root / f"w{seed}", seed, words=words[seed])) for seed in range(3)]


def read(folder: Path, content: Any) -> MergeConfig:
    """What a file with some content asks for."""
    file = folder / "merge.yml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_merge(file)


def merged(folder: Path, content: Any, name: str = "out") -> dict[str, Tensor]:
    """The tensors that a file gives."""
    read(folder, content)
    merge(config=folder / "merge.yml", out=folder / name)
    return tensors(folder / name)


def entries(*models: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"model": each, **({"parameters": parameters} if parameters else {})} for each in models]


def three(family: list[str]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    base, one, two = (tensors(each) for each in family)
    return base, one, two


def changes(method: str, family: list[str], **more: Any) -> dict[str, Any]:
    """A file that merges the changes of two models, each with half its weight."""
    return {"merge_method": method, "base_model": family[0], "models": entries(*family[1:], weight=0.5), **more}


# Meaning --------------------------------------------------------------------------------------------------------------


def test_a_file_says_what_options_say(family: list[str], tmp_path: Path) -> None:
    """Where mergekit means the same: between the first layer and the last, with densities that are given."""
    content = f"""
merge_method: ties
base_model: {family[0]}
models:
  - model: {family[0]}
  - model: {family[1]}
    parameters: &own {{weight: 0.5, density: [0.2, 0.8]}}
  - model: {family[2]}
    parameters: {{<<: *own, weight: [{{filter: mlp, value: 1}}, {{value: "3e-1"}}], density: 0.4}}
parameters: {{normalize: false, lambda: 0.7, int8_mask: true}}
dtype: torch.float32
"""
    found = merged(tmp_path, content)
    options = ["merge", *family[1:], "--base", family[0], "--method", "ties", "--weight", "0.5"]
    options += ["--weight", "mlp=1,0.3", "--density", "0.2:0.8", "--density", "0.4", "--no-normalize", "--scale", "0.7"]
    done = invoke([*options, "--out", str(tmp_path / "options")])
    assert done.exit_code == 0, done.output
    wanted = tensors(tmp_path / "options")
    assert all(torch.equal(found[name], wanted[name]) for name in found if "layers" in name or "embed" in name)
    assert not torch.equal(found[HEAD], wanted[HEAD]), "the head's density is the first of 0.2 and 0.8 for mergekit"


@pytest.mark.parametrize("listed", [(1, 0), (0, 1), (1,)], ids=str)
def test_t_0_of_slerp_is_the_base_wherever_it_stands(
    family: list[str], tmp_path: Path, listed: tuple[int, ...]
) -> None:
    content = {"merge_method": "slerp", "base_model": family[0], "models": entries(*(family[each] for each in listed))}
    ends = [merged(tmp_path, content | {"parameters": {"t": t}}, f"t{t}") for t in (0, 1)]
    base, one, _ = three(family)
    for name in base:
        torch.testing.assert_close(ends[0][name], base[name])
        torch.testing.assert_close(ends[1][name], one[name])


def test_slerp_takes_zeros_for_something_at_a_right_angle(tmp_path: Path) -> None:
    folders = [written(tmp_path / f"z{seed}", seed) for seed in (1, 2)]
    model: Any = AutoModelForCausalLM.from_pretrained(folders[0])
    with torch.no_grad():
        model.get_parameter(UP).zero_()
    model.save_pretrained(folders[0])
    content = {"merge_method": "slerp", "base_model": str(folders[0]), "models": entries(str(folders[1]))}
    found = merged(tmp_path, content | {"parameters": {"t": 0.5}})
    torch.testing.assert_close(found[UP], tensors(folders[1])[UP] * 0.5**0.5)


@pytest.mark.parametrize("method", ["slerp", "linear", "ties"])
def test_config_template_and_tokenizer_are_the_bases(family: list[str], tmp_path: Path, method: str) -> None:
    content = {"merge_method": method, "base_model": family[2], "models": entries(family[1], family[2])}
    merged(tmp_path, content | {"parameters": {"t" if method == "slerp" else "weight": 0.5}})
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "template 2"
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["max_length"] == 22
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 66


def test_a_base_that_linear_does_not_list_is_one_more_model(family: list[str], tmp_path: Path) -> None:
    content = {"merge_method": "linear", "base_model": family[0], "models": entries(family[1], weight=3)}
    found = merged(tmp_path, content | {"parameters": {"weight": 1}})
    base, one, _ = three(family)
    torch.testing.assert_close(found[UP], (base[UP] + 3 * one[UP]) / 4)
    with pytest.raises(InputError, match=f"gives no weight for {family[0]}, and mergekit has no default"):
        read(tmp_path, content)


def test_everything_stays_where_no_density_is_given(family: list[str], tmp_path: Path) -> None:
    """The default is 1; here, without consensus, that is task arithmetic, also for what rescales and what has ranks."""
    base, one, two = three(family)
    for method in ("dare_linear", "della_linear", "breadcrumbs"):
        found = merged(tmp_path, changes(method, family), method)
        for name in base:
            wanted = base[name] + 0.5 * (one[name] - base[name]) + 0.5 * (two[name] - base[name])
            torch.testing.assert_close(found[name], wanted, msg=method)


def test_consensus_without_density_and_its_own_normalize(family: list[str], tmp_path: Path) -> None:
    """Ties and della divide by the weights that count, dare_ties and breadcrumbs_ties do not."""
    base, one, two = three(family)
    deltas = torch.stack([one[UP] - base[UP], two[UP] - base[UP]]) / 2
    agree = deltas.sign() == torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    total, weights = (deltas * agree).sum(0), (0.5 * agree).sum(0)
    for method in ("ties", "della", "dare_ties", "breadcrumbs_ties"):
        found = merged(tmp_path, changes(method, family), method)
        mean = method in ("ties", "della")
        torch.testing.assert_close(found[UP], base[UP] + (total / weights.clamp_min(0.5) if mean else total))


def test_sce_takes_all_elements_and_divides_by_what_survives(family: list[str], tmp_path: Path) -> None:
    content = {"merge_method": "sce", "base_model": family[0], "models": entries(*family[1:])}
    found = merged(tmp_path, content)
    base, one, two = three(family)
    deltas = torch.stack([one[UP] - base[UP], two[UP] - base[UP]])
    shares = deltas.square().mean((1, 2))
    shares = (shares / shares.sum())[:, None, None]
    agree = deltas.sign() == torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    wanted = base[UP] + (deltas * shares * agree).sum(0) / (shares * agree).sum(0).clamp_min(1e-6)
    torch.testing.assert_close(found[UP], wanted)


def test_sce_weighs_alike_what_hardly_changed(tmp_path: Path) -> None:
    folders = [str(written(tmp_path / f"n{seed}", seed, step=1e-4)) for seed in (0, 1, 3)]
    found = merged(tmp_path, {"merge_method": "sce", "base_model": folders[0], "models": entries(*folders[1:])})
    base, one, two = three(folders)
    both = (one[UP] > base[UP]) & (two[UP] > base[UP])
    torch.testing.assert_close(found[UP][both], ((one[UP] + two[UP]) / 2)[both], rtol=0, atol=3e-8)


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_what_stays_is_rescaled_to_the_size_of_all(family: list[str], tmp_path: Path, method: str) -> None:
    content = changes(method, family) | {"models": entries(family[1], weight=1, density=0.6)}
    base, one, _ = three(family)
    sizes = lambda name, other: (other[name] - base[name]).abs().sum()  # noqa: E731
    found = merged(tmp_path, content)
    kept = (found[UP] != base[UP]).float().mean()
    assert 0.5 < kept < 0.7
    torch.testing.assert_close(sizes(UP, found), sizes(UP, one), rtol=1e-4, atol=0)
    loose = merged(tmp_path, content | {"parameters": {"rescale": False}}, "loose")
    assert sizes(UP, loose) < 0.9 * sizes(UP, one)


def test_parameters_are_looked_for_in_the_model_the_slice_and_the_file(tmp_path: Path) -> None:
    whole = {"layer_range": [0, 4]}
    sources = [
        {"model": "one", **whole, "parameters": {"weight": {"filter": "mlp", "value": 1}}},
        {"model": "two", **whole, "parameters": {"weight": [{"filter": "*", "value": 2}], "density": 0.25}},
        {"model": "base", **whole},
    ]
    part = {"sources": sources, "parameters": {"weight": [{"filter": "norm", "value": 3}], "lambda": 0.5}}
    content = {"merge_method": "ties", "base_model": "base", "slices": [part]}
    content |= {"parameters": {"weight": [0, 4], "density": [{"filter": "mlp", "value": 0.75}], "lambda": 0.1}}
    asked = read(tmp_path, content)
    (one, two), (dense, sparse), scale = asked.weight, asked.density, asked.scale
    assert [one.at(name, 0.5) for name in ("a.mlp.up", "a.norm", "a.attn")] == [1, 3, 2]
    assert two.at("a.norm", 0.5) == 2
    assert [dense.at(name, 0.5) for name in ("a.mlp.up", "a.attn")] == [0.75, 1]
    assert sparse.at("a.mlp.up", 0.5) == 0.25
    assert scale.at("a", 0.5) == 0.5
    assert (asked.models, asked.base) == (("one", "two"), "base")
    assert asked.mergekit is not None
    assert asked.mergekit.layers == 4


def test_a_tensor_without_a_required_parameter_is_refused(family: list[str], tmp_path: Path) -> None:
    content = {"merge_method": "linear", "models": entries(*family[1:], weight={"filter": "mlp", "value": 1})}
    with pytest.raises(InputError, match=r"weight is not given for .*, and mergekit has no default"):
        plan_merge(read(tmp_path, content))


def test_switches_differ_by_tensor_and_depth(family: list[str], tmp_path: Path) -> None:
    switch = [{"filter": "mlp", "value": [True, "no"]}, {"value": "yes"}]
    content = {"merge_method": "linear", "models": entries(*family[1:], weight=2), "parameters": {"normalize": switch}}
    found = merged(tmp_path, content)
    _, one, two = three(family)
    for name, factor in ((UP, 0.5), (LAST, 2), (HEAD, 0.5)):
        torch.testing.assert_close(found[name], factor * (one[name] + two[name]))
    assert isinstance(read(tmp_path, content).normalize, Setting)


def test_gradients_run_over_the_layers_and_begin_again_behind_them(family: list[str], tmp_path: Path) -> None:
    content = {"merge_method": "slerp", "base_model": family[0], "models": entries(family[1])}
    plan = plan_merge(read(tmp_path, content | {"parameters": {"t": [0, 1]}}))
    depths = [plan.options_for(name)["t"] for name in (EMBEDDINGS, UP, LAST, "model.norm.weight", HEAD)]
    assert depths == [0, pytest.approx(1 / 3), 1, 0, 0]
    own = plan_merge(MergeConfig(models=(family[0], family[1]), method="slerp", t=Setting((("", (0.0, 1.0)),))))
    assert own.options_for(HEAD)["t"] == 1, "our own options count the head as the end"


def test_weights_that_cancel_divide_nothing(family: list[str], tmp_path: Path) -> None:
    content = changes("task_arithmetic", family, parameters={"normalize": True})
    content["models"] = entries(family[1], weight=1) + entries(family[2], weight=-1)
    base, one, two = three(family)
    torch.testing.assert_close(merged(tmp_path, content)[UP], base[UP] + one[UP] - two[UP])
    with pytest.raises(InputError, match="sum to 0"):
        plan_merge(read(tmp_path, {"merge_method": "linear", "models": entries(*family, weight=0)}))


def test_no_density_at_all_leaves_the_base(family: list[str], tmp_path: Path) -> None:
    base, _, _ = three(family)
    for method in ("ties", "della", "breadcrumbs"):
        found = merged(tmp_path, changes(method, family, parameters={"density": 0}), method)
        assert all(torch.equal(found[name], base[name]) for name in base)


def test_the_widest_dtype_is_written_where_none_is_named(family: list[str], tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(family[2], dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(family[2]).save_pretrained(half)
    content = {"merge_method": "ties", "base_model": str(half), "models": entries(family[1], weight=1)}
    assert merged(tmp_path, content)[UP].dtype == torch.float32
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    assert merged(tmp_path, content | {"out_dtype": "float16", "dtype": "float32"}, "named")[UP].dtype == torch.float16


def test_whole_layer_ranges_are_whole_models(family: list[str], tmp_path: Path) -> None:
    sources = [{"model": each, "layer_range": [0, 4]} for each in family[:2]]
    content = {"merge_method": "slerp", "base_model": family[1], "slices": [{"sources": sources}]}
    content["parameters"] = {"t": 0}
    _, one, _ = three(family)
    torch.testing.assert_close(merged(tmp_path, content)[UP], one[UP])
    for source in sources:
        source["layer_range"] = [0, 3]
    with pytest.raises(InputError, match=r"layer_range takes 3 layers of .*, which has 4"):
        plan_merge(read(tmp_path, content))


# Tokens ---------------------------------------------------------------------------------------------------------------


def rows(folder: Path | str, name: str = EMBEDDINGS) -> Callable[[str], Tensor]:
    """The row of a token in a model."""
    words, tensor = AutoTokenizer.from_pretrained(folder).get_vocab(), tensors(folder)[name]
    return lambda token: tensor[words[token]]


def test_rows_are_those_of_tokens_and_padding(worded: list[str], tmp_path: Path) -> None:
    content = {"merge_method": "linear", "models": entries(*worded, weight=1), "base_model": worded[0]}
    found = merged(tmp_path, content | {"tokenizer": {"pad_to_multiple_of": 64}})
    words = len(AutoTokenizer.from_pretrained(tmp_path / "out"))
    assert found[EMBEDDINGS].shape[0] == -(-words // 64) * 64
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == found[EMBEDDINGS].shape[0]
    for name in (EMBEDDINGS, HEAD):
        for row in found[name][words:]:
            torch.testing.assert_close(row, found[name][:words].mean(0))
    base = merged(tmp_path, content | {"tokenizer_source": "base"}, "base")
    assert base[EMBEDDINGS].shape[0] == len(AutoTokenizer.from_pretrained(worded[0]))


def test_a_missing_row_is_the_bases_or_the_mean(worded: list[str], tmp_path: Path) -> None:
    """``<|b|>`` is in two of three models: with a base that lacks it, and without a base, their mean stands in."""
    content: dict[str, Any] = {"merge_method": "linear", "tokenizer_source": "union"}
    one, two = rows(worded[1])("<|b|>"), rows(worded[2])("<|b|>")
    order = [worded[1], worded[0], worded[2]]
    weighted = [{"model": each, "parameters": {"weight": place + 1}} for place, each in enumerate(order)]
    merged(tmp_path, content | {"models": weighted}, "free")
    torch.testing.assert_close(rows(tmp_path / "free")("<|b|>"), (one + 2 * (one + two) / 2 + 3 * two) / 6)
    merged(tmp_path, content | {"models": weighted, "base_model": worded[2]}, "based")
    torch.testing.assert_close(rows(tmp_path / "based")("<|b|>"), (one + 2 * two + 3 * two) / 6)


def test_rows_of_single_tokens_come_from_where_a_file_says(worded: list[str], tmp_path: Path) -> None:
    tokens = {
        "<s>": {"source": worded[2], "force": True},
        "</s>": {"source": {"kind": "zero"}, "force": True},
        "<|new|>": {"source": {"kind": "model_token", "model": worded[1], "token": "<|a|>"}},
        "<|b|>": {"source": {"kind": "model_token", "model": {"model": {"path": worded[0]}}, "token_id": 7}},
        "<pad>": {},
    }
    content = {"merge_method": "linear", "models": entries(*worded, weight=1), "tokenizer": {"tokens": tokens}}
    merged(tmp_path, content)
    base, one, two, out = (rows(each) for each in (*worded, tmp_path / "out"))
    torch.testing.assert_close(out("<s>"), two("<s>"))
    assert not out("</s>").any()
    torch.testing.assert_close(out("<|new|>"), one("<|a|>"))
    torch.testing.assert_close(out("<|b|>"), (tensors(worded[0])[EMBEDDINGS][7] + one("<|b|>") + two("<|b|>")) / 3)
    torch.testing.assert_close(out("<pad>"), (base("<pad>") + one("<pad>") + two("<pad>")) / 3)


@pytest.mark.parametrize(
    ("token", "entry", "words"),
    [
        ("<|a|>", {}, "is not in every model, or forced, and has no source"),
        ("<s>", {"force": True}, "has no source"),
        ("<s>", {"source": "stranger"}, "comes from stranger, which is not merged"),
        ("<s>", {"source": {"kind": "model_token", "model": "{0}", "token_id": 10**6}}, "has no row for 1000000"),
        ("<s>", {"source": {"kind": "model_token", "model": "{0}", "token": "<|a|>"}}, "has no row for '<|a|>'"),
    ],
)
def test_rows_from_nowhere_are_refused(worded: list[str], tmp_path: Path, token: str, entry: Any, words: str) -> None:
    tokens = json.loads(json.dumps({token: entry}).replace("{0}", worded[0]))
    content = {"merge_method": "linear", "models": entries(*worded, weight=1), "tokenizer": {"tokens": tokens}}
    with pytest.raises(InputError, match=words.replace("|", r"\|")):
        plan_merge(read(tmp_path, content))


# What is said and refused ---------------------------------------------------------------------------------------------


def test_filters_and_parameters_without_effect_are_named(
    family: list[str], tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    content = changes("task_arithmetic", family, parameters={"density": 0.5, "weight": [{"filter": "mlq", "value": 1}]})
    content["models"] = [{"model": family[0], "parameters": {"weight": 1}}, *entries(family[1], weight={"value": 1})]
    content["models"] += entries(family[2])
    content["parameters"]["weight"] += [{"value": 2}, {"filter": "mlp", "value": 3}]
    plan_merge(read(tmp_path, content))
    said = messages.text.replace("\n", " ")
    assert "the filter 'mlq' of weight is in no tensor's name" in said
    assert "of parameters.weight what stands behind the condition without filter changes nothing" in said
    assert "density changes nothing: task_arithmetic does without it" in said
    assert f"weight of {family[0]} changes nothing: it is the base" in said.replace("  ", " ")


def test_options_beside_a_file_are_refused(family: list[str], tmp_path: Path) -> None:
    read(tmp_path, changes("ties", family))
    for option in (("--density", "0.5"), ("--method", "linear"), ("--tokenizer", "base"), ("--no-normalize",)):
        given = ["merge", "--config", str(tmp_path / "merge.yml"), *option, "--out", str(tmp_path / "out")]
        done = invoke(given)
        assert done.exit_code == 2
        assert f"{option[0]} and --config" in done.stderr
        assert "say it in the file" in done.stderr


TIES = {"merge_method": "ties", "base_model": "base", "models": entries("one", "two", weight=1)}
SLICE = {"sources": [{"model": each, "layer_range": [0, 4]} for each in ("one", "base")]}
SLICED = {"merge_method": "slerp", "base_model": "base", "slices": [SLICE], "parameters": {"t": 0.5}}
WORDS = {**TIES, "tokenizer": {"source": "union", "tokens": {"<s>": {"source": "one", "force": True}}}}


def changed(content: Any, path: str, value: Any) -> Any:
    """A copy with another value at a path such as ``models.0.model``; with ``...`` without it."""
    copy = json.loads(json.dumps(content))
    *way, last = (int(each) if each.isdigit() else each for each in path.split("."))
    inner = copy
    for each in way:
        inner = inner[each]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


@pytest.mark.parametrize("content", [TIES, SLICED, WORDS], ids=["models", "slices", "tokens"])
def test_the_good_files_are_read(content: Mapping[str, Any], tmp_path: Path) -> None:
    """The control of all refusals below."""
    read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "path", "value", "words"),
    [
        (TIES, "merge_method", "passthrough", "merge_method passthrough, which is not known here"),
        (TIES, "merge_method", 3, "merge_method 3, which is not known"),
        (TIES, "merge_method", "varm", "merge_method varm, which is not known here"),
        (TIES, "models", None, "lists no models"),
        (TIES, "models", "one", "has models one, a list was expected"),
        (TIES, "models", entries("one", "one", weight=1), "lists one twice"),
        (TIES, "models", entries("base"), "lists no models besides its base"),
        (TIES, "base_model", None, "names no base_model, which ties needs"),
        (TIES, "modules", {}, "has modules, which is not read here"),
        (TIES, "chat_template", "auto", "has chat_template, which is not read here"),
        (TIES, "slices", [SLICE], "has both models and slices"),
        (TIES, "models.0.layer_range", [0, 4], r"has models\[0\].layer_range, which is not read"),
        (TIES, "models.1.parameters.weigth", 1, r"has models\[1\].parameters.weigth, which is none of ties"),
        (TIES, "models.1.parameters.scale", 1, r"parameters.scale, which is none of ties"),
        (TIES, "models.1.parameters.normalize", True, "which counts for all models: move it"),
        (TIES, "models.1.parameters", [1], r"has models\[1\].parameters \[1\], a mapping"),
        (TIES, "models.1.parameters.weight", ..., "gives no weight for two"),
        (TIES, "models.1.parameters.weight", None, "None is not a number"),
        (TIES, "models.1.parameters.weight", [], "the list is empty"),
        (TIES, "models.1.parameters.weight", [[1]], r"\[1\] is not a number"),
        (TIES, "models.1.parameters.weight", float("nan"), "nan is not a finite number"),
        (TIES, "models.1.parameters.weight", 10**400, "is not a number"),
        (TIES, "models.1.parameters.weight", [1, {"value": 2}], "1 is not a condition"),
        (TIES, "models.1.parameters.weight", {"filter": "mlp"}, "not a condition with a filter and a value"),
        (TIES, "models.1.parameters.weight", {"filters": "mlp", "value": 1}, "has 'filters', which is not read"),
        (TIES, "models.1.parameters.weight", {"filter": 3, "value": 1}, "the filter 3 is not a text"),
        (TIES, "parameters", {"t": 1}, "has parameters.t, which is none of ties"),
        (TIES, "parameters", {"rescale": True}, "ties knows only false here"),
        (TIES, "parameters", {"normalize": "maybe"}, "'maybe' is neither true nor false"),
        (TIES, "dtype", "int8", "has dtype int8"),
        (TIES, "out_dtype", "auto", "has out_dtype auto"),
        (TIES, "models.0.model", "one+adapter", r"has models\[0\].model one\+adapter, an adapter behind \+"),
        (TIES, "base_model", "base@main", "a revision behind @"),
        (TIES, "models.0.model", {"model": {"path": "a", "revision": "main"}}, r"models\[0\].model.model.revision"),
        (TIES, "models.0.model", {"model": "a", "lora": "b"}, r"models\[0\].model.lora, which"),
        (TIES, "models.0.model", {"model": "a", "override_architecture": "B"}, "override_architecture, which"),
        (TIES, "models.0.model", 7, r"has models\[0\].model 7, a name was expected"),
        (TIES, "tokenizer_source", "other/model", "takes the tokenizer of other/model"),
        (WORDS, "tokenizer_source", "base", "has both tokenizer and tokenizer_source"),
        (WORDS, "tokenizer.source", None, "tokenizer.source None, a name was expected"),
        (WORDS, "tokenizer.pad_to_multiple", 8, "has tokenizer.pad_to_multiple, which is not read"),
        (WORDS, "tokenizer.pad_to_multiple_of", 0, "a number from 1 on"),
        (WORDS, "tokenizer.tokens.<s>.forced", 1, "has tokenizer.tokens.<s>.forced, which is not read"),
        (WORDS, "tokenizer.tokens.<s>.force", "x", "true or false was expected"),
        (WORDS, "tokenizer.tokens.<s>.source", {"kind": "one"}, "choose zero or model_token"),
        (WORDS, "tokenizer.tokens.<s>.source", {"kind": "zero", "model": "one"}, "source.model, which is not read"),
        (WORDS, "tokenizer.tokens.<s>.source", {"kind": "model_token", "model": "one"}, "give token or token_id"),
        (SLICED, "slices", [SLICE, SLICE], "only whole models"),
        (SLICED, "slices.0.sources.0.layer_range", [1, 4], r"sources\[0\].layer_range \[1, 4\]: only whole models"),
        (SLICED, "slices.0.sources.0.layer_range", [0, 3], "only whole models"),
        (SLICED, "slices.0.sources.0.layer_range", ..., r"layer_range None, which is not a range of layers"),
        (SLICED, "slices.0.sources.0.layer_range", "04", "which is not a range of layers"),
        (SLICED, "slices.0.residual_weight", 0.5, r"has slices\[0\].residual_weight, which is not read"),
        (SLICED, "slices.0.base_model", "one", "has two bases, base and one"),
        (SLICED, "slices.0.sources", [SLICE["sources"][0]], "does not list its base_model base among the sources"),
        (SLICED, "parameters", {}, "gives no t, and mergekit has no default"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, content: Any, path: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, changed(content, path, value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("merge_method: ties\nmerge_method: linear\n", "the key merge_method is there twice, line 2"),
        ("merge_method: ties\n---\nmerge_method: linear\n", "expected a single document"),
        ("merge_method: ties\ndate: 2020-13-45\n", "is not valid YAML"),
        ("merge_method: !!timestamp soon\n", "is not valid YAML"),
        ("merge_method: !!int many\n", "is not valid YAML"),
        ("[" * 20_000, "is not valid YAML"),
        ("base_model: a\ngate_mode: hidden\nexperts: []\n", "names no merge_method"),
        ("merge_method: ties\nmodels: &m\n  - model: *m\n", r"has models\[0\].model"),
        ("merge_method: ties\n1: 2\n", "has 1, which is not read here"),
        ('merge_method: ties\n"a\\nb": 2\n', r"has 'a\\nb', which is not read here"),
    ],
)
def test_yaml_that_is_none_or_says_things_twice(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


MAPPINGS = {
    "TIES": (TIES, ["", "models.0", "models.0.parameters"]),
    "SLICED": (SLICED, ["", "slices.0", "slices.0.sources.1", "parameters"]),
    "WORDS": (WORDS, ["", "tokenizer", "tokenizer.tokens.<s>"]),
    "CONDITION": (changed(TIES, "models.0.parameters.weight", [{"value": 1}]), ["models.0.parameters.weight.0"]),
    "MODEL": (changed(TIES, "models.0.model", {"model": {"path": "a"}}), ["models.0.model", "models.0.model.model"]),
}
PLACES = [(content, place) for content, places in MAPPINGS.values() for place in places]
UNKNOWN = st.text(st.characters(categories=("L",)), min_size=1, max_size=8).map(lambda key: f"x{key}")
QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize(("content", "place"), PLACES, ids=[place or "top" for _, place in PLACES])
@QUICK
@given(key=UNKNOWN, value=st.none() | st.booleans() | st.integers() | st.just({}))
def test_an_unknown_key_is_named_at_any_depth(tmp_path: Path, content: Any, place: str, key: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, changed(content, f"{place}.{key}".lstrip("."), value))
    assert key in str(caught.value)


NAMES = st.sampled_from(
    [
        *(
            *TIES,
            *SLICED,
            *SLICE,
            *WORDS,
            "tokens",
            "source",
            "kind",
            "force",
            "model",
            "layer_range",
            "path",
            "filter",
        ),
        *("filter", "value", "weight", "density", "t", "normalize", "pad_to_multiple_of", "dtype", "token_id"),
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.floats()
    | st.sampled_from(["ties", "slerp", "base", "union", "one", "zero", "model_token", "float32", "*", ""])
    | st.text(max_size=4)
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def refused_in_one_line(folder: Path, content: Any) -> None:
    """It is read, or refused in one sentence."""
    said = "fine"
    try:
        read(folder, content)
    except InputError as error:
        said = str(error)
    assert said
    assert "\n" not in said


@QUICK
@given(content=st.dictionaries(NAMES, ANYTHING, max_size=6), method=LEAVES)
def test_any_document_is_read_or_refused_in_one_line(tmp_path: Path, content: dict[str, Any], method: Any) -> None:
    refused_in_one_line(tmp_path, {"merge_method": "ties"} | content)
    refused_in_one_line(tmp_path, content | {"merge_method": method})


@pytest.mark.parametrize(("content", "place"), PLACES, ids=[place or "top" for _, place in PLACES])
@QUICK
@given(where=st.integers(0, 20), value=ANYTHING)
def test_values_of_another_kind_are_read_or_refused(
    tmp_path: Path, content: Any, place: str, where: int, value: Any
) -> None:
    inner = content
    for each in filter(None, place.split(".")):
        inner = inner[int(each) if each.isdigit() else each]
    key = list(inner)[where % len(inner)]
    refused_in_one_line(tmp_path, changed(content, f"{place}.{key}".lstrip("."), value))

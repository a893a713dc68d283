"""The same file read by mergekit itself: the same parameters for every tensor, the same merged models.

Skipped where mergekit is not installed: ``pip install mergekit==0.1.5``, best into a folder of its own that
``PYTHONPATH`` names (it asks for other versions of what is here).
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from merges import tensors, written
from remodeler.errors import InputError
from remodeler.merging.from_mergekit import read_merge
from remodeler.merging.job import merge
from remodeler.merging.mergekit_methods import PARAMETERS
from remodeler.merging.plan import plan_merge

pytest.importorskip("mergekit")
pytestmark = pytest.mark.filterwarnings("ignore")

GRADIENT = [0.1, 0.9, 0.4]
BY_NAME = [{"filter": "mlp", "value": [0.2, 0.8]}, {"filter": "lm_head", "value": 0.9}, {"value": 0.3}]
HALF = {"weight": 0.5}
TOKENS = {
    "<s>": {"source": "two+", "force": True},
    "</s>": {"source": {"kind": "zero"}, "force": True},
    "a new one": {"source": {"kind": "model_token", "model": "one+", "token": "<|a|>"}},
    "another": {"source": {"kind": "model_token", "model": "two+", "token_id": 5}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models by the names that the files below have: a base, two models, one in bfloat16, three with added tokens."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "one", "two")):
        written(root / name, 8 * seed)
    AutoModelForCausalLM.from_pretrained(root / "two", dtype=torch.bfloat16).save_pretrained(root / "half")
    AutoTokenizer.from_pretrained(root / "two").save_pretrained(root / "half")
    for seed, (name, words) in enumerate({"one+": ("<|a|>", "<|b|>"), "two+": ("<|b|>",)}.items(), 1):
        written(root / name, seed, words=words)
    return root


def two(method: str, one: Any, other: Any, base: str = "base", **parameters: Any) -> dict[str, Any]:
    models = [{"model": "one", "parameters": one}, {"model": "two", "parameters": other}]
    return {"merge_method": method, "base_model": base, "models": models, "parameters": parameters}


def plain(method: str, *models: str, base: str | None = None, **more: Any) -> dict[str, Any]:
    found = {"merge_method": method, "models": [{"model": each} for each in models], **more}
    return found | ({"base_model": base} if base else {})


WHOLE = [{"model": each, "layer_range": [0, 4]} for each in ("one", "two")]
SLICED = {"sources": WHOLE, "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}]}}
FILES: dict[str, dict[str, Any]] = {
    "linear": two("linear", {"weight": GRADIENT}, {"weight": BY_NAME}, base="one"),
    "linear, base unlisted": plain("linear", "one", base="base", parameters={"weight": 0.6}),
    "linear, switched": two("linear", HALF, HALF, base="one", normalize=[{"filter": "mlp", "value": False}]),
    "linear, mixed": plain("linear", "half", "one", parameters={"weight": 1}),
    "slerp": plain("slerp", "one", "base", base="base", parameters={"t": BY_NAME}),
    "slerp, gradient": plain("slerp", "one", base="base", parameters={"t": [0, 1]}),
    "slerp, slices": {"merge_method": "slerp", "base_model": "two", "slices": [SLICED], "parameters": {"t": "0.25"}},
    "task_arithmetic": two("task_arithmetic", {"weight": GRADIENT}, {"weight": 0.3, "density": 0.1}, **{"lambda": 0.7}),
    "task_arithmetic, cancelled": two("task_arithmetic", {"weight": 1}, {"weight": -1}, normalize=True),
    "ties": two("ties", {"weight": GRADIENT, "density": 0.5}, {"weight": 0.3, "density": BY_NAME}, int8_mask=True),
    "ties, default": two("ties", {"weight": GRADIENT}, HALF),
    "ties, hardly any": two("ties", {"weight": 1, "density": 0}, {"weight": 0.3, "density": 0.001}),
    "ties, mixed": plain("ties", "one", "two", base="half", parameters={"weight": 1, "density": 0.3}),
    "breadcrumbs": two("breadcrumbs", {"weight": GRADIENT, "density": 0.5, "gamma": 0.1}, HALF),
    "breadcrumbs, few": two("breadcrumbs", HALF | {"density": 0.02}, HALF | {"density": 0.05, "gamma": 0.99}),
    "breadcrumbs_ties": two("breadcrumbs_ties", HALF | {"density": 0.5}, HALF | {"gamma": 0.5}, normalize="yes"),
    "dare_linear": two("dare_linear", HALF, HALF),
    "dare_ties": two("dare_ties", HALF, HALF),
    "della": two("della", HALF, HALF),
    "della_linear": two("della_linear", HALF, HALF),
    "sce": plain("sce", "two", "base", "one", base="base", parameters={"select_topk": [0.1, 0.9]}),
    "sce, default": plain("sce", "two", "one", base="base"),
    "tokens of the base": plain(
        "linear", "base", "one+", "two+", base="base", parameters={"weight": 1}, tokenizer_source="base"
    ),
    "all tokens": plain(
        "ties", "one+", "two+", base="base", parameters={"weight": 1}, tokenizer={"pad_to_multiple_of": 64}
    ),
    "rows of tokens": plain(
        "linear", "base", "one+", "two+", base="base", parameters={"weight": 1}, tokenizer={"tokens": TOKENS}
    ),
}


def placed(content: Any, folder: Path) -> Any:
    """A file's content with the models' folders for their names."""
    if isinstance(content, dict):
        return {key: placed(value, folder) for key, value in content.items()}
    if isinstance(content, list):
        return [placed(each, folder) for each in content]
    known = isinstance(content, str) and content and (folder / content).is_dir()
    return {"model": {"path": str(folder / content)}} if known else content


@pytest.mark.parametrize("name", FILES)
def test_the_same_file_gives_the_same_model(name: str, folder: Path, tmp_path: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    content = placed(FILES[name], folder)
    run_merge(
        MergeConfiguration.model_validate(content),
        str(tmp_path / "theirs"),
        options=MergeOptions(quiet=True, write_model_card=False),
    )
    (tmp_path / "merge.yml").write_text(yaml.safe_dump(content))
    merge(config=tmp_path / "merge.yml", out=tmp_path / "ours")
    theirs, ours = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    words = [AutoTokenizer.from_pretrained(tmp_path / each).get_vocab() for each in ("theirs", "ours")]
    assert words[0].keys() == words[1].keys()
    assert theirs.keys() == ours.keys()
    for key, each in theirs.items():
        rows = [torch.arange(len(found[key])) for found in (theirs, ours)]
        if "tokenizer" in content and key in ("lm_head.weight", "model.embed_tokens.weight"):  # numbered otherwise
            for row, known in zip(rows, words, strict=True):
                row[: len(known)] = torch.tensor([known[word] for word in sorted(known)])
        torch.testing.assert_close(each[rows[0]], ours[key][rows[1]], rtol=1e-6, atol=1e-6)
    configs = [json.loads((tmp_path / each / "config.json").read_text()) for each in ("theirs", "ours")]
    assert configs[0]["vocab_size"] == configs[1]["vocab_size"] == len(ours["lm_head.weight"])


numbers = st.sampled_from([0, 0.2, 0.5, 0.75, 1, "0.4", True])
switches = st.sampled_from(["no", "True", 0, 1, False, True])
parts = st.sampled_from(["mlp", "self_attn", "norm", "embed", "lm_head", "layers.1.", "*", "", "nowhere", None])


def settings_of(values: Any) -> Any:
    scalar = values | st.lists(values, min_size=1, max_size=4)
    condition = st.fixed_dictionaries({"value": scalar}, optional={"filter": parts})
    return scalar | condition | st.lists(condition, min_size=1, max_size=3)


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    """Files with parameters in all places, of which some are missing or of the wrong place."""
    method = draw(st.sampled_from(sorted(PARAMETERS)))
    known = PARAMETERS[method]

    def parameters(names: Any) -> Any:
        some = sorted(name for name in names if known[name].only is None)
        chosen = draw(st.lists(st.sampled_from(some), unique=True, max_size=4)) if some else []
        small = st.sampled_from([0, 0.1])  # any other epsilon fits few densities
        return {
            name: draw(settings_of(switches if known[name].is_switch else small if name == "epsilon" else numbers))
            for name in chosen
        }

    own = [name for name, each in known.items() if each.per_model]
    models = ["base", "one"] if method == "slerp" else draw(st.permutations(["base", "one", "two"]))
    in_slice = draw(st.booleans())
    whole = {"layer_range": [0, 4]} if in_slice else {}
    sources = [{"model": each, "parameters": parameters(own), **whole} for each in models]
    content: dict[str, Any] = {"merge_method": method, "base_model": "base", "parameters": parameters(known)}
    for name in ("weight", "t"):
        if name in known and draw(st.integers(0, 3)):
            content["parameters"][name] = [{"filter": "mlp", "value": draw(numbers)}, {"value": draw(numbers)}]
    if in_slice:
        return content | {"slices": [{"sources": sources, "parameters": parameters(known)}]}
    return content | {"models": sources}


OURS_ALONE = ("knows only false here", "leaves 0 to 1", "sum to 0")
"""What mergekit would do, or notice later, and is refused here."""


def theirs_of(content: Any) -> dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] | None:
    """By tensor the parameters for all models, and those of each; None for a file that mergekit refuses."""
    from mergekit.architecture import get_architecture_info
    from mergekit.config import MergeConfiguration
    from mergekit.options import MergeOptions
    from mergekit.plan import MergePlanner

    options = MergeOptions(quiet=True)
    read = MergeConfiguration.model_validate(content)
    planner = MergePlanner(read, get_architecture_info(read, options), options, read.base_model.config())
    try:
        planner._plan()
    except (RuntimeError, ValueError):  # a parameter that is missing or no number
        return None
    return {
        weight.name: (
            dict(task.parameters.items()),
            {str(model): dict(each.items()) for model, each in task.input_parameters.items()},
        )
        for weight, task in planner._tensors
    }


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=documents())
def test_the_same_file_gives_every_tensor_the_same_parameters(folder: Path, tmp_path: Path, content: Any) -> None:
    content = placed(content, folder)
    (tmp_path / "merge.yml").write_text(yaml.safe_dump(content))
    wanted = theirs_of(content)
    try:
        plan = plan_merge(read_merge(tmp_path / "merge.yml"))
    except InputError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert wanted is None or any(words in said for words in OURS_ALONE), said
        return
    assert wanted is not None
    for tensor, (shared, own) in wanted.items():
        found = plan.values(tensor)
        for name, parameter in PARAMETERS[content["merge_method"]].items():
            if not parameter.option:
                continue
            if parameter.per_model:
                each = [own[str(model.folder)][name] for model in plan.models]
                assert found[parameter.option] == pytest.approx(each, abs=1e-9), (tensor, name)
            else:
                assert found[parameter.option] == pytest.approx(shared[name], abs=1e-9), (tensor, name)

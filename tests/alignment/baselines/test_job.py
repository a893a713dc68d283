"""Baselines: fine-tuning by the project's loop, DPO and ORPO by TRL where it is installed."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from remodeler.alignment.baselines.config import METHODS, BaselineConfig
from remodeler.alignment.baselines.job import BASELINES, prepare, train_baseline
from remodeler.alignment.baselines.trl_methods import trl_settings
from remodeler.alignment.judging.compare import compare
from remodeler.checkpoint.load import fingerprint, load
from remodeler.errors import InputError
from remodeler.runs.folders import partial
from remodeler.runs.options import build
from remodeler.runs.records import load_record

NEEDS_TRL = pytest.mark.skipif(find_spec("trl") is None, reason="needs trl: pip install 'remodeler[align]'")


Options = dict[str, Any]


@pytest.fixture(scope="module")
def given(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Options of a small training."""
    path = tmp_path_factory.mktemp("pairs") / "rows.jsonl"
    rows = [{"prompt": f"the cat {n}", "chosen": " on the mat", "rejected": " the log and"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pace = {"epochs": 3.0, "learning_rate": 3e-3, "train_batch_size": 4}
    return {"model": str(model), "preferences": str(path), "device": "cpu", **pace}


def test_the_options_name_the_methods_of_the_table() -> None:
    assert list(BASELINES) == list(METHODS)


def test_fine_tuning_makes_better_answers_likelier(given: Options, tmp_path: Path) -> None:
    train_baseline(**given, out=tmp_path / "out")
    results = load_record(tmp_path / "out").results
    assert results["fused"]["heldout_perplexity"] < results["student"]["heldout_perplexity"] / 2


def test_a_killed_baseline_goes_on_to_the_same_weights(
    given: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_baseline(**given, out=tmp_path / "whole")

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("remodeler.alignment.phases._write", killed)
        with pytest.raises(KeyboardInterrupt):
            train_baseline(**given, out=tmp_path / "out")
    with pytest.raises(InputError, match="another seed"):
        train_baseline(**given, seed=1, out=tmp_path / "out")
    assert partial(tmp_path / "out").is_dir()
    train_baseline(**given, out=tmp_path / "out")
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert found[0] == found[1]


def test_a_prompt_that_the_chat_template_refuses_costs_one_pair(given: Options, tmp_path: Path) -> None:
    shutil.copytree(given["model"], tmp_path / "picky")
    tokenizer = load(given["model"], device="cpu").tokenizer
    refusal = "{% if m.content == 'the cat 7' %}{{ raise_exception('No seventh cat') }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + refusal + "[{{ m.content }}]{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "picky")
    inputs = prepare(build(BaselineConfig, given | {"model": tmp_path / "picky", "chat": True}), "cpu")
    assert inputs.data.dropped == {"the chat template refuses it: No seventh cat": 1}
    assert len(inputs.data.train) + len(inputs.data.heldout) == 19


def test_a_loaded_model_trains_to_the_same_weights_and_stays_as_it_is(given: Options, tmp_path: Path) -> None:
    policy = load(given["model"], device="cpu")
    before = fingerprint(policy.model)
    for name, model in (("folder", given["model"]), ("loaded", policy)):
        assert train_baseline(**given | {"model": model, "epochs": 1.0}, out=tmp_path / name)
    assert fingerprint(policy.model) == before
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("folder", "loaded")]
    assert found[0] == found[1]
    assert load_record(tmp_path / "loaded").inputs["model"]["name"] == given["model"]


@NEEDS_TRL
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_computed_twice_only_where_it_is_asked_for(
    checkpointing: bool, given: Options, tmp_path: Path
) -> None:
    """TRL does so by default."""
    from trl import DPOConfig

    config = build(BaselineConfig, given | {"epochs": 1.0, "checkpointing": checkpointing})
    policy = load(given["model"], device="cpu")
    told = DPOConfig(output_dir=str(tmp_path), **trl_settings(config, policy, 4, DPOConfig))
    assert told.gradient_checkpointing is checkpointing
    assert DPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True).gradient_checkpointing is True


@NEEDS_TRL
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_preferred_answers_gain_on_the_others(method: str, given: Options, tmp_path: Path) -> None:
    train_baseline(**given | {"epochs": 5.0, "learning_rate": 1e-3}, method=method, out=tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.pt"))
    assert os.path.getsize(tmp_path / "out" / "training.jsonl") > 0
    swapped = tmp_path / "swapped.jsonl"
    rows = [json.loads(line) for line in Path(given["preferences"]).read_text().splitlines()]
    swapped.write_text(
        "".join(json.dumps(row | {"chosen": row["rejected"], "rejected": row["chosen"]}) + "\n" for row in rows)
    )
    sides = []
    for path in (given["preferences"], swapped):
        policies = (given["model"], tmp_path / "out")
        results = compare(policies, preferences=path, max_new_tokens=4, device="cpu")
        assert results is not None
        before, after = results.checkpoints
        sides.append(after["heldout_bits_per_byte"] - before["heldout_bits_per_byte"])
    assert sides[0] < sides[1], "the better answer became likelier than the worse one did"

"""Baselines: fine-tuning by the project's loop, DPO and ORPO by TRL where it is installed."""

import json
import os
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from remodeler.alignment.baselines.job import prepared, train_baseline
from remodeler.alignment.baselines.trl_methods import settings
from remodeler.alignment.config import BaselineWish, Course, Loading
from remodeler.alignment.judging.compare import CompareWish, compare_policies
from remodeler.checkpoint.load import load
from remodeler.errors import InputError
from remodeler.generation.sampling import Sampling
from remodeler.runs.folders import partial
from remodeler.runs.records import load_record

CPU = Loading(device="cpu")
NEEDS_TRL = pytest.mark.skipif(find_spec("trl") is None, reason="needs trl: pip install 'remodeler[align]'")


@pytest.fixture(scope="module")
def wish(model: Path, tmp_path_factory: pytest.TempPathFactory) -> BaselineWish:
    path = tmp_path_factory.mktemp("pairs") / "rows.jsonl"
    rows = [{"prompt": f"the cat {n}", "chosen": " on the mat", "rejected": " the log and"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    course = Course(3.0, run={"learning_rate": 3e-3, "batch": 4})
    return BaselineWish(str(model), str(path), course=course, loading=CPU)


def test_fine_tuning_makes_better_answers_likelier(wish: BaselineWish, tmp_path: Path) -> None:
    train_baseline(wish, tmp_path / "out")
    results = load_record(tmp_path / "out").results
    assert results["fused"]["heldout_perplexity"] < results["student"]["heldout_perplexity"] / 2


def test_a_killed_baseline_goes_on_to_the_same_weights(
    wish: BaselineWish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_baseline(wish, tmp_path / "whole")

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("remodeler.alignment.phases._write", killed)
        with pytest.raises(KeyboardInterrupt):
            train_baseline(wish, tmp_path / "out")
    with pytest.raises(InputError, match="another seed"):
        train_baseline(replace(wish, seed=1), tmp_path / "out")
    assert partial(tmp_path / "out").is_dir()
    train_baseline(wish, tmp_path / "out")
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert found[0] == found[1]


def test_a_prompt_that_the_chat_template_refuses_costs_one_pair(wish: BaselineWish, tmp_path: Path) -> None:
    shutil.copytree(wish.model, tmp_path / "picky")
    tokenizer = load(wish.model, device="cpu").tokenizer
    refusal = "{% if m.content == 'the cat 7' %}{{ raise_exception('No seventh cat') }}{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + refusal + "[{{ m.content }}]{% endfor %}"
    tokenizer.save_pretrained(tmp_path / "picky")
    job = prepared(replace(wish, model=str(tmp_path / "picky"), chat=True), "cpu")
    assert job.data.dropped == {"the chat template refuses it: No seventh cat": 1}
    assert len(job.data.train) + len(job.data.heldout) == 19


@NEEDS_TRL
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_computed_twice_only_where_it_is_asked_for(
    checkpointing: bool, wish: BaselineWish, tmp_path: Path
) -> None:
    """TRL does so by default."""
    from trl import DPOConfig

    course = Course(1.0, run={"checkpointing": checkpointing})
    policy = load(wish.model, device="cpu")
    told = DPOConfig(output_dir=str(tmp_path), **settings(replace(wish, course=course), policy, 4, DPOConfig))
    assert told.gradient_checkpointing is checkpointing
    assert DPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True).gradient_checkpointing is True


@NEEDS_TRL
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_preferred_answers_gain_on_the_others(method: str, wish: BaselineWish, tmp_path: Path) -> None:
    course = Course(5.0, run={"learning_rate": 1e-3, "batch": 4})
    train_baseline(replace(wish, method=method, course=course), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.pt"))
    assert os.path.getsize(tmp_path / "out" / "training.jsonl") > 0
    swapped = tmp_path / "swapped.jsonl"
    rows = [json.loads(line) for line in Path(wish.preferences).read_text().splitlines()]
    swapped.write_text(
        "".join(json.dumps(row | {"chosen": row["rejected"], "rejected": row["chosen"]}) + "\n" for row in rows)
    )
    sides = []
    for path in (wish.preferences, str(swapped)):
        asked = CompareWish((wish.model, str(tmp_path / "out")), path, sampling=Sampling(4), loading=CPU)
        before, after = compare_policies(asked, None).results["checkpoints"]
        sides.append(after["heldout_bits_per_byte"] - before["heldout_bits_per_byte"])
    assert sides[0] < sides[1], "the better answer became likelier than the worse one did"

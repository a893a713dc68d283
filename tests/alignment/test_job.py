"""All in one: a reviser and the policy that it guides, by the command and from Python."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import remodeler as rm
from commands import invoke
from remodeler import alignment
from remodeler.alignment.baselines.job import train_baseline
from remodeler.alignment.config import AlignConfig, EvolveConfig, ReviserConfig
from remodeler.alignment.data.template import LABELS
from remodeler.alignment.job import AlignResults
from remodeler.checkpoint.load import fingerprint, load
from remodeler.errors import InputError
from remodeler.runs.options import specs
from remodeler.runs.records import load_record
from tiny import tiny_model, tiny_tokenizer

Options = dict[str, Any]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Options of a small alignment, of a policy that has learned to end."""
    root = tmp_path_factory.mktemp("align")
    tiny_model("llama", max_position_embeddings=256).save_pretrained(root / "base")
    tiny_tokenizer().save_pretrained(root / "base")
    rows = [
        {"prompt": f"the cat {n}?", "chosen": "on the mat", "rejected": "on the " + "dog " * (1 + n % 3)}
        for n in range(16)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {"task": "Fix.", "prompt": "\nP:", "response": "\nR:", "revision": "\nV:"}
    (root / "template.json").write_text(json.dumps(words | {"markers": dict(zip(LABELS, LABELS, strict=True))}))
    (root / "prompts.txt").write_text("".join(f"the dog sat on {n}\n" for n in range(30)))
    training = {"device": "cpu", "learning_rate": 1e-2, "train_batch_size": 8}
    train_baseline(root / "base", preferences=root / "rows.jsonl", epochs=8.0, out=root / "policy", **training)
    return {
        **{"model": str(root / "policy"), "preferences": str(root / "rows.jsonl")},
        **{"prompts": str(root / "prompts.txt"), "template": str(root / "template.json")},
        **{"max_new_tokens": 12, "rounds": "internal"},
        **training,
    }


def test_one_command_makes_reviser_and_policy_and_is_resumed(given: Options, tmp_path: Path) -> None:
    out = tmp_path / "aligned"
    options = [str(word) for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)][2:]
    words = ["align", "run", given["model"], *options, "--out", str(out)]
    refused = invoke([*words, "--min-quality", "1"])
    assert "accepted none" in refused.stderr
    first = (out / "reviser" / "model.safetensors").read_bytes()
    other = invoke([*words, "--seed", "3"])
    assert "made with other options" in other.stderr
    done = invoke([*words, "--min-quality", "0", "--min-confidence", "0"])
    assert done.exit_code == 0, done.output
    assert (out / "reviser" / "model.safetensors").read_bytes() == first
    assert load_record(out / "policy").inputs["reviser"]["name"] == str(out / "reviser")


def test_a_loaded_policy_is_aligned_and_stays_as_it_is(given: Options, tmp_path: Path) -> None:
    policy, loose = load(given["model"], device="cpu"), {"min_quality": 0.0, "min_confidence": 0.0}
    before = fingerprint(policy.model)
    results = rm.align(**given | {"model": policy} | loose, out=tmp_path / "aligned")
    assert isinstance(results, AlignResults)
    assert fingerprint(policy.model) == before
    record = load_record(tmp_path / "aligned" / "policy")
    assert record.results == json.loads(json.dumps(results.policy.to_record()))
    assert (record.inputs["model"]["name"], record.inputs["model"]["weights"]) == (given["model"], before)
    assert load_record(tmp_path / "aligned" / "reviser").results["losses"] == results.reviser.losses
    with pytest.raises(InputError, match="exists already"):
        rm.align(**given, out=tmp_path / "aligned")


def test_a_dry_run_looks_at_the_first_step(given: Options, tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    assert rm.align(**given, out=tmp_path / "aligned", dry_run=True) is None
    assert list(tmp_path.iterdir()) == []
    assert "can be previewed when the reviser exists" in messages.text


def test_what_must_be_given_is_named(given: Options) -> None:
    with pytest.raises(InputError, match="`out` must be given"):
        rm.align(**given)
    with pytest.raises(InputError, match="`prompts` must be given"):
        rm.align(given["model"], preferences=given["preferences"])


def test_the_whole_takes_the_options_of_both_steps() -> None:
    names = [{spec.name for spec in specs(kind)} for kind in (ReviserConfig, EvolveConfig, AlignConfig)]
    assert names[0] | names[1] | {"reviser_model"} == names[2] | {"reviser"}
    shown = inspect.signature(rm.align).parameters
    assert shown.keys() == names[2] - {"push_to_hub"}
    assert shown["completions"].default == 4


@pytest.mark.parametrize("name", [name for name in dir(alignment) if not name.startswith("_") and name != "lazy"])
def test_the_room_offers_its_parts(name: str) -> None:
    assert getattr(alignment, name) is not None

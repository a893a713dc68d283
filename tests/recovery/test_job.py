"""Recovering: a pruned folder and its teacher to a trained folder of the same form, whatever interrupts it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from forks import pair, said
from remodeler.checkpoint.load import fingerprint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError
from remodeler.evaluation.metrics import text_scores
from remodeler.recovery.config import METHODS as NAMES
from remodeler.recovery.config import RecoverConfig
from remodeler.recovery.job import given_back, recover_model, source_command
from remodeler.recovery.methods import recipe_of
from remodeler.recovery.recipes import METHODS
from remodeler.reporting import page
from remodeler.runs.folders import partial
from remodeler.runs.options import build
from remodeler.runs.records import Record, load_record, read_lines, save_record
from remodeler.runs.units import Block
from remodeler.training import loop as training
from tiny import tiny_model, tiny_tokenizer

SMALL: dict[str, Any] = {"learning_rate": 3e-3}
STEPS = 12
PRUNED = {
    "packed": [Block(0, "attention"), Block(2, "attention"), Block(3, "mlp")],  # an orphan in front, and one behind
    "stock": [Block(1, "attention"), Block(1, "mlp")],
    "portable": [Block(1, "mlp"), Block(2, "mlp")],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained Llama, what pruning made of it, and texts."""
    home = tmp_path_factory.mktemp("recover")
    tiny_model("llama").save_pretrained(home / "dense")
    tiny_tokenizer().save_pretrained(home / "dense")
    lines = (json.dumps({"text": f"{i} the cat sat on the mat and the dog on the log. " * 4}) for i in range(40))
    (home / "texts.jsonl").write_text("\n".join(lines) + "\n")
    checkpoint = load(home / "dense", device="cpu")
    for form, gone in PRUNED.items():
        (home / form).mkdir()
        save_pruned(checkpoint, gone, home / form, form)  # type: ignore[arg-type]
    (home / "narrow").mkdir()
    widths = {Block(0, "mlp"): tuple(range(0, 48, 3)), Block(3, "attention"): (1,)}
    save_pruned(checkpoint, PRUNED["packed"][:1], home / "narrow", "packed", widths=widths)
    return home


Recover = Callable[..., Path]


@pytest.fixture
def recover(home: Path, tmp_path: Path) -> Recover:
    """Recover one of the pruned folders; the result's folder."""

    def run(form: str = "packed", out: str = "out", dry: bool = False, **given: Any) -> Path:
        texts = {"texts": str(home / "texts.jsonl"), "samples": 24, "length": 16, "seed": 3}
        places = {"model": str(home / form), "out": tmp_path / out, "teacher": str(home / "dense"), "dry_run": dry}
        config = build(RecoverConfig, {**places, **texts, "device": "cpu", "steps": STEPS, **SMALL, **given})
        recover_model(config)
        return tmp_path / out

    return run


def weights(folder: Path) -> str:
    return fingerprint(load(folder, device="cpu").model)


# From start to finish -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "method"),
    [("packed", "lora"), ("packed", "full"), ("packed", "distill"), ("stock", "lora"), ("narrow", "lora")],
)
def test_a_result_has_the_form_of_its_source_and_gives_something_back(
    form: str, method: str, recover: Recover, home: Path
) -> None:
    out = recover(form, method=method)
    results = load_record(out).results
    model = load(out, device="cpu").model
    assert results["form"] == ("packed" if form == "narrow" else form)
    assert results["check"]["one_pass"] == 0
    assert model.config.model_type == load(home / form, device="cpu").model.config.model_type
    shapes = [
        {name: value.shape for name, value in load(folder, device="cpu").model.state_dict().items()}
        for folder in (out, home / form)
    ]
    assert shapes[0] == shapes[1]
    perplexities = [results[name]["heldout_perplexity"] for name in ("dense", "pruned", "recovered")]
    assert perplexities[2] < perplexities[1]
    again = text_scores(
        load(out, device="cpu"),
        [json.loads(line)["text"] for line in (home / "texts.jsonl").read_text().splitlines()],
        16,
    )
    assert again["perplexity"] < perplexities[1]
    assert {path.name for path in out.iterdir()} >= {"report.html", "README.md", "training.jsonl", "record.json"}
    assert not (out / "training").exists()


def test_a_stored_teacher_teaches_what_the_live_one_does(recover: Recover, tmp_path: Path) -> None:
    live = recover(out="live", method="distill")
    out = recover(method="distill", teacher_store=tmp_path / "store")
    losses = [[line["loss"] for line in read_lines(each / "training.jsonl")[2:]] for each in (live, out)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    again = recover(out="again", method="distill", teacher_store=tmp_path / "store")
    assert weights(again) == weights(out)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft reads a property that transformers has renamed
def test_adapters_alone_are_a_folder_that_peft_loads(recover: Recover, home: Path) -> None:
    merged, alone = recover("packed", "merged"), recover("packed", "alone", merge=False)
    results = load_record(alone).results
    extra = results["recovered"]["weight_bytes"] - results["pruned"]["weight_bytes"]
    assert extra == sum(value.nbytes for value in load_file(alone / "adapter_model.safetensors").values())
    assert {path.name for path in alone.glob("adapter*")} == {"adapter_config.json", "adapter_model.safetensors"}
    base = AutoModelForCausalLM.from_pretrained(
        json.loads((alone / "adapter_config.json").read_text())["base_model_name_or_path"]
    )
    ids = torch.arange(3, 15)[None]
    found = PeftModel.from_pretrained(base, alone).eval()(ids).logits
    wanted = load(merged, device="cpu").model(ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(load(home / "packed", device="cpu").model(ids).logits, wanted, atol=1e-2)
    assert "PeftModel.from_pretrained" in (alone / "README.md").read_text()


def test_orphans_are_trained_too(recover: Recover, home: Path) -> None:
    before, after = (load(folder, device="cpu").model.state_dict() for folder in (home / "packed", recover()))
    orphans = [name for name in before if (".pre." in name or ".post." in name) and "proj" in name]
    assert len(orphans) == 6
    assert all(not torch.equal(before[name], after[name]) for name in orphans)


def test_a_removed_block_of_the_portable_form_stays_removed(recover: Recover) -> None:
    out = recover("portable", method="full")
    state = load(out, device="cpu").model.state_dict()
    assert [layer for layer in range(4) if not state[f"model.layers.{layer}.mlp.down_proj.weight"].any()] == [1, 2]


def test_a_16_bit_model_is_trained_in_float32_and_written_as_it_came(recover: Recover, home: Path) -> None:
    shutil.copytree(home / "packed", home / "half")
    checkpoint = replace(load(home / "packed", dtype="bfloat16", device="cpu"), stored_dtype=torch.bfloat16)
    save_pruned(checkpoint, [], home / "half", "packed")
    out = recover("half", method="full")
    results = load_record(out).results
    assert load(out, device="cpu").model.dtype == torch.bfloat16
    assert (
        results["pruned"]["weight_bytes"] == results["recovered"]["weight_bytes"] == 2 * results["pruned"]["parameters"]
    )
    assert results["recovered"]["heldout_perplexity"] < results["pruned"]["heldout_perplexity"]


def test_a_loaded_model_is_trained_as_its_folder_is_and_stays_as_it_was(recover: Recover, home: Path) -> None:
    loaded = load(home / "packed", dtype="bfloat16", device="cpu")
    before = fingerprint(loaded.model)
    out = recover(model=loaded, out="from-loaded", method="full")
    assert fingerprint(loaded.model) == before
    assert weights(out) == weights(recover("packed", method="full"))


def test_the_report_shows_the_loss_and_what_came_back(recover: Recover) -> None:
    shown = (recover(evaluate_every=3) / "report.html").read_text()
    for words in ("While it trained", "held-out perplexity", "12 steps of training brought it from", "unpruned"):
        assert words in shown


def test_without_a_teacher_only_before_and_after_are_known(recover: Recover) -> None:
    results = load_record(recover(teacher=None)).results
    assert "dense" not in results
    assert results["given_back"] is None
    assert results["recovered"]["heldout_perplexity"] < results["pruned"]["heldout_perplexity"]


@pytest.mark.parametrize(("recovered", "share"), [(12.5, 0.75), (10.0, 1.0), (25.0, -0.5)])
def test_what_came_back_is_a_share_of_what_was_lost(recovered: float, share: float) -> None:
    names = {"dense": 10.0, "pruned": 20.0, "recovered": recovered}
    results = {name: {"heldout_perplexity": value} for name, value in names.items()}
    assert given_back(**results) == pytest.approx(share)
    assert given_back(**results | {"dense": {"heldout_perplexity": 30.0}}) is None


def test_what_is_still_ruined_after_training_names_a_smaller_cut(tmp_path: Path) -> None:
    blocks = [f"mlp.{place}" for place in range(5)]
    options = {"model": "org/model", "out": "elsewhere"}
    save_record(tmp_path, Record("prune", options, {}, 1, {}, {"removed": blocks}))
    (tmp_path / "removals.jsonl").touch()
    assert source_command(tmp_path) == f"remodel cut {tmp_path} org/model --remove 2 --out {tmp_path}-2"
    warned = {"removed": blocks, "warning": {"text": "ruined", "command": "remodel cut small"}}
    save_record(tmp_path, Record("prune", options, {}, 1, {}, warned))
    assert source_command(tmp_path) == "remodel cut small"
    assert source_command(tmp_path / "none") is None


# Interrupted and repeated ---------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("where", ["training", "writing"])
def test_an_interrupted_command_goes_on_to_the_same_bits(
    where: str, recover: Recover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "PENDING", 4)
    whole = recover(out="whole", method="distill", save_minutes=0.0)
    with monkeypatch.context() as patch:
        if where == "training":
            done = training._step
            patch.setattr(training, "_step", lambda run, step: done(run, step) if step < 9 else _kill())
        patch.setattr(page, "write_report", _kill)
        with pytest.raises(Killed):
            recover(method="distill", save_minutes=0.0)
    left = partial(whole.with_name("out"))
    assert [path.name for path in (left / "training").glob("step-*")] == [
        f"step-{8 if where == 'training' else 12:08d}"
    ]
    out = recover(method="distill", save_minutes=0.0)
    assert weights(out) == weights(whole)
    curves = [[line["loss"] for line in read_lines(each / "training.jsonl")[2:]] for each in (out, whole)]
    assert curves[0] == curves[1]


def _kill(*_: Any) -> Any:
    raise Killed


def test_what_another_command_left_is_refused(recover: Recover, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(page, "write_report", _kill)
        with pytest.raises(Killed):
            recover(method="lora")
    with pytest.raises(InputError, match="another training run"):
        recover(method="full")
    recover(method="lora")


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    recover: Recover, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    out = recover(dry=True)
    told = messages.text
    assert "12 steps of 4 windows" in told
    assert "adapters of rank 32" in told
    assert "takes about" in told
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys
from pathlib import Path
from remodeler.recovery.config import RecoverConfig
from remodeler.recovery.job import recover_model
from remodeler.runs.options import build

home, out = Path(sys.argv[1]), Path(sys.argv[2])
texts = {"texts": str(home / "texts.jsonl"), "samples": 24, "length": 16, "seed": 3}
asked = {"method": "distill", "teacher": str(home / "dense"), "steps": 4, "learning_rate": 3e-3, "device": "cpu"}
places = {"model": str(home / "packed"), "out": out, "teacher_store": out.with_name("store")}
places["fsdp"] = sys.argv[3] == "True"
print(recover_model(build(RecoverConfig, asked | texts | places)) is not None)
"""


@pytest.mark.parametrize("sharded", [False, True], ids=["copies", "fsdp"])
def test_two_processes_write_what_one_writes(sharded: bool, recover: Recover, home: Path, tmp_path: Path) -> None:
    running = pair(SCRIPT, home, tmp_path / "two" / "out", sharded)
    alone = recover(method="distill", steps=4)
    told = [said(process) for process in running]
    assert [out.split()[-1] for out, _ in told] == ["True", "False"]
    assert told[1][1] == "", "only the first process talks"
    losses = [
        [line["loss"] for line in read_lines(out / "training.jsonl")[2:]] for out in (alone, tmp_path / "two" / "out")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3), "the store rounds the teacher to float16"
    one, two = (load_record(out).results["recovered"] for out in (alone, tmp_path / "two" / "out"))
    assert one["heldout_perplexity"] == pytest.approx(two["heldout_perplexity"], rel=1e-3)


# What is asked for ----------------------------------------------------------------------------------------------------


def test_the_papers_settings_are_the_rows() -> None:
    lora, shortened = METHODS["lora"], METHODS["shortened-llama"]
    assert lora.lora
    assert (lora.lora.rank, lora.lora.alpha, lora.learning_rate, lora.batch, lora.schedule) == (
        32,
        10,
        2e-4,
        4,
        "linear",
    )
    assert shortened.lora
    assert (shortened.lora.rank, shortened.lora.alpha, shortened.lora.dropout) == (8, 16, 0.05)
    assert (shortened.learning_rate, shortened.epochs, shortened.batch, shortened.length) == (1e-4, 2, 64, 256)
    assert shortened.training(1000, None).steps == 32


def test_help_names_what_the_table_holds() -> None:
    assert tuple(METHODS) == NAMES


def test_settings_go_where_they_belong() -> None:
    asked = {"method": "distill", "teacher": "t", "adapters": True, "top_k": 5, "rank": 4, "train_batch_size": 8}
    recipe = recipe_of(build(RecoverConfig, {"model": "m", **asked}))
    assert recipe.lora
    assert recipe.distill
    assert (recipe.distill.k, recipe.lora.rank, recipe.batch, recipe.distill.share) == (5, 4, 8, 0.5)
    assert recipe_of(build(RecoverConfig, {"model": "m", "adapters": False})).lora is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "magic"}, "is unknown"),
        ({"method": "distill", "teacher": None}, "`teacher`"),
        ({"method": "full", "merge": False}, "`merge=False`"),
        ({"method": "full", "rank": 4}, "no use for adapters"),
        ({"method": "lora", "temperature": 2.0}, "no use for a teacher"),
        ({"method": "full", "teacher_store": Path("store")}, "`teacher_store`"),
        ({"method": "distill", "teacher_store": Path("store"), "temperature": 2.0}, "`teacher_store`"),
        ({"precision": "fp8"}, "precision"),
        ({"precision": "fp16"}, "on a CPU"),
        ({"length": 4096}, "reads at most"),
        ({"held_out": "nowhere.txt"}, "no file"),
    ],
)
def test_what_can_not_work_is_refused_before_it_starts(
    given: dict[str, Any], message: str, recover: Recover, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        recover(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_with_another_tokenizer_is_refused(recover: Recover, home: Path) -> None:
    shutil.copytree(home / "dense", home / "strange")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["unheard-of"])
    tokenizer.save_pretrained(home / "strange")
    with pytest.raises(InputError, match="another tokenizer"):
        recover(method="distill", teacher=str(home / "strange"))

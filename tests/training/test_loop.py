"""The training loop: a step is what it says, and what is on disk, on how many processes and after which kill alike."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dropout import HELDOUT, PLAN, WINDOWS, run_with_dropout, weights
from forks import pair, python, said
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, projection
from remodeler.model.logprobs import mean_nll
from remodeler.model.minibatches import to_batch
from remodeler.runs.records import read_lines
from remodeler.runs.units import Block
from remodeler.training import loop as training
from remodeler.training import state as training_state
from remodeler.training.adapters import adapted, everything, linear_layers, merge
from remodeler.training.loop import train
from remodeler.training.lora import Lora
from remodeler.training.losses import cross_entropy
from remodeler.training.plan import Training, drawn, order, rate, trim
from remodeler.training.state import CURVE_FILE, Learner, latest
from tiny import tiny_anatomy, tiny_windows


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def trained(folder: Path, plan: Training = PLAN, name: str = "llama", **options: Any) -> dict[str, Tensor]:
    """Weights after training a tiny model in a folder."""
    anatomy = tiny_anatomy(name)
    with everything(anatomy):
        train(anatomy, cross_entropy, WINDOWS, plan, folder, **options)
    return weights(anatomy)


# What a step reads ----------------------------------------------------------------------------------------------------


def test_learning_rate_grows_then_falls() -> None:
    plan = Training(steps=10, learning_rate=1.0, warmup=3)
    assert [rate(plan, step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rate(plan, 9) == pytest.approx(1 / 7)
    assert rate(replace(plan, schedule="cosine"), 6) == pytest.approx(0.6112604669781572)
    assert rate(replace(plan, schedule="constant"), 9) == 1.0


def test_epochs_are_whole_and_follow_each_other() -> None:
    plan = Training(steps=5, batch=4, seed=7)
    read = [number for step in range(5) for number in drawn(10, plan, step)]
    assert sorted(read[:10]) == sorted(read[10:]) == list(range(10))
    assert read[:10] != read[10:]
    assert read[:10] == list(order(10, 7, 0))
    assert drawn(3, plan, 0)[:3] == list(order(3, 7, 0)), "more windows a step than there are"


def test_columns_of_padding_are_cut_off() -> None:
    ids, real = torch.arange(6).reshape(2, 3), torch.tensor([[1, 0, 0], [1, 1, 0]])
    cut = trim(Windows(ids, ids, real))
    assert cut.ids.tolist() == [[0, 1], [3, 4]]
    assert trim(WINDOWS) is WINDOWS


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("batch", -1), ("schedule", "up"), ("precision", "fp8")])
def test_settings_that_mean_nothing_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        Training(**{"steps": 3, name: value})


# A step ---------------------------------------------------------------------------------------------------------------


def test_a_run_is_adamw_on_the_mean_loss_of_each_step(tmp_path: Path) -> None:
    """Written as plainly as it can be: one batch a step, full logits, torch's own clipping."""
    anatomy = tiny_anatomy("llama")
    optimizer = torch.optim.AdamW(anatomy.model.parameters(), PLAN.learning_rate, weight_decay=0.0)
    for step in range(PLAN.steps):
        windows = WINDOWS[torch.tensor(drawn(len(WINDOWS), PLAN, step))]
        logits = anatomy.model(input_ids=windows.ids).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows.targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(anatomy.model.parameters(), PLAN.clip)
        optimizer.param_groups[0]["lr"] = rate(PLAN, step)
        optimizer.step()
        optimizer.zero_grad()
    found = trained(tmp_path)
    for name, value in weights(anatomy).items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert read_lines(tmp_path / CURVE_FILE)[-1]["loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_mini_batches_of_unequal_texts_change_nothing(tmp_path: Path) -> None:
    """A token counts the same whichever mini-batch it is in: the mean of means would not give this."""
    targets = WINDOWS.targets.clone()
    targets[::2, 3:] = -100
    windows = Windows(WINDOWS.ids, targets)
    curves = []
    for micro in (1, 4):
        anatomy = tiny_anatomy("llama")
        with everything(anatomy):
            curves.append(train(anatomy, cross_entropy, windows, replace(PLAN, micro=micro), tmp_path / str(micro)))
    one, four = ([line["loss"] for line in curve] for curve in curves)
    assert one == pytest.approx(four, rel=1e-5)


def test_losses_fall_and_are_written_with_the_held_out_ones(tmp_path: Path) -> None:
    anatomy, seen = tiny_anatomy("llama"), []
    before = mean_nll(anatomy, HELDOUT)
    plan = replace(PLAN, steps=8, evaluate_every=4)
    with everything(anatomy):
        header = {"what": "a test"}
        lines = train(anatomy, cross_entropy, WINDOWS, plan, tmp_path, header, HELDOUT, lambda *told: seen.append(told))
    assert [line["step"] for line in lines] == list(range(9))
    assert [line["step"] for line in lines if "heldout" in line] == [0, 4, 8]
    assert lines[0]["heldout"] == pytest.approx(before)
    assert lines[-1]["heldout"] == pytest.approx(mean_nll(anatomy, HELDOUT))
    assert lines[-1]["loss"] < lines[1]["loss"]
    assert all(line["gradient_norm"] > 0 for line in lines[1:])
    assert seen[-1][0] == 1.0
    assert read_lines(tmp_path / CURVE_FILE)[0] == header


def test_everybody_elses_random_numbers_and_the_mode_stay(tmp_path: Path) -> None:
    anatomy = tiny_anatomy("llama")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with everything(anatomy):
        train(anatomy, cross_entropy, WINDOWS, PLAN, tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert not anatomy.model.training
    assert all(parameter.grad is None for parameter in anatomy.model.parameters())


def test_checkpointed_activations_change_no_bit(tmp_path: Path) -> None:
    assert same(trained(tmp_path / "a"), trained(tmp_path / "b", replace(PLAN, checkpointing=True)))
    anatomy = tiny_anatomy("llama")
    assert not any(getattr(module, "gradient_checkpointing", False) for module in anatomy.model.modules())


def test_bfloat16_products_with_float32_weights(tmp_path: Path) -> None:
    found = trained(tmp_path, replace(PLAN, precision="bf16"))
    exact = trained(tmp_path / "exact")
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert not same(found, exact)
    losses = [[line["loss"] for line in read_lines(path / CURVE_FILE)[1:]] for path in (tmp_path, tmp_path / "exact")]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    def broken(anatomy: Anatomy, batch: Any) -> Tensor:
        return cross_entropy(anatomy, batch) * float("nan")

    anatomy = tiny_anatomy("llama")
    with everything(anatomy), pytest.raises(InputError, match="step 1 is nan"):
        train(anatomy, broken, WINDOWS, PLAN, tmp_path)


# Resuming -------------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_bits(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PENDING", 2)
    plan = replace(PLAN, save_minutes=0, evaluate_every=2)
    whole = trained(tmp_path / "whole", plan, "gpt2", heldout=HELDOUT)  # gpt2 has dropout

    def stop(share: float, words: str) -> None:
        if share * plan.steps > at - 0.5:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path / "cut", plan, "gpt2", heldout=HELDOUT, progress=stop)
    state = latest(tmp_path / "cut")
    assert (state.name if state else None) == {1: None, 3: "step-00000002", 5: "step-00000004"}[at]
    assert same(trained(tmp_path / "cut", plan, "gpt2", heldout=HELDOUT), whole)
    curves = [read_lines(tmp_path / name / CURVE_FILE)[1:] for name in ("whole", "cut")]
    assert [line | {"seconds": 0} for line in curves[0]] == [line | {"seconds": 0} for line in curves[1]]


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    first = trained(tmp_path)
    before = (tmp_path / CURVE_FILE).read_text()
    assert same(trained(tmp_path), first)
    assert (tmp_path / CURVE_FILE).read_text() == before
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000006"]


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, header={"seed": 1, "betas": (0.9, 0.99)})
    trained(tmp_path, header={"seed": 1, "betas": (0.9, 0.99)})
    with pytest.raises(InputError, match="another training run"):
        trained(tmp_path, header={"seed": 2})


def test_a_state_is_safetensors_and_comes_back_exactly(tmp_path: Path) -> None:
    anatomy = tiny_anatomy("llama")
    learner = Learner(dict(anatomy.model.named_parameters()), torch.optim.AdamW(anatomy.model.parameters()))
    cross_entropy(anatomy, to_batch(WINDOWS, torch.device("cpu"))).backward()
    learner.optimizer.step()
    training_state.write(tmp_path, 1, learner, {"seconds": 2.0})
    assert {path.suffix for path in tmp_path.glob("*/*")} == {".safetensors", ".json"}
    again = tiny_anatomy("llama", seed=9)
    other = Learner(dict(again.model.named_parameters()), torch.optim.AdamW(again.model.parameters()))
    state = latest(tmp_path)
    assert state
    assert training_state.read(state, other) == {"seconds": 2.0}
    assert same(weights(anatomy), weights(again))
    for one, two in zip(learner.parameters.values(), other.parameters.values(), strict=True):
        assert same(learner.optimizer.state[one], other.optimizer.state[two])


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(InputError, match="another model or method"):
        trained(tmp_path, name="gpt2")


# Adapters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "bloom", "bert", "mixtral"])
def test_adapters_alone_are_trained_and_can_be_merged(name: str, tmp_path: Path) -> None:
    anatomy = tiny_anatomy(name)
    windows = tiny_windows("masked" if name == "bert" else "causal", count=10, seed=1)
    before, layers = weights(anatomy), linear_layers(anatomy)
    assert not any("lm_head" in path or "embed" in path for path in layers)
    with adapted(anatomy, Lora(4, 8.0)) as wrapper:
        train(anatomy, cross_entropy, windows, PLAN, tmp_path)
        names = [path for path, value in anatomy.model.named_parameters() if value.requires_grad]
        assert len(names) == 2 * len(layers)
        assert all(".lora_" in path for path in names)
        tuned = mean_nll(anatomy, windows)
        merge(wrapper)
        assert mean_nll(anatomy, windows) == pytest.approx(tuned, rel=1e-5)
    assert mean_nll(anatomy, windows) == pytest.approx(tuned, rel=1e-5)
    after = weights(anatomy)
    assert list(after) == list(before)
    changed = {path for path in after if not torch.equal(after[path], before[path])}
    assert changed == {f"{path}.weight" for path in layers}
    assert all(value.requires_grad for value in anatomy.model.parameters())


def test_adapters_that_are_not_merged_leave_no_trace(tmp_path: Path) -> None:
    anatomy = tiny_anatomy("llama")
    before = weights(anatomy)
    with adapted(anatomy, Lora(4)):
        train(anatomy, cross_entropy, WINDOWS, PLAN, tmp_path)
    assert same(weights(anatomy), before)


def test_what_a_portable_form_zeroed_stays_zero(tmp_path: Path) -> None:
    for lora in (None, Lora(4)):
        anatomy = tiny_anatomy("llama")
        gone = anatomy.branches[Block(1, "mlp")]
        with torch.no_grad():
            for value in projection(gone).values():
                value.zero_()
        before = [value.clone() for value in gone.parameters()]
        with adapted(anatomy, lora) if lora else everything(anatomy):
            train(anatomy, cross_entropy, WINDOWS, PLAN, tmp_path / str(lora))
            assert all(torch.equal(one, two) for one, two in zip(before, gone.parameters(), strict=True))


# Processes ------------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from remodeler.runs import processes
from dropout import run_with_dropout

with processes.group("cpu"):
    run_with_dropout(Path(sys.argv[1]), float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    run_with_dropout(folder)
    return folder


def test_a_killed_process_goes_on_to_the_same_bits(alone: Path, tmp_path: Path) -> None:
    slow = python(SCRIPT, tmp_path, 1.0)
    deadline = time.monotonic() + 120
    while not latest(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    slow.send_signal(signal.SIGKILL)
    slow.wait()
    done = latest(tmp_path)
    assert done is not None
    assert training_state.step_of(done) < 20
    run_with_dropout(tmp_path)
    files = [(folder / "weights-0.safetensors").read_bytes() for folder in (alone, tmp_path)]
    assert files[0] == files[1]


def test_two_processes_learn_what_one_learns(alone: Path, tmp_path: Path) -> None:
    """The sums of a step are taken in another order: its loss may differ by float32's rounding, not by more."""
    for process in pair(SCRIPT, tmp_path, 0.0):
        said(process)
    first, second = ((tmp_path / f"weights-{rank}.safetensors").read_bytes() for rank in range(2))
    assert first == second, "both processes hold the same model"
    one, two = (read_lines(folder / CURVE_FILE)[1:] for folder in (alone, tmp_path))
    for line, other in zip(one, two, strict=True):
        for key in ("loss", "heldout", "gradient_norm"):
            assert line.get(key, 0.0) == pytest.approx(other.get(key, 0.0), rel=1e-5)

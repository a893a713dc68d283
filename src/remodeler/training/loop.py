"""The one training loop: any loss, all parameters or adapters, on accelerate (mixed precision, loss scaling, clipping).

What a step reads, its learning rate and all its random numbers are functions of the seed and the step's number. So a
run that was killed goes on to the same weights, bit for bit on a CPU with as many threads; and processes that share
the mini-batches of a step get what one alone gets, up to the rounding of sums and, with dropout, other mini-batches
than one alone would make. A step's loss is the mean over *its* tokens, however they fall into mini-batches.

Gradients of several processes are summed here and not by DistributedDataParallel, which asks that every parameter
is used and that the model is called as a whole; losses call trunk and head apart. Where the weights are shared out
(:mod:`remodeler.training.sharding`), they are summed where their parts are. All processes read the states from one
folder; the first writes.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from torch import Tensor, distributed

from remodeler.data.windows import IGNORED, Windows
from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import batch_nll, sum_dtype
from remodeler.model.minibatches import agreed_batch_size, cuda_devices, device_of, to_batch
from remodeler.runs import processes
from remodeler.runs.progress import Progress, silent
from remodeler.runs.records import read_lines
from remodeler.training import state
from remodeler.training.losses import Loss
from remodeler.training.plan import MICRO_TOKENS, Training, drawn, mix_seed, rate, trim
from remodeler.training.sharding import gathered, is_sharded, number_of, shard, shares
from remodeler.training.state import CURVE_FILE, Curve, Learner, Line

PENDING = 10
"""Steps whose losses stay on a GPU until somebody waits for them; so often, too, a run looks at the clock."""


@dataclass(frozen=True)
class Run:
    """A training run in progress."""

    anatomy: Anatomy
    loss: Loss
    windows: Windows
    plan: Training
    learner: Learner
    accelerator: Any
    stepper: Any
    """The optimiser as accelerate wraps it."""
    counts: Tensor
    """[windows] int64: scored tokens."""
    micro: int

    @property
    def sharded(self) -> bool:
        """Whether every process holds a part of each parameter."""
        return is_sharded(self.anatomy.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.anatomy.model)


def train(
    anatomy: Anatomy,
    loss: Loss,
    windows: Windows,
    plan: Training,
    folder: Path,
    header: Mapping[str, Any] | None = None,
    heldout: Windows | None = None,
    progress: Progress = silent,
    sharded: bool = False,
) -> list[Line]:
    """Change those parameters of a model that require gradients, so that a loss falls.

    Args:
        anatomy: the model; it is in eval mode again afterwards.
        loss: sum over the tokens of a batch.
        windows: what to train on.
        plan: how long, how fast, how much at once.
        folder: states and ``training.jsonl`` go there; what is there already is taken up.
        header: what the run is, to tell it from another one that left something in the folder.
        heldout: text that the loss of the text is measured on, before, after, and in between.
        progress: is told the share done, and a few words.
        sharded: share the parameters out among the processes (:mod:`remodeler.training.sharding`). The model is of no
            other use then; what was trained stands in the last state (:func:`~remodeler.training.state.read_weights`).

    Returns:
        The lines of the loss curve, in the first process: ``step``, ``loss`` in nats a token, ``learning_rate``,
        ``gradient_norm``, ``seconds`` since the start; ``heldout`` where it was measured (step 0: before the first).

    Raises:
        InputError: when the folder holds another run, or the loss is no number.
    """
    with _prepared(anatomy, plan):
        if sharded:
            shard(anatomy)
        run = _run(anatomy, loss, windows, plan)
        done, seconds = _resume(run, folder, dict(header or {}))
        _train_from(run, done, seconds, folder, heldout, progress)
    return read_lines(folder / CURVE_FILE)[1:] if processes.is_first() else []


def _run(anatomy: Anatomy, loss: Loss, windows: Windows, plan: Training) -> Run:
    AcceleratorState._reset_state(reset_partial_state=True)  # it would insist on the precision of an earlier run
    with patch_environment(ACCELERATE_USE_FSDP="false"):  # it would want to shard by itself
        accelerator = Accelerator(cpu=device_of(anatomy.model).type == "cpu", mixed_precision=plan.precision)
    parameters = {name: value for name, value in anatomy.model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), plan.learning_rate, plan.betas, weight_decay=plan.weight_decay)
    stepper = accelerator.prepare_optimizer(optimizer, device_placement=False)
    counts = (windows.targets != IGNORED).sum(1)
    micro = plan.micro or max(1, MICRO_TOKENS // windows.ids.shape[1])
    share = math.ceil(plan.batch / processes.world())  # every process has something to do
    return Run(
        anatomy,
        loss,
        windows,
        plan,
        Learner(parameters, optimizer),
        accelerator,
        stepper,
        counts,
        max(1, min(micro, share)),
    )


@contextmanager
def _prepared(anatomy: Anatomy, plan: Training) -> Iterator[None]:
    """The model as it trains; afterwards in eval mode, and the random numbers of everybody else as they were."""
    model = anatomy.model
    with ExitStack() as after:
        after.enter_context(torch.random.fork_rng(cuda_devices(model)))
        after.callback(model.eval)
        if plan.checkpointing:
            old = model.gradient_checkpointing_enable, model.gradient_checkpointing_disable
            enable = getattr(model, "activation_checkpointing_enable", old[0])  # its name before transformers 5.20
            enable({"use_reentrant": False})
            after.callback(model.disable_input_require_grads)
            after.callback(getattr(model, "activation_checkpointing_disable", old[1]))
        model.train()
        yield


def _train_from(run: Run, done: int, seconds: float, folder: Path, heldout: Windows | None, progress: Progress) -> None:
    plan, curve = run.plan, Curve(folder / CURVE_FILE)
    if done == 0 and heldout:
        curve.add({"step": 0, "seconds": 0.0}, heldout=heldout_nll(run, heldout))
    start, saved = time.perf_counter() - seconds, time.perf_counter()
    flush_every = 1 if run.device.type == "cpu" else PENDING
    for step in range(done + 1, plan.steps + 1):
        loss, norm = _step(run, step - 1)
        measured, last = {"loss": loss, "gradient_norm": norm}, step == plan.steps
        if heldout and (last or _is_turn(step, plan.evaluate_every)):
            measured["heldout"] = heldout_nll(run, heldout)
        now = time.perf_counter()
        curve.add({"step": step, "learning_rate": rate(plan, step - 1), "seconds": round(now - start, 3)}, **measured)
        if last or _is_turn(step, flush_every):
            progress(step / plan.steps, f"loss {curve.flush()['loss']:.4g}")
        if last or (_is_turn(step, PENDING) and processes.from_first(now - saved >= 60 * plan.save_minutes)):
            _save(run, step, folder, {"seconds": now - start})
            saved = now


def step_seconds(anatomy: Anatomy, loss: Loss, windows: Windows, plan: Training) -> float:
    """About how long a step takes, from its first mini-batch (run twice: the first warms up); nothing is changed."""
    with _prepared(anatomy, plan):
        run = _run(anatomy, loss, windows, plan)
        parts = math.ceil(plan.batch / run.micro)
        numbers = drawn(len(windows), plan, 0)[: run.micro]
        for _ in range(2):
            start = time.perf_counter()
            _backward(run, numbers, 1).item()
            seconds = time.perf_counter() - start
        run.stepper.zero_grad()
    return seconds * math.ceil(parts / processes.world())


def _is_turn(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _step(run: Run, step: int) -> tuple[Tensor, Tensor]:
    """Change the weights once; the mean loss of the step's tokens and the norm of its gradient."""
    plan, chosen = run.plan, drawn(len(run.windows), run.plan, step)
    tokens = int(run.counts[chosen].sum())
    parts = [chosen[start : start + run.micro] for start in range(0, len(chosen), run.micro)]
    total = torch.zeros((), device=run.device)
    for number, counts in shares(len(parts), run.sharded):
        torch.manual_seed(mix_seed(plan.seed, step, number))  # of dropout
        total += _backward(run, parts[number], tokens, counts)
    parameters = list(run.learner.parameters.values())
    _add_up([total] if run.sharded else [total, *_gradients(parameters)])
    norm = run.accelerator.clip_grad_norm_(parameters, plan.clip or math.inf)
    for group in run.learner.optimizer.param_groups:
        group["lr"] = rate(plan, step)
    run.stepper.step()
    run.stepper.zero_grad()
    return total, number_of(norm)


def _backward(run: Run, numbers: list[int], tokens: int, counts: bool = True) -> Tensor:
    """Add the gradient of some windows; their share of the mean loss of so many tokens, or nothing."""
    batch = to_batch(trim(run.windows[torch.tensor(numbers)]), run.device)
    with run.accelerator.autocast():
        whole = replace(batch, numbers=tuple(numbers))
        part = counts * gathered(run.anatomy.model, lambda: run.loss(run.anatomy, whole)) / tokens
    # Gradients of shards are averaged over the processes, not summed.
    run.accelerator.backward(part * processes.world() if run.sharded else part)
    return part.detach()


def _gradients(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    """All gradients; of several processes, also those of parameters that this one had no use for."""
    if processes.world() > 1:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _add_up(tensors: list[Tensor]) -> None:
    """Sum over the processes, in place."""
    if processes.world() > 1:
        for work in [distributed.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()


@torch.no_grad()
def heldout_nll(run: Run, windows: Windows) -> Tensor:
    """Mean negative log-likelihood of a token of some text, shared out over the processes: a scalar on the device."""
    run.anatomy.model.eval()
    total = torch.zeros((), dtype=sum_dtype(run.device), device=run.device)
    size = agreed_batch_size(run.anatomy, windows)
    for number, counts in shares(math.ceil(len(windows) / size), run.sharded):
        batch = to_batch(windows[number * size : (number + 1) * size], run.device)
        with run.accelerator.autocast():
            total += counts * gathered(run.anatomy.model, partial(batch_nll, run.anatomy, batch))
    run.anatomy.model.train()
    _add_up([total])
    return total / windows.tokens


# What is on disk ------------------------------------------------------------------------------------------------------


def _save(run: Run, step: int, folder: Path, facts: Line) -> None:
    scaler = getattr(run.accelerator, "scaler", None)
    state.write(folder, step, run.learner, facts | {"scaler": scaler.state_dict() if scaler else None})


def _resume(run: Run, folder: Path, header: Line) -> tuple[int, float]:
    """Steps that are done, and the seconds they took; the model and the optimiser are then as they were after them."""
    processes.first_does(lambda: state.settle(folder, header))
    found = processes.from_first(state.latest(folder) if processes.is_first() else None)
    if found is None:
        return 0, 0.0
    facts = state.read(found, run.learner)
    if facts.get("scaler"):
        run.accelerator.scaler.load_state_dict(facts["scaler"])
    return state.step_of(found), float(facts["seconds"])

"""DPO and ORPO as TRL implements them, an extra: ``pip install 'remodeler[align]'``.

TRL's own checkpoints are pickles, so none is written: a run that was killed trains this phase again from its start, to
the same result. One process; all parameters; sums and learning rates are TRL's.
"""

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from transformers import PrinterCallback

from remodeler.alignment.baselines.config import TRL_RATE, BaselineConfig
from remodeler.alignment.data.preferences import Triple
from remodeler.alignment.phases import MODEL, plan_training
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.load import Checkpoint
from remodeler.errors import InputError, option
from remodeler.runs import processes
from remodeler.runs.folders import partial
from remodeler.runs.records import append_lines, disk_errors
from remodeler.training.model import write_trained
from remodeler.training.plan import MICRO_TOKENS
from remodeler.training.state import CURVE_FILE

Load = Callable[[ModelLike], Checkpoint]


def train_dpo(load: Load, config: BaselineConfig, triples: Sequence[Triple], folder: Path) -> Path:
    """Direct preference optimisation; the reference is the model itself before training."""
    with _needs_trl():
        from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined, unused-ignore]
    return _train(load, config, triples, folder, DPOConfig, DPOTrainer)


def train_orpo(load: Load, config: BaselineConfig, triples: Sequence[Triple], folder: Path) -> Path:
    """Odds-ratio preference optimisation, which needs no reference."""
    with _needs_trl():
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    return _train(load, config, triples, folder, ORPOConfig, ORPOTrainer)


@contextmanager
def _needs_trl() -> Iterator[None]:
    """Turn a missing package into an error that names it."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        yield
    except ImportError as error:
        raise InputError(f"this method needs trl ({error}): pip install 'remodeler[align]'") from None


def _train(
    load: Load, config: BaselineConfig, triples: Sequence[Triple], folder: Path, arguments: Any, trainer: Any
) -> Path:
    """Train, write and read back."""
    if (folder / MODEL).is_dir():
        return folder / MODEL
    if not config.training.everything or processes.world() > 1:
        raise InputError(
            f"{option('method', config.method)} trains all parameters, in one process: leave out {option('adapters')} "
            "and torchrun"
        )
    import datasets  # takes a second to import

    policy = load(config.source.model)
    folder.mkdir(parents=True, exist_ok=True)
    rows = datasets.Dataset.from_list([asdict(each) for each in triples])
    settings = arguments(output_dir=str(folder / "trl"), **trl_settings(config, policy, len(triples), arguments))
    run = trainer(model=policy.model, args=settings, train_dataset=rows, processing_class=_padded_tokenizer(policy))
    run.remove_callback(PrinterCallback)
    run.train()
    policy.model.eval()
    curve = [{"step": line["step"], "loss": float(line["loss"])} for line in run.state.log_history if "loss" in line]
    _write(policy, [{"method": config.method}, *curve], folder)
    return folder / MODEL


def _write(policy: Checkpoint, curve: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write the model and its loss curve; read the model back."""
    work = partial(folder / MODEL)
    with disk_errors(folder):
        for path in (work, folder / "trl"):
            shutil.rmtree(path, ignore_errors=True)
        (folder / CURVE_FILE).unlink(missing_ok=True)
        append_lines(folder / CURVE_FILE, curve)
        work.mkdir()
        write_trained(policy, work)
        work.rename(folder / MODEL)


def _padded_tokenizer(policy: Checkpoint) -> Any:
    """The tokenizer, with a padding token where it has none; the policy's own stays as it is."""
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def trl_settings(config: BaselineConfig, policy: Checkpoint, count: int, arguments: Any) -> dict[str, Any]:
    """Settings of a run by TRL's names.

    Args:
        config: the run.
        policy: what is trained.
        count: triples.
        arguments: TRL's class; its own default is to compute activations twice, whoever asks.
    """
    plan = plan_training(config.training, count, policy.model.device)
    length = config.data.length or policy.context or MICRO_TOKENS
    micro = plan.micro or max(1, min(plan.batch, MICRO_TOKENS // length))
    names = {each.name for each in fields(arguments)}
    checkpointing = min(names & {"activation_checkpointing", "gradient_checkpointing"})  # the latter until 5.20
    return {
        "beta": config.beta,
        "learning_rate": config.training.optimization.learning_rate or TRL_RATE,
        "max_steps": plan.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, plan.batch // micro),
        "lr_scheduler_type": plan.schedule,
        "warmup_steps": plan.warmup,
        "max_length": length,
        "bf16": plan.precision == "bf16",
        "use_cpu": policy.model.device.type == "cpu",
        "seed": config.training.seed,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        checkpointing: plan.checkpointing,
    }

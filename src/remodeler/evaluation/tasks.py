"""Multiple-choice tasks through lm-eval, EleutherAI's harness: its own by name, and local files of questions.

Scoring, few-shot examples and prompts are lm-eval's; nothing is put in a chat template. ``acc`` takes the most likely
choice, ``acc_norm`` the one most likely for its length in characters, which WinoGrande has not: its choices differ in
the context. Importing this module imports lm-eval.
"""

import copy
import difflib
import io
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import TaskDict

from remodeler.checkpoint.load import Checkpoint
from remodeler.data.questions import SUFFIXES, read_questions
from remodeler.errors import InputError
from remodeler.runs.progress import Progress, on_terminal, progress_bar, silent

LOUD = ("lm_eval", "transformers", "datasets", "huggingface_hub")
BATCH = 8  # sequences of a question's length


def open_tasks(names: Sequence[str | Path]) -> TaskDict:
    """Tasks and groups of tasks with their questions, read once for all checkpoints.

    A name that ends in .jsonl or .json is a file, any other one of lm-eval's, which it downloads.
    """
    unique = list(dict.fromkeys(map(str, names)))
    files = {name: file_task(Path(name)) for name in unique if _is_file(name)}
    with quiet():
        manager = TaskManager(include_defaults=len(files) < len(unique))  # finding all its tasks takes ten seconds
        built = [[files[name]] if name in files else _download(manager, name) for name in unique]
        loaded: TaskDict = manager.load(list(chain.from_iterable(built)))
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    return loaded


def _is_file(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES or Path(name).is_file()


def _download(manager: TaskManager, name: str) -> list[Any]:
    """The group of that name, or its task, or the tasks of a tag, with their data."""
    if name not in manager.all_tasks:
        like = ", ".join(difflib.get_close_matches(name, manager.all_tasks)) or "piqa, hellaswag, arc_easy"
        raise InputError(f"lm-eval has no task {name!r}: give another name (such as {like}) or a .jsonl file")
    try:
        loaded = manager.load([name])
    except (OSError, ValueError, RuntimeError, ImportError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        advice = "check the network or give a local .jsonl file of its questions"
        raise InputError(f"the data of {name} can't be read from the hub ({reason}): {advice}") from None
    return [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())


def file_task(path: Path) -> ConfigurableTask:
    """A file of questions as a task of lm-eval."""
    rows = [asdict(question) for question in read_questions(path)]
    contexts = bool(rows[0]["ending"])  # then lm-eval wants the answer for a text, and the ending for a target
    measures = ["acc"] if contexts else ["acc", "acc_norm"]
    config = {
        "task": str(path),
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "gold" if contexts else "prompt",
        "doc_to_target": "ending" if contexts else "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in measures],
    }
    with quiet():
        return ConfigurableTask(config=config)


def task_scores(
    checkpoint: Checkpoint, opened: TaskDict, limit: int | None = None, batch: int = BATCH
) -> dict[str, dict[str, float]]:
    """By task: its measures, each with ``_stderr``, and the number of questions.

    Args:
        checkpoint: a causal or sequence-to-sequence model.
        opened: what :func:`open_tasks` returned.
        limit: questions a task, from its start.
        batch: sequences the model reads at once.
    """
    check(checkpoint, limit)
    with watching(f"tasks of {checkpoint.name}") as progress, quiet():
        model = harness_model(checkpoint, batch, progress)
        try:
            found = evaluate(model, opened, limit=limit, log_samples=False)
        except AssertionError:  # lm-eval's word for a choice of no tokens or of too many
            given = f"a choice doesn't fit the {model.max_length} tokens that {checkpoint.name} reads"
            raise InputError(f"{given}: leave its task out") from None
    counts = found["n-samples"]
    return {
        name: _measures(values) | ({"questions": counts[name]["effective"]} if name in counts else {})
        for name, values in found["results"].items()
    }


def check(checkpoint: Checkpoint, limit: int | None = None) -> None:
    """Whether a model can be asked that many questions."""
    if limit is not None and limit < 2:
        raise InputError(f"a limit of {limit} questions was given, a standard error needs 2: raise `limit`")
    if checkpoint.anatomy.family.task == "masked":
        raise InputError(f"{checkpoint.name} is a masked language model, which can't rate choices: leave `tasks` out")


class WatchedModel(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """A model of lm-eval's that says how many of the choices it has read."""

    progress: Progress = staticmethod(silent)
    asked = done = 0

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
        self.asked, self.done = len(requests), 0
        found = super()._loglikelihood_tokens(requests, *args, **options)
        self.progress(1.0, "")  # choices that begin alike were read together
        return found

    def _model_call(self, inps: Any, *args: Any, **options: Any) -> Any:
        logits = super()._model_call(inps, *args, **options)
        self.done += len(inps)
        if self.asked:
            self.progress(min(1.0, self.done / self.asked), "")
        return logits


@contextmanager
def watching(title: str) -> Iterator[Progress]:
    """Progress in a log file, past :func:`quiet`; on a terminal lm-eval draws bars of its own."""
    if on_terminal():
        yield silent
        return
    shown = sys.stderr

    def tell(share: float, words: str) -> None:
        with redirect_stderr(shown):
            progress(share, words)

    with progress_bar(title) as progress:
        yield tell


def harness_model(checkpoint: Checkpoint, batch: int, progress: Progress = silent) -> HFLM:
    """The model as lm-eval wants it, with a copy of the tokenizer, since lm-eval adds a padding token to it."""
    tokenizer = copy.deepcopy(checkpoint.tokenizer)
    prefix = next(each for each in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if each is not None)
    model = WatchedModel(
        pretrained=checkpoint.model,
        tokenizer=tokenizer,
        backend=checkpoint.anatomy.family.task,
        max_length=checkpoint.context,
        prefix_token_id=prefix,
        batch_size=batch,
    )
    model.progress = progress
    return model


def _measures(values: Mapping[str, Any]) -> dict[str, float]:
    """lm-eval's ``acc,none`` and ``acc_stderr,none`` as ``acc`` and ``acc_stderr``; other filters stand in front."""
    found = {}
    for key, value in values.items():
        measure, comma, chosen = key.partition(",")
        if comma and isinstance(value, int | float) and math.isfinite(value):
            found[measure if chosen == "none" else f"{chosen} {measure}"] = float(value)
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of the libraries about what is meant; progress bars only where somebody watches."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""The options of ``remodel recover``: their names, help texts and panels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT, HOW, RUN, RESULT, TEACHER = "What is trained", "How fast", "The run", "Result", "Teacher"

Teacher = Annotated[
    str | None,
    typer.Option(
        help="The unpruned model: what distill learns from; with every method, what the result is measured against.",
        rich_help_panel=TEACHER,
        show_default=False,
    ),
]
Way = Annotated[str, typer.Option("--method", help="lora, shortened-llama, full or distill.", rich_help_panel=WHAT)]
Adapters = Annotated[
    bool | None,
    typer.Option(
        "--adapters/--all-parameters",
        help="Train adapters, or everything. [default: as the method]",
        rich_help_panel=WHAT,
    ),
]
Rank = Annotated[int | None, typer.Option(help="Of the adapters. [default: 32]", rich_help_panel=WHAT)]
Alpha = Annotated[
    float | None, typer.Option(help="The adapters count alpha / rank times. [default: 10]", rich_help_panel=WHAT)
]
Dropout = Annotated[float | None, typer.Option(help="In front of the adapters. [default: 0]", rich_help_panel=WHAT)]
TopTokens = Annotated[
    int | None,
    typer.Option(
        "--top-k", help="Tokens of each prediction; all others count as one.  [default: 64]", rich_help_panel=TEACHER
    ),
]
TextShare = Annotated[
    float | None,
    typer.Option(help="Share of the text's own loss beside the teacher's. [default: 0.5]", rich_help_panel=TEACHER),
]
Temperature = Annotated[
    float | None, typer.Option(help="Softens both models' predictions. [default: 1]", rich_help_panel=TEACHER)
]
TeacherStore = Annotated[
    Path | None,
    typer.Option(help="Folder of the teacher's predictions, made on first use.", rich_help_panel=TEACHER),
]
TrainSteps = Annotated[int | None, typer.Option("--steps", help="[default: the epochs]", rich_help_panel=HOW)]
Epochs = Annotated[float | None, typer.Option(help="Times that the texts are read. [default: 1]", rich_help_panel=HOW)]
LearningRate = Annotated[
    float | None, typer.Option(help="[default: 2e-4 for adapters, 1e-4 for everything]", rich_help_panel=HOW)
]
Batch = Annotated[int | None, typer.Option("--batch-size", help="Windows a step. [default: 4]", rich_help_panel=HOW)]
MicroBatch = Annotated[
    int | None,
    typer.Option(help="Windows at once; a step adds up several. [default: 2,048 tokens]", rich_help_panel=RUN),
]
ScheduleName = Annotated[
    str | None, typer.Option("--schedule", help="linear, cosine or constant. [default: linear]", rich_help_panel=HOW)
]
Warmup = Annotated[float | None, typer.Option(help="Share of the steps in which the rate grows.", rich_help_panel=HOW)]
PrecisionName = Annotated[
    str, typer.Option("--precision", help="auto, no, bf16 or fp16: of matrix products.", rich_help_panel=RUN)
]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Less memory, a third more time.", rich_help_panel=RUN)
]
EvaluateEvery = Annotated[
    int, typer.Option(help="Steps between two looks at held-out text; 0: start and end.", rich_help_panel=RUN)
]
HeldOut = Annotated[
    str | None,
    typer.Option(
        help="Text to judge by, as --texts. [default: what training leaves of its own]", rich_help_panel="Texts"
    ),
]
TrainSamples = Annotated[
    int, typer.Option("--samples", help="Texts to train on, whole; others are held out.", rich_help_panel="Texts")
]
Merge = Annotated[
    bool, typer.Option("--merge/--no-merge", help="Adapters into the weights, or alone.", rich_help_panel=RESULT)
]
Length = Annotated[
    int | None,
    typer.Option(
        help="Tokens a window. [default: 1024 (shortened-llama 256), or the model's context]", rich_help_panel="Texts"
    ),
]

SETTINGS = {
    "rank": "rank",
    "alpha": "alpha",
    "dropout": "dropout",
    "top_k": "k",
    "text_share": "share",
    "temperature": "temperature",
    "learning_rate": "learning_rate",
    "schedule": "schedule",
    "warmup": "warmup",
    "batch_size": "batch",
    "epochs": "epochs",
    "length": "length",
}
"""Options that set a method, and what they are called there."""
RUNNING = {
    "micro_batch": "micro",
    "precision": "precision",
    "checkpointing": "checkpointing",
    "evaluate_every": "evaluate_every",
}
"""Options of the run alone."""


def parts(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of the method and of the run, under the names that they have there; what is not given is left out."""
    named = {"settings": SETTINGS, "run": RUNNING}
    return {
        part: {name: given[option] for option, name in names.items() if given[option] is not None}
        for part, names in named.items()
    }

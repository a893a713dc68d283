"""The options of ``remodel fuse``: their names, help texts and panels, and what they make."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

WHO, MATCH, TARGET, HOW = "Who", "How tokens are matched", "The target", "How fast"

Student = Annotated[str, typer.Argument(help="The model that learns: a folder or a hub id.", show_default=False)]
Teachers = Annotated[
    list[str],
    typer.Option(
        "--teachers", help="A model to learn from; give it once for each.", rich_help_panel=WHO, show_default=False
    ),
]
Itself = Annotated[
    bool, typer.Option("--itself/--others-only", help="The student's own predictions count too.", rich_help_panel=WHO)
]
Align = Annotated[str, typer.Option(help="Positions by bytes (exact), or dp (the papers').", rich_help_panel=MATCH)]
MapName = Annotated[
    str,
    typer.Option(
        "--map", help="Tokens by pieces, exact, edit (FuseLLM) or statistics (FuseChat).", rich_help_panel=MATCH
    ),
]
InsideFlag = Annotated[
    bool,
    typer.Option(
        "--inside/--borders-only",
        help="A teacher speaks inside its tokens too, where the student's are shorter.",
        rich_help_panel=MATCH,
    ),
]
Fusion = Annotated[str, typer.Option(help="mince (the best voice) or avgce (their mean).", rich_help_panel=TARGET)]
Level = Annotated[str, typer.Option(help="Choose for a whole text (sequence) or by token.", rich_help_panel=TARGET)]
ScoreName = Annotated[
    str, typer.Option("--score", help="Judge voices by nats a byte, or by token as the papers.", rich_help_panel=TARGET)
]
Unaligned = Annotated[
    str,
    typer.Option(
        help="Where the voice is silent: skip, next (the best of those who speak), or onehot as the papers.",
        rich_help_panel=TARGET,
    ),
]
Collide = Annotated[
    str, typer.Option(help="Tokens that become one: sum, or first as the papers.", rich_help_panel=TARGET)
]
Rest = Annotated[
    bool, typer.Option("--rest/--no-rest", help="Keep the mass outside the top k, as one.", rich_help_panel=TARGET)
]
TopTokens = Annotated[int, typer.Option("--top-k", help="Tokens of each prediction.", rich_help_panel=TARGET)]
Parity = Annotated[
    str | None,
    typer.Option(help="All that fusellm's or fusechat's code chose, for comparison.", rich_help_panel=MATCH),
]
Share = Annotated[
    float, typer.Option("--text-share", help="Of the text's own loss: the papers' lambda.", rich_help_panel=TARGET)
]
DivergenceName = Annotated[
    str,
    typer.Option(
        "--divergence",
        help="forward, reverse, uld (by rank, no map needed) or hybrid (by rank what the student lacks: GOLD).",
        rich_help_panel=TARGET,
    ),
]
Temperature = Annotated[float, typer.Option(help="Softens the student's predictions.", rich_help_panel=TARGET)]
Stores = Annotated[
    Path | None,
    typer.Option("--teacher-store", help="Folder of predictions, for later runs too.", rich_help_panel=WHO),
]
Adapters = Annotated[bool, typer.Option("--adapters", help="Train LoRA adapters, not everything.", rich_help_panel=HOW)]
Rank = Annotated[int, typer.Option(help="Of the adapters.", rich_help_panel=HOW)]
Alpha = Annotated[float, typer.Option(help="The adapters count alpha / rank times.", rich_help_panel=HOW)]
Steps = Annotated[int | None, typer.Option(help="[default: the epochs]", rich_help_panel=HOW)]
Epochs = Annotated[float, typer.Option(help="Times that the texts are read.", rich_help_panel=HOW)]
LearningRate = Annotated[float, typer.Option(help="Largest of the schedule.", rich_help_panel=HOW)]
Batch = Annotated[int, typer.Option("--batch-size", help="Windows a step.", rich_help_panel=HOW)]
ScheduleName = Annotated[str, typer.Option("--schedule", help="cosine, linear or constant.", rich_help_panel=HOW)]
Warmup = Annotated[float, typer.Option(help="Share of the steps in which the rate grows.", rich_help_panel=HOW)]
Texts = Annotated[
    str,
    typer.Option(
        help="alpaca, python, hf:NAME[:CONFIG][:SPLIT], or a FILE of texts or conversations (ShareGPT, messages).",
        rich_help_panel="Texts",
    ),
]
Samples = Annotated[int, typer.Option(help="Texts or conversations to learn from.", rich_help_panel="Texts")]
HeldOut = Annotated[
    str | None, typer.Option(help="Text to judge by. [default: a part of --texts]", rich_help_panel="Texts")
]
Length = Annotated[
    int | None, typer.Option(help="Most tokens a window. [default: 1024, or the context]", rich_help_panel="Texts")
]

RUN = ("learning_rate", "schedule", "warmup", "precision", "checkpointing", "evaluate_every")
SAME = (
    *(
        "student",
        "texts",
        "samples",
        "length",
        "itself",
        "align",
        "inside",
        "divergence",
        "temperature",
        "steps",
        "epochs",
    ),
    *("parity", "seed", "trust_remote_code", "family", "dtype", "device"),
)
"""Options that a wish has by the same name."""
RULES = ("fusion", "level", "score", "unaligned", "collide", "rest")


def wish_of(given: Mapping[str, Any]) -> Any:
    """What the options ask for."""
    from remodeler.fusion.config import Wish
    from remodeler.fusion.targets import Rules
    from remodeler.training.adapters import Lora

    return Wish(
        teachers=tuple(given["teachers"]),
        heldout=given["held_out"],
        k=given["top_k"],
        map=given["map_name"],
        rules=Rules(**{name: given[name] for name in RULES}),
        share=given["text_share"],
        lora=Lora(given["rank"], given["alpha"]) if given["adapters"] else None,
        stores=given["teacher_store"],
        run={name: given[name] for name in RUN} | {"batch": given["batch_size"], "micro": given["micro_batch"]},
        **{name: given[name] for name in SAME},
    )

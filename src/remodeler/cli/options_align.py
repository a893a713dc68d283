"""The options of ``remodel align``: their names, help texts and panels, and what they ask for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

DATA, LABEL, HOW, ANSWER, FILTER = "Data", "Labels", "How fast", "How the policy answers", "What is accepted"

Model = Annotated[str, typer.Argument(help="The model to make a reviser of: a folder or a hub id.", show_default=False)]
Policy = Annotated[str, typer.Argument(help="The model that improves: a folder or a hub id.", show_default=False)]
Preferences = Annotated[
    str,
    typer.Option(
        help="Preferences: a .jsonl, .json or .parquet FILE, or hf:NAME[:CONFIG][:SPLIT].",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
Prompts = Annotated[
    str,
    typer.Option(
        help="Prompts without answers: .txt (a line each), .jsonl, .json, .csv, .parquet, or hf:NAME.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
Responses = Annotated[
    str,
    typer.Option(help="Prompts with responses, as --prompts has prompts.", rich_help_panel=DATA, show_default=False),
]
Reviser = Annotated[str, typer.Option(help="A folder that train-reviser wrote.", show_default=False)]
Samples = Annotated[int | None, typer.Option(help="Use so many triples. [default: all]", rich_help_panel=DATA)]
HeldOut = Annotated[
    float, typer.Option("--held-out", help="Share of the prompts that is held out.", rich_help_panel=DATA)
]
Lower = Annotated[
    int | None,
    typer.Option("--pairs", help="Of a list of answers: pairs a prompt. [default: all]", rich_help_panel=DATA),
]
Gap = Annotated[
    float, typer.Option("--score-gap", help="Of a list of answers: least gap in score.", rich_help_panel=DATA)
]
Length = Annotated[
    int | None, typer.Option(help="Most tokens of an example. [default: the context, 2048]", rich_help_panel=DATA)
]
Template = Annotated[
    Path | None, typer.Option(help="JSON with other words around prompt and response.", rich_help_panel=LABEL)
]
Measure = Annotated[
    str, typer.Option("--difficulty", help="What makes MAJOR: gain, perplexity or edit.", rich_help_panel=LABEL)
]
Major = Annotated[
    float, typer.Option("--major-share", help="Share of the triples that are MAJOR.", rich_help_panel=LABEL)
]
NoneShare = Annotated[
    float, typer.Option("--none-share", help="Share of all examples that are to stay.", rich_help_panel=LABEL)
]
Floor = Annotated[
    float | None, typer.Option("--gain-floor", help="Triples with a lower gain are NONE too.", rich_help_panel=LABEL)
]
LabelWeight = Annotated[float, typer.Option(help="What a label counts beside a whole text.", rich_help_panel=LABEL)]
WarmupEpochs = Annotated[
    float, typer.Option("--warm-up-epochs", help="Epochs of the warm-up reviser.", rich_help_panel=HOW)
]
Identity = Annotated[
    float, typer.Option("--copies", help="Of the warm-up: examples of copying, a share.", rich_help_panel=HOW)
]
Afresh = Annotated[
    bool,
    typer.Option(
        "--afresh/--from-warm-up", help="The adaptive reviser starts from the model itself.", rich_help_panel=HOW
    ),
]
Epochs = Annotated[float, typer.Option(help="Times that the examples are read.", rich_help_panel=HOW)]
LearningRate = Annotated[float | None, typer.Option(help="[default: 2e-5, with --adapters 2e-4]", rich_help_panel=HOW)]
Batch = Annotated[int, typer.Option("--train-batch", help="Examples a step.", rich_help_panel=HOW)]
Rounds = Annotated[str, typer.Option(help="internal (its best answer) and external (revised), by commas.")]
Restart = Annotated[
    bool,
    typer.Option("--restart/--continue", help="Train each round from the first policy.", rich_help_panel=HOW),
]
Limit = Annotated[int | None, typer.Option(help="Use the first so many. [default: all]", rich_help_panel=DATA)]
Probe = Annotated[
    int, typer.Option(help="Prompts set aside to look at the policy, a tenth at most.", rich_help_panel=DATA)
]
Tokens = Annotated[int, typer.Option(help="At most so many in an answer or a revision.", rich_help_panel=ANSWER)]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.", rich_help_panel=ANSWER)]
TopP = Annotated[
    float, typer.Option("--top-p", help="Draw from the likeliest tokens with this share.", rich_help_panel=ANSWER)
]
Answers = Annotated[int, typer.Option("--samples", help="Answers to each prompt.", rich_help_panel=ANSWER)]
Chat = Annotated[bool, typer.Option("--chat", help="Prompts are turns of a user.", rich_help_panel=ANSWER)]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Texts made at once.", rich_help_panel=ANSWER)]
Labels = Annotated[
    bool,
    typer.Option(
        "--labels/--no-labels", help="Without: revise every first answer (a control).", rich_help_panel=FILTER
    ),
]
Quality = Annotated[
    float, typer.Option("--min-quality", help="Of an answer that is kept as it is.", rich_help_panel=FILTER)
]
Confidence = Annotated[float, typer.Option("--min-confidence", help="Of a label.", rich_help_panel=FILTER)]
MajorConfidence = Annotated[float, typer.Option("--major-confidence", help="Of MAJOR.", rich_help_panel=FILTER)]
Slack = Annotated[
    float, typer.Option("--quality-slack", help="By so much quality may fall in a revision.", rich_help_panel=FILTER)
]
Shortest = Annotated[
    float, typer.Option("--shortest", help="Least length of a revision, relative.", rich_help_panel=FILTER)
]
Longest = Annotated[
    float, typer.Option("--longest", help="Greatest length of a revision, relative.", rich_help_panel=FILTER)
]
Repetition = Annotated[
    float, typer.Option("--max-repetition", help="Share of 4-grams that came before.", rich_help_panel=FILTER)
]
Method = Annotated[str, typer.Option("--method", help="sft, dpo or orpo (these two need trl).")]
Beta = Annotated[float, typer.Option(help="Of dpo and orpo.", rich_help_panel=HOW)]

Questions = Annotated[
    str,
    typer.Option(
        help="Prompts, or MT-Bench's question.jsonl with --form mt_bench.", rich_help_panel=DATA, show_default=False
    ),
]
ReviserModel = Annotated[
    str | None, typer.Option(help="What the reviser is made of. [default: the policy]", rich_help_panel=DATA)
]
File = Annotated[Path, typer.Option("--out", help="The new file.", show_default=False)]
Form = Annotated[str, typer.Option("--form", help="alpaca_eval (.json) or mt_bench (.jsonl).")]
AnswerFile = Annotated[
    Path,
    typer.Argument(
        help="AlpacaEval's outputs or annotations (.json), or MT-Bench's judgements (.jsonl).", show_default=False
    ),
]
Against = Annotated[Path | None, typer.Option(help="Outputs of the baseline.", show_default=False)]
Policies = Annotated[list[str], typer.Argument(help="Models: folders or hub ids.", show_default=False)]
Maybe = Annotated[str | None, typer.Option("--reviser", help="Judges the answers too.", show_default=False)]
Kept = Annotated[
    Path | None, typer.Option("--out", help="New folder for record.json and report.html.", show_default=False)
]
JudgeName = Annotated[str | None, typer.Option("--judge", help="A local model, or a reviser.", show_default=False)]
By = Annotated[str, typer.Option("--by", help="likelihood (of a model), or reviser (its quality).")]
Annotations = Annotated[
    Path | None, typer.Option("--out", help="New file for the annotations, as AlpacaEval has them.", show_default=False)
]

RUN = ("learning_rate", "schedule", "warmup", "precision", "checkpointing")
LOADING = ("family", "trust_remote_code", "dtype", "device")
READING = ("model", "preferences", "samples", "gap", "length", "seed")


def _course(given: Mapping[str, Any]) -> Any:
    from remodeler.alignment.config import Course
    from remodeler.training.adapters import Lora

    run = {name: given[name] for name in RUN} | {"batch": given["train_batch"], "micro": given["micro_batch"]}
    lora = Lora(given["rank"], given["alpha"]) if given["adapters"] else None
    return Course(given["epochs"], lora, given["seed"], run)


def _loading(given: Mapping[str, Any]) -> Any:
    from remodeler.alignment.config import Loading

    return Loading(**{name: given[name] for name in LOADING})


def reviser_wish(given: Mapping[str, Any]) -> Any:
    """What ``train-reviser`` is asked for."""
    from remodeler.alignment.config import ReviserWish, Rule

    return ReviserWish(
        **{name: given[name] for name in (*READING, "template", "label_weight", "afresh", "warmup_epochs", "identity")},
        heldout=given["held_out"],
        lower=given["pairs"],
        rule=Rule(given["difficulty"], given["major_share"], given["none_share"], given["gain_floor"]),
        course=_course(given),
        loading=_loading(given),
    )


def revise_wish(given: Mapping[str, Any]) -> Any:
    """What ``revise`` is asked for."""
    from remodeler.alignment.config import ReviseWish

    names = ("responses", "reviser", "tokens", "limit")
    return ReviseWish(**{name: given[name] for name in names}, size=given["batch_size"], loading=_loading(given))


def evolve_wish(given: Mapping[str, Any]) -> Any:
    """What ``evolve`` is asked for."""
    from remodeler.alignment.config import EvolveWish, Limits
    from remodeler.generation.sampling import Sampling

    said = {name: given[name] for name in ("tokens", "temperature", "top_p", "chat")}
    limits = {name: given[name] for name in ("shortest", "longest", "confidence", "quality", "slack")}
    return EvolveWish(
        **{
            name: given[name] for name in ("model", "prompts", "reviser", "limit", "probe", "labels", "restart", "seed")
        },
        rounds=tuple(each.strip() for each in given["rounds"].split(",") if each.strip()),
        sampling=Sampling(samples=given["samples"], **said),
        limits=Limits(**limits, repetition=given["repetition"], major=given["major_confidence"]),
        size=given["batch_size"],
        course=_course(given),
        loading=_loading(given),
    )


def baseline_wish(given: Mapping[str, Any]) -> Any:
    """What ``baseline`` is asked for."""
    from remodeler.alignment.config import BaselineWish

    return BaselineWish(
        **{name: given[name] for name in (*READING, "method", "chat", "beta")},
        heldout=given["held_out"],
        lower=given["pairs"],
        course=_course(given),
        loading=_loading(given),
    )


def answer_wish(given: Mapping[str, Any]) -> Any:
    """What ``answer`` is asked for."""
    from remodeler.alignment.judging.job import AnswerWish
    from remodeler.generation.sampling import Sampling

    said = {name: given[name] for name in ("tokens", "temperature", "top_p", "chat", "seed")}
    names = ("model", "questions", "form", "limit")
    wanted = {name: given[name] for name in names} | {"size": given["batch_size"]}
    return AnswerWish(**wanted, sampling=Sampling(**said), loading=_loading(given))


def judge_wish(given: Mapping[str, Any]) -> Any:
    """What ``judge`` is asked for."""
    from remodeler.alignment.judging.job import JudgeWish

    return JudgeWish(**{name: given[name] for name in ("answers", "against", "judge", "by")}, loading=_loading(given))


def compare_wish(given: Mapping[str, Any]) -> Any:
    """What ``compare`` is asked for."""
    from remodeler.alignment.judging.compare import CompareWish
    from remodeler.generation.sampling import Sampling

    said = {name: given[name] for name in ("tokens", "temperature", "top_p", "chat", "seed")}
    names = ("preferences", "reviser", "samples")
    return CompareWish(
        tuple(given["policies"]),
        **{name: given[name] for name in names},
        sampling=Sampling(**said),
        size=given["batch_size"],
        loading=_loading(given),
    )

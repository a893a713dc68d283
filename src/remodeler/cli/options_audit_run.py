"""The options of ``remodel audit`` for texts and models, and of ``remodel audit lexicon``; and what they ask for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT, WRITES, FINDS = "What is audited", "How a model completes", "What finds spans"

Model = Annotated[
    str | None, typer.Argument(help="A model folder or a hub id: what it writes is audited.", show_default=False)
]
Texts = Annotated[
    Path | None,
    typer.Option(help="Audit texts: .csv, .jsonl, .json, .parquet, or .txt (one a line).", rich_help_panel=WHAT),
]
Prompts = Annotated[
    str | None,
    typer.Option(
        help="What the model completes: .txt, .csv, .jsonl, .json, .parquet or hf:NAME[:CONFIG][:SPLIT].",
        rich_help_panel=WHAT,
    ),
]
Against = Annotated[
    str | None, typer.Option(help="A second model: the same prompts, and the difference.", rich_help_panel=WHAT)
]
Words = Annotated[
    int | None, typer.Option("--prompt-words", help="Keep the first words of each prompt.", rich_help_panel=WHAT)
]
Limit = Annotated[int | None, typer.Option(help="Audit the first prompts or texts only.", rich_help_panel=WHAT)]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out rows that can't be read, and count them.", rich_help_panel=WHAT)
]
Tokens = Annotated[int, typer.Option(help="At most so many in a completion.", rich_help_panel=WRITES)]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.", rich_help_panel=WRITES)]
TopP = Annotated[
    float, typer.Option("--top-p", help="Draw from the likeliest tokens with this share.", rich_help_panel=WRITES)
]
Samples = Annotated[int, typer.Option(help="Completions of each prompt.", rich_help_panel=WRITES)]
Chat = Annotated[bool, typer.Option("--chat", help="Prompts are turns of a user.", rich_help_panel=WRITES)]
BatchSize = Annotated[int | None, typer.Option(help="Completions made at once.", rich_help_panel=WRITES)]
Seed = Annotated[int, typer.Option(help="Of completions and intervals.", rich_help_panel=WRITES)]
Detector = Annotated[
    str,
    typer.Option(
        help="lexicon (travels along), a lexicon's file, a tagger's folder, or any Hugging Face classifier "
        "of tokens or of sequences.",
        rich_help_panel=FINDS,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Probability from which a classifier or tagger counts. [default: 0.5, or the tagger's]",
        show_default=False,
        rich_help_panel=FINDS,
    ),
]
Labels = Annotated[
    str, typer.Option(help="Of a classifier: those that count, by commas. [default: all]", rich_help_panel=FINDS)
]
Whole = Annotated[
    bool,
    typer.Option("--whole/--sentences", help="Of sequences: judge whole texts, or sentences.", rich_help_panel=FINDS),
]
Quotes = Annotated[bool, typer.Option("--show-quotes", help="Print what was found, offensive words in the clear.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="New folder for record.json, report.html, spans.jsonl.", show_default=False),
]

Learned = Annotated[Path, typer.Option("--texts", help="Texts with their spans: .csv or .jsonl.", show_default=False)]
File = Annotated[Path, typer.Option("--out", help="The new lexicon, .json.", show_default=False)]
Rate = Annotated[float, typer.Option(help="Least share of a word's occurrences that lie inside spans.")]
Hits = Annotated[int, typer.Option(help="Least number of them.")]
Without = Annotated[str, typer.Option(help="Words to leave out, by commas: names of groups of people, say.")]
Hashed = Annotated[bool, typer.Option("--hashed", help="Write marks of the words, not the words.")]


def wish_of(given: Mapping[str, Any]) -> Any:
    """What the options ask for."""
    from remodeler.auditing.config import Wish
    from remodeler.auditing.detectors.classifiers import Settings
    from remodeler.generation.sampling import Sampling

    names = ("tokens", "temperature", "top_p", "samples", "chat", "seed")
    settings = {name: given[name] for name in ("threshold", "whole", "device", "dtype", "trust_remote_code")}
    same = ("texts", "prompts", "limit", "batch_size", "detector", "skip_bad", "revision", "family")
    return Wish(
        models=tuple(each for each in (given["model"], given["against"]) if each),
        words=given["prompt_words"],
        sampling=Sampling(**{name: given[name] for name in names}),
        settings=Settings(labels=tuple(each for each in given["labels"].split(",") if each), **settings),
        **{name: given[name] for name in same},
    )

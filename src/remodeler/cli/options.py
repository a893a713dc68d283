"""Options of the verbs: their names, help texts and panels, and how their values are read."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from remodeler.errors import InputError

Model = Annotated[str, typer.Argument(help="A model folder or a hub id, as `Qwen/Qwen3-0.6B`.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="New folder for the result.", show_default=False)]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel="Model")]
FamilyName = Annotated[
    str | None,
    typer.Option("--family", help="Family that remote code looks like, as `llama`.", rich_help_panel="Model"),
]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run modelling code of the checkpoint.", rich_help_panel="Model")
]
Dtype = Annotated[
    str, typer.Option(help="Compute in auto (as stored), float32, bfloat16 or float16.", rich_help_panel="Model")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel="Model")]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Read layers from the disk as a pass reaches them: a model larger than memory.",
        rich_help_panel="Model",
    ),
]
Push = Annotated[
    str | None,
    typer.Option("--push-to-hub", help="Put the result on the hub, private, as USER/MODEL.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and how long it would take.")]
Ratio = Annotated[
    str | None, typer.Option(help="Share of the parameters to remove, as 0.25 or 25%.", rich_help_panel="How much")
]
Remove = Annotated[
    int | None, typer.Option(help="Number of blocks (or layers, or pairs) to remove.", rich_help_panel="How much")
]
Increase = Annotated[
    str | None,
    typer.Option(
        "--max-perplexity-increase",
        help="Stop before calibration perplexity rises by more, as 20%.",
        rich_help_panel="How much",
    ),
]
FormName = Annotated[
    str,
    typer.Option("--form", help="auto (the best that can hold), stock, packed or portable.", rich_help_panel="Result"),
]
TextSource = Annotated[
    str,
    typer.Option(
        help="alpaca, wikitext2, c4, python (offline), hf:NAME[:CONFIG][:SPLIT], "
        "or a FILE (.txt .jsonl .json .csv .parquet).",
        rich_help_panel="Texts",
    ),
]
Samples = Annotated[
    int, typer.Option(help="Texts to calibrate on, whole; as many are held out.", rich_help_panel="Texts")
]
Length = Annotated[
    int | None, typer.Option(help="Tokens a window. [default: 2048, or the model's context]", rich_help_panel="Texts")
]
PackingName = Annotated[
    str,
    typer.Option(
        "--packing", help="paper: joined and cut into equal windows; per-text: a window each.", rich_help_panel="Texts"
    ),
]
Seed = Annotated[int, typer.Option(help="Of the sampling.", rich_help_panel="Texts")]

MethodName = Annotated[
    str,
    typer.Option(
        help="Blocks or layers: blockpruner, finercut, shortened-llama, shortgpt, sleb, llm-drop, gradient, "
        "size-weighted, one-shot, random. Heads and channels: policy-gradient, hybrid-grained.",
        rich_help_panel="How",
    ),
]
CriterionName = Annotated[
    str | None,
    typer.Option(
        "--criterion",
        help="Another measure of importance than the method's: perplexity, rise_by_size, js, js-released, kl, angular, "
        "norm, gradient, second-order, taylor, magnitude, block-influence, relative-magnitude, random.",
        show_default=False,
        rich_help_panel="How",
    ),
]
UnitName = Annotated[
    str, typer.Option("--unit", help="What goes at once: block, attention, mlp or layer.", rich_help_panel="How")
]
ShapeName = Annotated[
    str,
    typer.Option(
        "--shape",
        help="free; standard: what is left is a stock model with fewer layers; deci: no attention without an MLP.",
        rich_help_panel="How",
    ),
]
Protect = Annotated[bool, typer.Option(help="Keep the layers that the method's paper keeps.", rich_help_panel="How")]
SearchName = Annotated[
    str,
    typer.Option(
        "--search",
        help="exact; race: losing candidates leave early; propose: exact among those the gradient names.",
        rich_help_panel="How",
    ),
]
ErrorShare = Annotated[
    str,
    typer.Option("--error", help="Of a race: chance that the search ever drops the best.", rich_help_panel="How"),
]
Refine = Annotated[
    bool,
    typer.Option(
        "--refine", help="Afterwards swap removed blocks back for others while perplexity falls.", rich_help_panel="How"
    ),
]
Start = Annotated[
    Path | None, typer.Option("--from", help="Go on from an earlier removals.jsonl.", rich_help_panel="How")
]
BatchSize = Annotated[int | None, typer.Option(help="Windows a mini-batch.", rich_help_panel="How")]
Then = Annotated[
    str | None,
    typer.Option(
        "--then",
        help="After the blocks, heads and channels: width (the best), policy-gradient or hybrid-grained.",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]
BlocksShare = Annotated[
    str,
    typer.Option(
        "--blocks-share", help="With --then: share of the ratio that blocks take.", rich_help_panel="Heads and channels"
    ),
]
Uniform = Annotated[
    bool | None,
    typer.Option(
        "--uniform",
        help="The same widths in every layer, so that the result is a stock model.",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]
Multiple = Annotated[
    int | None,
    typer.Option(
        help="Keep a multiple of so many channels.  [default: 1]",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]
Granularity = Annotated[
    str | None,
    typer.Option(
        help="groups (heads and channels), heads, channels; policy-gradient also block, layer.  [default: groups]",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Of policy-gradient: batches to learn from.  [default: 1000]",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]
Score = Annotated[
    str | None,
    typer.Option(
        help="Of policy-gradient: exact score function, or root, the released code's.  [default: exact]",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]
Initial = Annotated[
    str | None,
    typer.Option(
        help="Of policy-gradient: first probabilities by sigmap or norm of wanda's scores, or constant.  "
        "[default: sigmap]",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]
Fusion = Annotated[
    str | None,
    typer.Option(
        help="Of hybrid-grained: adaptive, or one half alone, fine or coarse.  [default: adaptive]",
        show_default=False,
        rich_help_panel="Heads and channels",
    ),
]


CHOICES = {
    "packing": ("paper", "per-text"),
    "unit": ("block", "attention", "mlp", "layer"),
    "shape": ("free", "standard", "deci"),
}
WIDTH_OPTIONS = ("uniform", "multiple", "granularity", "steps", "score", "initial", "fusion")
"""Those that the choice of heads and channels takes; what is not given has the method's default."""


class Verb(TyperCommand):
    """A command that refuses NaN and infinities: no option has a use for them, and a record can't hold them."""

    def invoke(self, ctx: Any) -> Any:
        """Look at the numbers, then run.

        Raises:
            InputError: for the first that is none.
        """
        for each in self.params:
            value = ctx.params.get(each.name or "")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{each.opts[0]} {value} was given, a finite number was expected: choose one")
        return super().invoke(ctx)


# How values are read --------------------------------------------------------------------------------------------------


def fields_of(value: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a dataclass's fields, by name."""
    return {each.name: given[each.name] for each in fields(value) if each.name in given}


def refuse_unknown(given: Mapping[str, Any]) -> None:
    """Raise for a value that is none of its option's."""
    for option, allowed in CHOICES.items():
        if option in given and given[option] not in allowed:
            raise InputError(f"--{option} {given[option]!r} is not known: choose {', '.join(allowed)}")


def share(option: str, text: str) -> float:
    """``25%`` and ``0.25`` alike."""
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise InputError(f"--{option} {text!r} is not a number: give a share as 0.25 or 25%") from None


def refuse_unpublishable(name: str | None) -> None:
    """Ask the hub before a run, not after it."""
    if name is not None:
        from remodeler.checkpoint.publish import refuse_unpublishable as refuse

        refuse(name)


def published(out: Path, name: str | None) -> None:
    """Put a result on the hub, where that was asked for."""
    if name is not None:
        from remodeler.checkpoint.publish import publish
        from remodeler.cli.screen import say

        say(publish(out, name))

"""The options of ``remodel merge``: their names, help texts and panels, and how their values are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT, HOW, RESULT = "What is merged", "How", "Result"

Models = Annotated[
    list[str] | None,
    typer.Argument(help="Model folders or hub ids, of one shape.", show_default=False),
]
Base = Annotated[
    str | None,
    typer.Option(help="The model that the others were made from.", rich_help_panel=WHAT, show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="A YAML file written for mergekit, in place of models and options; with mergekit's defaults.",
        rich_help_panel=WHAT,
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Merge embedding rows by token, where vocabularies differ: base (into the base's) or union (all tokens).",
        rich_help_panel=WHAT,
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="linear, slerp, task_arithmetic, ties, breadcrumbs, breadcrumbs_ties, dare_linear, dare_ties, della, "
        "della_linear, varm, sce.  [default: linear]",
        rich_help_panel=HOW,
        show_default=False,
    ),
]


def _how(words: str, *names: str) -> Any:
    """An option of a method, whose default is told in words: it is the method's."""
    return typer.Option(*names, help=words, rich_help_panel=HOW, show_default=False)


Weight = Annotated[
    list[str] | None,
    _how(
        "How much a model counts: once, or once a model. A number, a gradient over the depth (`0:0.5:1`), or by "
        "tensor (`self_attn=0.3,mlp=0:1,0.5`).  [default: 1]"
    ),
]
Density = Annotated[
    list[str] | None,
    _how("Share of the changes that stay; written as --weight.  [default: ties 0.2, breadcrumbs 0.9, else 0.5]"),
]
Gamma = Annotated[list[str] | None, _how("Of breadcrumbs: share of largest changes that go.  [default: 0.01]")]
Epsilon = Annotated[list[str] | None, _how("Of della: how far probabilities reach from the density.  [default: 0.15]")]
Scale = Annotated[str | None, _how("All changes times this: the papers' lambda.  [default: 1]")]
Place = Annotated[str | None, _how("Of slerp: 0 is the first model, 1 the second.  [default: 0.5]", "--t")]
Normalize = Annotated[
    bool | None,
    _how("Divide by the sum of the weights. [default: linear, ties, della: yes]", "--normalize/--no-normalize"),
]
Rescale = Annotated[
    bool | None, _how("Of dare, della: make up for what was dropped. [default: yes]", "--rescale/--no-rescale")
]
Select = Annotated[str | None, _how("Of sce: share of elements, those that vary most.  [default: 0.1]")]
Variant = Annotated[
    str | None,
    _how("Of sce: paper, fuseai or mergekit; of slerp, dare, della: paper or mergekit.  [default: paper]"),
]
Granularity = Annotated[str | None, _how("Of varm: one weight a tensor, layer or model.  [default: tensor]")]
Dtype = Annotated[
    str, typer.Option(help="Of the result: auto (as the base), float32, bfloat16, float16.", rich_help_panel=RESULT)
]
ShardSize = Annotated[str, typer.Option(help="Largest weight file, as 5GB.", rich_help_panel=RESULT)]

NUMBERS = ("weight", "density", "gamma", "epsilon", "scale", "t", "select")
WORDS = ("normalize", "rescale", "variant", "granularity")


def parts(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a method's options, as settings."""
    from remodeler.merging.settings import parsed

    numbers = {name: given[name] for name in NUMBERS if given[name] is not None}
    settings = {
        name: [parsed(name, each) for each in (value if isinstance(value, list) else [value])]
        for name, value in numbers.items()
        if value != []
    }
    return settings | {name: given[name] for name in WORDS if given[name] is not None}

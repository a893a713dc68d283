"""The verb ``remodel export``: paths in, paths out, no logic."""

from pathlib import Path
from typing import Annotated

import typer

from remodeler.cli import options as opt

WHAT, FILE, HOW = "What", "A GGUF file", "How"
Model = Annotated[str | None, typer.Argument(help="A model, pruned or not: a folder or a hub id.", show_default=False)]
To = Annotated[
    str,
    typer.Option(
        help="gguf (llama.cpp), nemotron (vLLM's own class, mlx-lm, SGLang), onnx or executorch.", rich_help_panel=WHAT
    ),
]
Store = Annotated[
    str, typer.Option(help="gguf: what matrices are stored in: f32, f16, bf16, q8_0.", rich_help_panel=WHAT)
]
TokenizerFrom = Annotated[
    Path | None,
    typer.Option(help="gguf: a GGUF file of the unpruned model, whose tokenizer is copied.", rich_help_panel=WHAT),
]
Gguf = Annotated[
    Path | None, typer.Option(help="Take blocks out of this unpruned file, quantised or not.", rich_help_panel=FILE)
]
Removals = Annotated[
    Path | None, typer.Option(help="The removals.jsonl that says which blocks, or its folder.", rich_help_panel=FILE)
]
Steps = Annotated[int | None, typer.Option(help="Only its first so many steps. [default: all]", rich_help_panel=FILE)]
Check = Annotated[
    bool, typer.Option("--check/--no-check", help="Read the result back and compare logits.", rich_help_panel=HOW)
]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="nemotron: the Python of an environment with vLLM or mlx-lm, which read the result too. [default: this]",
        rich_help_panel=HOW,
        show_default=False,
    ),
]


def export(
    out: opt.Out,
    model: Model = None,
    to: To = "gguf",
    store: Store = "f16",
    tokenizer_from: TokenizerFrom = None,
    gguf: Gguf = None,
    removals: Removals = None,
    steps: Steps = None,
    check: Check = True,
    runtime: Runtime = None,
    dtype: opt.Dtype = "auto",
    family: opt.FamilyName = None,
    trust_remote_code: opt.Trust = False,
    dry_run: opt.DryRun = False,
) -> None:
    """Write a pruned model so that another runtime runs it, faster than the whole one.

    vLLM needs no export: install this package beside it, and it serves the packed folder as it is.

    Example: `remodel export pruned --to gguf --store q8_0 --out pruned.gguf`

    Example: `remodel export pruned --to onnx --out pruned-onnx`

    Example: `remodel export --gguf whole-Q4_K_M.gguf --removals pruned/removals.jsonl --out pruned-Q4_K_M.gguf`
    """
    from remodeler.cli.screen import say
    from remodeler.exporting.config import Wish
    from remodeler.exporting.job import export as run

    form = (model, to, store, tokenizer_from, gguf, removals, steps, check)
    wish = Wish(*form, dtype, family, trust_remote_code, runtime)
    run(wish, out, dry_run)
    if not dry_run:
        say(f"{out}: {to if gguf is None else 'gguf'}")

"""Verbs whose options are not declared on a config yet."""

import typer

from remodeler.cli import align_run
from remodeler.cli import options as opt
from remodeler.cli.merge import fuse, merge

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make new language models out of existing ones, without training from scratch.",
    epilog="Try it now, offline: `remodel demo`. Each verb explains itself: `remodel prune --help`.",
)


app.command(cls=opt.Verb)(merge)
app.command(cls=opt.Verb)(fuse)
app.add_typer(align_run.app, name="align")

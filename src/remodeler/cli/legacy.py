"""Verbs whose options are not declared on a config yet."""

import typer

from remodeler.cli.audit import audit

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make new language models out of existing ones, without training from scratch.",
    epilog="Try it now, offline: `remodel demo`. Each verb explains itself: `remodel prune --help`.",
)


app.add_typer(audit, name="audit", short_help="Find and count toxic spans in texts, and in what models write.")

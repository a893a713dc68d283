"""A command is made of a config: its flags, its help, and messages that name flags where the library names fields."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from cyclopts import App

from remodeler.cli.command import add_command, flagged, with_flags
from remodeler.cli.screen import messages_as_notes
from remodeler.errors import InputError, option
from remodeler.runs.options import Option, config, listed, specs
from remodeler.runs.shares import share


@config
class Shared:
    """Options of several verbs."""

    depth: Annotated[int | None, Option("Model", low=1, default="all of it")] = None
    """How deep."""


@config
class Verb:
    """Do it.

    Example: `remodel do m --out o`
    """

    model: Annotated[Any, Option(positional=True)]
    """Which model."""
    out: Annotated[Path | None, Option(required=True)] = None
    """New folder."""
    shared: Shared = Shared()
    ratio: Annotated[float, Option("Amount", above=0, below=1, read=share)] = 0.25
    """How much."""
    protect: Annotated[bool, Option("Amount")] = True
    """Keep some."""
    method: Annotated[str, Option("Amount", ("one", "other"))] = "one"
    """Which way."""
    teachers: Annotated[tuple[str, ...], Option("Amount")] = ()
    """Who teaches."""
    names: Annotated[tuple[str, ...], Option("Amount", read=listed)] = ()
    """Names, separated by commas."""
    kinds: Annotated[tuple[str, ...], Option("Amount", read=listed)] = ("inside", "outside")
    """Kinds, separated by commas."""
    weight: Annotated[
        tuple[Any, ...], Option("Amount", low=0, read=partial(share, most=9), repeated=True, default="1")
    ] = ()
    """How much each counts."""
    start: Annotated[Path | None, Option("Amount", flags=("--from",))] = None
    """Where to begin."""


def called(*words: str) -> Verb:
    """The config that a command line makes."""
    app = App(name="remodel", result_action="return_value", exit_on_error=False, print_error=False)
    made: list[Verb] = []
    add_command(app, "do", Verb, made.append)
    app(["do", *words])
    (found,) = made
    return found


def test_words_become_a_config() -> None:
    line = "m --out o --depth 3 --ratio 30% --no-protect --teachers a --teachers b --names c,d --from log.jsonl"
    assert called(*line.split(), *["--weight", "2", "--weight", "50%"]) == Verb(
        model="m",
        out=Path("o"),
        shared=Shared(depth=3),
        ratio=0.3,
        protect=False,
        teachers=("a", "b"),
        names=("c", "d"),
        weight=(2.0, 0.5),
        start=Path("log.jsonl"),
    )
    assert called("m", "--out", "o") == Verb(model="m", out=Path("o"))
    assert called("m", "--out", "o", "--kinds", "outside").kinds == ("outside",)


def test_defaults_are_not_typed_where_pydantic_checks_what_is() -> None:
    pytest.importorskip("pydantic")
    assert called("m", "--out", "o").kinds == ("inside", "outside")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("m --out o --ratio 25", "--ratio 25: a share above 1 needs a percent sign: did you mean 25%?"),
        ("m --out o --ratio 200%", "--ratio must be > 0 and < 1 (got 2)"),
        ("m --out o --weight 20", "--weight 20: a share above 9 needs a percent sign: did you mean 20%?"),
        ("m --out o --ratio -5%", "--ratio must be > 0 and < 1 (got -0.05)"),
        ("m --out o --weight 1 --weight -1", "--weight must be >= 0 (got -1)"),
        ("m --out o --depth 0", "--depth must be >= 1 (got 0)"),
        ("m --out o --method xyz", "--method 'xyz' is unknown: choose one, other"),
    ],
)
def test_what_is_refused_names_flags(words: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        called(*words.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (f"{option('ratio')} is too much", "--ratio is too much"),
        (f"add {option('method', 'other')}", "add --method other"),
        (f"add {option('protect', False)}", "add --no-protect"),
        (f"add {option('protect', True)}", "add --protect"),
        (f"{option('start')} is not there", "--from is not there"),
        (f"{option('model')} is not there", "MODEL is not there"),
        ("run `pip install x` or `make`", "run `pip install x` or `make`"),
    ],
)
def test_fields_become_flags_and_nothing_else_does(message: str, shown: str) -> None:
    assert flagged(message, {spec.name: spec for spec in specs(Verb)}) == shown


def test_help_says_what_the_config_says(capsys: pytest.CaptureFixture[str]) -> None:
    app = App(name="remodel", result_action="return_value")
    add_command(app, "do", Verb, lambda _: None)
    app(["do", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "Do it.",
        "How deep. [default: all of it]",
        "[default: 25%]",
        "--protect --no-protect",
        "--from",
    ):
        assert words in text
    assert "How much each counts. [default: 1]" in text
    assert "Arguments" in text
    assert "Which model." in text


def test_several_models_are_given_one_after_the_other() -> None:
    @config
    class Several:
        """Merge."""

        models: Annotated[tuple[Any, ...], Option(positional=True)] = ()
        out: Annotated[Path | None, Option(required=True)] = None

    app = App(name="remodel", result_action="return_value", exit_on_error=False, print_error=False)
    made: list[Several] = []
    add_command(app, "do", Several, made.append)
    app(["do", "a", "b", "--out", "o"])
    app(["do", "--out", "o"])
    assert [each.models for each in made] == [("a", "b"), ()]


def test_what_the_library_notes_names_flags_too(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("remodeler.somewhere")
    with messages_as_notes():
        with_flags(Verb, lambda: logger.warning("add %s", option("method", "other")))
        logger.warning("add %s", option("method", "other"))
    assert capsys.readouterr().err == "add --method other\nadd `method='other'`\n"

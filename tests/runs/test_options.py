"""Options are declared once: what a config says is what a build refuses, a record holds and help shows."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from remodeler.errors import InputError
from remodeler.runs.options import Option, build, config, flat, listed, share, specs


@config
class Inner:
    """Options that several verbs share."""

    dtype: Annotated[str, Option("Model", ("float32", "bfloat16"))] = "float32"
    """What is computed in."""
    count: Annotated[int, Option(low=1)] = 3
    """How many."""


@config
class Outer:
    """A verb."""

    model: Annotated[str, Option(positional=True)]
    """Which model."""
    inner: Inner = Inner()
    ratio: Annotated[float | None, Option(above=0, below=1, read=share)] = None
    """How much."""
    kind: Literal["one", "other"] | None = "one"
    names: Annotated[tuple[str, ...], Option(read=listed)] = ()
    out: Annotated[Path | None, Option(required=True)] = None

    def __post_init__(self) -> None:
        if self.kind == "other" and self.ratio is None:
            raise InputError("`kind='other'` needs a `ratio`")


def test_values_are_put_where_they_belong_and_found_again() -> None:
    made = build(Outer, {"model": "m", "dtype": "bfloat16", "ratio": "25%", "names": "a, b", "out": Path("o")})
    assert made == Outer(model="m", inner=Inner(dtype="bfloat16"), ratio=0.25, names=("a", "b"), out=Path("o"))
    wanted: dict[str, Any] = {"model": "m", "dtype": "bfloat16", "count": 3, "ratio": 0.25, "kind": "one"}
    assert flat(made) == {**wanted, "names": ("a", "b"), "out": "o"}


def test_what_was_built_builds_itself_again() -> None:
    made = build(Outer, {"model": "m", "count": 7, "kind": "other", "ratio": 0.5})
    assert build(Outer, {**flat(made), "out": made.out}) == made


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "`model` must be given"),
        ({"model": "m", "rato": 1}, "`rato` is unknown here: did you mean `ratio`?"),
        ({"model": "m", "quite": 1}, "`quite` is unknown here: options are dtype|`quite` is unknown here: options are"),
        ({"model": "m", "dtype": "float23"}, "`dtype` 'float23' is unknown: did you mean float32?"),
        ({"model": "m", "count": 0}, "`count` must be >= 1 \\(got 0\\)"),
        ({"model": "m", "ratio": 1}, "`ratio` must be > 0 and < 1 \\(got 1\\)"),
        ({"model": "m", "ratio": "half"}, "`ratio='half'`: give a share as 0.25 or 25%"),
        ({"model": "m", "ratio": float("nan")}, "`ratio` must be a finite number"),
        ({"model": "m", "kind": "xyz"}, "`kind` 'xyz' is unknown: choose one, other"),
        ({"model": "m", "kind": "other"}, "needs a `ratio`"),
    ],
)
def test_what_a_config_refuses(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build(Outer, given)


def test_a_config_that_is_made_by_hand_is_checked_too() -> None:
    with pytest.raises(InputError, match="`count` must be >= 1"):
        Inner(count=0)


def test_a_verb_has_its_own_defaults_of_shared_options() -> None:
    @config
    class Own:
        inner: Inner = Inner(count=9)

    assert {spec.name: spec.default for spec in specs(Own)} == {"dtype": "float32", "count": 9}
    assert build(Own, {}).inner == Inner(count=9)
    assert build(Own, {"dtype": "bfloat16"}).inner == Inner(dtype="bfloat16", count=9)


def test_options_know_their_place_and_their_help() -> None:
    found = {spec.name: spec for spec in specs(Outer)}
    assert list(found) == ["model", "dtype", "count", "ratio", "kind", "names", "out"]
    assert found["count"].path == ("inner", "count")
    assert found["count"].help == "How many."
    assert found["kind"].option.choices == ("one", "other")
    assert [name for name, spec in found.items() if spec.required] == ["model", "out"]
    assert found["dtype"].flags == ("--dtype",)

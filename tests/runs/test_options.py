"""Options are declared once: what a config says is what a build refuses, a record holds and help shows."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest

from remodeler.errors import InputError
from remodeler.runs.options import Option, build, config, flat, listed, specs
from remodeler.runs.shares import share
from remodeler.runs.signatures import with_signature


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


def test_an_option_that_is_given_several_times_is_read_one_by_one() -> None:
    @config
    class Own:
        models: tuple[Any, ...] = ()
        shares: Annotated[tuple[Any, ...], Option(above=0, read=share, repeated=True)] = ()

    made = build(Own, {"models": ["a", Path("b")], "shares": [0.25, "30%"]})
    assert (made.models, made.shares) == (("a", Path("b")), (0.25, 0.3))
    assert (build(Own, {"models": "a"}).models, build(Own, {"shares": "10%"}).shares) == (("a",), (0.1,))
    loaded = SimpleNamespace(name="a", anatomy=None)
    assert flat(build(Own, {"models": [loaded, Path("b")]})) == {"models": ("a", "b"), "shares": ()}
    with pytest.raises(InputError, match=r"`shares` must be > 0 .got -1."):
        build(Own, {"shares": [0.25, -1.0]})
    with pytest.raises(InputError, match="`shares='x'`: give a share"):
        build(Own, {"shares": ["x"]})


def test_a_path_may_be_given_as_text() -> None:
    assert build(Outer, {"model": "m", "out": "o"}).out == Path("o")


def test_a_text_may_be_given_as_a_path() -> None:
    @config
    class Read:
        prompts: str | None = None

    assert build(Outer, {"model": Path("m")}).model == "m"


@config
class Reading:
    """Something that may be read."""

    prompts: str | None = None


def test_a_text_that_may_be_none_may_be_given_as_a_path() -> None:
    assert build(Reading, {"prompts": Path("p")}).prompts == "p"


def test_a_config_that_extends_another_is_checked_like_it() -> None:
    @config
    class Extended(Outer):
        more: Annotated[int, Option(low=1)] = 1

    for given, words in (({"more": 0}, "`more` must be >= 1"), ({"kind": "other"}, "needs a `ratio`")):
        with pytest.raises(InputError, match=words):
            build(Extended, {"model": "m", **given})


def test_a_function_lacks_what_only_the_command_shows() -> None:
    @config
    class Own:
        steps: int = 1
        show: Annotated[bool, Option(command_only=True)] = False

    @with_signature(Own)
    def run(**options: Any) -> None: ...

    assert list(inspect.signature(run).parameters) == ["steps"]


def test_a_function_shows_the_options_of_its_config() -> None:
    @with_signature(Outer)
    def run(model: Any, **options: Any) -> int:
        return len(options)

    shown = inspect.signature(run)
    assert list(shown.parameters) == ["model", "dtype", "count", "ratio", "kind", "names", "out"]
    assert shown.parameters["model"].default is inspect.Parameter.empty
    assert shown.parameters["model"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert shown.parameters["count"].default == 3
    assert shown.parameters["count"].annotation is int
    assert shown.parameters["count"].kind is inspect.Parameter.KEYWORD_ONLY
    assert shown.return_annotation is int
    assert run("m", count=2) == 1


@config
class Typed:
    """An option of each type."""

    count: Annotated[int, Option(low=1)] = 3
    rate: float = 0.5
    yes: bool | None = None
    name: str | None = None
    kind: Literal["a", "b"] = "a"
    place: Path | None = None
    names: tuple[str, ...] = ()
    anything: Any = None
    hidden: Annotated[str | None, Option(command_only=True)] = None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 2.5}, r"`count` must be a whole number \(got 2.5\)"),
        ({"count": True}, r"`count` must be a whole number \(got True\)"),
        ({"count": "3"}, r"`count` must be a whole number \(got '3'\)"),
        ({"count": None}, r"`count` must be a whole number \(got None\)"),
        ({"rate": "0.5"}, "`rate` must be a number"),
        ({"rate": False}, "`rate` must be a number"),
        ({"yes": 1}, "`yes` must be True or False"),
        ({"name": 3}, "`name` must be a text"),
        ({"kind": 1}, "`kind` must be a text"),
        ({"place": 1}, "`place` must be a path"),
        ({"names": [1]}, "`names` must be a list, each a text"),
        ({"names": {"a": 1}}, "`names` must be a list, each a text"),
    ],
)
def test_a_value_of_another_type_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Typed(**given)


def test_values_that_mean_the_same_are_taken() -> None:
    numpy = pytest.importorskip("numpy")
    made = Typed(count=numpy.int64(2), rate=1, names=["a", "b"], place="x", anything=len)  # type: ignore[arg-type]
    assert (made.count, made.rate, made.names, made.place) == (2, 1, ("a", "b"), Path("x"))
    assert flat(made)["anything"] == "len"


def test_an_option_of_the_command_line_alone_is_refused_in_python() -> None:
    @with_signature(Typed)
    def verb(**options: Any) -> Typed:
        return build(Typed, options)

    assert "hidden" not in inspect.signature(verb).parameters
    assert verb(count=1).count == 1
    with pytest.raises(InputError, match="`hidden` is an option of the command line only"):
        verb(hidden="x")

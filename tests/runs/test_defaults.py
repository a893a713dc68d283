"""Defaults in words: what differs by method, and options that are inherited with another default."""

from typing import Annotated

from remodeler.runs.defaults import by_name, stated
from remodeler.runs.options import Option, config, specs


def test_what_most_methods_have_stands_last() -> None:
    assert by_name({"a": 1.0, "b": 1.0}) == "1"
    assert by_name({"a": 4, "b": 64, "c": 4}) == "b 64, else 4"
    assert by_name({"a": 0.0, "b": 0.0, "c": 0.03, "d": 0.03, "e": 1e-5}) == "c and d 0.03, e 1e-05, else 0"
    assert by_name({"a": "linear", "b": "cosine", "c": "linear"}) == "b cosine, else linear"


@config
class Base:
    """Of several verbs."""

    first: Annotated[int | None, Option("Panel", low=1, default="some")] = None
    """How many."""
    second: Annotated[str | None, Option("Panel")] = None
    """Which."""


@config
@stated(first="7")
class Own(Base):
    """Of one verb."""

    second: Annotated[str, Option("Panel")] = "x"
    """Which of two."""


def test_a_stated_default_changes_nothing_else() -> None:
    before, after = (next(spec for spec in specs(kind) if spec.name == "first") for kind in (Base, Own))
    assert (before.option.default, after.option.default) == ("some", "7")
    assert (after.option.panel, after.option.low, after.help, after.default) == ("Panel", 1, "How many.", None)
    assert [spec.name for spec in specs(Own)] == ["first", "second"]
    assert Own().second == "x"
    assert Base().second is None

"""Shares, as people write them."""

import pytest

from remodeler.runs.shares import share


def test_a_share_has_a_sign_or_is_at_most_one() -> None:
    assert [share(text) for text in ("25%", "0.25", "1", "150%", "2e-1")] == [0.25, 0.25, 1.0, 1.5, 0.2]
    assert share("1.5", most=5) == 1.5


@pytest.mark.parametrize(("text", "most"), [("20", 1.0), ("1.01", 1.0), ("20", 5.0)])
def test_percent_without_the_sign_are_asked_after(text: str, most: float) -> None:
    with pytest.raises(ValueError, match=f"above {most:g} needs a percent sign: did you mean {text}%"):
        share(text, most)

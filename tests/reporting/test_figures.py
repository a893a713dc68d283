"""Numbers as a reader sees them."""

import pytest

from remodeler.reporting.figures import change, decimal, short, size, speed


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (short(7_241_732_096), "7.24 B"),
        (short(5_000_000), "5.00 M"),
        (short(999), "999"),
        (size(12_288), "12.3 kB"),
        (size(512), "512 B"),
        (speed(9120.4), "9,120 tokens/s"),
        (speed(1.5), "1.50 tokens/s"),
        (decimal(1234567), "1,234,567"),
        (decimal(0.84312), "0.8431"),
        (change(10, 9), "\N{MINUS SIGN}10.0%"),
        (change(10, 250), "+2,400%"),
        (change(0, 1), ""),
        (change(None, 1), ""),
    ],
)
def test_numbers_are_written_for_reading(written: str, expected: str) -> None:
    assert written == expected

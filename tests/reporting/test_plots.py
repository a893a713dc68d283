"""Colour levels, and trade-off curves as files."""

from pathlib import Path
from xml.etree import ElementTree

from remodeler.reporting.plot_levels import level_edges
from remodeler.reporting.plots import plot_tradeoff


def test_level_edges_are_round_sorted_and_inside() -> None:
    spread = [0.001 * 1.2**power for power in range(40)]
    narrow = [0.90 + 0.001 * place for place in range(100)]
    for values in (spread, narrow):
        edges = level_edges(values)
        assert 3 <= len(edges) <= 7
        assert edges == sorted(edges)
        assert min(values) < edges[0]
        assert edges[-1] < max(values)
    assert level_edges([-1.0, 0.0]) == []
    assert level_edges([2.0, 2.0]) == []


def test_plot_tradeoff_writes_the_same_bytes_with_every_name(tmp_path: Path) -> None:
    curves = {"blockpruner": [(0.0, 9.9), (0.3, 17.0)], "$x_1": [(0.0, 9.9), (0.35, 900.0)]}
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        plot_tradeoff(curves, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    words = "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    assert "blockpruner" in words
    assert "$x_1" in words
    assert "perplexity" in words

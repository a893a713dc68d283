"""Which MLP goes with which attention: against naive references, and against what `packed.py` reads of a config."""

import re
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from remodeler.model.pairing import SHAPES, Row, left, may_pair, packed_places, pairs_of, plain, rows_of
from remodeler.packed_layers import arrange
from remodeler.runs.units import Block, Kind

LETTERS: dict[str, Kind] = {"a": "attention", "m": "mlp", "c": "cross"}
QUICK = settings(deadline=None)
some = st.text("am", max_size=12)
any_kinds = st.text("amc", max_size=12)


def blocks(letters: str) -> list[Block]:
    return [Block(layer, LETTERS[letter]) for layer, letter in enumerate(letters)]


def naive_rows(letters: str) -> list[Row]:
    """An attention and an MLP right behind it, or what stands alone, as a pattern finds them."""
    found = []
    for match in re.finditer("am|a|m|c", letters):
        start, text = match.start(), match.group()
        found.append(Row(start if "a" in text else None, match.end() - 1 if "m" in text else None))
    return found


@QUICK
@given(any_kinds)
def test_rows_are_an_attention_and_the_mlp_right_behind_it(letters: str) -> None:
    rows = rows_of(blocks(letters))
    assert rows == naive_rows(letters)
    halves = [layer for row in rows for layer in (row.attention, row.mlp) if layer is not None]
    assert halves == [layer for layer, letter in enumerate(letters) if letter != "c"], "each once, in order"


def test_an_attention_takes_the_next_mlp() -> None:
    parts = left(4, [Block(1, "mlp"), Block(2, "attention")])
    assert rows_of(parts) == [Row(0, 0), Row(1, 2), Row(3, 3)]
    assert plain(rows_of(parts))
    assert rows_of(left(2, [Block(0, "mlp"), Block(1, "mlp")])) == [Row(0, None), Row(1, None)]
    assert rows_of(left(2, [Block(0, "attention")])) == [Row(None, 0), Row(1, 1)]


@QUICK
@given(any_kinds)
def test_pairs_are_rows_that_are_all_whole(letters: str) -> None:
    rows, pairs = rows_of(blocks(letters)), pairs_of(blocks(letters))
    assert (
        (pairs is not None)
        == plain(rows)
        == SHAPES["standard"](blocks(letters))
        == bool(re.fullmatch("(am)*", letters))
    )
    assert pairs is None or [Row(*pair) for pair in pairs] == rows


@QUICK
@given(some)
def test_decilms_shape_has_an_mlp_behind_every_attention_and_an_attention_at_the_start(letters: str) -> None:
    wanted = letters[:1] == "a" and all("m" in one + other for one, other in pairwise(letters + "a"))
    assert SHAPES["deci"](blocks(letters)) == wanted
    rows = rows_of(blocks(letters))
    assert wanted == (bool(rows) and rows[0].attention is not None and all(row.mlp is not None for row in rows))


@QUICK
@given(st.text("amc", max_size=6), st.text("amc", max_size=6))
def test_no_shape_has_a_cross_attention(before: str, behind: str) -> None:
    assert not any(fits(blocks(f"{before}c{behind}")) for fits in SHAPES.values())


def test_neighbours_pair_and_in_parallel_layers_only_their_own() -> None:
    attention, own, other = Block(0, "attention"), Block(0, "mlp"), Block(1, "mlp")
    assert [may_pair(attention, mlp, parallel) for mlp in (own, other) for parallel in (False, True)] == [
        *(True, True),
        *(True, False),
    ]
    assert may_pair(other, attention, False)
    assert not may_pair(own, other, False)
    assert not may_pair(Block(0, "cross"), own, False)


@QUICK
@given(st.sets(st.sampled_from(left(4, []))))
def test_what_is_left_is_in_the_order_of_computation(gone: set[Block]) -> None:
    assert left(4, gone) == sorted(set(left(4, [])) - gone)


@st.composite
def kept(draw: st.DrawFn) -> list[tuple[int, list[Kind]]]:
    """Source layers with something left, one attention at least."""
    gone = draw(st.sets(st.sampled_from(left(6, []))))
    there = [block for block in left(6, gone) if block.kind == "attention"] or [Block(3, "attention")]
    every = sorted({*left(6, gone), *there})
    return [(layer, [b.kind for b in every if b.layer == layer]) for layer in sorted({b.layer for b in every})]


class Layer(nn.Module):
    """A layer that knows its number in the source."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.attention, self.mlp = number, nn.Linear(1, 1), nn.Linear(1, 1)


@QUICK
@given(kept())
def test_a_packed_model_is_put_together_as_its_places_say(rows: list[tuple[int, list[Kind]]]) -> None:
    names = {kind: {"modules": [kind], "norms": [], "outputs": None, "stream": None} for kind in ("attention", "mlp")}
    packing: Any = {"kept": rows, "branches": names}
    layers = arrange(nn.ModuleList(Layer(number) for number in range(6)), packing)
    places = packed_places(rows)
    assert {layer: layers.get_submodule(str(place)).number for layer, place in places.items()} == {
        layer: layer for layer, _ in rows
    }
    assert len(layers) == sum("attention" in kinds for _, kinds in rows), "one cache for each attention"
    inner = [[*getattr(host, "pre", ()), host, *getattr(host, "post", ())] for host in layers]
    assert [each.number for run in inner for each in run] == [layer for layer, _ in rows], "in the source's order"

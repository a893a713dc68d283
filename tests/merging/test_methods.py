"""Every way to merge equals a plain reference that holds all tensors, however the tensor is cut into pieces."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from remodeler import merging
from remodeler.errors import InputError
from remodeler.merging.config import METHOD_OPTIONS, VARIANTS, MergeConfig
from remodeler.merging.config import METHODS as NAMES
from remodeler.merging.methods import shares
from remodeler.merging.numbers import parse_setting
from remodeler.merging.pieces import BLOCK, Walk, totals, uniform_numbers
from remodeler.merging.selection import find_cutoffs, keep_largest
from remodeler.merging.settings import complete_options, options_for
from remodeler.merging.stream import _accepted
from remodeler.merging.table import METHODS

COUNT, ROW = 5 * BLOCK + 96, 32
SIZES = (BLOCK, 2 * BLOCK, 3 * BLOCK, 10**9)
WEIGHTS = [0.5, 1.0, 2.0]


@dataclass(frozen=True)
class Held:
    """A tensor in memory."""

    tensor: Tensor

    def read(self, start: int, stop: int, keep: bool = True) -> Tensor:
        return self.tensor[start:stop]


@pytest.fixture(scope="module")
def reader() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def some(models: int, dtype: torch.dtype = torch.float32, count: int = COUNT) -> tuple[Tensor, list[Tensor]]:
    """A base and models that moved away from it, the later the farther; a tenth of the weights did not move."""
    generator = torch.Generator().manual_seed(models)
    base = torch.randn(count, generator=generator)
    moves = [torch.randn(count, generator=generator) * 0.02 * (place + 1) for place in range(models)]
    still = torch.rand(count, generator=generator) < 0.1
    return base.to(dtype), [(base + move.masked_fill(still, 0)).to(dtype) for move in moves]


def merged(
    name: str, base: Tensor | None, models: Sequence[Tensor], reader: ThreadPoolExecutor, size: int, **options: Any
) -> Tensor:
    """By the table's row, piece by piece."""
    method = METHODS[name]
    given = {key: value if isinstance(value, bool | str) else many(value) for key, value in options.items()}
    used = options_for(method, complete_options(method, name, given, len(models)), "w", 0.5)
    held = Held(base) if base is not None else None
    walk = Walk(
        held,
        [Held(each) for each in models],
        len(models[0]),
        ROW,
        7,
        torch.device("cpu"),
        reader,
        2,
        method.by_rows,
        size,
    )
    facts = method.survey(walk, **_accepted(method.survey, used)) if method.survey else {}
    return torch.cat(list(walk.over(lambda piece: method.combine(piece, facts, **_accepted(method.combine, used)))))


def many(value: Any) -> Any:
    return list(map(many, value)) if isinstance(value, list) else parse_setting(str(value))


# References: whole tensors, sorted where something is chosen ---------------------------------------------------------


def top(sizes: Tensor, count: int) -> Tensor:
    """The count largest, the first of equal ones."""
    mask = torch.zeros(len(sizes), dtype=torch.bool)
    mask[sizes.argsort(descending=True, stable=True)[:count]] = True
    return mask


def arithmetic(base: Tensor, changes: Tensor, weight: Sequence[float], consensus: bool, normalize: bool) -> Tensor:
    parts = changes * torch.tensor(weight)[:, None]
    mask = torch.ones_like(parts, dtype=torch.bool)
    if consensus:
        positive = parts.sum(0) >= 0
        mask = torch.where(positive, parts > 0, parts < 0)
    total = (parts * mask).sum(0)
    if normalize:
        divisor = (mask * torch.tensor(weight)[:, None]).sum(0)
        total = torch.where(divisor == 0, total, total / divisor)
    return base + total


def reference_linear(base: Tensor, models: Tensor) -> Tensor:
    return (models * torch.tensor(WEIGHTS)[:, None]).sum(0) / sum(WEIGHTS)


def reference_task_arithmetic(base: Tensor, models: Tensor) -> Tensor:
    return arithmetic(base, models - base, WEIGHTS, False, False)


def reference_ties(base: Tensor, models: Tensor) -> Tensor:
    deltas = models - base
    kept = torch.stack([each * top(each.abs(), int(0.3 * len(each))) for each in deltas])
    return arithmetic(base, kept, WEIGHTS, True, True)


def reference_breadcrumbs(base: Tensor, models: Tensor) -> Tensor:
    count = len(base)
    kept = [
        each * (top(each.abs(), int(0.05 * count) + int(0.3 * count)) & ~top(each.abs(), int(0.05 * count)))
        for each in models - base
    ]
    return arithmetic(base, torch.stack(kept), WEIGHTS, False, False)


def reference_varm(base: Tensor, models: Tensor) -> Tensor:
    squares = (models - base).double().square().mean(1)
    return (base + ((models - base) * (squares / squares.sum())[:, None].float()).sum(0)).float()


def reference_sce(base: Tensor, models: Tensor, variant: str = "paper") -> Tensor:
    deltas = models - base
    mean = (deltas[0] + deltas[1] + deltas[2]) / 3
    off = (deltas - mean).square()
    spread = (off[0] + off[1] + off[2]) / 3  # rounded as the walk does: bfloat16 has many ties
    varying = int((spread > 0).sum())
    mask = top(spread, int(0.2 * (len(base) if variant == "paper" else varying))) & (spread > 0)
    coefficients = (deltas * mask).double().square().sum(1)
    eta = (coefficients / coefficients.sum()).float()[:, None]
    changes = deltas if variant == "fuseai" else deltas * mask
    agree = torch.where(changes.sum(0) >= 0, changes > 0, changes < 0)
    total = (eta * changes * agree).sum(0)
    if variant != "paper":
        left = (eta * agree).sum(0)
        total = torch.where(left == 0, total, total / left)
    return base + total


REFERENCES: list[tuple[str, dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = [
    ("linear", {"weight": WEIGHTS}, reference_linear),
    ("task_arithmetic", {"weight": WEIGHTS}, reference_task_arithmetic),
    ("ties", {"weight": WEIGHTS, "density": 0.3}, reference_ties),
    ("breadcrumbs", {"weight": WEIGHTS, "density": 0.3, "gamma": 0.05}, reference_breadcrumbs),
    ("varm", {}, reference_varm),
    ("sce", {"select": 0.2}, reference_sce),
    ("sce", {"select": 0.2, "variant": "fuseai"}, lambda b, m: reference_sce(b, m, "fuseai")),
    ("sce", {"select": 0.2, "variant": "mergekit"}, lambda b, m: reference_sce(b, m, "mergekit")),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "options", "reference"), REFERENCES, ids=lambda each: str(each)[:24])
def test_a_method_equals_its_plain_reference(
    name: str, options: dict[str, Any], reference: Any, dtype: torch.dtype, reader: ThreadPoolExecutor
) -> None:
    base, models = some(3, dtype)
    used = base if METHODS[name].needs_base else None
    found = merged(name, used, models, reader, BLOCK, **options)
    wanted = reference(base.float(), torch.stack(models).float())
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def options_of(name: str) -> dict[str, Any]:
    return {} if name in ("varm", "slerp", "sce") else {"weight": WEIGHTS}


@pytest.mark.parametrize("name", METHODS)
def test_the_size_of_pieces_does_not_change_a_bit(name: str, reader: ThreadPoolExecutor) -> None:
    models_wanted = METHODS[name].models or 3
    base, models = some(3, torch.bfloat16)
    used = base if METHODS[name].needs_base else None
    results = [
        merged(name, used, models[:models_wanted], reader, size, **options_of(name)) for size in (*SIZES, ROW * 7)
    ]
    assert all(torch.equal(results[0], each) for each in results[1:])


@pytest.mark.parametrize("name", METHODS)
def test_copies_of_one_model_return_it(name: str, reader: ThreadPoolExecutor) -> None:
    base, _ = some(3)
    models = [base.clone() for _ in range(METHODS[name].models or 3)]
    used = base if METHODS[name].needs_base else None
    found = merged(name, used, models, reader, BLOCK)
    torch.testing.assert_close(found, base, rtol=0 if used is not None else 2e-7, atol=0 if used is not None else 1e-7)


@pytest.mark.parametrize(("name", "options"), [("sce", {"select": 1}), ("varm", {}), ("task_arithmetic", {})])
def test_one_model_alone_is_the_result(name: str, options: dict[str, Any], reader: ThreadPoolExecutor) -> None:
    base, models = some(1, torch.bfloat16)
    assert torch.equal(merged(name, base, models, reader, BLOCK, **options).bfloat16(), models[0])


def test_one_model_varies_nowhere_so_sce_selects_nothing_of_it(reader: ThreadPoolExecutor) -> None:
    base, models = some(1)
    assert torch.equal(merged("sce", base, models, reader, BLOCK, select=0.5), base)
    fork = merged("sce", base, models, reader, BLOCK, select=0.5, variant="fuseai")
    torch.testing.assert_close(fork, models[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["linear", "ties", "varm", "sce", "task_arithmetic"])
def test_the_order_of_models_does_not_matter(name: str, reader: ThreadPoolExecutor) -> None:
    base, models = some(3)
    used = base if METHODS[name].needs_base else None
    forth, back = (merged(name, used, each, reader, BLOCK) for each in (models, models[::-1]))
    torch.testing.assert_close(forth, back, rtol=1e-6, atol=1e-7)


def test_tiny_changes_have_their_shares_and_are_not_taken_for_none(reader: ThreadPoolExecutor) -> None:
    """mergekit's code weighs models equally where squared changes are below 1e-6."""
    base = torch.zeros(BLOCK)
    models = [torch.full((BLOCK,), 1e-24), torch.full((BLOCK,), 3e-24)]
    found = merged("varm", base, models, reader, BLOCK)
    torch.testing.assert_close(found, torch.full((BLOCK,), 0.1 * 1e-24 + 0.9 * 3e-24), rtol=1e-6, atol=0)
    assert shares([0.0, 0.0]) == [0.5, 0.5]


def test_slerp_goes_along_the_arc(reader: ThreadPoolExecutor) -> None:
    ends = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])]
    for t in (0.0, 0.25, 1.0):
        found = merged("slerp", None, ends, reader, BLOCK, t=t)
        wanted = torch.tensor([math.cos(t * math.pi / 2), 2 * math.sin(t * math.pi / 2)])
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    parallel = merged("slerp", None, [torch.ones(8), torch.full((8,), 3.0)], reader, BLOCK, t=0.25)
    torch.testing.assert_close(parallel, torch.full((8,), 1.5))


def test_dare_keeps_its_density_and_the_mean(reader: ThreadPoolExecutor) -> None:
    base = torch.zeros(64 * BLOCK)
    found = merged("dare_linear", base, [base + 1], reader, BLOCK, density=0.25)
    assert set(found.tolist()) == {0.0, 4.0}
    assert abs(found.mean().item() - 1) < 0.02  # four standard errors
    other = merged("dare_linear", base, [base + 1, base + 1], reader, BLOCK, density=0.25)
    assert {0.0, 4.0, 8.0} == set(other.tolist()), "every model draws for itself"


def test_della_lets_large_changes_stay_more_often(reader: ThreadPoolExecutor) -> None:
    base = torch.zeros(4000 * ROW)
    models = [torch.arange(1.0, ROW + 1).repeat(4000)]
    found = merged("della_linear", base, models, reader, BLOCK, density=0.5, epsilon=0.4, rescale=False)
    kept = (found != 0).float().view(-1, ROW).mean(0)
    torch.testing.assert_close(kept[[0, -1]], torch.tensor([0.1, 0.9]), rtol=0, atol=0.03)


def test_random_numbers_depend_on_tensor_model_and_place_alone() -> None:
    from remodeler.merging.pieces import Piece

    def drawn(start: int, stop: int, key: int = 3, model: int = 0) -> Tensor:
        return uniform_numbers(Piece(None, torch.zeros(1, stop - start), start, 1, key), model)

    whole = drawn(0, 200_000)
    assert torch.equal(whole[70_000:140_001], drawn(70_000, 140_001))
    assert not torch.equal(whole[:10], drawn(0, 10, key=4))
    assert not torch.equal(whole[:10], drawn(0, 10, model=1))


@settings(deadline=None, max_examples=60)
@given(
    numbers=st.lists(st.sampled_from([0.0, 0.5, 0.5 + 2**-20, 1.0, 1e-30, 3e38]), min_size=1, max_size=40),
    count=st.integers(0, 45),
)
def test_the_largest_are_exact_and_the_first_of_equal_ones(numbers: list[float], count: int) -> None:
    sizes = torch.tensor(numbers)
    with ThreadPoolExecutor(1) as pool:
        walk = Walk(None, [Held(sizes)], len(sizes), 1, 0, torch.device("cpu"), pool, 1, True, 3)
        cutoffs = find_cutoffs(walk, lambda piece: piece.tensors, [count])
        found = torch.cat(list(walk.over(lambda piece: keep_largest(piece.tensors, cutoffs, piece.start)[0])))
    assert torch.equal(found, sizes * top(sizes, count))


def test_sums_are_exact(reader: ThreadPoolExecutor) -> None:
    numbers = torch.tensor([1e8, 1.0, -1e8, 1e-8] * (3 * BLOCK))
    walk = Walk(None, [Held(numbers)], len(numbers), 1, 0, torch.device("cpu"), reader, 2, False, BLOCK)
    assert totals(walk, lambda piece: piece.tensors)[0] == pytest.approx(3 * BLOCK * (1 + 1e-8), rel=1e-12)


# Settings -----------------------------------------------------------------------------------------------------------


def test_settings_by_depth_and_name() -> None:
    setting = parse_setting("self_attn=0:1,mlp=0.3,0.5:0.6:1")
    assert setting.at("model.layers.2.self_attn.q_proj.weight", 0.25) == 0.25
    assert setting.at("model.layers.2.mlp.up_proj.weight", 0.9) == 0.3
    assert setting.at("model.norm.weight", 0.75) == pytest.approx(0.8)
    assert str(setting) == "self_attn=0:1,mlp=0.3,0.5:0.6:1"
    assert parse_setting("mlp=1").at("model.norm.weight", 0) is None


@pytest.mark.parametrize(
    ("name", "given_", "words"),
    [
        ("ties", {"density": [parse_setting("1.5")]}, "density is 1.5"),
        ("ties", {"select": [parse_setting("0.5")]}, "which ties does not take"),
        ("ties", {"weight": [parse_setting("1")] * 2}, "given 2 times for 3 models"),
        ("della", {"density": [parse_setting("0.9")]}, "leaves 0 to 1"),
        ("linear", {"weight": [parse_setting("1"), parse_setting("-1"), parse_setting("0")]}, "sum to 0"),
        ("sce", {"variant": "other"}, "choose paper, fuseai, mergekit"),
        ("dare_linear", {"variant": "fuseai"}, "choose paper, mergekit"),
    ],
)
def test_what_a_method_refuses(name: str, given_: dict[str, Any], words: str) -> None:
    method = METHODS[name]
    with pytest.raises(InputError, match=words):
        options_for(method, complete_options(method, name, given_, 3), "w", 0.0)


def test_a_setting_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"`weight='much'`: give a number, a gradient"):
        MergeConfig(models=("one", "two"), weight=(0.5, "much"))


def test_help_names_what_the_table_holds() -> None:
    assert tuple(METHODS) == NAMES == tuple(merging.METHODS)
    assert set().union(*(method.options for method in METHODS.values())) == set(METHOD_OPTIONS)
    choices = {choice for method in METHODS.values() for choice in method.choices.get("variant", ())}
    assert choices == set(VARIANTS)

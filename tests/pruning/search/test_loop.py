"""The search is the paper's: greedy, in the official order, resumable, and no worse than its controls."""

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from remodeler.checkpoint.forms import choose, pairs
from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.model.pairing import Row, left, plain, rows_of
from remodeler.pruning.config import Budget, PruneConfig
from remodeler.pruning.methods import CRITERIA, METHODS, nothing
from remodeler.pruning.search import loop
from remodeler.pruning.search.budget import steps_for_budget
from remodeler.pruning.search.candidates import candidates, longest_path
from remodeler.pruning.search.loop import Search, prune
from remodeler.pruning.validation import refuse_search
from remodeler.runs.options import build
from remodeler.runs.removals import Step, blocks_of, read_log
from remodeler.runs.units import Block
from tiny import LAYERS, tiny_anatomy, tiny_windows

HEADER = {"model": {"weights": "abc"}, "texts": {"sha256": "def"}, "options": {"ratio": 0.2}}


def search_of(name: str = "llama", budget: Budget | None = None, **options: object) -> Search:
    return Search(tiny_anatomy(name), tiny_windows(), budget or Budget(remove=4), **options)  # type: ignore[arg-type]


def naive(anatomy: Anatomy, windows: Windows, count: int, kinds: tuple[str, ...] = ("attention", "mlp")) -> list[Block]:
    """Algorithm 1 of the paper, as plainly as it can be written: strict < over all attentions, then all MLPs."""
    removed: list[Block] = []
    for _ in range(count):
        best, lowest = None, math.inf
        for kind in kinds:
            for layer in range(LAYERS):
                block = Block(layer, kind)  # type: ignore[arg-type]
                if block in removed:
                    continue
                with bypassed(anatomy, [*removed, block]):
                    value = perplexity(mean_nll(anatomy, windows))
                if value < lowest:
                    best, lowest = block, value
        assert best
        removed.append(best)
    return removed


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "gemma2", "falcon-sequential"])
def test_removal_order_is_that_of_the_naive_loop(name: str) -> None:
    search = search_of(name, Budget(remove=3))
    assert blocks_of(prune(search)) == naive(search.anatomy, search.windows, 3)


@pytest.mark.parametrize("unit", ["attention", "mlp"])
def test_one_kind_only(unit: str) -> None:
    search = search_of(budget=Budget(remove=3), unit=unit)
    assert blocks_of(prune(search)) == naive(search.anatomy, search.windows, 3, (unit,))


def test_layers_go_whole() -> None:
    steps = prune(search_of(budget=Budget(remove=2), unit="layer"))
    assert [[block.kind for block in step.removed] for step in steps] == [["attention", "mlp"]] * 2
    assert all(len({block.layer for block in step.removed}) == 1 for step in steps)


def test_ties_go_to_the_first_attention() -> None:
    """With all output projections zeroed no block matters: the official order decides."""
    search = search_of(budget=Budget(remove=5))
    for name, parameter in search.anatomy.model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.zero_()
    removed = blocks_of(prune(search))
    assert removed == [*(Block(i, "attention") for i in range(3)), *(Block(i, "mlp") for i in range(2))]


def test_perplexity_in_the_log_is_that_of_the_model_without_the_blocks() -> None:
    search = search_of()
    for row in METHODS.values():
        method = replace(row, protect=nothing)  # of four layers, some papers would leave none to remove
        steps = prune(replace(search, method=method))
        with bypassed(search.anatomy, blocks_of(steps)):
            assert steps[-1].perplexity == perplexity(mean_nll(search.anatomy, search.windows))


def test_one_shot_ranks_once_and_the_greedy_search_is_no_worse_at_its_own_first_step() -> None:
    search = search_of()
    greedy, shot = prune(search), prune(replace(search, method=METHODS["one-shot"]))
    assert greedy[0].removed == shot[0].removed
    first = shot[0].importance
    assert all(step.importance == {key: first[key] for key in step.importance} for step in shot)
    assert [step.importance[str(step.removed[0])] for step in shot] == sorted(
        first[str(step.removed[0])] for step in shot
    )


def test_rise_by_size_is_the_rise_of_the_loss_by_the_share_of_the_parameters() -> None:
    search = search_of()
    removed = [Block(1, "mlp")]
    units = candidates(search.anatomy, "block", removed=removed)
    with bypassed(search.anatomy, removed):
        base = mean_nll(search.anatomy, search.windows)
    total, left = search.anatomy.parameters(), search.anatomy.parameters(removed)
    for unit, value in zip(
        units, CRITERIA["rise-by-size"](search.anatomy, search.windows, removed, units), strict=True
    ):
        with bypassed(search.anatomy, [*removed, *unit]):
            rise = mean_nll(search.anatomy, search.windows) - base
        assert value == rise / ((left - search.anatomy.parameters([*removed, *unit])) / total)


def test_among_blocks_of_one_size_weighing_changes_nothing() -> None:
    search = search_of(budget=Budget(remove=3), unit="mlp")
    weighted = prune(replace(search, method=METHODS["size-weighted"]))
    assert blocks_of(weighted) == blocks_of(prune(search))


def test_standard_shape_leaves_a_stock_model_after_every_step() -> None:
    for name in ("llama", "phi"):
        search = search_of(name, Budget(remove=LAYERS - 1), shape="standard")
        steps = prune(search)
        for count in range(1, len(steps) + 1):
            removed = frozenset(blocks_of(steps[:count]))
            assert pairs(search.anatomy, removed)
            assert choose(search.anatomy, removed) == "stock"


def test_standard_shape_may_pair_across_layers() -> None:
    units = candidates(tiny_anatomy("llama"), "block", "standard")
    assert (Block(0, "mlp"), Block(1, "attention")) in units
    assert len(units) == 2 * LAYERS - 1
    assert len(candidates(tiny_anatomy("phi"), "block", "standard")) == LAYERS, (
        "in parallel layers only their own two pair"
    )


def rows(removed: Iterable[Block]) -> list[Row]:
    """What is left of a Llama, as layers."""
    return rows_of(left(LAYERS, removed))


def held(layers: Sequence[Row]) -> bool:
    """Whether DeciLM's layout holds them without a stand-in."""
    return layers[0].attention is not None and all(each.mlp is not None for each in layers)


def test_deci_shape_leaves_layers_that_need_no_stand_in_after_every_step() -> None:
    """And a free search with the same budget does not."""
    fits = {}
    for shape in ("deci", "free"):
        steps = prune(search_of("llama", Budget(remove=4), shape=shape))
        fits[shape] = [held(rows(blocks_of(steps[:count]))) for count in range(1, len(steps) + 1)]
    assert all(fits["deci"])
    assert not all(fits["free"])


def test_deci_shape_takes_single_attentions_and_pairs_at_first() -> None:
    anatomy = tiny_anatomy("llama")
    units = candidates(anatomy, "block", "deci")
    assert {unit for unit in units if len(unit) == 1} == {(Block(layer, "attention"),) for layer in range(1, LAYERS)}
    assert len([unit for unit in units if len(unit) == 2]) == 2 * LAYERS - 1
    later = candidates(anatomy, "block", "deci", [Block(1, "attention")])
    assert {(Block(0, "mlp"),), (Block(1, "mlp"),)} < set(later), "two MLPs behind one attention: either may go"
    path = longest_path(anatomy, "block", "deci")
    assert len(path) == 2 * LAYERS - 2, "one at a time, down to one layer"


def test_deci_shape_is_not_for_parallel_layers() -> None:
    with pytest.raises(InputError, match="`shape='deci'` is for models whose MLPs come behind"):
        refuse_search(search_of("phi", shape="deci"), build(PruneConfig, {"model": "phi", "shape": "deci"}), None)


@pytest.mark.parametrize("shape", ["standard", "deci"])
def test_a_swap_keeps_the_shape(shape: Any) -> None:
    """A pair that lay inside another is put back: only what makes the rest fit again may go for it."""
    inner, outer = (Block(0, "mlp"), Block(1, "attention")), (Block(0, "attention"), Block(1, "mlp"))
    units = candidates(tiny_anatomy("llama"), "block", shape, outer)
    assert inner in units
    for unit in units:
        assert held(rows([*outer, *unit]))
        assert shape == "deci" or plain(rows([*outer, *unit]))


def test_the_last_attention_stays() -> None:
    search = search_of(budget=Budget(remove=2 * LAYERS - 1))
    left = set(search.anatomy.blocks()) - set(blocks_of(prune(search)))
    assert [block.kind for block in left] == ["attention"]


def test_ratio_is_reached_and_not_by_a_step_too_many() -> None:
    search = search_of(budget=Budget(ratio=0.2))
    steps = prune(search)
    total = search.anatomy.parameters()
    shares = [1 - step.parameters / total for step in steps]
    assert shares[-1] >= 0.2
    assert all(share < 0.2 for share in shares[:-1])


def test_perplexity_budget_is_kept() -> None:
    search = search_of(budget=Budget(remove=6))
    dense = perplexity(mean_nll(search.anatomy, search.windows))
    path = prune(search)
    allowed = max(path[4].perplexity / dense - 1, 0) + 1e-9
    kept = prune(replace(search, budget=Budget(max_perplexity_increase=allowed)))
    assert len(kept) >= 5
    assert [step.perplexity for step in kept] == [step.perplexity for step in path[: len(kept)]]
    assert all(step.perplexity <= dense * (1 + allowed) for step in kept)


# The log --------------------------------------------------------------------------------------------------------------


def without_seconds(log: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in log.read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lines", [1, 2, 4])
def test_a_killed_search_goes_on_to_the_same_log(lines: int, method: str, tmp_path: Path) -> None:
    search = search_of(method=replace(METHODS[method], protect=nothing))
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    prune(search, whole, HEADER)
    kept = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(kept[:lines]) + kept[lines][: len(kept[lines]) // 2])  # killed in the middle of a line
    prune(search, cut, HEADER)
    assert without_seconds(cut) == without_seconds(whole)


def test_a_log_of_nothing_or_of_half_a_header_starts_anew(tmp_path: Path) -> None:
    for text in ("", '{"step": 0, "perpl'):
        log = tmp_path / "log.jsonl"
        log.write_text(text)
        assert len(prune(search_of(), log, HEADER)) == 4
        assert read_log(log)[0]["step"] == 0
        log.unlink()


@pytest.mark.parametrize(("part", "key"), [("model", "weights"), ("texts", "sha256"), ("options", "ratio")])
def test_a_log_of_another_search_is_refused_by_name(part: str, key: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    search = search_of(budget=Budget(remove=1))
    prune(search, log, HEADER)
    before = log.read_bytes()
    with pytest.raises(InputError, match=f"another {part} .{key} was"):
        prune(search, log, {**HEADER, part: {key: "other"}})
    assert log.read_bytes() == before


def test_a_log_reads_back_as_it_was_written(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    steps = prune(search_of(), log, HEADER)
    header, found = read_log(log)
    assert found == steps
    assert header["candidates"] == 2 * LAYERS
    assert Step.parse(json.loads(json.dumps(steps[0].line()))) == steps[0]


def test_a_cut_is_a_prefix_of_the_path(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    search = search_of()
    steps = prune(search, log, HEADER)
    header, _ = read_log(log)
    assert steps_for_budget(search.anatomy, header, steps, Budget(remove=2)) == steps[:2]
    small = steps_for_budget(search.anatomy, header, steps, Budget(ratio=0.01))
    assert small == steps[:1]
    with pytest.raises(InputError, match="the log ends after 4 steps"):
        steps_for_budget(search.anatomy, header, steps, Budget(ratio=0.5))


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ratio": 1.5}, "must be > 0 and < 1"),
        ({"ratio": 0.0}, "must be > 0 and < 1"),
        ({"ratio": math.nan}, "finite number"),
        ({"remove": 0}, "must be >= 1"),
        ({"max_perplexity_increase": -0.1}, "must be > 0"),
        ({"ratio": 0.1, "remove": 3}, "give one of them"),
    ],
)
def test_impossible_budgets(given: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Budget(**given)  # type: ignore[arg-type]


def test_a_quarter_goes_where_nothing_else_is_asked_for() -> None:
    assert Budget() == Budget(ratio=0.25)
    assert build(PruneConfig, {"model": "m", "remove": 3}).budget == Budget(remove=3)


def test_budgets_beyond_what_blocks_allow_are_refused_before_the_search() -> None:
    for budget, words in (
        (Budget(ratio=0.99), r"ratio 99% is beyond what blocks allow, at most 55\.5% of the parameters"),
        (Budget(remove=99), "7 are possible"),
    ):
        with pytest.raises(InputError, match=words):
            prune(search_of(budget=budget))


def test_a_damaged_model_is_refused() -> None:
    search = search_of()
    search.anatomy.model.lm_head.weight.data.fill_(math.nan)
    with pytest.raises(InputError, match="loss of the model is nan"):
        prune(search)


def test_one_bad_candidate_is_never_chosen(tmp_path: Path) -> None:
    """A block whose removal overflows has no finite importance; the log holds null for it."""
    search, log = search_of(budget=Budget(remove=1)), tmp_path / "log.jsonl"
    spoiled = Block(2, "mlp")

    def criterion(
        anatomy: Anatomy, windows: Windows, removed: object, units: list[tuple[Block, ...]], **_: object
    ) -> list[float]:
        return [math.inf if unit == (spoiled,) else 1.0 for unit in units]

    steps = prune(replace(search, method=replace(search.method, criterion=criterion)), log, HEADER)
    assert steps[0].removed == (Block(0, "attention"),)
    assert json.loads(log.read_text().splitlines()[1])["importance"][str(spoiled)] is None


@pytest.mark.parametrize("name", CRITERIA)
def test_a_criterion_gives_a_finite_number_a_candidate_and_leaves_the_model_alone(name: str) -> None:
    search = search_of()
    units = candidates(search.anatomy, "block")
    dense = mean_nll(search.anatomy, search.windows)
    first = CRITERIA[name](search.anatomy, search.windows, [], units)
    assert len(first) == len(units)
    assert all(math.isfinite(value) for value in first)
    assert CRITERIA[name](search.anatomy, search.windows, [], units) == first
    assert mean_nll(search.anatomy, search.windows) == dense


@pytest.mark.parametrize("strategy", ["race", "lazy"])
@pytest.mark.parametrize("lines", [1, 3, 4])
def test_a_killed_race_goes_on_to_the_same_log(lines: int, strategy: str, tmp_path: Path) -> None:
    search = Search(
        tiny_anatomy("llama"), tiny_windows(count=40, length=24), Budget(remove=4), strategy=strategy, error=0.2
    )
    whole = tmp_path / "whole" / "removals.jsonl"
    torn = tmp_path / "torn" / "removals.jsonl"
    whole.parent.mkdir()
    steps = prune(search, whole, HEADER)
    assert any(set(step.windows.values()) > {40} for step in steps if step.windows), "nobody left a race"
    shutil.copytree(whole.parent, torn.parent)
    torn.write_text("".join(whole.read_text().splitlines(keepends=True)[:lines]))
    again = prune(search, torn, HEADER)
    assert [replace(step, seconds=0) for step in again] == [replace(step, seconds=0) for step in steps]


@pytest.mark.parametrize("strategy", ["race", "lazy", "propose"])
def test_other_searches_log_the_exact_perplexity(strategy: str) -> None:
    search = Search(tiny_anatomy("llama"), tiny_windows(count=40, length=24), Budget(remove=3), strategy=strategy)
    for count, step in enumerate(steps := prune(search), 1):
        with bypassed(search.anatomy, blocks_of(steps[:count])):
            exact = perplexity(mean_nll(search.anatomy, search.windows))
        assert step.perplexity == pytest.approx(exact, rel=1e-6)


def test_only_perplexity_can_race() -> None:
    with pytest.raises(InputError, match="`search='race'`"):
        prune(search_of(method=METHODS["finercut"], strategy="race"))


# How far a search is -------------------------------------------------------------------------------------------------


def test_a_lazy_search_spends_most_in_its_first_step_and_little_in_each_later_one() -> None:
    costs = loop.step_costs("lazy", 60, 20)
    assert costs == pytest.approx([12, *([3.5] * 19)])
    assert loop.step_costs("lazy", 6, 4) == pytest.approx([1.2, 1, 0.8, 0.6]), "never more than a race"
    assert loop.step_costs("race", 60, 3) == pytest.approx([12, 11.8, 11.6])


def test_shares_of_time_go_from_nothing_to_all_by_what_steps_cost() -> None:
    costs = [6.0, 2.0, 2.0]
    assert [loop._spent(costs, place) for place in (0, 0.5, 1, 1.5, 3, 4)] == pytest.approx([0, 0.3, 0.6, 0.7, 1, 1])

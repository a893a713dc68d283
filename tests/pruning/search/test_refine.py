"""Refinement: every swap lowers the exact perplexity, none leaves a larger model, and the end is a local optimum."""

from pathlib import Path

import pytest

from remodeler.data.windows import Windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.pruning.config import Budget
from remodeler.pruning.methods import METHODS
from remodeler.pruning.search.budget import done, share, steps_within
from remodeler.pruning.search.loop import Search, prune
from remodeler.pruning.search.refine import refine
from remodeler.runs.removals import Step, blocks_of, read_log, units_of
from remodeler.runs.units import Block
from tiny import tiny_anatomy, tiny_windows

HEADER = {"model": {"weights": "abc"}, "texts": {"sha256": "def"}, "options": {}}


def search_of(budget: Budget, method: str = "random", seed: int = 3, **options: object) -> Search:
    """From a random path there is much to mend."""
    return Search(tiny_anatomy("llama"), tiny_windows(), budget, METHODS[method], seed=seed, **options)  # type: ignore[arg-type]


def exact(anatomy: Anatomy, windows: Windows, removed: list[Block]) -> float:
    with bypassed(anatomy, removed):
        return perplexity(mean_nll(anatomy, windows))


def swaps(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.restored]


@pytest.mark.parametrize("budget", [Budget(remove=3), Budget(ratio=0.25)], ids=["count", "ratio"])
def test_swaps_lower_the_perplexity_and_keep_the_budget(budget: Budget) -> None:
    search = search_of(budget)
    greedy = prune(search)
    steps = refine(search, greedy)
    assert steps[: len(greedy)] == greedy
    assert swaps(steps), "nothing was mended on a random path"
    for before, after in zip(steps[len(greedy) - 1 :], steps[len(greedy) :], strict=False):
        assert after.perplexity < before.perplexity
        assert after.removed != after.restored
    assert done(search.anatomy, budget, steps)
    for count in range(len(greedy), len(steps) + 1):
        removed = blocks_of(steps[:count])
        assert steps[count - 1].perplexity == exact(search.anatomy, search.windows, removed)
        assert steps[count - 1].parameters == search.anatomy.parameters(removed)


def test_the_end_is_no_single_swap_from_anything_better() -> None:
    search = search_of(Budget(remove=3))
    steps = refine(search, prune(search))
    gone, limit = blocks_of(steps), steps[-1].perplexity
    for block in gone:
        for other in search.anatomy.blocks():
            then = [each for each in gone if each != block] + [other]
            smaller = share(search.anatomy, then) >= share(search.anatomy, gone)
            attentions = sum(each.kind == "attention" for each in search.anatomy.blocks() if each not in then)
            if other not in gone and smaller and attentions:
                assert exact(search.anatomy, search.windows, then) >= limit


def decisions(steps: list[Step]) -> list[object]:
    return [(step.removed, step.restored, step.perplexity, step.parameters) for step in steps]


def test_a_killed_refinement_goes_on_to_the_same_log(tmp_path: Path) -> None:
    search = search_of(Budget(remove=4), seed=4)
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    steps = refine(search, prune(search, whole, HEADER), whole)
    count = len(swaps(steps))
    assert count > 1
    torn.write_text("".join(whole.read_text().splitlines(keepends=True)[:-1]))
    again = refine(search, prune(search, torn, HEADER), torn)
    assert decisions(again) == decisions(steps) == decisions(read_log(torn)[1])


def test_a_cut_takes_the_swaps_with_it_only_where_they_belong() -> None:
    search = search_of(Budget(remove=3))
    steps = refine(search, prune(search))
    dense = exact(search.anatomy, search.windows, [])
    assert steps_within(search.anatomy, Budget(remove=3), dense, steps) == steps
    assert steps_within(search.anatomy, Budget(remove=2), dense, steps) == steps[:2]


def test_what_is_gone_follows_the_swaps() -> None:
    a, b, c = ((Block(layer, "mlp"),) for layer in range(3))
    first, second = (Step(i + 1, unit, {}, 1.0, 1, 0.0) for i, unit in enumerate((a, b)))
    swap = Step(3, c, {}, 1.0, 1, 0.0, restored=a)
    assert units_of([first, second, swap]) == [b, c]
    assert blocks_of([first, second, swap]) == [*b, *c]


def test_a_path_that_nothing_mends_stays_as_it_is() -> None:
    search = search_of(Budget(remove=1), "blockpruner")
    steps = prune(search)
    assert refine(search, steps) == steps

"""Every row of every table goes through the command to a folder that loads, and its record says what was done."""

from pathlib import Path

import pytest

from commands import SMALL, run
from remodeler.checkpoint.forms import FORMS
from remodeler.pruning import config
from remodeler.pruning.methods import CRITERIA, METHODS, name_of
from remodeler.pruning.search.strategies import STRATEGIES
from remodeler.pruning.width.width import WIDTH_METHODS
from remodeler.runs.records import load_record

WAYS = {
    **{f"method {name}": ["--method", name, "--remove", 1, "--no-protect"] for name in METHODS},
    **{f"criterion {name}": ["--criterion", name, "--remove", 1] for name in CRITERIA},
    **{f"search {name}": ["--search", name, "--remove", 1] for name in STRATEGIES},
    **{f"method {name}": ["--method", name, "--ratio", "10%"] for name in WIDTH_METHODS},
    **{f"then {name}": ["--then", name, "--ratio", "30%"] for name in WIDTH_METHODS},
    "uniform": ["--method", "hybrid-grained", "--uniform", "--ratio", "10%"],
    "refined": ["--refine", "--remove", 2],
    "streamed": ["--stream", "--remove", 1],
}


@pytest.mark.parametrize("way", WAYS)
def test_it_ends_in_a_folder_that_loads(
    way: str, model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["--width-steps", 3] if "policy-gradient" in way else []
    words = ["prune", model, "--out", tmp_path / "out", "--texts", texts, *SMALL, *WAYS[way], *few]
    assert run(monkeypatch, *words) == 0
    record = load_record(tmp_path / "out")
    assert record.results["check"]["one_pass"] == 0.0
    assert record.options["criterion"] in CRITERIA
    kind, _, name = way.partition(" ")
    if kind == "criterion":
        assert record.options["criterion"] == name


def test_help_names_what_the_tables_hold() -> None:
    assert tuple(METHODS) == config.METHODS
    assert tuple(CRITERIA) == config.CRITERIA
    assert tuple(WIDTH_METHODS) == config.WIDTH_METHODS
    assert ("auto", "exact", *STRATEGIES) == config.SEARCHES
    assert ("auto", *FORMS) == config.FORMS


def test_a_criterion_of_somebodys_own_goes_by_its_name() -> None:
    def mine() -> list[float]:
        return []

    assert name_of(mine) == "mine"
    assert [name_of(each) for each in CRITERIA.values()] == list(CRITERIA)

"""What every verb's results keep to: a record gives them, they give the record, and a page shows or lists all of it."""

import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pages import Page, page_of
from remodeler.alignment.evolution.results import EvolveResults
from remodeler.alignment.reviser.results import ReviseResults
from remodeler.auditing.results import AuditResults
from remodeler.cli.results import RESULTS, results_of
from remodeler.errors import InputError
from remodeler.evaluation.results import EvaluateResults
from remodeler.exporting.results import ExportResults
from remodeler.merging.results import MergeResults
from remodeler.pruning.results import PruneResults
from remodeler.recovery.results import RecoverResults
from remodeler.reporting.page import write_report, write_result
from remodeler.reporting.rendering import PACKAGE
from remodeler.reporting.results import Results
from remodeler.runs.records import Record, load_record, save_record

HEAVY = ("torch", "transformers", "datasets", "matplotlib")
MEASURED = {"parameters": 10, "heldout_perplexity": 4.0}


def record(verb: str, **results: Any) -> Record:
    options = {"method": "m", "texts": "t", "to": "gguf", "out": "o"}
    return Record(verb, options, {"model": {"name": "some/model"}}, 1, {}, results)


def kind(verb: str) -> type[Results]:
    module, _, name = RESULTS[verb].partition(":")
    found: type[Results] = getattr(import_module(module), name)
    return found


@pytest.mark.parametrize("verb", RESULTS)
def test_every_verb_has_a_frozen_dataclass_of_its_own_words(verb: str) -> None:
    found = kind(verb)
    assert is_dataclass(found)
    assert found.__dataclass_params__.frozen
    assert all(each.kw_only for each in fields(found)), "so that fields stand in the order of the record"
    assert found.report_sections is not Results.report_sections or verb == "export", "an export has no page"


def test_what_a_record_holds_comes_back_in_its_order() -> None:
    given = {"dense": MEASURED, "pruned": MEASURED, "removed": ["mlp.1"], "blocks": 8, "layers": 4, "form": "stock"}
    given |= {"auto_class": "A", "pipeline_tag": "p", "check": {"one_pass": 0.0}, "seconds": 1.5, "command": "c"}
    assert list(PruneResults.parse(record("prune", **given)).to_record().items()) == list(given.items())


def test_what_is_not_known_is_left_out_of_the_record_or_null_as_its_field_says() -> None:
    assert "dense" not in RecoverResults(pruned=MEASURED).to_record()
    assert RecoverResults(pruned=MEASURED).to_record()["given_back"] is None
    assert MergeResults().to_record()["shares"] is None
    assert ExportResults(layers=3, command="c").to_record() == {"layers": 3, "command": "c"}


def test_a_field_may_have_another_name_in_the_record() -> None:
    given = {"labels": {"NONE": 2}, "changed": 0, "not ended": 1, "characters": 3.0, "characters after": 4.0}
    found = ReviseResults.parse(record("align revise", **given))
    assert (found.not_ended, found.characters_after) == (1, 4.0)
    assert found.to_record() == given | {"command": ""}


def test_what_has_no_place_is_listed_also_what_no_version_knew() -> None:
    given = record("prune", dense=MEASURED, blocks=8, warning={"text": "bad"}, command="c", tomorrow=[1, "a"])
    found = PruneResults.parse(given)
    assert found.others(given) == {"blocks": 8, "tomorrow": [1, "a"]}
    text = Page(page_of(given, PruneResults)).text
    assert "tomorrow 1, a" in text
    assert "blocks 8" in text


def test_a_trained_model_is_held_against_those_before_it() -> None:
    both = RecoverResults(dense=MEASURED, pruned=MEASURED, recovered=MEASURED)
    assert [name for name, _ in both.figures()] == ["unpruned", "pruned", "recovered"]
    assert [name for name, _ in RecoverResults(pruned=MEASURED, recovered=MEASURED).figures()] == [
        "pruned",
        "recovered",
    ]


@pytest.mark.parametrize(
    "verb", ["prune", "cut", "recover", "merge", "fuse", "align baseline", "align compare", "audit train", "evaluate"]
)
def test_a_record_that_lacks_all_that_it_may_lack_has_a_page(verb: str) -> None:
    assert "A model" in Page(page_of(Record(verb, {}, {}, 0), kind(verb))).text


@pytest.mark.parametrize(("found", "verb"), [(AuditResults, "audit"), (EvolveResults, "align evolve")])
def test_a_record_that_lacks_what_it_is_about_has_no_page_and_loses_nothing(
    found: type[Results], verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_record(tmp_path, record(verb, command="c"))
    write_report(tmp_path, found)
    assert "report.html is left out, this record can't be shown (TypeError: " in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    with pytest.raises(InputError, match="can't be shown"):
        _together(tmp_path)


def _together(folder: Path) -> Path:
    from remodeler.reporting.together import write_together

    return write_together([folder], folder / "page.html", results_of)


def test_a_verb_of_another_version_is_refused(tmp_path: Path) -> None:
    save_record(tmp_path, record("distill"))
    with pytest.raises(InputError, match="the verb 'distill'"):
        _together(tmp_path)


def test_a_result_is_described_by_its_record_its_card_and_its_page(tmp_path: Path) -> None:
    found = PruneResults(dense=MEASURED, pruned=MEASURED, removed=["mlp.1"], blocks=8, layers=4, form="stock")
    given = record("prune", **found.to_record())
    write_result(tmp_path, given, found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "record.json", "report.html"]
    assert load_record(tmp_path) == given
    assert "1 of 8 residual blocks of `some/model` were removed" in (tmp_path / "README.md").read_text()
    assert "1 of 8 blocks were removed" in (tmp_path / "report.html").read_text()


def test_results_are_printed_as_a_table() -> None:
    found = PruneResults(dense={"parameters": 2_000_000}, pruned={"parameters": 1_500_000}, blocks=8)
    assert str(found).split("\n") == [
        "            before   after  change",
        "Parameters  2.00 M  1.50 M  −25.0%",
    ]
    assert str(EvaluateResults()) == repr(EvaluateResults())


def test_a_graph_has_a_card_that_says_how_it_is_run() -> None:
    found = ExportResults(runtime="onnxruntime", difference=1e-5, tokens=48, same=47, command="remodel export x")
    given = record("export")
    assert found.card(given) is None, "another target has none"
    given.options["to"] = "onnx"
    card = found.card(given) or ""
    for words in ("`some/model` as one ONNX graph", "47 of 48 tokens", "import onnxruntime", "remodel export x"):
        assert words in card
    assert "It was not checked" in (ExportResults().card(given) or "")


def test_results_of_all_verbs_are_imported_without_what_runs_models() -> None:
    modules = sorted({path.partition(":")[0] for path in RESULTS.values()})
    code = f"import sys, {', '.join(modules)}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == []


def test_templates_lie_in_the_package() -> None:
    templates = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.jinja")]
    assert all(len(path.split("/")) == 3 and path.split("/")[1] == "templates" for path in templates)
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert [path for path in templates if path.rpartition("/")[2] not in sources + "parts.html.jinja"] == []

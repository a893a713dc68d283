"""The model cards (README.md) of a reviser and of a policy that it guided."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from remodeler.report.card import known_as, loading_lines, page
from remodeler.report.card_data import inherited
from remodeler.report.card_text import code, markdown
from remodeler.runs.records import Record, write_text

TAGS = ["alignment", "self-evolution", "remodeler"]
CAUTION = (
    "A reviser's score is no judge of truth: it knows what it learned from its preferences, and a policy that is "
    "trained on what it likes inherits its mistakes. Read answers before you rely on a score."
)

Values = Mapping[str, Any]


def write_reviser_card(folder: Path, record: Record) -> None:
    """Write ``README.md`` of a reviser from its record."""
    results, triples = record.results, record.results["triples"]
    source = record.inputs["model"]["name"]
    seen, apart = results["calibration"], results["separation"]
    rows = [
        ["held-out labels that are right", f"{seen['accuracy']:.1%}"],
        ["the commonest label alone", f"{seen['chance']:.1%}"],
        ["expected calibration error", f"{seen['calibration_error']:.3f}"],
        ["better answer has the higher score", f"{apart['value']:.1%} ({apart['low']:.1%} to {apart['high']:.1%})"],
    ]
    story = [
        f"Reads a prompt and a response, says how much has to change (NONE, MINOR, MAJOR) and rewrites it. Made of "
        f"{code(known_as(source))} with {triples['train']:,} preferences of "
        f"{code(known_as(record.inputs['preferences']['name']))}; {triples['held out']:,} were held out.",
        "",
        *markdown(["", ""], rows),
        "",
        "Use it with `remodel align revise` or `remodel align evolve`: `reviser.json` holds its template and labels. "
        "With another template than that of its training it is worthless.",
        "",
        CAUTION,
    ]
    _write(folder, record, source, f"{known_as(source)}, a reviser", story)


def write_policy_card(folder: Path, record: Record) -> None:
    """Write ``README.md`` of a policy from its record."""
    source, reviser = (record.inputs[key]["name"] for key in ("model", "reviser"))
    rows = [
        [str(number), each["kind"], f"{each['prompts']:,}", f"{each['accepted']:,}", f"{each['quality']:.3f}"]
        for number, each in enumerate(record.results["rounds"], 1)
    ]
    story = [
        f"{code(known_as(source))}, trained on its own answers as {code(known_as(reviser))} chose and revised them.",
        "",
        *markdown(["round", "", "prompts", "accepted", "mean quality of its first answers"], rows),
        "",
        CAUTION,
    ]
    _write(folder, record, source, f"{known_as(source)}, evolved", story)


def write_baseline_card(folder: Path, record: Record) -> None:
    """Write ``README.md`` of a policy trained on preferences from its record."""
    source, data = (record.inputs[key]["name"] for key in ("model", "preferences"))
    before, after = (record.results[key]["heldout_perplexity"] for key in ("student", "fused"))
    story = [
        f"{code(known_as(source))}, trained on {code(known_as(data))} by {code(record.options['method'])}. The "
        f"perplexity of better answers that were held out went from {before:.3g} to {after:.3g}.",
    ]
    _write(folder, record, source, f"{known_as(source)}, {record.options['method']}", story)


def _write(folder: Path, record: Record, source: str, title: str, story: list[str]) -> None:
    results = record.results
    head = ModelCardData(
        base_model=known_as(source),
        library_name="transformers",
        pipeline_tag=results["pipeline_tag"],
        tags=[*TAGS, *(["custom_code"] if results["form"] == "packed" else [])],
        **inherited(Path(source)),
    )
    loading = loading_lines(results["form"], results["auto_class"], source)
    write_text(folder / "README.md", page(head, title, story, loading, results["command"]))

"""The model card (README.md) of a pruned, recovered or merged model: its sources, what was done, how to load it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from remodeler.report.card_data import front_matter, inherited
from remodeler.report.card_text import code, fenced, markdown, plain
from remodeler.report.figures import audited, comparison, written
from remodeler.runs.records import Record, write_text

TAGS = ["pruned", "block-pruning", "remodeler"]
MERGE_TAGS = ["merge", "remodeler"]
CAUTION = (
    "A count is no verdict.",
    "Detectors react to swear words whatever is meant by them: irony, quotations and banter are found too, and insults "
    "in polite words are missed.",
    "They have learned from posts that people marked, and with them their bias: texts that only name minority groups "
    "may be found more often, which can harm those who are meant to be protected.",
    "Compare models on the same prompts with the same detector, look at the spans themselves, and let no threshold "
    "alone decide about what people wrote.",
)
"""After the warning of Detoxify's README."""


def write_card(folder: Path, record: Record, source: str) -> None:
    """Write ``README.md`` of a model from its record; ``source`` is the folder or hub id it was made from."""
    write_text(folder / "README.md", card(record, source, inherited(Path(source))))


def card(record: Record, source: str, meta: dict[str, Any]) -> str:
    """The card's text."""
    results = record.results
    form = results["form"]
    head = ModelCardData(
        base_model=known_as(source),
        library_name="peft" if form == "adapters" else "transformers",
        pipeline_tag=results["pipeline_tag"],
        tags=[*TAGS, *(["custom_code"] if form == "packed" else [])],
        **meta,
    )
    name = known_as(source)
    told = "recovered" if record.verb == "recover" else "pruned"
    loading = loading_lines(form, results["auto_class"], source)
    return page(
        head,
        f"{name}, {told}",
        [*_story(record, name), *warned(results), "", *_table(results)],
        loading,
        results["command"],
    )


def write_merge_card(folder: Path, record: Record) -> None:
    """Write ``README.md`` of a merged model from its record."""
    write_text(folder / "README.md", merge_card(record))


def merge_card(record: Record) -> str:
    """The card of a merged model: its parents, the method and its options."""
    results, options = record.results, record.options
    parents = {key: known_as(value["name"]) for key, value in record.inputs.items()}
    form = results["form"]
    head = ModelCardData(
        base_model=list(parents.values()),
        library_name="transformers",
        tags=[*MERGE_TAGS, *(["custom_code"] if form == "packed" else [])],
    )
    used = {name: value for name, value in options.items() if name not in ("method", "out") and value is not None}
    shares = results.get("shares") or [None] * len(parents)
    counted = iter(shares)
    rows = [[key, plain(name), "" if key == "base" else _share(next(counted))] for key, name in parents.items()]
    story = [
        f"{len([key for key in parents if key != 'base'])} models merged by {code(options['method'])}.",
        "",
        *markdown(["", "model", "share of the change"], rows),
        "",
        *markdown(["option", "value"], [[code(name), code(value)] for name, value in used.items()]),
    ]
    title = f"{Path(str(options['out'])).name}: {' + '.join(parents.values())}"
    return page(head, title, story, loading_lines(form, results["auto_class"], ""), results["command"])


def write_fusion_card(folder: Path, record: Record) -> None:
    """Write ``README.md`` of a fused model from its record."""
    write_text(folder / "README.md", fusion_card(record))


def fusion_card(record: Record) -> str:
    """The card of a fused model: the student, its teachers, what each had to say, and what came of it."""
    results, options, student = record.results, record.options, known_as(record.options["student"])
    head = ModelCardData(
        base_model=student,
        library_name="transformers",
        pipeline_tag=results["pipeline_tag"],
        tags=["knowledge-fusion", "distillation", "remodeler"],
        **inherited(Path(options["student"])),
    )
    teachers = [code(known_as(name)) for name in options["teachers"]]
    voices = [
        [code(known_as(name)), f"{each['coverage']:.1%}", f"{each['bits_per_byte']:.3f}", f"{each['weight']:.1%}"]
        for name, each in results["voices"].items()
    ]
    story = [
        f"{code(student)}, trained for {results['steps']:,} steps on {code(Path(options['texts']).name)} and on what "
        f"{', '.join(teachers)} predict in it ({options['share']:g} of the loss is the text's own).",
        "",
        *markdown(["voice", "positions", "bits per byte", "weight"], voices),
        *warned(results),
        "",
        *_table(results),
    ]
    loading = loading_lines(results["form"], results["auto_class"], options["student"])
    return page(head, f"{student}, fused", story, loading, results["command"])


def write_audit_card(folder: Path, record: Record) -> None:
    """Write ``README.md`` of an audit from its record."""
    write_text(folder / "README.md", audit_card(record))


def audit_card(record: Record) -> str:
    """What was counted, side by side, with the warning that belongs to it."""
    results, source = record.results, record.inputs.get("prompts") or record.inputs["texts"]
    sides = results["audited"]
    head, rows = audited(sides, results.get("difference"))
    what = f"completions of {source['count']:,} prompts" if "prompts" in record.inputs else "texts"
    story = [
        f"Toxic spans in {what} of {code(Path(str(source['source'])).name)}, found by "
        f"{code(record.options['detector'])}.",
        "",
        *markdown(list(map(plain, head)), rows),
        "",
        f"**{CAUTION[0]}** {' '.join(CAUTION[1:])}",
        "",
        "`spans.jsonl` holds every text with its spans in the clear; `report.html` hides them until asked.",
        "",
        *["## Make it again", "", *fenced([results["command"]]), ""],
    ]
    names = " and ".join(code(known_as(each["name"])) for each in sides)
    return "\n".join([f"# Audit of {names}", "", *story])


def write_tagger_card(folder: Path, record: Record) -> None:
    """Write ``README.md`` of a tagger from its record."""
    write_text(folder / "README.md", tagger_card(record))


def tagger_card(record: Record) -> str:
    """What the tagger was made of, what it scores, how it is used, and the warning that belongs to it."""
    results, options, inputs = record.results, record.options, record.inputs
    encoder, head = known_as(options["encoder"]), options["head"]
    meta = ModelCardData(
        base_model=encoder,
        pipeline_tag="token-classification",
        tags=["toxic-spans", "remodeler"],
        **inherited(Path(options["encoder"])),
    )
    rows = [
        [name, f"{part['f1']:.4f}", f"{part['error']:.4f}", f"{part['posts']:,}"]
        for name, part in results["dev"].items()
        if part["posts"]
    ]
    taught = f", taught by {code(Path(options['teacher']).name)}" if options["teacher"] else ""
    clean = f" and {inputs['harmless']['count']:,} harmless texts" if "harmless" in inputs else ""
    story = [
        f"Finds toxic spans in texts: {code(encoder)} with {head['auxiliary']} features, {head['output']} output and "
        f"tags {head['scheme'].upper()}, trained on {inputs['texts']['count']:,} posts{clean}{taught}.",
        "",
        f"Official F1 of SemEval-2021 task 5 on the {inputs['dev']['count']:,} posts by which epoch and thresholds "
        "were chosen, so a little more than on others:",
        "",
        *markdown(["posts", "F1", "standard error", "count"], rows),
        "",
        *_false_alarms(results),
        f"**{CAUTION[0]}** {' '.join(CAUTION[1:])}",
    ]
    loading = fenced(["remodel audit predict --texts posts.csv --tagger . --out spans-pred.txt"])
    return page(meta, f"{encoder}, a tagger of toxic spans", story, loading, results["command"])


def _false_alarms(results: dict[str, Any]) -> list[str]:
    """In how many harmless texts a tagger found something; nothing, where none were held out."""
    alarms = results.get("false_alarms")
    if not alarms:
        return []
    told = f"found in {alarms['found']:,} of {alarms['texts']:,} harmless texts that it has not learned from"
    return [f"False alarms: something was {told}.", ""]


def known_as(source: str) -> str:
    """A hub id, or the name of a folder."""
    return Path(source).resolve().name if Path(source).exists() else source


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def page(data: ModelCardData, title: str, story: Sequence[str], loading: Sequence[str], command: str) -> str:
    """A card: what machines read, the story, how to load the model, and the command that made it."""
    top = [*front_matter(data), "", f"# {plain(title)}", ""]
    again = ["", "## Make it again", "", *fenced([command]), ""]
    return "\n".join([*top, *story, "", "## Load", "", *loading, *again])


def _story(record: Record, name: str) -> list[str]:
    """What was done to the source."""
    results, options = record.results, record.options
    removed, blocks = results.get("removed"), results.get("blocks")
    if record.verb != "recover":
        return [_pruning(results, options, name)]
    before = f", of which {len(removed)} of {blocks} residual blocks had been removed" if removed else ""
    taught = f" and what {code(Path(options['teacher']).name)} predicts" if options.get("lesson") else ""
    return [
        f"{code(name)}{before}, trained for {results['steps']:,} steps ({results['tokens']:,} tokens) on "
        f"{code(Path(options['texts']).name)}{taught} (method {code(options['method'])})."
    ]


def _pruning(results: dict[str, Any], options: dict[str, Any], name: str) -> str:
    """Which blocks went, and how many heads and channels."""
    removed, widths = results.get("removed") or (), (results.get("widths") or {}).values()
    told = []
    if removed or not widths:
        told.append(
            f"{len(removed)} of {results.get('blocks')} residual blocks of {code(name)} were removed "
            f"(method {code(options['method'])}), in this order: {', '.join(removed)}."
        )
    if widths:
        kept, whole = (sum(part) for part in zip(*widths, strict=True))
        of_what = "of the others" if removed else f"of {code(name)}"
        method = {None: options["method"], "width": "hybrid-grained"}.get(options.get("then"), options.get("then"))
        told.append(
            f"{whole - kept:,} of {whole:,} heads and MLP channels {of_what} were cut out (method {code(method)}); "
            "`widths.json` names those that were kept."
        )
    return " ".join(told)


def warned(results: dict[str, Any]) -> list[str]:
    """The warning that a result is of no use, where there is one."""
    given = results.get("warning")
    if not given:
        return []
    again = ["", "To stop before that:", "", *fenced([given["command"]])] if given.get("command") else []
    return ["", f"> **Warning:** {plain(given['text'])}.", *again]


def _table(results: dict[str, Any]) -> list[str]:
    names = {"dense": "source", "pruned": "pruned", "recovered": "recovered", "student": "before", "fused": "after"}
    measured = comparison([(word, results[key]) for key, word in names.items() if key in results])
    if measured is None:
        return []
    return markdown(*written(measured))


def loading_lines(form: str, auto_class: str, source: str) -> list[str]:
    """The code that loads a model, line by line."""
    lines = [f"from transformers import {auto_class}", ""]
    if form == "adapters":
        base = json.dumps(source, ensure_ascii=False)  # a Python string too, in the quotes that people use
        lines[1:] = ["from peft import PeftModel", "", f"base = {auto_class}.from_pretrained({base})"]
        return fenced([*lines, 'model = PeftModel.from_pretrained(base, "path/to/this/folder")'], "python")
    if form == "packed":
        lines += ["import remodeler.packed  # or pass trust_remote_code=True", ""]
    return fenced([*lines, f'model = {auto_class}.from_pretrained("path/to/this/folder")'], "python")

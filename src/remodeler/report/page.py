"""One self-contained HTML page from a folder's ``record.json`` and the logs beside it: no network, no scripts.

The page shows what there is: every key of the record and of the log may be missing, and results that the page has no
place for are listed as they are. The template escapes every value; only figures drawn by `plots.py` go in as they come.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from remodeler.errors import one_line
from remodeler.report.alignment import lead as align_lead
from remodeler.report.alignment import logs as aligned_texts
from remodeler.report.alignment import summary as align_summary
from remodeler.report.alignment import tiles as align_tiles
from remodeler.report.auditing import lead as audit_lead
from remodeler.report.auditing import summary as audit_summary
from remodeler.report.auditing import tiles as audit_tiles
from remodeler.report.figures import change, checkpoints, comparison, decimal, number, tiles
from remodeler.report.merging import model_names
from remodeler.report.merging import summary as shares
from remodeler.report.steps import summary
from remodeler.report.training import summary as loss_curve
from remodeler.runs.records import Record, load_record, read_lines, write_text
from remodeler.runs.removals import REMOVALS_FILE, LogLine, read_log_lines
from remodeler.runs.streams import shell_line

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
TRAINING_FILE, MERGE_FILE = "training.jsonl", "merge.jsonl"
SPANS_FILE = "spans.jsonl"
PAGE_ERRORS = (TemplateError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)
"""What jinja2 and matplotlib say of values that they can't show."""
PLACED = (
    "checkpoints",
    "dense",
    "pruned",
    "recovered",
    "student",
    "fused",
    "removed",
    "widths",
    "layers",
    "command",
    "warning",
    "auto_class",
    "audited",
    "difference",
    "words",
    "calibration",
    "separation",
    "rounds",
    "looks",
    "reviser",
    "policy",
)  # not listed again

Values = Mapping[str, Any]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` beside the record of a folder.

    Where a record or a log holds what no page can show, that is said, and there is none: a finished result stays whole.
    """
    steps = read_log_lines(folder / REMOVALS_FILE)
    files = (folder / name for name in (TRAINING_FILE, MERGE_FILE, SPANS_FILE))
    logs: list[Sequence[Values]] = [read_lines(log) if log.exists() else [] for log in files]
    record, texts = load_record(folder), aligned_texts(folder)
    try:
        page = render(record, steps, *logs, *[texts])
    except PAGE_ERRORS as error:
        logger.warning(
            f"{REPORT_FILE} is left out, this record can't be shown ({type(error).__name__}: {one_line(error)})"
        )
    else:
        write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def render(
    record: Record,
    steps: Sequence[LogLine],
    training: Sequence[Values] = (),
    merged: Sequence[Values] = (),
    found: Sequence[Values] = (),
    aligned: Sequence[Values] = (),
) -> str:
    """The page of a record and of its logs.

    Args:
        record: what was done.
        steps: what was removed.
        training: how training went.
        merged: how much each merged model counts.
        found: texts with their spans.
        aligned: texts before and after their revision.
    """
    shelf = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=shelf, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    log = summary(steps, record.results, record.options)
    measured = checkpoints(record.results)
    return environment.get_template("page.html.jinja").render(
        verb=record.verb,
        title=title(record, steps),
        lead=lead(record, log),
        warning=record.results.get("warning"),
        tiles=tiles(measured[-2:]) or audit_tiles(record.results) or align_tiles(record.results),
        align=align_summary(record.results, aligned),
        audit=audit_summary(record.results, found),
        losses=loss_curve(training),
        shares=shares(merged, record.inputs),
        comparison=comparison(measured),
        loading=loading(record),
        command=command(record),
        made=made(record, steps),
        **log,
    )


# Words --------------------------------------------------------------------------------------------------------------


def _named(value: Any) -> str:
    """The path or hub id inside what a record says about a model."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("name", "path", "id") if value.get(key)), "")
    return str(value or "")


def _model(record: Record, steps: Sequence[LogLine] = ()) -> str:
    return _named(record.inputs.get("model") or record.inputs.get("reviser")) or _named(
        steps[0].get("model") if steps else None
    )


def title(record: Record, steps: Sequence[LogLine]) -> str:
    """The names of the models the page is about."""
    evaluated = [name for name, _ in checkpoints(record.results)] if record.results.get("checkpoints") else []
    evaluated = evaluated or [str(each.get("name")) for each in record.results.get("audited") or []]
    names = evaluated or model_names(record.inputs) or [_model(record, steps)]
    return " and ".join(name.rstrip("/").rsplit("/", 1)[-1] or "A model" for name in names)


def lead(record: Record, log: Values) -> str:
    """What happened, in two sentences."""
    dense, pruned = record.results.get("dense") or {}, record.results.get("pruned") or {}
    before, after = number(dense.get("parameters")), number(pruned.get("parameters"))
    sentences = []
    if log["removed"] and log["blocks"]:
        share = f", {1 - after / before:.1%} of the parameters" if before and after is not None else ""
        narrower = ", others made narrower" if record.results.get("widths") else ""
        sentences.append(f"{log['removed']} of {log['blocks']} blocks were removed{narrower}{share}.")
    elif record.results.get("widths") and before and after is not None:
        sentences.append(f"Heads and channels were removed, {1 - after / before:.1%} of the parameters.")
    for key, words in (("heldout_perplexity", "held-out"), ("perplexity", "calibration")):
        old, new = number(dense.get(key)), number(pruned.get(key))
        if old and new is not None:
            costs = f"from {decimal(old)} to {decimal(new)} ({change(old, new)})"
            sentences.append(f"Perplexity on {words} text went {costs}.")
            break
    sentences += _recovery(record.results)
    return " ".join(
        [
            *sentences,
            *_merge(record),
            *_fusion(record.results),
            *audit_lead(record.results),
            *align_lead(record.results),
        ]
    )


def _merge(record: Record) -> list[str]:
    """What was merged."""
    count, tensors = len(model_names(record.inputs)), number(record.results.get("tensors"))
    if not count or tensors is None:
        return []
    return [f"{count} models became one by {record.options.get('method')}, {decimal(tensors)} tensors."]


def _fusion(results: Values) -> list[str]:
    """What teachers did to a student."""
    before, after = (number((results.get(name) or {}).get("heldout_bits_per_byte")) for name in ("student", "fused"))
    if before is None or after is None:
        return []
    return [f"Held-out text went from {decimal(before)} to {decimal(after)} bits per byte ({change(before, after)})."]


def _recovery(results: Values) -> list[str]:
    """What training gave back."""
    before, after = (number((results.get(name) or {}).get("heldout_perplexity")) for name in ("pruned", "recovered"))
    if before is None or after is None:
        return []
    share = number(results.get("given_back"))
    back = "" if share is None else f": {share:.0%} of what was lost came back"
    steps = number(results.get("steps"))
    trained = "Training" if steps is None else f"{decimal(steps)} steps of training"
    return [f"{trained} brought it from {decimal(before)} to {decimal(after)}{back}."]


def command(record: Record) -> str:
    """The command that makes the result again: as it was given, or put together from the options."""
    if isinstance(given := record.results.get("command"), str):
        return given
    flags = [word for name, value in record.options.items() for word in _flag(name.replace("_", "-"), value)]
    return shell_line(["remodel", record.verb, *filter(None, [_model(record)]), *flags]) if record.options else ""


def _flag(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    return [f"--{name}"] if value is True else [f"--{name}", _plain(value)]


def loading(record: Record) -> str:
    """The lines that load the result, by its form."""
    form, place = record.results.get("form"), repr(str(record.options.get("out") or "."))
    if form is None:
        return ""
    name = record.results.get("auto_class", "AutoModelForCausalLM")
    known = ["import remodeler.packed  # or, without this package: trust_remote_code=True below"]
    lines = [
        f"from transformers import AutoTokenizer, {name}",
        "",
        f"model = {name}.from_pretrained({place})",
        f"tokenizer = AutoTokenizer.from_pretrained({place})",
    ]
    return "\n".join([*(known if form == "packed" else []), *lines])


def made(record: Record, steps: Sequence[LogLine]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything else that the record and the first line of the log say, by subject."""
    start = steps[0] if steps else LogLine({})
    inputs = {"model": start.get("model"), "texts": start.get("texts")} | dict(record.inputs)
    options = dict(record.options or start.get("options") or {}) | {"seed": record.seed}
    rest = {key: value for key, value in record.results.items() if key not in PLACED}
    subjects = inputs | {"options": options, "result": rest, "versions": record.versions}
    return [(subject[:1].upper() + subject[1:], list(_facts(value))) for subject, value in subjects.items()]


def _facts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _facts(inner, f"{name} {key}".strip().replace("_", " "))
    elif value is not None:
        yield name or "name", _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)

"""The model card (README.md) of a pruned model: where it comes from, what was removed, what it cost, how to load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from remodeler.measurements import comparison
from remodeler.records import Record, write_text

TAGS = ["pruned", "block-pruning", "remodeler"]
INHERITED = ("license", "license_name", "license_link", "language")


def write_card(folder: Path, record: Record, source: str) -> None:
    """Write ``README.md`` of a pruned model from its record; ``source`` is the folder or hub id it was made from."""
    write_text(folder / "README.md", card(record, source, inherited(Path(source))))


def inherited(source: Path) -> dict[str, Any]:
    """Licence and language from the source's own card, where it lies on this disk."""
    readme = source / "README.md"
    if not readme.is_file():
        return {}
    _, marker, rest = readme.read_text(encoding="utf-8", errors="replace").partition("---\n")
    try:
        meta = yaml.safe_load(rest.partition("\n---")[0]) if marker else None
    except yaml.YAMLError:
        return {}
    return {key: meta[key] for key in INHERITED if key in meta} if isinstance(meta, dict) else {}


def card(record: Record, source: str, meta: dict[str, Any]) -> str:
    """The card's text."""
    results = record.results
    packed = results["form"] == "packed"
    head = {
        "base_model": Path(source).resolve().name if Path(source).exists() else source,
        "library_name": "transformers",
        "pipeline_tag": results["pipeline_tag"],
        "tags": [*TAGS, *(["custom_code"] if packed else [])],
        **meta,
    }
    name = head["base_model"]
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        f"# {name}, pruned",
        "",
        f"{len(results['removed'])} of {results['blocks']} residual blocks of `{name}` were removed "
        f"(method `{record.options['method']}`), in this order: {', '.join(results['removed'])}.",
        "",
        *_table(results),
        "",
        "## Load",
        "",
        *_loading(packed, results["auto_class"]),
        "",
        "## Make it again",
        "",
        "```",
        results["command"],
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(results: dict[str, Any]) -> list[str]:
    measured = comparison([("source", results["dense"]), ("pruned", results["pruned"])])
    if measured is None:
        return []
    rows = [[row["label"], *(cell["main"] for cell in row["cells"]), row["change"]] for row in measured["rows"]]
    return _markdown(["", "source", "pruned", "change"], rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _loading(packed: bool, auto_class: str) -> list[str]:
    lines = ["```python", f"from transformers import {auto_class}", ""]
    if packed:
        lines += ["import remodeler.packed  # or pass trust_remote_code=True", ""]
    return [*lines, f'model = {auto_class}.from_pretrained("path/to/this/folder")', "```"]

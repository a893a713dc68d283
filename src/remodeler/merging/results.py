"""What a merge found: how much each model counts, layer by layer; and the words of its page and its card."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from huggingface_hub import ModelCardData

from remodeler.reporting.card import known_as, loading_lines, page
from remodeler.reporting.card_text import code, markdown, plain
from remodeler.reporting.figures import Values, decimal, number
from remodeler.reporting.plots import shares_svg
from remodeler.reporting.results import NULL, PLACED, Results, Section, title_of
from remodeler.reporting.sections import figure, loading_code, log_lines, nonempty
from remodeler.runs.records import Record

MERGE_FILE = "merge.jsonl"
TAGS = ("merge", "remodeler")
NAMED = ("models", "base", "method", "shard_size", "out")
"""Options that the card names elsewhere, or that say nothing of the weights."""
LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class MergeResults(Results):
    """Of ``remodel merge``."""

    form: str = ""
    merged: Values = field(default_factory=dict)
    """Parameters and bytes of what was written."""
    tensors: int | None = None
    loaded: bool | None = None
    """Whether the result was loaded and computed something."""
    read_back: Sequence[str] = ()
    shares: Sequence[float] | None = field(default=None, metadata=NULL)
    """How much each model counts, over all elements; None for methods that don't say."""
    auto_class: str = field(default="AutoModelForCausalLM", metadata=PLACED)
    command: str = ""

    def title(self, record: Record) -> str:
        """The models that were merged, without their base."""
        return title_of(*model_names(record.inputs))

    def lead(self, record: Record, folder: Path) -> str:
        """What was merged."""
        count, tensors = len(model_names(record.inputs)), number(self.tensors)
        if not count or tensors is None:
            return ""
        return f"{count} models became one by {record.options.get('method')}, {decimal(tensors)} tensors."

    def report_sections(self, record: Record, folder: Path) -> list[Section]:
        """How much each model counts, and how the result is loaded."""
        return nonempty(
            share_section(folder, record),
            loading_code(self.form, self.auto_class, record),
        )

    def card(self, record: Record) -> str:
        """The parents, the method and its options."""
        parents = {key: known_as(value["name"]) for key, value in record.inputs.items()}
        head = ModelCardData(
            base_model=list(parents.values()),
            library_name="transformers",
            tags=[*TAGS, *(["custom_code"] if self.form == "packed" else [])],
        )
        options = record.options
        used = {name: value for name, value in options.items() if name not in NAMED and value is not None}
        story = [
            f"{len([key for key in parents if key != 'base'])} models merged by {code(options['method'])}.",
            "",
            *markdown(["", "model", "share of the change"], list(self._rows(parents))),
            "",
            *markdown(["option", "value"], [[code(name), code(value)] for name, value in used.items()]),
        ]
        title = f"{Path(str(options['out'])).name}: {' + '.join(parents.values())}"
        return page(head, title, story, loading_lines(self.form, self.auto_class, ""), self.command)

    def _rows(self, parents: Mapping[str, str]) -> Iterator[list[str]]:
        """A row a parent; the base has no share."""
        shares = iter(self.shares or [])
        for key, name in parents.items():
            share = None if key == "base" else next(shares, None)
            yield [key, plain(name), "" if share is None else f"{share:.3f}"]


def model_names(inputs: Values) -> list[str]:
    """The merged models, without their base: the last part of each path or hub id."""
    return [PurePath(str(value.get("name"))).name for key, value in inputs.items() if key.startswith("model ")]


# Sections -------------------------------------------------------------------------------------------------------------


def share_section(folder: Path, record: Record) -> Section | None:
    """How much each model counts."""
    drawn = shares_by_layer(log_lines(folder / MERGE_FILE), record.inputs)
    return figure("How much each model counts", drawn, "The mean over the tensors of a layer.")


def shares_by_layer(lines: Sequence[Values], inputs: Values) -> str | None:
    """The figure, where the method gives shares and there are at least two layers."""
    layers: dict[int, list[list[float]]] = {}
    for line in lines:
        found, shares = LAYER.search(str(line.get("name", ""))), line.get("shares")
        if found and isinstance(shares, list) and all(number(each) is not None for each in shares):
            layers.setdefault(int(found.group(1)), []).append(shares)
    names = distinct([str(value.get("name")) for key, value in inputs.items() if key.startswith("model ")])
    if len(layers) < 2 or any(len(row) != len(names) for rows in layers.values() for row in rows):
        return None
    means = {layer: [sum(column) / len(rows) for column in zip(*rows, strict=True)] for layer, rows in layers.items()}
    return shares_svg(
        {name: [(layer, means[layer][place]) for layer in sorted(means)] for place, name in enumerate(names)}
    )


def distinct(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as few as tell them apart; what is the same path gets a number."""
    depth, parts = 1, [PurePath(path).parts for path in paths]
    while len({each[-depth:] for each in parts}) < len(set(parts)):
        depth += 1
    names = ["/".join(each[-depth:]) for each in parts]
    return [f"{name} {place}" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]

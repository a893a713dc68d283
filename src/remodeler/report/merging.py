"""How much each model counts in a merge, layer by layer, as a report shows it: from ``merge.jsonl``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from remodeler.report.figures import number
from remodeler.report.plots import shares_svg

LAYER = re.compile(r"\.(\d+)\.")

Values = Mapping[str, Any]


def summary(lines: Sequence[Values], inputs: Values) -> str | None:
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


def model_names(inputs: Values) -> list[str]:
    """The merged models, without their base: the last part of each path or hub id."""
    return [PurePath(str(value.get("name"))).name for key, value in inputs.items() if key.startswith("model ")]

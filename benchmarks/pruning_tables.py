"""Tables and plot from the rows of ``pruning_methods.py``."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from quality_tables import gap, short, shown

from remodeler.reporting.plots import CYCLE, MARKERS, MID_GREY
from remodeler.runs.records import read_lines

REFERENCE = "blockpruner"
HEADLINE = 0.25
"""The ratio of the summary."""
SEEDS = "random"
Row = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """All that was measured of a model; answers and speeds by (arm, seed, ratio)."""

    name: str
    rows: list[Row]
    answers: dict[tuple[Any, ...], Row]
    speeds: dict[tuple[Any, ...], Row]

    @property
    def dense(self) -> Row:
        """The intact model."""
        return self.pick("dense", 0.0)[0]

    @property
    def ratios(self) -> list[float]:
        """Ratios that were asked for."""
        return sorted({row["ratio"] for row in self.rows} - {0.0})

    @property
    def lengths(self) -> list[str]:
        """Window lengths, as text."""
        return sorted(self.dense["perplexity"], key=int)

    def pick(self, arm: str, ratio: float) -> list[Row]:
        """The rows of a cell: one, or one a seed; none where the ratio can't be reached."""
        found = [row for row in self.rows if (row["arm"], row["ratio"]) == (arm, ratio)]
        return [row for row in found if row["perplexity"]]

    def arms(self, variant: bool) -> list[str]:
        """Methods, or variants of them, by what they cost at the ratio of the summary; others last."""
        names = dict.fromkeys(row["arm"] for row in self.rows if row.get("variant") is variant)
        return sorted(names, key=lambda name: exact_loss(self.pick(name, HEADLINE)))


def models(folder: Path) -> list[Model]:
    """What is there."""
    rows, answers, speeds = (_read(folder / f"{name}.jsonl") for name in ("rows", "answers", "speed"))
    names = dict.fromkeys(row["model"] for row in rows)
    return [
        Model(name, [row for row in rows if row["model"] == name], *_keyed(name, answers, speeds)) for name in names
    ]


def _read(path: Path) -> list[Row]:
    return read_lines(path) if path.exists() else []


def _keyed(name: str, *kinds: Sequence[Row]) -> Iterator[dict[tuple[Any, ...], Row]]:
    for rows in kinds:
        yield {_key(row): row for row in rows if row["model"] == name}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[part] for part in ("arm", "seed", "ratio"))


def page(folder: Path) -> Iterator[str]:
    """All tables, as Markdown."""
    for model in models(folder):
        yield f"\n### {model.name}\n"
        yield from summary(model, HEADLINE, False)
        if model.arms(True):
            yield "\nVariants:\n"
            yield from summary(model, HEADLINE, True)
        yield from details(model)


# ---- one ratio -------------------------------------------------------------------------------------------------------


Column = tuple[str, Callable[[Model, list[Row]], str]]


def summary(model: Model, ratio: float, variants: bool) -> Iterator[str]:
    """One line a method at one ratio."""
    columns = list(_columns(model, ratio))
    yield f"| method | {' | '.join(name for name, _ in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for arm in [*([] if variants else ["dense"]), *model.arms(variants)]:
        rows = [intact(model)] if arm == "dense" else model.pick(arm, ratio)
        cells = [cell(model, rows) for _, cell in columns] if rows else [unreached(model, arm, ratio)]
        yield f"| {arm} | {' | '.join(cells)} |"


def intact(model: Model) -> Row:
    """The intact model as a method that removes nothing."""
    return model.dense | {"unit": "–", "cpu": 0.0, "exact": model.dense["losses"][model.dense["primary"]]}


def _columns(model: Model, ratio: float) -> Iterator[Column]:
    tasks = dict.fromkeys(name for row in model.answers.values() if row["arm"] != "dense" for name in row["tasks"])
    yield "unit", lambda _, rows: rows[0]["unit"]
    yield "removed", lambda _, rows: f"{statistics.fmean(row['share'] for row in rows):.1%}"
    yield "parameters", lambda _, rows: spread([row["parameters"] for row in rows], 0)
    for length in model.lengths:
        yield (
            f"perplexity, {length}",
            lambda _, rows, length=length: spread([row["perplexity"][length] for row in rows]),
        )
    yield f"at {ratio:.0%}", lambda _, rows: at_exactly(rows)
    yield f"loss above {REFERENCE}'s at {ratio:.0%}", lambda each, rows: "; ".join(gaps(each, rows, ratio))
    for task in tasks:
        yield task.replace("_", " "), lambda each, rows, task=task: accuracy(each, rows, task)
    if model.speeds:
        yield "decode", lambda each, rows: multiple(each, rows, "decode")
    yield "KV bytes", lambda _, rows: spread([row["kv_bytes_per_token"] for row in rows], 0)
    yield "passes", lambda each, rows: spread([row["cpu"] / each.dense["pass_cpu"] for row in rows], 0)
    yield "CPU, s", lambda _, rows: spread([row["cpu"] for row in rows], 0)


def unreached(model: Model, arm: str, ratio: float) -> str:
    """Why a cell is empty."""
    found = [row["why"] for row in model.rows if (row["arm"], row["ratio"]) == (arm, ratio) and "why" in row]
    return f"not reachable ({found[0]})" if found else "–"


def exact_loss(rows: Sequence[Row]) -> float:
    """Loss at exactly the ratio; of several seeds the median."""
    return statistics.median(statistics.fmean(row["exact"]) for row in rows) if rows else math.inf


def spread(values: Sequence[float], digits: int = 2) -> str:
    """A figure; of several seeds the median and the range."""
    text = shown(statistics.median(values), digits)
    return f"{text} [{shown(min(values), digits)}, {shown(max(values), digits)}]" if len(values) > 1 else text


def at_exactly(rows: Sequence[Row]) -> str:
    """Perplexity at exactly the ratio."""
    return spread([math.exp(statistics.fmean(row["exact"])) for row in rows])


def gaps(model: Model, rows: Sequence[Row], ratio: float) -> Iterator[str]:
    """Differences of the same windows, each seed's."""
    against = model.pick(REFERENCE, ratio)
    for row in rows:
        yield gap(row["exact"], against[0]["exact"]) if against and row["arm"] != REFERENCE else "–"


def accuracy(model: Model, rows: Sequence[Row], task: str) -> str:
    """Share of questions answered right, and its standard error."""
    found = [model.answers[_key(row)]["tasks"][task] for row in rows if _key(row) in model.answers]
    if len(found) == 1:
        return f"{found[0]['acc']:.3f} ± {found[0]['acc_stderr']:.3f}"
    return spread([each["acc"] for each in found], 3) if found else "–"


def multiple(model: Model, rows: Sequence[Row], kind: str) -> str:
    """Speed as a multiple of the intact model's."""
    found = [model.speeds[_key(row)][kind] for row in rows if _key(row) in model.speeds]
    return spread(found) if found else "–"


# ---- all ratios ------------------------------------------------------------------------------------------------------


def details(model: Model) -> Iterator[str]:
    """Every ratio: perplexity, at the sizes reached and at exactly the ratio; losses against the reference; orders."""
    primary = model.dense["primary"]
    whole = shown(model.dense["perplexity"][primary], 2)
    yield f"\nPerplexity, windows of {primary} tokens (parameters removed) / at exactly the ratio; intact {whole}:\n"
    yield from by_ratio(model, lambda rows: _sized(rows, primary))
    yield f"\nLoss above {REFERENCE}'s at exactly the ratio, nats a token ± 2 standard errors:\n"
    yield from by_ratio(model, lambda rows: "; ".join(gaps(model, rows, rows[0]["ratio"])))
    if model.speeds:
        yield "\nDecoding, times the intact model's speed (prefill); KV bytes a token:\n"
        yield from by_ratio(model, lambda rows: _speed(model, rows))
    yield "\nRemoval order, to the largest ratio:\n"
    yield from orders(model)


def by_ratio(model: Model, cell: Callable[[list[Row]], str]) -> Iterator[str]:
    """A table with a column a ratio."""
    yield f"| method | {' | '.join(f'{ratio:.0%}' for ratio in model.ratios)} |"
    yield "|---" * (len(model.ratios) + 1) + "|"
    for arm in [*model.arms(False), *model.arms(True)]:
        found = {ratio: model.pick(arm, ratio) for ratio in model.ratios}
        cells = [cell(rows) if rows else unreached(model, arm, ratio) for ratio, rows in found.items()]
        yield f"| {arm} | {' | '.join(cells)} |"


def _sized(rows: Sequence[Row], length: str) -> str:
    removed = statistics.fmean(row["share"] for row in rows)
    return f"{spread([row['perplexity'][length] for row in rows])} ({removed:.1%}) / {at_exactly(rows)}"


def _speed(model: Model, rows: Sequence[Row]) -> str:
    caches = spread([row["kv_bytes_per_token"] for row in rows], 0)
    return f"{multiple(model, rows, 'decode')} ({multiple(model, rows, 'prefill')}); {caches}"


def orders(model: Model) -> Iterator[str]:
    """What every method removed."""
    for arm in [*model.arms(False), *model.arms(True)]:
        found = [row for ratio in model.ratios for row in model.pick(arm, ratio)]
        if found and arm != SEEDS:
            longest = max(found, key=lambda row: row["share"])
            blocks = ", ".join(map(short, longest["removed"])) or "no block"
            yield f"- {arm} ({longest['share']:.1%}): {blocks}"


# ---- plot ------------------------------------------------------------------------------------------------------------


PANELS = {
    "blocks": ("size-weighted refined", "size-weighted", "one-shot", "finercut", "gradient", "llm-drop"),
    "layers, heads and channels": ("policy-gradient", "hybrid-grained", "sleb", "shortened-llama", "shortgpt", SEEDS),
}
"""What is drawn beside what; the reference is in both."""
CEILING = 2.8
"""Times the intact model's perplexity: what is worse lies outside."""


def plot(folder: Path, path: Path) -> None:
    """Perplexity on held-out text against the share removed, of the first model: two panels with the same axes."""
    import matplotlib

    model = models(folder)[0]
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True):
        _draw(axes, {name: points for name in (REFERENCE, *names) if len(points := curve(model, name)) > 1})
        axes.set_title(title, color=MID_GREY, fontsize=10)
    figure.axes[0].set_ylabel(f"perplexity, windows of {model.dense['primary']} tokens", color=MID_GREY)
    with matplotlib.rc_context({"svg.hashsalt": "methods", "svg.fonttype": "none"}):
        figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=200)


def curve(model: Model, arm: str) -> list[tuple[float, float]]:
    """Share and perplexity along a path; the results alone, of seeds the median, where each ratio is found anew."""
    found = [rows for ratio in model.ratios if (rows := model.pick(arm, ratio))]
    if not found:
        return []
    whole = (0.0, model.dense["perplexity"][model.dense["primary"]])
    if arm != SEEDS and found[-1][0]["swaps"] is None and len(found[-1][0]["curve"]) > len(found):
        return [(gone, math.exp(loss)) for gone, loss in found[-1][0]["curve"]]
    middles = [sorted(rows, key=lambda row: row["curve"][-1][1])[len(rows) // 2] for rows in found]
    return [whole, *((row["share"], math.exp(row["curve"][-1][1])) for row in middles)]


def _draw(axes: Any, curves: dict[str, list[tuple[float, float]]]) -> None:
    for number, (name, points) in enumerate(curves.items()):
        colour, marker = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)]
        axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=marker, linewidth=1.8, markersize=4)
    low = min(points[0][1] for points in curves.values()) if curves else 1.0
    axes.set(xlabel="parameters removed", yscale="log", ylim=(low * 0.93, low * CEILING), xlim=(-0.01, 0.42))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=MID_GREY)
    axes.xaxis.label.set_color(MID_GREY)
    for spine in axes.spines.values():
        spine.set_color(MID_GREY)
    axes.legend(frameon=False, labelcolor=MID_GREY, fontsize=8)

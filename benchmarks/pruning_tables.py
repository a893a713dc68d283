"""Tables and plot from the rows of ``pruning_methods.py``."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import Row, read_rows, spread
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from measurements import NONE, Column, Table, number_text
from quality_tables import GAP, ORDER, columns_of, gap, percent, short

from remodeler.reporting.plots import CYCLE, MARKERS, MID_GREY

REFERENCE = "blockpruner"
HEADLINE = 0.25
"""The ratio of the summary."""
SEEDS = "random"


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
    rows, answers, speeds = (read_rows(folder / f"{name}.jsonl") for name in ("rows", "answers", "speed"))
    names = dict.fromkeys(row["model"] for row in rows)
    return [
        Model(name, [row for row in rows if row["model"] == name], *_keyed(name, answers, speeds)) for name in names
    ]


def _keyed(name: str, *kinds: Sequence[Row]) -> Iterator[dict[tuple[Any, ...], Row]]:
    for rows in kinds:
        yield {_key(row): row for row in rows if row["model"] == name}


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[part] for part in ("arm", "seed", "ratio"))


def tables(model: Model) -> Iterator[tuple[str, Table]]:
    """All tables of a model."""
    yield "summary", summary(model, HEADLINE, False)
    if model.arms(True):
        yield "variants", summary(model, HEADLINE, True)
    yield from details(model)


# ---- one ratio -------------------------------------------------------------------------------------------------------


Cell = Callable[[Model, list[Row]], Any]


def summary(model: Model, ratio: float, variants: bool) -> Table:
    """One line a method at one ratio."""
    columns = list(_columns(model, ratio))
    names = [*([] if variants else ["dense"]), *model.arms(variants)]
    heads = (Column("method", "method"), *(column for column, _ in columns))
    rows = tuple(_summary_cells(model, name, ratio, columns) for name in names)
    return Table(heads, rows, "Variants:" if variants else "")


def _summary_cells(model: Model, arm: str, ratio: float, columns: Sequence[tuple[Column, Cell]]) -> Row:
    """A line; it ends behind the reason where the ratio was not reached."""
    rows = [intact(model)] if arm == "dense" else model.pick(arm, ratio)
    if not rows:
        return {"method": arm, columns[0][0].key: unreached(model, arm, ratio)}
    return {"method": arm} | {column.key: cell(model, rows) for column, cell in columns}


def intact(model: Model) -> Row:
    """The intact model as a method that removes nothing."""
    return model.dense | {"unit": None, "cpu": 0.0, "exact": model.dense["losses"][model.dense["primary"]]}


def _columns(model: Model, ratio: float) -> Iterator[tuple[Column, Cell]]:
    tasks = dict.fromkeys(name for row in model.answers.values() if row["arm"] != "dense" for name in row["tasks"])
    exact, above = f"at {ratio:.0%}", f"loss above {REFERENCE}'s at {ratio:.0%}"
    yield Column("unit", "unit"), lambda _, rows: rows[0]["unit"]
    yield Column("share", "removed", "{value:.1%}"), lambda _, rows: statistics.fmean(row["share"] for row in rows)
    yield Column("parameters", "parameters", "{value:~0}"), lambda _, rows: middle(row["parameters"] for row in rows)
    for length in model.lengths:
        yield (
            Column(f"perplexity {length}", f"perplexity, {length}", "{value:~2}"),
            lambda _, rows, length=length: middle(row["perplexity"][length] for row in rows),
        )
    yield Column("exact", exact, "{value:~2}", "perplexity"), lambda _, rows: at_exactly(rows)
    yield Column("above", above, GAP, "nats per token"), lambda each, rows: gaps(each, rows, ratio)
    for task in tasks:
        yield (
            Column(task, task.replace("_", " "), "{acc:.3f} ± {acc_stderr:.3f}", "accuracy"),
            lambda each, rows, task=task: accuracy(each, rows, task),
        )
    if model.speeds:
        yield DECODE, lambda each, rows: multiple(each, rows, "decode")
    yield Column("kv", "KV bytes", "{value:~0}", "B"), lambda _, rows: middle(row["kv_bytes_per_token"] for row in rows)
    yield PASSES, lambda each, rows: middle(row["cpu"] / each.dense["pass_cpu"] for row in rows)
    yield Column("cpu", "CPU, s", "{value:~0}", "s"), lambda _, rows: middle(row["cpu"] for row in rows)


DECODE = Column("decode", "decode", "{value:~2}", "the intact model's speed")
PASSES = Column("passes", "passes", "{value:~0}", "passes over the calibration text, by processor time")


def unreached(model: Model, arm: str, ratio: float) -> str:
    """Why a cell is empty."""
    found = [row["why"] for row in model.rows if (row["arm"], row["ratio"]) == (arm, ratio) and "why" in row]
    return f"not reachable ({found[0]})" if found else NONE


def exact_loss(rows: Sequence[Row]) -> float:
    """Loss at exactly the ratio; of several seeds the median."""
    return statistics.median(statistics.fmean(row["exact"]) for row in rows) if rows else math.inf


def middle(values: Iterable[float]) -> Any:
    """A figure; of several seeds the median and the range."""
    return spread(list(values))


def at_exactly(rows: Sequence[Row]) -> Any:
    """Perplexity at exactly the ratio."""
    return middle(math.exp(statistics.fmean(row["exact"])) for row in rows)


def gaps(model: Model, rows: Sequence[Row], ratio: float) -> list[Row] | None:
    """Differences of the same windows, each seed's."""
    against = model.pick(REFERENCE, ratio)
    if not against or rows[0]["arm"] == REFERENCE:
        return None
    return [gap(row["exact"], against[0]["exact"]) for row in rows]


def accuracy(model: Model, rows: Sequence[Row], task: str) -> Any:
    """Share of questions answered right, and its standard error."""
    found = [model.answers[_key(row)]["tasks"][task] for row in rows if _key(row) in model.answers]
    if len(found) == 1:
        return {part: found[0][part] for part in ("acc", "acc_stderr")}
    return {"acc": middle(each["acc"] for each in found), "cell": "{acc:.3f}"} if found else None


def multiple(model: Model, rows: Sequence[Row], kind: str) -> Any:
    """Speed as a multiple of the intact model's."""
    found = [model.speeds[_key(row)][kind] for row in rows if _key(row) in model.speeds]
    return middle(found) if found else None


# ---- all ratios ------------------------------------------------------------------------------------------------------


def details(model: Model) -> Iterator[tuple[str, Table]]:
    """Every ratio: perplexity, at the sizes reached and at exactly the ratio; losses against the reference; orders."""
    primary = model.dense["primary"]
    whole = number_text(model.dense["perplexity"][primary], "~2")
    sizes = f"Perplexity, windows of {primary} tokens (parameters removed) / at exactly the ratio; intact {whole}:"
    yield "perplexity", by_ratio(model, lambda rows: _sized(rows, primary), SIZED, sizes)
    above = f"Loss above {REFERENCE}'s at exactly the ratio, nats a token ± 2 standard errors:"
    yield "loss", by_ratio(model, lambda rows: gaps(model, rows, rows[0]["ratio"]), GAP, above)
    if model.speeds:
        speeds = "Decoding, times the intact model's speed (prefill); KV bytes a token:"
        yield "decoding", by_ratio(model, lambda rows: _speed(model, rows), SPEED, speeds)
    yield "orders", Table((), tuple(orders(model)), "Removal order, to the largest ratio:", ORDER)


SIZED = "{perplexity:~2} ({share:.1%}) / {exact:~2}"
SPEED = "{decode:~2} ({prefill:~2}); {kv:~0}"


def by_ratio(model: Model, cell: Callable[[list[Row]], Any], pattern: str, caption: str) -> Table:
    """A table with a column a ratio."""
    columns = columns_of(model.ratios, pattern, "")
    rows = []
    for arm in [*model.arms(False), *model.arms(True)]:
        found = {ratio: model.pick(arm, ratio) for ratio in model.ratios}
        cells = {percent(k): cell(each) if each else unreached(model, arm, k) for k, each in found.items()}
        rows.append({"method": arm} | cells)
    return Table(columns, tuple(rows), caption)


def _sized(rows: Sequence[Row], length: str) -> Row:
    removed = statistics.fmean(row["share"] for row in rows)
    return {"perplexity": middle(row["perplexity"][length] for row in rows), "share": removed} | {
        "exact": at_exactly(rows)
    }


def _speed(model: Model, rows: Sequence[Row]) -> Row:
    caches = middle(row["kv_bytes_per_token"] for row in rows)
    return {kind: multiple(model, rows, kind) for kind in ("decode", "prefill")} | {"kv": caches}


def orders(model: Model) -> Iterator[Row]:
    """What every method removed."""
    for arm in [*model.arms(False), *model.arms(True)]:
        found = [row for ratio in model.ratios for row in model.pick(arm, ratio)]
        if found and arm != SEEDS:
            longest = max(found, key=lambda row: row["share"])
            blocks = list(map(short, longest["removed"])) or ["no block"]
            yield {"method": arm, "share": longest["share"], "blocks": blocks}


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

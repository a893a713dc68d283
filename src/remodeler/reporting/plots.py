"""Figures: trade-off curve, importance heat map and loss curve as inline SVG, and trade-off curves as a file for docs.

Drawn by matplotlib without its global state. Inline figures are drawn in placeholder colours that become CSS variables
of the page, so that one figure follows the reader's light or dark theme; the same input gives the same bytes.
"""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remodeler.reporting.plot_levels import level_opacity
from remodeler.runs.streams import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, CURVE, MARK, HEAT, GAIN = "#000001", "#000002", "#000003", "#000004", "#000005"  # placeholders, never seen
THEME = {INK: "var(--soft)", CURVE: "var(--accent)", MARK: "var(--mark)", HEAT: "var(--heat)", GAIN: "var(--gain)"}
MID_GREY = "#7d8590"  # readable on white and on black
CYCLE = ("#2f81d0", "#d9662b", "#2a9d74", "#b565c4", "#c29a1a", "#5aa9c9", "#8a8f98")
MARKERS = "osD^vPX"
LARGE_RANGE = 4.0  # above this ratio a perplexity axis is logarithmic
LONGEST_NAME = 40
CELL = 0.9  # share of its square that a heat-map cell fills
Points = Sequence[tuple[float, float]]
METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True)
class Panel:
    """One part of the heat map: a row a layer, a column a step."""

    name: str
    values: dict[tuple[int, int], float]  # (layer, column) -> importance as it is coloured
    removed: frozenset[tuple[int, int]]  # (layer, column): what that step took away


# Drawing ------------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")  # in units of the SVG, 72 an inch


def _calm(axes: "Axes", colour: str) -> None:
    """Two thin axes, a faint grid, no box."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set(color=colour, linewidth=0.8, alpha=0.6)
    axes.tick_params(which="both", colors=colour, length=0, pad=6)
    axes.grid(color=colour, alpha=0.18, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(colour)
    axes.yaxis.label.set_color(colour)


def _tradeoff_axes(axes: "Axes", perplexities: Sequence[float], colour: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    _calm(axes, colour)
    axes.set_xlabel("parameters removed")
    axes.set_ylabel("perplexity")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    if max(perplexities) > LARGE_RANGE * min(perplexities) > 0:
        axes.set_yscale("log")
        wide = max(perplexities) > 100 * min(perplexities)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _inline(figure: "Figure", name: str, title: str, description: str) -> str:
    """The figure as an SVG element that scales with the page and says what it shows."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # letters are drawn by the reader's fonts
        figure.savefig(buffer, format="svg", transparent=True, metadata=METADATA)
    svg = buffer.getvalue().partition("<svg")[2]
    svg = "<svg" + re.sub(r"\s*<style.*?</style>", "", svg, flags=re.DOTALL)  # it would style the whole page
    svg = svg.replace('<g id="', f'<g id="{name}-')  # two figures of one page must not share ids
    for placeholder, variable in THEME.items():
        svg = svg.replace(placeholder, variable)
    head = f'<svg class="{name}" role="img" aria-labelledby="{name}-title {name}-desc" viewBox="\\1">'
    head += f'<title id="{name}-title">{_literal(title)}</title><desc id="{name}-desc">{_literal(description)}</desc>'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', head, svg, count=1)


def _literal(text: str) -> str:
    return escape(visible(text)).replace("\\", "\\\\")  # a backslash means something in a replacement


def tradeoff_svg(points: Sequence[tuple[float, float]], chosen: int) -> str:
    """Perplexity against the share of parameters removed, a point a step; `chosen` is the point that was written."""
    figure = _figure(560, 290)
    axes = figure.subplots()
    shares, perplexities = zip(*points, strict=True)
    axes.plot(shares, perplexities, color=CURVE, linewidth=2, marker="o", markersize=5, clip_on=False)
    axes.plot(*points[chosen], color=MARK, marker="o", markersize=10, clip_on=False)
    _tradeoff_axes(axes, perplexities, INK)
    share, perplexity = points[chosen]
    words = f"{share:.1%} removed, perplexity {perplexity:.4g}"
    above = 8 if perplexity >= perplexities[0] else -18  # a rising curve comes from below, a falling one from above
    offset, side = ((-12, above), "right") if share > max(shares) / 2 else ((12, -6 - above), "left")
    axes.annotate(words, points[chosen], offset, textcoords="offset points", ha=side, color=MARK, weight="bold")
    ends = " to ".join(f"{share:.1%} (perplexity {perplexity:.4g})" for share, perplexity in (points[0], points[-1]))
    description = f"{len(points)} points, from {ends}. Chosen: {words}."
    return _inline(figure, "tradeoff", "Perplexity against the share of parameters removed", description)


def heat_map_svg(panels: Sequence[Panel], edges: Sequence[float], steps: Sequence[str]) -> str:
    """Importance of every block at every step; what a step removed is outlined and blank from then on."""
    layers = sorted({layer for panel in panels for layer, _ in panel.values})
    from matplotlib.text import Text

    rows = layers[-1] - layers[0] + 1
    width = 50 + len(panels) * max(110, (30 if len(steps) <= 12 else 17) * len(steps))
    figure = _figure(width, 64 + (19 if rows <= 24 else 13) * rows)
    for column, axes in enumerate(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]):
        _heat_panel(axes, panels[column], edges, steps)
        axes.set_ylim(layers[-1] + 0.5, layers[0] - 0.5)
    figure.axes[0].set_ylabel("layer", color=INK)
    for text in figure.findobj(Text):
        text.set_fontsize(max(10, width / 75))  # a wide figure is scaled down on the page
    description = "Darker cells cost more to remove. The table of importances below the figure holds the same numbers."
    svg = _inline(figure, "heat", "Importance of every block at every step", description)
    return svg.replace("<svg ", f'<svg style="max-width: {width * 1.6:.0f}px; min-width: {width * 0.85:.0f}px" ', 1)


def _heat_panel(axes: "Axes", panel: Panel, edges: Sequence[float], steps: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    _calm(axes, INK)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (layer, column), value in sorted(panel.values.items()):
        axes.add_patch(_cell(column, layer, _cell_colour(value, edges), (layer, column) in panel.removed))
    axes.set_xlim(-0.5, len(steps) - 0.5)
    every = math.ceil(len(steps) / 20)
    axes.set_xticks(range(0, len(steps), every), steps[::every])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=24, integer=True, steps=[1, 2, 4, 5, 10]))
    axes.set_xlabel("step")
    axes.set_title(panel.name, color=INK, parse_math=False)


def _cell_colour(value: float, edges: Sequence[float]) -> tuple[float, ...]:
    from matplotlib.colors import to_rgba

    if value < 0:
        return to_rgba(GAIN, 0.6)
    level = sum(value >= edge for edge in edges)
    return to_rgba(HEAT, level_opacity(level, len(edges) + 1))


def _cell(column: int, layer: int, colour: tuple[float, ...], outlined: bool) -> Any:
    from matplotlib.patches import Rectangle

    corner = (column - CELL / 2, layer - CELL / 2)
    if outlined:
        return Rectangle(corner, CELL, CELL, facecolor=colour, edgecolor=MARK, linewidth=2.2, zorder=3)
    return Rectangle(corner, CELL, CELL, facecolor=colour, linewidth=0)


def loss_svg(losses: Points, smooth: Points, heldout: Points) -> str:
    """Training loss by step, as it was and smoothed, beside the perplexity on held-out text."""
    figure = _figure(560, 250)
    drawn = [("loss a token, nats", smooth), *([("held-out perplexity", heldout)] if heldout else [])]
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for column, (name, points) in enumerate(drawn):
        axes = panels[column]
        _calm(axes, INK)
        axes.set_xlabel("step")
        axes.set_title(name, color=INK, fontsize=10, parse_math=False)
        if column == 0:
            axes.plot(*zip(*losses, strict=True), color=CURVE, linewidth=0.8, alpha=0.35)
        style: dict[str, Any] = {"marker": "o", "markersize": 5, "clip_on": False} if column else {}
        axes.plot(*zip(*points, strict=True), color=MARK if column else CURVE, linewidth=2, **style)
    ends = " to ".join(f"{loss:.4g} at step {step:,.0f}" for step, loss in (smooth[0], smooth[-1]))
    words = " to ".join(f"{value:.4g} at step {step:,.0f}" for step, value in [*heldout[:1], *heldout[-1:]])
    description = f"Loss, smoothed: {ends}." + (f" Held-out perplexity: {words}." if heldout else "")
    return _inline(figure, "loss", "Loss by step of training", description)


def shares_svg(curves: Mapping[str, Points]) -> str:
    """How much each of several models counts, layer by layer."""
    figure = _figure(560, 250)
    axes = figure.subplots()
    _calm(axes, INK)
    axes.set_xlabel("layer")
    axes.set_ylim(0, 1)
    _named_curves(axes, curves, INK)
    means = {name: sum(share for _, share in points) / len(points) for name, points in curves.items()}
    description = "Means over the layers: " + ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()) + "."
    return _inline(figure, "shares", "Share of each model by layer", description)


def tradeoffs_svg(curves: Mapping[str, Points]) -> str:
    """Perplexity against the share of parameters removed, of several models in one figure."""
    ends = (f"{name} ends at {points[-1][0]:.1%}, {points[-1][1]:.4g}" for name, points in curves.items())
    title = "Perplexity against the share of parameters removed"
    return _inline(_tradeoffs(curves, INK), "tradeoffs", title, "; ".join(ends) + ".")


def _tradeoffs(curves: Mapping[str, Points], colour: str) -> "Figure":
    figure = _figure(560, 330)
    axes = figure.subplots()
    _named_curves(axes, curves, colour)
    _tradeoff_axes(axes, [perplexity for points in curves.values() for _, perplexity in points], colour)
    return figure


def _named_curves(axes: "Axes", curves: Mapping[str, Points], colour: str) -> None:
    drawn = []
    for number, points in enumerate(curves.values()):
        style: dict[str, Any] = {"color": CYCLE[number % len(CYCLE)], "marker": MARKERS[number % len(MARKERS)]}
        drawn += axes.plot(*zip(*points, strict=True), linewidth=2, markersize=5, **style)
    numbers = [str(number) for number in range(len(drawn))]  # a name that begins with an underscore would be left out
    legend = axes.legend(drawn, numbers, frameon=False, labelcolor=colour, fontsize=9)
    for text, name in zip(legend.get_texts(), curves, strict=True):
        text.set_parse_math(False)
        text.set_text(figure_name(name))


def figure_name(name: str) -> str:
    """A name that fits into a figure: its letters, and of a long one its beginning and its end."""
    text = visible(name)
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME // 2]} … {text[3 - LONGEST_NAME // 2 :]}"


def intervals_svg(panels: Mapping[str, Sequence[tuple[str, float, float | None, float | None]]]) -> str:
    """A panel a figure, a row each that it is of: (name, value, low, high), a point with its interval."""
    rows = max(map(len, panels.values()))
    figure = _figure(560, 70 + 34 * rows)
    every, told = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], []
    for axes, (label, values) in zip(every, panels.items(), strict=True):
        _calm(axes, INK)
        axes.set_xlabel(label)
        axes.set_yticks(range(rows), [figure_name(name) for name, *_ in values], parse_math=False)
        axes.set_ylim(rows - 0.5, -0.5)
        for place, (name, value, low, high) in enumerate(values):
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=CURVE, linewidth=2, solid_capstyle="round")
            axes.plot([value], [place], color=MARK, marker="o", markersize=7)
            told.append(f"{label}, {name}: {value:.4g}")
        axes.set_xlim(left=0)
    return _inline(figure, "intervals", "Shares with their 95 % intervals", "; ".join(told) + ".")


def reliability_svg(bins: Sequence[Mapping[str, Any]]) -> str:
    """Share that was right against mean confidence, a point a bin, its area the predictions in it."""
    figure = _figure(360, 330)
    axes, total = figure.subplots(), sum(each["count"] for each in bins)
    _calm(axes, INK)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", alpha=0.6)
    sure, right = ([each[key] for each in bins] for key in ("confidence", "accuracy"))
    axes.plot(sure, right, color=CURVE, linewidth=2)
    areas = [30 + 300 * each["count"] / total for each in bins]
    axes.scatter(sure, right, s=areas, color=MARK, zorder=3, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the label", ylabel="share that is right")
    told = "; ".join(f"{each['count']} at {each['confidence']:.2f}: {each['accuracy']:.2f}" for each in bins)
    return _inline(figure, "reliability", "Reliability of label probabilities", f"{told}.")


def plot_tradeoff(curves: Mapping[str, Points], path: Path) -> None:
    """Write several curves (share of parameters removed, perplexity) to a .png or .svg file for light or dark pages."""
    import matplotlib

    figure = _tradeoffs(curves, MID_GREY)
    metadata = METADATA if path.suffix == ".svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "tradeoff", "svg.fonttype": "none"}):
        figure.savefig(path, transparent=True, metadata=metadata, dpi=200)

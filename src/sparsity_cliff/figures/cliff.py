"""Score against measured activation sparsity, with the fitted curve, the break, and the verdict."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator

from sparsity_cliff.figures import page
from sparsity_cliff.figures.style import INK, PALE, SMALL, TEXT, Look, looks, seeds, span

CLAIM = 0.70  # sparsity above which accuracy falls according to the paper (arXiv 2605.17659, abstract)
COLUMNS = 3
#: Metric of a score -> (name with unit, factor to this unit, minimum range of the axis). On a shorter axis, noise would
#: look like a cliff.
SCORES = {
    "accuracy": ("accuracy (%)", 100, 0.1),
    "pesq": ("PESQ (1 to 4.64)", 1, 0.35),
    "stoi": ("STOI (0 to 1)", 1, 0.1),
    "relative accuracy": ("relative accuracy (%)", 100, 0.1),
    "relative score": ("relative score (%)", 100, 0.1),
}
RED = "#CC3311"


def draw(points: pd.DataFrame, cliff: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    """The figure. points: a row per finished seed. cliff: verdicts. curves: the fitted curves."""
    if points.empty or cliff.empty:
        return page.empty("Score and sparsity. No run on real data with a loss of this figure has finished.")
    styles = looks(points["configuration"])
    verdicts = list(cliff.itertuples())
    rows = -(-len(verdicts) // COLUMNS)
    figure = page.new(1.75 * rows, TEXT)
    grid = figure.add_gridspec(rows, COLUMNS)
    for place, verdict in enumerate(verdicts):
        row, column = divmod(place, COLUMNS)
        last = place == len(verdicts) - 1  # the pooled panel takes the rest of its row
        axes = figure.add_subplot(grid[row, column:] if last else grid[row, column])
        pooled = verdict.value == "relative_score"
        own = points if pooled else points[points["architecture"] == verdict.architecture]
        curve = curves[(curves["architecture"] == verdict.architecture) & (curves["value"] == verdict.value)]
        _points(axes, own, str(verdict.value), styles)
        _fit(axes, verdict, curve)
        metrics = own["metric"].unique()
        metric = str(metrics[0]) if len(metrics) == 1 else "score"
        _axes(axes, verdict, f"relative {'accuracy' if metric == 'accuracy' else 'score'}" if pooled else metric)
    notes = _notes(cliff)
    if not points["fitted"].all():
        notes.insert(1, "Hollow points: not fitted.")
    return page.finish(figure, _handles(styles, cliff), notes)


def _points(axes: Axes, points: pd.DataFrame, value: str, styles: dict[str, Look]) -> None:
    for name, look in styles.items():
        own = points[points["configuration"] == name]
        hollow: Any = {} if own["fitted"].all() else {"markerfacecolor": "white", "zorder": 1.9}
        axes.plot(own["sparsity"], own[value], **{**look.point, **hollow}, markersize=2.6, alpha=0.7)


def _fit(axes: Axes, verdict: Any, curve: pd.DataFrame) -> None:
    axes.fill_between(curve["sparsity"], curve["low"], curve["high"], color=INK, alpha=0.15, linewidth=0)
    outlined = [Stroke(linewidth=1.8, foreground="white"), Normal()]  # stands out among many points
    axes.plot(curve["sparsity"], curve["fitted"], color=INK, linewidth=1, path_effects=outlined)
    axes.axvline(CLAIM, color=PALE, linestyle=":", linewidth=0.9, zorder=0)
    if verdict.verdict == "cliff":
        axes.axvspan(verdict.low, verdict.high, color=RED, alpha=0.12, linewidth=0, zorder=0)
        axes.axvline(verdict.break_at, color=RED, linewidth=0.9)


def _axes(axes: Axes, verdict: Any, metric: str) -> None:
    name, units, least = SCORES[metric]
    page.percent_axis(axes.xaxis)
    low, high = axes.get_ylim()
    short = max(0, least - (high - low)) / 2
    axes.set_ylim(low - short, high + short)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda score, _: f"{units * score:.4g}")
    axes.set_xlabel("activation sparsity (%)")
    axes.set_ylabel(name)
    axes.set_title(page.folded(verdict.architecture, 1.3), loc="left", pad=4 + 1.4 * SMALL)
    above: Any = {"textcoords": "offset points", "xycoords": "axes fraction", "fontsize": SMALL, "va": "baseline"}
    axes.annotate(words(verdict), (0, 1), (0, 4), ha="left", **above)
    axes.annotate(f"n = {verdict.n_configurations}", (1, 1), (0, 4 + 1.4 * SMALL), ha="right", **above)


def words(verdict: Any) -> str:
    """The verdict in words. For a cliff, or a decline that bends, with the break and its interval."""
    place, low, high = (100 * number for number in (verdict.break_at, verdict.low, verdict.high))
    if verdict.verdict == "cliff":
        return f"cliff at {place:.0f} % [{low:.0f}, {high:.0f}]"
    if verdict.verdict == "smooth decline" and verdict.bends:
        return f"smooth decline, bends near {place:.0f} % [{low:.0f}, {high:.0f}]"
    return str(verdict.verdict)


def _handles(styles: dict[str, Look], cliff: pd.DataFrame) -> page.Handles:
    handles = page.point_handles(styles)
    if (cliff["model"] != "none").any():
        handles["fitted curve"] = (Patch(color=INK, alpha=0.15, linewidth=0), Line2D([], [], color=INK))
    if (cliff["verdict"] == "cliff").any():
        handles["cliff"] = (Patch(color=RED, alpha=0.12, linewidth=0), Line2D([], [], color=RED, linewidth=0.9))
    handles[f"{100 * CLAIM:.0f} %, the paper's claim"] = Line2D([], [], color=PALE, linestyle=":", linewidth=0.9)
    return handles


def _notes(cliff: pd.DataFrame) -> list[str]:
    notes = [f"One point per seed ({seeds(cliff['n_seeds'])}). n of a panel: configurations."]
    if (cliff["model"] != "none").any():
        level = span(100 * cliff["level"])
        notes.append("Curve: fitted to their means over seeds.")
        notes.append(f"Band and [ ]: {level} % interval, wild bootstrap over configurations.")
    if (cliff["value"] == "relative_score").any():
        notes.append("Pooled: relative to the mean of the architecture's dense baseline.")
    few = cliff[cliff["verdict"] == "too few runs"].groupby("reason", sort=False)["architecture"]
    return notes + [f"Too few runs ({', '.join(names)}): {reason}." for reason, names in few]

"""Critical sparsity: the zeros that each tolerated loss of score allows, by architecture and way of making zeros."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from sparsity_cliff.figures import drawn, page
from sparsity_cliff.figures.style import INK, Look, looks, mechanisms, seeds, span

LOWEST = 0.5  # sparsity at the left end of the axis, unless an interval begins below it


def draw(critical: pd.DataFrame) -> Figure:
    """The figure. critical: a row per architecture, mechanism, and tolerance."""
    shown = critical[critical["verdict"] != "too few runs"]
    if shown.empty:
        return page.empty(
            "Critical sparsity. No architecture has a level of sparsity and a baseline with two seeds each."
        )
    tolerances = sorted(shown["tolerance"].unique())
    names = mechanisms(shown["mechanism"])
    styles = looks(names.values())
    left = min(LOWEST, *shown["low"].dropna(), *shown["high"].dropna())
    block = page.Block(list(shown["architecture"].unique()), "activation sparsity (%)", "loss of score (%)")
    figure, (panels,) = page.panels([block], 1.6)
    for architecture, axes in panels.items():
        for row in shown[shown["architecture"] == architecture].itertuples():
            name = names[str(row.mechanism)]
            beside = (list(styles).index(name) + 0.5) / len(styles) - 0.5
            _interval(axes, row, tolerances.index(row.tolerance) + 0.7 * beside, name, styles[name], left)
        page.percent_axis(axes.xaxis, low=left)
        axes.set_yticks(range(len(tolerances)), [f"{100 * tolerance:g}" for tolerance in tolerances])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(len(tolerances) - 0.5, -0.5)
    handles = page.point_handles(styles)
    if shown[["low", "high"]].isna().any(axis=None):
        handles["open end"] = Line2D([], [], color=INK, linestyle=":", linewidth=0.9)
    notes = [
        f"{seeds(shown['n_reference'])} of the baseline, {span(shown['n_seeds'])} or more of each level.",
        f"Dots: estimates. Bars: {span(100 * shown['level'])} % intervals, t tests over seeds and held-out examples.",
    ]
    few = critical.loc[critical["verdict"] == "too few runs", "architecture"].unique()
    if len(few):
        notes.append(f"Too few runs: {', '.join(few)}.")
    return page.finish(figure, handles, notes)


def _interval(axes: Axes, row: Any, y: float, name: str, look: Look, left: float) -> None:
    """The estimate and the interval of a row at height y. An open end is a dotted line to the end of the axis."""
    low, high = (end if pd.notna(end) else None for end in (row.low, row.high))
    series = f"{name}, loss of {100 * row.tolerance:g} %"
    line: Any = {"color": look.color, "linewidth": 0.9, "zorder": 1.5, "label": series}
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], **line, gid=drawn.INTERVAL)
    else:
        ends = [left if low is None else low, 1 if high is None else high]
        axes.plot(ends, [y, y], **line, linestyle=":", gid=drawn.OPEN_INTERVAL)
    for end in (low, high):
        if end is not None:
            axes.plot([end], [y], **line, marker="|", markersize=4, gid=drawn.END)
    if pd.notna(row.sparsity):
        axes.plot([row.sparsity], [y], **look.point, markersize=3, label=series)

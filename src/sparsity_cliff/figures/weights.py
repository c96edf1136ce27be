"""Densities of the hidden weights at the start and at the end of training."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import INK, PALE, SMALL, Look, labeled, looks, seeds, selected

SHOWN = 8  # maximum activations in a panel, whose outlines would otherwise overlap
REACH = 6  # initial standard deviations on each side of 0
VIEW = (1e-4, 2.0)  # range of densities
MUCH = 0.001  # share of weights beyond REACH from which a panel shows a number


def draw(table: pd.DataFrame) -> Figure:
    """The figure. table: mean density over seeds and hidden matrices, per cell, moment (start or end), and bin."""
    frame = labeled(table[table["data"] == "real"])
    if frame.empty:
        return page.empty("Weights. No run on real data with measured histograms has finished.")
    styles = looks(frame["label"])
    shown = {name: styles[name] for name in selected(styles, SHOWN)}
    drawn = frame[frame["label"].isin(list(shown))]
    block = page.Block(series.titles(drawn), "weight (σ₀)", "density (1/σ₀)")
    figure, (panels,) = page.panels([block], 1.35)
    for title, axes in panels.items():
        _panel(axes, drawn[drawn["panel"] == title], shown)
        page.guide(axes, 0, horizontal=False)
    handles: page.Handles = {"start": Patch(color=PALE, alpha=0.5, linewidth=0)}
    handles |= {f"end, {name}": mark for name, mark in page.line_handles(shown).items()}
    notes = [f"Hidden weights that an activation feeds: mean of {seeds(frame['n'])}; no interval."]
    most = frame["outside"].max()
    where = f"; in a panel: the maximum at the end, if {100 * MUCH:g} % or more" if most >= MUCH else ""
    notes.append(f"Beyond ±{REACH} σ₀, not drawn: {f'at most {100 * most:.2g} %' if most else 'none'} of them{where}.")
    notes.append(series.loss(drawn))
    others = page.line_handles({name: look for name, look in styles.items() if name not in shown})
    return page.finish(figure, handles, [*notes, *([f"Not drawn: {', '.join(others)}."] if others else [])])


def _panel(axes: Axes, cell: pd.DataFrame, shown: dict[str, Look]) -> None:
    axes.set_yscale("log")
    axes.set(xlim=(-REACH, REACH), ylim=VIEW, xticks=range(-REACH, REACH + 1, 2), yticks=[1e-4, 1e-3, 1e-2, 1e-1, 1])
    axes.yaxis.set_minor_locator(NullLocator())
    ends = cell[cell["moment"] == "end"].sort_values("left")
    start = cell[(cell["moment"] == "start") & (cell["label"] == cell["label"].iloc[0])].sort_values("left")
    edges = [*start["left"], *start["right"].tail(1)]
    # equal for all activations, which share their seeds
    axes.stairs(start["density"], edges, label="start", color=PALE, fill=True, alpha=0.5)
    for place, (name, look) in enumerate(shown.items()):
        bins = ends[ends["label"] == name]
        if len(bins):
            middle = (bins["left"] + bins["right"]) / 2
            every = (place, len(shown))  # markers at different bins
            steps: Any = {**look.line, "drawstyle": "steps-mid", "linewidth": 0.9}
            axes.plot(middle, bins["density"], **steps, markevery=every, label=f"end, {name}")
    if ends["outside"].max() >= MUCH:
        words = f"{100 * ends['outside'].max():.2g} % beyond"
        axes.text(0.98, 0.96, words, transform=axes.transAxes, ha="right", va="top", fontsize=SMALL, color=INK)

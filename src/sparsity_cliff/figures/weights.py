"""How training changes the distribution of the hidden weights: densities at the end minus those at the start."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import Look, labeled, looks, seeds, selected

SHOWN = 8  # maximum activations in a panel, whose outlines would otherwise overlap
VIEW = 3  # initial standard deviations on each side of 0 in a panel, because little happens beyond
REACH = 6  # of them that have a density
MUCH = 0.001  # share of weights beyond REACH from which a panel shows a number


def draw(table: pd.DataFrame) -> Figure:
    """The figure. table: mean change of density over seeds and matrices, per cell, moment (start or end), and bin."""
    frame = labeled(table[table["data"] == "real"])
    if frame.empty:
        return page.empty("Weights. No run on real data with measured histograms has finished.")
    styles = looks(frame["label"])
    shown = {name: styles[name] for name in selected(styles, SHOWN)}
    drawn = frame[frame["label"].isin(list(shown))]
    block = page.Block(series.titles(drawn), "weight (σ₀)", "change of density (1/σ₀)", own_y=True)
    figure, (panels,) = page.panels([block], 1.35)
    for title, axes in panels.items():
        _panel(axes, drawn[drawn["panel"] == title], shown)
        page.guide(axes, 0, horizontal=False)
        page.guide(axes, 0)
    handles = page.line_handles(shown)
    notes = [f"Hidden weights that an activation feeds: mean of {seeds(frame['n'])}; no interval."]
    most = frame["outside"].max()
    where = f"; in a title: the maximum at the end, if {100 * MUCH:g} % or more" if most >= MUCH else ""
    notes.append(f"The axes end at ±{VIEW} σ₀.")
    notes.append(f"Beyond ±{REACH} σ₀: {f'at most {100 * most:.2g} %' if most else 'none'} of them{where}.")
    notes.append(series.loss(drawn))
    others = page.line_handles({name: look for name, look in styles.items() if name not in shown})
    return page.finish(figure, handles, [*notes, *([f"Not drawn: {', '.join(others)}."] if others else [])])


def _panel(axes: Axes, cell: pd.DataFrame, shown: dict[str, Look]) -> None:
    axes.set(xlim=(-VIEW, VIEW), xticks=range(-VIEW, VIEW + 1))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    ends = cell[(cell["moment"] == "end") & (cell["left"] >= -VIEW) & (cell["right"] <= VIEW)].sort_values("left")
    for place, (name, look) in enumerate(shown.items()):
        bins = ends[ends["label"] == name]
        if len(bins):
            middle = (bins["left"] + bins["right"]) / 2
            every = (place, len(shown))  # markers at different bins
            steps: Any = {**look.line, "drawstyle": "steps-mid", "linewidth": 0.9}
            axes.plot(middle, bins["change"], **steps, markevery=every, label=name)
    if ends["outside"].max() >= MUCH:
        title = f"{axes.get_title()}, {100 * ends['outside'].max():.2g} % beyond"
        axes.set_title(page.folded(title, 1.5))

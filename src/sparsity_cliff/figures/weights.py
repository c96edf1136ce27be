"""Densities of the hidden weights at the start and at the end of training."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from sparsity_cliff.figures import page
from sparsity_cliff.figures.style import INK, PALE, Look, labeled, looks, seeds

ROWS = 8  # what fits a page
REACH = 6  # initial standard deviations either side of 0
VIEW = (1e-4, 2.0)  # densities
DASHES = ["-", (0, (2.5, 1.2)), (0, (1, 1))]


def draw(table: pd.DataFrame) -> Figure:
    """table: mean density over seeds and hidden matrices, per cell, moment (start or end) and bin."""
    frame = labeled(table[table["data"] == "real"])
    if frame.empty:
        return page.empty("Weights. No run on real data with measured histograms has finished.")
    styles = looks(frame["label"])
    shown = _selected(styles)
    losses = dict(zip(frame["loss"].unique(), DASHES * len(frame), strict=False))
    figure, panels = page.panels(shown, list(frame["architecture"].unique()), 0.66, sharex=True, sharey=True)
    for (name, architecture), axes in panels.items():
        cell = frame[(frame["label"] == name) & (frame["architecture"] == architecture)]
        _panel(axes, cell, styles[name], losses)
    page.label(panels, "weight (σ₀)", "density (1/σ₀)", low=True)
    for axes in panels.values():
        page.guide(axes, 0, horizontal=False)
    handles: page.Handles = {"start": Patch(color=PALE, alpha=0.5, linewidth=0)}
    handles |= {f"end, {loss}": Line2D([], [], color=INK, linestyle=dashes) for loss, dashes in losses.items()}
    notes = [f"Mean of {seeds(frame['n'])} and the hidden matrices that an activation feeds; no interval."]
    others = page.line_handles({name: look for name, look in styles.items() if name not in shown})
    return page.finish(figure, handles, [*notes, *([f"Not drawn: {', '.join(others)}."] if others else [])])


def _selected(styles: dict[str, Look]) -> list[str]:
    """Plain activations first, then of each family the last member, as many as fit a page."""
    last = {look.family: name for name, look in styles.items()}
    plain = [name for name, look in styles.items() if not look.number]
    return [*plain, *(name for name in last.values() if name not in plain)][:ROWS]


def _panel(axes: Axes, cell: pd.DataFrame, look: Look, losses: dict[str, object]) -> None:
    axes.set_yscale("log")
    axes.set(xlim=(-REACH, REACH), ylim=VIEW, xticks=range(-REACH, REACH + 1, 3), yticks=[1e-3, 1e-1])
    axes.yaxis.set_minor_locator(NullLocator())
    for place, (loss, bins) in enumerate(cell.sort_values("left").groupby("loss", sort=False)):
        for moment, outline in bins.groupby("moment"):
            edges = [*outline["left"], outline["right"].iloc[-1]]
            if moment == "end":
                axes.stairs(outline["density"], edges, color=look.shade, linestyle=losses[str(loss)], linewidth=0.9)
            elif place == 0:  # the start is the same for all losses
                axes.stairs(outline["density"], edges, color=PALE, fill=True, alpha=0.5)

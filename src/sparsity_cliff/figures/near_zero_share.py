"""Soft suppression: near-zero share of the whole model over steps, for activations that start without exact zeros."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import labeled, looks


def draw(table: pd.DataFrame) -> Figure:
    """The figure. table: mean over seeds per cell, metric, and step."""
    frame = labeled(table)
    frame = frame[(frame["metric"] == "near_zero_share") & frame["soft"]]
    if frame.empty:
        return page.empty("Near-zero share. No run with an activation without exact zeros has finished.")
    block = page.Block(series.titles(frame), "training (steps)", "near-zero share (%)")
    figure, (panels,) = page.panels([block], 1.35)
    styles = looks(frame["label"])
    series.draw(panels, frame, "step", styles)
    most = pd.concat([series.shown(frame), frame.loc[frame["n"] >= series.FEW, "high"]]).max()
    for axes in panels.values():
        page.step_axis(axes, frame["step"].max())
        axes.set_ylim(-0.03 * most, 1.05 * most or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}")
    handles = {**page.line_handles(styles), **series.data_handles(frame)}
    return page.finish(figure, handles, [series.interval(frame, "band"), series.loss(frame)])

"""Activation sparsity of each activation site at the end of training, from the input to the output."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsity_cliff.figures import page, series


def draw(table: pd.DataFrame) -> Figure:
    """table: mean over seeds per cell, metric and activation site, at the last step."""
    frame, note = series.sparsity(table)
    if frame.empty:
        return page.empty(f"Activation sparsity by depth. {note}")
    figure, panels = series.grid(frame, 1.35, sharex="col", sharey=True)
    looks = series.draw(panels, frame, "depth", band=False)
    page.label(panels, "depth (site)", "activation sparsity (%)")
    for axes in panels.values():
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.margins(x=0.08)
        page.percent_axis(axes.yaxis)
    handles = {**page.line_handles(looks), **series.data_handles(frame)}
    return page.finish(figure, handles, [series.interval(frame, "bar"), note])

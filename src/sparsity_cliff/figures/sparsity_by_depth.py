"""Activation sparsity of each activation site at the end of training, from the input to the output."""

import pandas as pd
from matplotlib.figure import Figure

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import looks


def draw(table: pd.DataFrame) -> Figure:
    """The figure. table: mean over seeds per cell, metric, and activation site, at the last step."""
    frame, note = series.sparsity(table)
    if frame.empty:
        return page.empty(f"Activation sparsity by depth. {note}")
    block = page.Block(series.titles(frame), "depth (site)", "activation sparsity (%)", own_x=True)
    figure, (panels,) = page.panels([block], 1.35)
    styles = looks(frame["label"])
    series.draw(panels, frame, "depth", styles, band=False)
    for axes in panels.values():
        page.depth_axis(axes)
        page.percent_axis(axes.yaxis)
    handles = {**page.line_handles(styles), **series.data_handles(frame)}
    return page.finish(figure, handles, [series.interval(frame, "bar", "small dots"), series.loss(frame), note])

"""Activation sparsity of the whole model over steps."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import PALE, looks


def draw(table: pd.DataFrame) -> Figure:
    """The figure. table: mean over seeds per cell, metric, and step."""
    frame, note = series.sparsity(table)
    if frame.empty:
        return page.empty(f"Activation sparsity over steps. {note}")
    block = page.Block(series.titles(frame), "training (steps)", "activation sparsity (%)")
    figure, (panels,) = page.panels([block], 1.35)
    styles = looks(frame["label"])
    series.draw(panels, frame, "step", styles)
    for axes in panels.values():
        page.step_axis(axes, frame["step"].max())
        page.percent_axis(axes.yaxis)
        page.guide(axes, 0.5)
    handles = {**page.line_handles(styles), **series.data_handles(frame)}
    # ReLU zeros half of zero-mean Gaussian pre-activations
    handles["50 %, expected of relu at step 0"] = Line2D([], [], color=PALE, linewidth=0.6)
    return page.finish(figure, handles, [series.interval(frame, "band"), series.loss(frame), note])

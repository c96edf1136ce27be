"""What spikes have to do with quality: held-out loss against spike/RMS of intermediate sites, per activation."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from sparsity_cliff.figures import drawn, page, series
from sparsity_cliff.figures.style import Look, labeled, looks


def draw(table: pd.DataFrame) -> Figure:
    """The figure. table: means over seeds of loss and spike ratio at the last step, per cell on real data."""
    frame = labeled(table)
    if frame.empty:
        return page.empty("Loss and spikes. No run on real data with measured activations has finished.")
    styles = looks(frame["label"])
    block = page.Block(series.titles(frame), "spike (RMS)", "held-out loss (own unit)", own_x=True, own_y=True)
    figure, (panels,) = page.panels([block], 1.6)
    for title, axes in panels.items():
        for row in frame[frame["panel"] == title].itertuples():
            _point(axes, row, str(row.label), styles[str(row.label)])
        _axes(axes)
    notes = ["Largest |a| ÷ RMS of its site, geometric mean over intermediate sites, at the last step on real data."]
    notes += [series.interval(frame, "bars", "small dots"), series.loss(frame)]
    return page.finish(figure, page.line_handles(styles), notes)


def _point(axes: Axes, row: Any, name: str, look: Look) -> None:
    """The means of an activation, with their intervals, or with the seeds if there are few."""
    line: Any = {"color": look.shade, "linewidth": 0.7, "zorder": 1.5, "label": name, "gid": drawn.INTERVAL}
    if row.n >= series.FEW:
        axes.plot([row.ratio_low, row.ratio_high], [row.held_out_loss] * 2, **line)
        axes.plot([row.spike_ratio] * 2, [row.loss_low, row.loss_high], **line)
    elif row.n > 1:
        for seed, ratio, loss in zip(row.seeds, row.ratios, row.losses, strict=True):
            axes.plot([ratio], [loss], **series.DOT, color=look.shade, label=f"{name}, seed {seed}")
    axes.plot([row.spike_ratio], [row.held_out_loss], **look.line, label=name, zorder=3)


def _axes(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high < 30 * low else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6) if high > 4 * low else MaxNLocator(4))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}".replace("-", "−"))

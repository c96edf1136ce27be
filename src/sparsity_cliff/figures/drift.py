"""Drift z of the hidden weights over steps, with its two controls."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import labeled


def draw(drift: pd.DataFrame, contrasts: pd.DataFrame) -> Figure:
    """drift: mean over seeds per cell and step. contrasts: says which activations are the study's controls."""
    if drift.empty:
        return page.empty("Drift. No run with measured weights has finished.")
    frame = labeled(drift)
    figure, panels = series.grid(frame, 1.35, sharex=True, sharey=True)
    looks = series.draw(panels, frame, "step")
    page.label(panels, "training (steps)", "drift z (σ₀/√n)")
    for axes in panels.values():
        page.step_axis(axes, frame["step"].max())
        _drift_axis(axes, frame)
        page.guide(axes, 0)
    controls = set(contrasts["against"]) & set(frame["activation"])
    marks = page.line_handles(looks, suffix=dict.fromkeys(controls, " (control)"))
    notes = [series.interval(frame, "band")]
    if not controls:
        notes.append("No control activation in these runs.")
    if "random" not in set(frame["data"]):
        notes.append("No runs on random data.")
    return page.finish(figure, {**marks, **series.data_handles(frame)}, notes)


def _drift_axis(axes: Axes, frame: pd.DataFrame) -> None:
    """y: logarithmic beyond ±1, where the drift spans decades, so that the controls stay readable."""
    if frame["mean"].abs().max() < 20:
        return
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    low, high = (frame[name].fillna(frame["mean"]) for name in ("low", "high"))
    reach = {-1: max(1.0, -low.min()), 1: max(1.0, high.max())}
    decades = {sign: math.ceil(math.log10(reach[sign])) for sign in reach}
    stride = max(1, -(-max(decades.values()) // 4))  # a run that went astray must not fill the axis with labels
    ticks = [0.0, *(sign * 10.0**k for sign in reach for k in range(0, decades[sign] + 1, stride))]
    axes.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.set_ylim(-1.2 * reach[-1], 1.2 * reach[1])

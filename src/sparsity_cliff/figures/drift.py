"""Drift z of the hidden weights over steps, with its two controls."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import labeled, looks


def draw(drift: pd.DataFrame, contrasts: pd.DataFrame) -> Figure:
    """The figure. drift: mean over seeds per cell and step. contrasts: names the study's control activations."""
    if drift.empty:
        return page.empty("Drift. No run with measured weights has finished.")
    frame = labeled(drift)
    block = page.Block(series.titles(frame), "training (steps)", "drift z (σ₀/√n)")
    figure, (panels,) = page.panels([block], 1.35)
    styles = looks(frame["label"])
    series.draw(panels, frame, "step", styles)
    for axes in panels.values():
        page.step_axis(axes, frame["step"].max())
        _drift_axis(axes, frame)
        page.guide(axes, 0)
    controls = set(contrasts["against"]) & set(frame["activation"])
    marks = page.line_handles(styles, suffix=dict.fromkeys(controls, " (control)"))
    notes = [series.interval(frame, "band"), series.loss(frame)]
    if not controls:
        notes.append("No control activation in these runs.")
    if "random" not in set(frame["data"]):
        notes.append("No runs on random data.")
    return page.finish(figure, {**marks, **series.data_handles(frame)}, notes)


def _drift_axis(axes: Axes, frame: pd.DataFrame) -> None:
    """Make y logarithmic beyond ±1 if the drift spans decades, so that the controls stay readable."""
    if frame["mean"].abs().max() >= 20:
        low, high = (frame[name].fillna(frame["mean"]) for name in ("low", "high"))
        page.signed_axis(axes, low.min(), high.max(), linear=1)

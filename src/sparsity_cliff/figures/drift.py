"""Drift d of the hidden weights and of the pre-activations over steps, with its two controls."""

import pandas as pd
from matplotlib.figure import Figure

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import labeled, looks


def draw(drift: pd.DataFrame, contrasts: pd.DataFrame) -> Figure:
    """The figure. drift: mean over seeds per cell, quantity, and step. contrasts: names the study's controls."""
    if drift.empty:
        return page.empty("Drift. No run with measured weights has finished.")
    frame = labeled(drift)
    parts = {str(quantity): part for quantity, part in frame.groupby("quantity", sort=False)}
    short = {"pre-activations": "z"}  # fits beside a low panel
    blocks = [
        page.Block(series.titles(part), "training (steps)", f"{short.get(name, name)} (σ₀)")
        for name, part in parts.items()
    ]
    figure, found = page.panels(blocks, 1.35)
    styles = looks(frame["label"])
    for panels, part in zip(found, parts.values(), strict=True):
        series.draw(panels, part, "step", styles)
        for axes in panels.values():
            page.step_axis(axes, frame["step"].max())
            page.guide(axes, 0)
    controls = set(contrasts["against"]) & set(frame["activation"])
    marks = page.line_handles(styles, suffix=dict.fromkeys(controls, " (control)"))
    notes = ["Shift of the mean of weights or pre-activations (z), in standard deviations at initialization (σ₀)."]
    notes += [series.interval(frame, "band"), series.loss(frame)]
    if not controls:
        notes.append("No control activation in these runs.")
    if "random" not in set(frame["data"]):
        notes.append("No runs on random data.")
    return page.finish(figure, {**marks, **series.data_handles(frame)}, notes)

"""Lines with intervals, one per activation, in a panel per architecture and loss. Most figures use this form."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sparsity_cliff.figures import page
from sparsity_cliff.figures.style import INK, Look, labeled, looks, seeds, span

DASHES: dict[str, Any] = {"real": "-", "random": (0, (2.5, 1.5))}


def titles(frame: pd.DataFrame) -> list[str]:
    """Titles of the panels: architectures in the order of the study, each with the losses of its finished runs."""
    pairs = frame[["architecture", "panel"]].drop_duplicates()
    return [title for _, own in pairs.groupby("architecture", sort=False) for title in own["panel"]]


def loss(frame: pd.DataFrame) -> str:
    """A sentence with the loss of the panels whose titles name no loss."""
    bare = frame["panel"] == frame["architecture"]
    words = "" if bare.all() else " if a title names no other"
    return "".join(f"Loss: {name}{words}." for name in frame.loc[bare, "loss"].unique())


def draw(panels: dict[str, Axes], frame: pd.DataFrame, x: str, styles: dict[str, Look], band: bool = True) -> None:
    """Draw the column `mean` over `x`, per label and data, with the interval as a band or as bars at the points."""
    for title, axes in panels.items():
        cell = frame[frame["panel"] == title]
        for place, (name, look) in enumerate(styles.items()):
            for data, dashes in DASHES.items():
                line = cell[(cell["label"] == name) & (cell["data"] == data)].sort_values(x)
                if line.empty:
                    continue
                series = name if data == "real" else f"{name}, {data} data"
                axes.plot(
                    line[x],
                    line["mean"],
                    label=series,
                    **(look.line if data == "real" else {**look.line, "markerfacecolor": "white"}),
                    linestyle=dashes,
                    # one or two marks per line, in its later part, where lines diverge, and at different places
                    markevery=(0.4 + 0.3 * place / len(styles), 0.3) if band else None,
                    linewidth=0.7 if look.number else 1.1,
                    zorder=2 if look.number or data == "random" else 3,
                )
                ends = line[x], line["low"], line["high"]
                if band:
                    axes.fill_between(*ends, label=series, color=look.shade, alpha=0.15, linewidth=0)
                else:
                    axes.vlines(*ends, label=series, color=look.shade, linewidth=0.6)


def data_handles(frame: pd.DataFrame) -> page.Handles:
    """Legend entries for real and random data, if there are both. Random data also has open markers."""
    found = [data for data in DASHES if data in set(frame["data"])]
    marks = {data: Line2D([], [], color=INK, linestyle=DASHES[data]) for data in found}
    return {f"{data} data": mark for data, mark in marks.items()} if len(found) > 1 else {}


def interval(frame: pd.DataFrame, shape: str) -> str:
    """A sentence that explains the lines and their bands or bars, with n and level from the table."""
    words = f"Mean of {seeds(frame['n'])}"
    if not frame["low"].notna().any():
        return f"{words}: no interval."
    words += f"; {shape}: {span(100 * frame['level'])} % t interval"
    return f"{words}, none where n = 1." if (frame["n"] == 1).any() else f"{words}."


def sparsity(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of activation sparsity that are drawn, and a note about those that are not.

    Activations such as GELU have hardly any exact zeros, so their lines would overlap at 0 %.
    """
    frame = labeled(table[table["metric"] == "activation_sparsity"])
    if frame.empty:
        return frame, "No run with measured activations has finished."
    dense = page.line_handles(looks(frame.loc[frame["dense"], "label"].unique()))
    note = f"Hardly any exact zeros, not drawn: {', '.join(dense)}." if dense else ""
    return frame[~frame["dense"]], note

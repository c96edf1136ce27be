"""Lines with intervals or seeds, one per activation, in a panel per architecture and loss. Most figures use this form.

A line of few seeds shows these seeds, because their t interval would be several times as wide as their differences.
"""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sparsity_cliff.figures import page
from sparsity_cliff.figures.style import INK, Look, labeled, looks, seeds, span

DASHES: dict[str, Any] = {"real": "-", "random": (0, (2.5, 1.5))}
FEW = 4  # a line of fewer seeds shows them in place of an interval
#: matplotlib's arguments for a seed that is a dot.
DOT: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 3.4, "markeredgewidth": 0, "alpha": 0.7}


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
    """Draw the column `mean` over `x`, per label and data, with the interval as a band or as bars at the points.

    In place of the interval of fewer than FEW seeds, a thin line or a dot shows each of them.
    """
    lines = dict(iter(frame.sort_values(x).groupby(["panel", "label", "data"], observed=True)))
    for title, axes in panels.items():
        for place, (name, look) in enumerate(styles.items()):
            for data, dashes in DASHES.items():
                line = lines.get((title, name, data))
                if line is None:
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
                if line["n"].max() < FEW:
                    _seeds(axes, line, x, series, look, connected=band)
                elif band:
                    ends = line[x], line["low"], line["high"]
                    axes.fill_between(*ends, label=series, color=look.shade, alpha=0.15, linewidth=0)
                else:
                    axes.vlines(line[x], line["low"], line["high"], label=series, color=look.shade, linewidth=0.6)


def _seeds(axes: Axes, line: pd.DataFrame, x: str, series: str, look: Look, connected: bool) -> None:
    """Each seed of a line, if there are several, as a thin line or as dots."""
    if line["n"].max() < 2:
        return
    points: dict[int, list[tuple[float, float]]] = {}  # of each seed; many times as fast as pandas' explode
    for place, numbers, values in zip(line[x], line["seeds"], line["values"], strict=True):
        for seed, value in zip(numbers, values, strict=True):
            points.setdefault(int(seed), []).append((place, float(value)))
    mark = {"linewidth": 0.4, "alpha": 0.7} if connected else DOT
    for seed in sorted(points):
        axes.plot(
            *zip(*points[seed], strict=True), **mark, color=look.shade, zorder=1.5, label=f"{series}, seed {seed}"
        )


def shown(frame: pd.DataFrame) -> "pd.Series[float]":
    """All means, and the values of the seeds that are drawn."""
    every: pd.Series[float] = pd.concat([frame["mean"], frame.loc[frame["n"] < FEW, "values"].explode().astype(float)])
    return every


def data_handles(frame: pd.DataFrame) -> page.Handles:
    """Legend entries for real and random data, if there are both. Random data also has open markers."""
    found = [data for data in DASHES if data in set(frame["data"])]
    marks = {data: Line2D([], [], color=INK, linestyle=DASHES[data]) for data in found}
    return {f"{data} data": mark for data, mark in marks.items()} if len(found) > 1 else {}


def interval(frame: pd.DataFrame, shape: str, single: str = "thin lines") -> str:
    """A sentence that explains the lines, their intervals, and their seeds, with n and level from the table.

    shape: of an interval. single: of a seed.
    """
    n, words = frame["n"], [f"Mean of {seeds(frame['n'])}"]
    if (n >= FEW).any():
        where = f" where n ≥ {FEW}" if (n < FEW).any() else ""
        words.append(f"{shape}: {span(100 * frame['level'])} % t interval{where}")
    if ((n < FEW) & (n > 1)).any():
        words.append(f"{single}: the seeds{f' where n < {FEW}' if (n >= FEW).any() else ', so no interval'}")
    return f"{'; '.join(words)}{'' if (n > 1).any() else ': no interval'}."


def sparsity(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of activation sparsity that are drawn, and a note about those that are not.

    Activations such as GELU have hardly any exact zeros, so their lines would overlap at 0 %. Those of a control are
    flat, and the figure `target_sparsity` shows its level.
    """
    frame = labeled(table[table["metric"] == "activation_sparsity"])
    if frame.empty:
        return frame, "No run with measured activations has finished."
    notes = []
    for reason, left_out in (
        ("hardly any exact zeros", frame["dense"]),
        ("controls, which are flat", frame["control"]),
    ):
        if names := page.line_handles(looks(frame.loc[left_out, "label"].unique())):
            notes.append(f"Not drawn ({reason}): {', '.join(names)}.")
    return frame[~frame["dense"] & ~frame["control"]], " ".join(notes)

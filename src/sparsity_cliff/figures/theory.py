"""Why weights drift: closed forms against Monte Carlo estimates, and the sign of gradients at initialization."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import INK, PALE, Look, labeled, looks, selected, span

SHOWN = 12  # maximum activations in a panel of signs, whose markers would otherwise overlap
#: Metric -> (name, offset from the activation's place, face of the marker, or None for the activation's color).
SIGNS: dict[str, tuple[str, float, str | None]] = {
    "gradient_positive": ("z > 0 (left)", -0.2, "white"),
    "gradient_all": ("all z (right)", 0.2, None),
}


def draw(theory: pd.DataFrame, signs: pd.DataFrame) -> Figure:
    """The figure. theory: a row per activation, loss, and region. signs: mean and t over seeds per cell and metric."""
    known = theory[theory["left_out"] == ""]
    measured = labeled(signs[(signs["data"] == "real") & signs["metric"].isin(list(SIGNS)) & signs["t"].notna()])
    if known.empty and measured.empty:
        return page.empty("Theory. No activation has a closed form, and no two seeds with measured gradients finished.")
    styles = looks([*known["activation"], *measured["label"]])
    shown = selected({name: look for name, look in styles.items() if name in set(measured["label"])}, SHOWN)
    blocks = []
    if len(known):
        blocks.append(page.Block(list(known["loss"].unique()), "closed form of E[∂L/∂z] (s²)", "Monte Carlo (s²)"))
    if len(measured):
        blocks.append(page.Block(series.titles(measured), "activation (color and mark)", "∂L/∂z (loss/z)", own_y=True))
    figure, panels = page.panels(blocks, 1.4)
    if len(known):
        for loss, axes in panels[0].items():
            _agreement(axes, known[known["loss"] == loss], styles)
    if len(measured):
        for title, axes in panels[-1].items():
            _signs(axes, measured[measured["panel"] == title], shown, styles)
    drawn = {*known["activation"], *shown}
    handles = page.line_handles({name: look for name, look in styles.items() if name in drawn})
    for name, _, face in SIGNS.values() if len(measured) else ():
        handles[f"lower panels: {name}"] = Line2D([], [], color=INK, marker="o", markerfacecolor=face, linestyle="none")
    return page.finish(figure, handles, _notes(theory, known, measured))


def _agreement(axes: Axes, known: pd.DataFrame, styles: dict[str, Look]) -> None:
    axes.axline((0, 0), slope=1, color=PALE, linewidth=0.6, zorder=0)
    for name, own in known.groupby("activation"):
        bars: Any = {**styles[str(name)].point, "elinewidth": 0.6, "label": str(name)}
        axes.errorbar(own["closed_form"], own["mean"], own["standard_error"], **bars)
    axes.margins(0.1)  # no mark on an edge
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))


def _signs(axes: Axes, own: pd.DataFrame, shown: list[str], styles: dict[str, Look]) -> None:
    for place, name in enumerate(shown):
        for metric, (words, beside, face) in SIGNS.items():
            point = own[(own["label"] == name) & (own["metric"] == metric)]
            look = {**styles[name].line, "label": f"{name}, {words.partition(' (')[0]}", "zorder": 3}
            look["markerfacecolor"] = face or look["color"]
            x = [place + beside] * len(point)
            axes.plot(x, point["mean"], **look)
            if (point["n"] >= series.FEW).any():
                axes.vlines(x, point["low"], point["high"], label=look["label"], color=look["color"], linewidth=0.6)
            else:
                each = point.explode("values")
                label = f"{look['label']}, seeds"
                axes.plot([place + beside] * len(each), each["values"], **series.DOT, color=look["color"], label=label)
    axes.set(xlim=(-0.7, len(shown) - 0.3), xticks=[])
    axes.margins(y=0.12)  # no mark on an edge
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}".replace("-", "−"))
    page.guide(axes, 0)


def _notes(theory: pd.DataFrame, known: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    notes = []
    if len(known):
        n = known["n"].max()
        notes.append(f"Upper panels: means over z > 0, z ≤ 0 and all z; n = {n:,.0f} draws of A; bar: standard error.")
        tolerance = span(known["tolerance"])
        notes.append(f"{known['within'].sum():g} of {len(known)} agree to {tolerance} standard errors.")
    for reason, rows in theory[theory["left_out"] != ""].groupby("left_out"):
        names = rows["loss" if "loss" in str(reason) else "activation"].unique()
        notes.append(f"No closed form ({reason}): {', '.join(page.line_handles(looks(names)))}.")
    if measured.empty:
        return [*notes, "No signs at initialization: they need gradients of two seeds; no interval."]
    notes.append("Lower panels: at step 0 on real data.")
    notes.append(series.interval(measured, "bar", "small dots"))
    return [*notes, series.loss(measured)]

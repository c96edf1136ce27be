"""Activation spikes relative to the RMS of their site: over steps, by depth, and, for token data, by token."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sparsity_cliff.figures import page, series
from sparsity_cliff.figures.style import INK, PALE, Look, labeled, looks

#: Metric -> (name, dashes, face of the mark, or None for the activation's color).
PLACES: dict[str, tuple[str, Any, str | None]] = {
    "spike_first_token_share": ("at token 0", "-", None),
    "spike_delimiter_share": ("at a delimiter", ":", "white"),
}


def draw(table: pd.DataFrame) -> Figure:
    """The figure. table: mean over seeds per cell, metric, site (or whole model), and step, with `expected` shares."""
    frame = labeled(table[table["data"] == "real"])
    spikes = frame[frame["metric"] == "spike_ratio"]
    if spikes.empty:
        return page.empty("Spikes. No run on real data with measured activations has finished.")
    over_steps = spikes[spikes["layer"].isna()]
    final = frame[frame["step"] == frame.groupby("panel")["step"].transform("max")]
    by_depth = final[(final["metric"] == "spike_ratio") & final["layer"].notna()]
    by_depth = by_depth[by_depth.groupby("panel")["depth"].transform("nunique") > 1]  # one site equals the whole model
    places = final[final["metric"].isin(list(PLACES))]
    blocks = [page.Block(series.titles(over_steps), "training (steps)", "spike (RMS)")]
    if len(by_depth):
        blocks.append(page.Block(series.titles(by_depth), "depth (site)", "spike (RMS)", own_x=True))
    if len(places):
        blocks.append(page.Block(series.titles(places), "depth (site)", "windows (%)", own_x=True))
    figure, panels = page.panels(blocks, 1.3, widest=4)
    styles = looks(frame["label"])
    series.draw(panels[0], over_steps, "step", styles)
    for axes in panels[0].values():  # spans means and seeds: intervals can be huge
        page.log_axis(axes, series.shown(over_steps).min(), series.shown(over_steps).max())
        page.step_axis(axes, frame["step"].max())
    if len(by_depth):
        series.draw(panels[1], by_depth, "depth", styles, band=False)
        for axes in panels[1].values():
            page.log_axis(axes, series.shown(by_depth).min(), series.shown(by_depth).max())
            page.depth_axis(axes)
    handles = page.line_handles(styles)
    if len(places):
        for title, axes in panels[-1].items():
            _places(axes, places[places["panel"] == title], styles)
            page.depth_axis(axes)
            page.percent_axis(axes.yaxis)
        for name, dashes, face in PLACES.values():
            handles[name] = Line2D([], [], color=INK, linestyle=dashes, marker="o", markerfacecolor=face or INK)
        handles["the same, under random placement"] = Line2D([], [], color=PALE, linewidth=0.6)
    return page.finish(figure, handles, _notes(spikes, by_depth, places))


def _places(axes: Axes, own: pd.DataFrame, styles: dict[str, Look]) -> None:
    for metric, (words, dashes, face) in PLACES.items():
        rows = own[own["metric"] == metric].sort_values("depth")
        for name, line in rows.groupby("label"):
            look = styles[str(name)].line
            look["markerfacecolor"] = face or look["color"]
            axes.plot(line["depth"], line["mean"], **look, linestyle=dashes, label=f"{name}, {words}")
        if len(rows):
            axes.axhline(rows["expected"].iloc[0], color=PALE, linewidth=0.6, linestyle=dashes, zorder=0)


def _notes(spikes: pd.DataFrame, by_depth: pd.DataFrame, places: pd.DataFrame) -> list[str]:
    below = "; below: by site at the last step" if len(by_depth) else ""
    notes = [f"Real data. Largest |a| ÷ RMS of its site. Above: mean over intermediate sites{below}."]
    notes += [series.loss(spikes), series.interval(spikes, "band, bar", "thin lines, small dots")]
    notes.append("Means: geometric. Axes span means and seeds; an interval may extend beyond.")
    if len(places):
        return [*notes, "Lowest: share of windows whose spike is at a token of that kind; no interval."]
    return [*notes, "These runs have no token data, so the positions of spikes are not shown."]

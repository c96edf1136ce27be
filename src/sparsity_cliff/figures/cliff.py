"""What sparsity costs: relative score against measured activation sparsity, with the bracket of critical sparsity."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sparsity_cliff.figures import drawn, page
from sparsity_cliff.figures.style import INK, PALE, SMALL, Look, looks, mechanisms, seeds, span

CLAIM = 0.70  # sparsity above which accuracy falls according to the paper (arXiv 2605.17659, abstract)
COLUMNS = 3
LEFT = 0.5  # sparsity at the left end of the axis: below it, no curve falls
TOLERANCES = (0.01, 0.02, 0.05)  # losses with a line
MARKED = 0.05  # the loss whose bracket is drawn
START = 0.02  # the loss at which the stretch of the verdict begins


def draw(levels: pd.DataFrame, critical: pd.DataFrame, cliff: pd.DataFrame) -> Figure:
    """The figure. levels: mean relative scores. critical: brackets. cliff: verdicts."""
    if levels.empty:
        return page.empty("Score and sparsity. No architecture has two finished seeds of the baseline on real data.")
    names = mechanisms(levels.loc[levels["mechanism"] != "none", "mechanism"])
    controls = looks(names.values())
    in_view = (levels["mechanism"] == "none") & (levels["sparsity"] >= LEFT - 0.01)
    others = looks(levels.loc[in_view, "configuration"])
    shown = list(levels["architecture"].unique())
    columns = page.per_line(COLUMNS)
    rows = -(-len(shown) // columns)
    figure = page.new(1.9 * rows, page.width())
    grid = figure.add_gridspec(rows, columns)
    for place, architecture in enumerate(shown):
        axes = figure.add_subplot(grid[divmod(place, columns)], label=architecture)
        own = levels[levels["architecture"] == architecture]
        bottom = min(0.9, own.loc[own["sparsity"] >= LEFT, "relative"].min()) - 0.03
        guides(axes)
        axes.axvline(CLAIM, color=PALE, linestyle=":", linewidth=0.9, zorder=0)
        for number, (mechanism, name) in enumerate(names.items()):
            curve(axes, own[own["mechanism"] == mechanism], name, controls[name])
            same = (critical["architecture"] == architecture) & (critical["mechanism"] == mechanism)
            for row in critical[same & (critical["tolerance"] == MARKED)].itertuples():
                _bracket(axes, row, bottom - 0.03 * number, name, controls[name])
        points(axes, levels[in_view & (levels["architecture"] == architecture)], others)
        _axes(axes, str(architecture), bottom - 0.03 * len(names), first=place % columns == 0)
        _words(axes, critical[critical["architecture"] == architecture], cliff[cliff["architecture"] == architecture])
    return page.finish(figure, _handles(controls, others), _notes(levels, critical))


def guides(axes: Axes) -> None:
    """The lines of tolerated losses."""
    for tolerance in TOLERANCES:
        axes.axhline(1 - tolerance, color=PALE, linewidth=0.5, zorder=0)


def curve(axes: Axes, levels: pd.DataFrame, name: str, look: Look, x: str = "sparsity") -> None:
    """The monotone curve of a mechanism over the column `x`, and the means of its levels with their intervals."""
    levels = levels.sort_values("sparsity")
    axes.plot(levels[x], levels["fitted"], color=look.color, linewidth=0.9, zorder=1, label=f"{name}, curve")
    half = (levels["high"] - levels["low"]) / 2
    bars: Any = {**look.point, "markersize": 3.8, "elinewidth": 0.7, "capsize": 0, "zorder": 2, "label": name}
    axes.errorbar(levels[x], levels["relative"], half, **bars)


def points(axes: Axes, levels: pd.DataFrame, styles: dict[str, Look], x: str = "sparsity") -> None:
    """The activations that are no control of sparsity, hollow, over the column `x`."""
    for name, look in styles.items():
        own = levels[levels["configuration"] == name]
        hollow = {**look.point, "markerfacecolor": "white", "markersize": 3.4}
        axes.plot(own[x], own["relative"], **hollow, zorder=3, label=name)


def _bracket(axes: Axes, row: Any, y: float, name: str, look: Look) -> None:
    """The interval of critical sparsity at height y. An open end is a dotted line to the end of the axis."""
    if row.verdict == "too few runs":
        return
    low, high = (end if pd.notna(end) else None for end in (row.low, row.high))
    closed = low is not None and high is not None
    ends = [LEFT if low is None else max(low, LEFT), 1 if high is None else high]
    line: Any = {"color": look.color, "label": f"{name}, critical sparsity at {100 * row.tolerance:g} %"}
    dashes: Any = "-" if closed else (0, (1, 1))
    kind = drawn.INTERVAL if closed else drawn.OPEN_INTERVAL
    axes.plot(ends, [y, y], **line, linewidth=1.6, linestyle=dashes, solid_capstyle="butt", gid=kind)
    if pd.notna(row.sparsity) and row.sparsity >= LEFT:
        axes.plot([row.sparsity], [y], **line, marker="|", markersize=5)


def _axes(axes: Axes, title: str, bottom: float, first: bool) -> None:
    page.percent_axis(axes.xaxis, low=LEFT)
    score_axis(axes, bottom - 0.02)
    axes.set_xlabel("activation sparsity (%)")
    axes.set_ylabel("relative score (%)" if first else "")
    axes.set_title(page.folded(title, 1.3), loc="left", pad=4 + 2.6 * SMALL)


def score_axis(axes: Axes, bottom: float) -> None:
    """Make y an axis of relative scores that begins at `bottom` and cuts off intervals beyond 110 %."""
    axes.set_ylim(bottom, min(max(1.02, axes.get_ylim()[1]), 1.1))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda score, _: f"{100 * score:.4g}")


def _words(axes: Axes, critical: pd.DataFrame, cliff: pd.DataFrame) -> None:
    """The verdict of the mechanism with most levels, above the panel."""
    text = "no control of sparsity"
    rows = critical[critical["tolerance"] == MARKED].sort_values("n_levels", ascending=False, kind="stable")
    if len(rows) and rows["n_levels"].iloc[0]:
        row = next(rows.itertuples())
        own = cliff[(cliff["mechanism"] == row.mechanism) & (cliff["start"] == START)]
        text = f"{place(row)}\n{own['verdict'].iloc[0]}"
    above: Any = {"textcoords": "offset points", "xycoords": "axes fraction", "va": "baseline"}
    axes.annotate(text, (0, 1), (0, 4), fontsize=SMALL, **above)


def place(row: Any) -> str:
    """Critical sparsity in words, such as "−5 % at 83 % [78, 86]"; an open end is an ellipsis."""
    low, high = (_percent(end) if pd.notna(end) else "…" for end in (row.low, row.high))
    lost = f"−{100 * row.tolerance:g} %"
    if row.verdict == "bracket":
        return f"{lost} at {_percent(row.sparsity)} % [{low}, {high}]"
    if row.verdict == "beyond the range measured":
        return f"{lost} above {low} %"
    if row.verdict == "not reached":
        return f"{lost} below {high} %"
    return f"{lost} in [{low}, {high}]" if row.verdict == "undecided" else str(row.verdict)


def _percent(share: float) -> str:
    """A share in whole percent, but above 99 % with a decimal, because 99.9 % is not 100 %."""
    value = 100 * share
    return f"{value:.0f}" if value <= 99 else f"{math.floor(10 * value + 1e-6) / 10:g}"


def handles(controls: dict[str, Look], others: dict[str, Look]) -> page.Handles:
    """Legend entries of mechanisms, filled, and of activations that are no control of sparsity, hollow."""
    found = page.point_handles(controls)
    for name, mark in page.point_handles(others).items():
        mark.set_markerfacecolor("white")  # type: ignore[union-attr]
        found[name] = mark
    return found


def _handles(controls: dict[str, Look], others: dict[str, Look]) -> page.Handles:
    found = handles(controls, others)
    found["interval of critical sparsity at 5 %"] = Patch(color=INK, linewidth=0)
    found[f"{100 * CLAIM:.0f} %, the paper's claim"] = Line2D([], [], color=PALE, linestyle=":", linewidth=0.9)
    return found


def _notes(levels: pd.DataFrame, critical: pd.DataFrame) -> list[str]:
    level = span(100 * critical["level"])
    return [
        f"Means over seeds ({seeds(levels['n'])}), relative to the baseline.",
        f"Bars: {level} % t intervals over seeds and held-out examples.",
        "Lines: 1, 2, and 5 % of the score lost. Curve: least-squares fit that never rises.",
    ]

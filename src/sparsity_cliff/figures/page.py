"""The page around the panels of a figure: their grid, and under it the legend and the note.

Panels keep their size in inches however long the legend is: the page grows.
"""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.ticker as ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from sparsity_cliff.figures.style import COLUMN, INK, NORMAL, PALE, SMALL, TEXT, Look

Handles = dict[str, Artist | tuple[Artist, ...]]  # text -> what stands before it
_EDGE = 0.04  # inches between the page's edge and what is on it


def new(height: float, width: float) -> Figure:
    """An empty page of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    return figure


def panels(
    rows: Sequence[str], columns: Sequence[str], height: float, **shared: Any
) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A page with a panel per row and column, `height` inches each, and the panels by (row, column).

    One column fits a column of a paper; more take its whole width. The names stand above the columns and right of
    the rows; shared: sharex and sharey of matplotlib's `subplots`.
    """
    width = COLUMN if len(columns) == 1 else TEXT
    figure = new(height * len(rows) + 0.35, width)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, **shared)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(folded(column, 0.7 * width / len(columns)))
    beside: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "rotation": 270, "va": "center"}
    for axes, row in zip(grid[:, -1], rows, strict=True):
        axes.annotate(folded(row, 0.95 * height), (1, 0.5), (4, 0), **beside)
    return figure, {(row, column): grid[i, j] for i, row in enumerate(rows) for j, column in enumerate(columns)}


def label(panels: dict[tuple[str, str], Axes], x: str, y: str, low: bool = False) -> None:
    """Name the axes, with units, at the outer panels; say so in a panel that is empty.

    low: rows are less high than the name of y, which stands once, in the middle.
    """
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*panels, strict=True))
    named = [rows[(len(rows) - 1) // 2]] if low else rows
    for (row, column), axes in panels.items():
        if row == rows[-1]:
            axes.set_xlabel(x)
        if column == columns[0] and row in named:
            axes.set_ylabel(y)
        if not axes.has_data():
            axes.text(0.5, 0.5, "no finished runs", transform=axes.transAxes, ha="center", va="center", fontsize=SMALL)


def folded(text: str, width: float, size: float = NORMAL) -> str:
    """The text in lines of at most `width` inches, at a guess; a long name is broken anywhere."""
    return textwrap.fill(text, max(1, int(width * 72 / (0.545 * size))))


def empty(text: str) -> Figure:
    """A page that says why there is no figure."""
    text = folded(text, 0.9 * COLUMN)
    figure = new(0.4 + 0.14 * len(text.splitlines()), COLUMN)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=INK)
    return figure


def finish(figure: Figure, handles: Handles, notes: Iterable[str]) -> Figure:
    """Add the legend and the note below the panels."""
    width, height = figure.get_size_inches()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    note = figure.text(
        _EDGE / width, 0, folded(" ".join(filter(None, notes)), width, SMALL), fontsize=SMALL, color=INK, va="bottom"
    )
    below = note.get_window_extent(renderer).height / figure.dpi + 2 * _EDGE
    foot = below
    legend = _legend(figure, handles, (width - 2 * _EDGE) * figure.dpi)
    if legend is not None:
        foot += legend.get_window_extent(renderer).height / figure.dpi + 2 * _EDGE
    total = height + foot
    figure.set_size_inches(width, total)
    note.set_y(_EDGE / total)
    if legend is not None:
        legend.set_bbox_to_anchor((0.5, (below + _EDGE) / total))
    figure.set_layout_engine("constrained", rect=(0, foot / total, 1, height / total))
    return figure


def _legend(figure: Figure, handles: Handles, width: float) -> Any:
    """The legend in as few lines as fit into `width` pixels, in even columns; None for no handles."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    marks: Any = list(handles.values())  # tuples among them, which the stubs of matplotlib do not know
    lines = 0
    while handles:
        lines += 1
        legend = figure.legend(
            marks,
            list(handles),
            loc="lower center",
            ncols=-(-len(handles) // lines),
            handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        )
        if lines == len(handles) or legend.get_window_extent(renderer).width <= width:
            return legend
        legend.remove()
    return None


def line_handles(looks: dict[str, Look], suffix: dict[str, str] | None = None) -> Handles:
    """A legend entry per activation; a family is one entry that runs through its shades, light to dark."""
    families: dict[str, list[str]] = {}
    for name, look in looks.items():
        families.setdefault(look.family, []).append(name)
    handles: Handles = {}
    for members in families.values():
        last = " ".join(f"{number:g}" for number in looks[members[-1]].number)
        text = members[0] + (f" … {last}" if len(members) > 1 else "") + (suffix or {}).get(members[0], "")
        shown = [looks[name] for name in members[:: max(1, -(-len(members) // 4))]]
        marks = [Line2D([], [], **look.line) for look in shown]
        handles[text] = tuple(marks) if len(marks) > 1 else marks[0]
    return handles


def point_handles(looks: dict[str, Look]) -> Handles:
    """A legend entry per family."""
    return {look.family if look.number else name: Line2D([], [], **look.point) for name, look in looks.items()}


# ------------------------------------------------------------------------------------------------- axes


def step_axis(axes: Axes, last: int) -> None:
    """x: optimizer steps on a logarithmic axis that has a place for step 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    decades = range(0, len(str(last)), 1 if last < 10**5 else 2)
    powers = [10**decade for decade in decades]
    axes.set_xticks([0, *powers], ["0", *(f"{p}" if p < 1000 else f"$10^{{{len(str(p)) - 1}}}$" for p in powers)])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(-0.2, max(1, last) * 1.3)


def percent_axis(axis: Any, low: float = 0.0, high: float = 1.0) -> None:
    """Shares of 1 as percent, the whole range in view by default."""
    axis.set_major_locator(ticker.MultipleLocator(0.25 if high - low > 0.5 else 0.1))
    axis.set_major_formatter(ticker.PercentFormatter(1, decimals=0, symbol=None))
    margin = 0.03 * (high - low)
    axis.axes.set(**{f"{axis.axis_name}lim": (low - margin, high + margin)})


def guide(axes: Axes, value: float, horizontal: bool = True) -> None:
    """A thin line to compare with, behind the data; none where there is no data."""
    if axes.has_data():
        (axes.axhline if horizontal else axes.axvline)(value, color=PALE, linewidth=0.6, zorder=0)

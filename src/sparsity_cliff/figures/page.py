"""The page of a figure: the layout of its panels, with the legend and the note below them.

A page has the width that the style is used with: that of a paper's text, or of one of its two columns. Type has the
same size on both, and a narrow page has fewer panels per line. The page grows with the number of lines and the legend.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.ticker as ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D

from sparsity_cliff.figures.style import ALERT, COLUMN, INK, NORMAL, PALE, SMALL, Look

Handles = dict[str, Artist | tuple[Artist, ...]]  # text of a legend entry -> its marks
MOST = 7.2  # maximum height of all panels, in inches
NARROWEST = 1.6  # width of a panel with its labels, in inches
_EDGE = 0.04  # margin of the page, in inches


def width() -> float:
    """The width of the page, in inches."""
    return float(matplotlib.rcParams["figure.figsize"][0])


def per_line(most: int) -> int:
    """The number of panels in a line: `most`, or fewer on a narrow page."""
    return min(most, int(width() / NARROWEST))


def new(height: float, width: float) -> Figure:
    """An empty page. height, width: in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    return figure


@dataclass(frozen=True)
class Block:
    """Panels with the same axes. titles: all different. x, y: names of the axes, with units.

    own_x: whether each panel has its own x axis, because architectures have different numbers of sites. own_y: the
    same for the y axis, because architectures have different scales.
    """

    titles: Sequence[str]
    x: str
    y: str
    own_x: bool = False
    own_y: bool = False


def panels(blocks: Sequence[Block], height: float, widest: int = 3) -> tuple[Figure, list[dict[str, Axes]]]:
    """A page with the blocks below each other, and for each block a dict title -> panel.

    height: maximum height of a panel in inches. widest: maximum number of panels per line; only the end of a block's
    last line may be blank. The y axis is labeled at the first panel of a line, and the x axis at the lowest panel of a
    column. A page with one column of panels has the width of a paper's column.
    """
    most = max(len(block.titles) for block in blocks)
    across = -(-most // -(-most // per_line(widest)))  # balanced lines: four panels are two lines of two
    lines = [-(-len(block.titles) // across) for block in blocks]
    wide = COLUMN if across == 1 else width()
    height = min(height, MOST / sum(lines))
    figure = new(height * sum(lines) + 0.35, wide)
    grid = figure.add_gridspec(sum(lines), across)
    found: list[dict[str, Axes]] = []
    for number, block in enumerate(blocks):
        own: dict[str, Axes] = {}
        for place, title in enumerate(block.titles):
            line, column = divmod(place, across)
            lowest = place + across >= len(block.titles)
            alike = next(iter(own.values()), None)
            spot = grid[sum(lines[:number]) + line, column]
            shared = {"sharex": None if block.own_x else alike, "sharey": None if block.own_y else alike}
            own[title] = axes = figure.add_subplot(spot, label=title, **shared)
            axes.set_title(folded(title, 0.8 * wide / across))
            axes.tick_params(labelbottom=lowest or block.own_x, labelleft=column == 0 or block.own_y)
            name = folded(block.x, 0.9 * wide / across) if lowest else ""
            axes.set(xlabel=name, ylabel=block.y if column == 0 else "")
        found.append(own)
    return figure, found


def folded(text: str, width: float, size: float = NORMAL) -> str:
    """The text in lines of about `width` inches at most. A long name is broken anywhere."""
    return textwrap.fill(text, max(1, int(width * 72 / (0.545 * size))))


def empty(text: str) -> Figure:
    """A page with a text that explains why there is no figure."""
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


def warn(figure: Figure, text: str) -> None:
    """Add a text above a finished figure, whose page grows by its height. Without a text, nothing changes."""
    if not text:
        return
    width, height = figure.get_size_inches()
    words = folded(text, width, SMALL)
    label = figure.text(_EDGE / width, 1, words, fontsize=SMALL, color=ALERT, va="top", fontweight="bold")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    total = height + label.get_window_extent(renderer).height / figure.dpi + 2 * _EDGE
    share = height / total
    anchors = [legend.get_bbox_to_anchor().transformed(figure.transFigure.inverted()) for legend in figure.legends]
    figure.set_size_inches(width, total)
    label.set_y(1 - _EDGE / total)
    for other in figure.texts[:-1]:
        other.set_y(share * other.get_position()[1])
    for legend, anchor in zip(figure.legends, anchors, strict=True):
        legend.set_bbox_to_anchor((anchor.x0, share * anchor.y0))
    layout: Any = figure.get_layout_engine()
    left, bottom, across, along = layout.get()["rect"]
    layout.set(rect=(left, share * bottom, across, share * along))


def _legend(figure: Figure, handles: Handles, width: float) -> Any:
    """The legend with the fewest lines that fit into `width` pixels; None without handles."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    marks: Any = list(handles.values())  # may contain tuples, which matplotlib's stubs do not allow
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
    """A legend entry per activation. A family is one entry, with its shades from light to dark."""
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
    """Make x a logarithmic axis of optimizer steps that includes step 0."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    decades = range(0, len(str(last)), 1 if last < 10**5 else 2)
    powers = [10**decade for decade in decades]
    axes.set_xticks([0, *powers], ["0", *(f"{p}" if p < 1000 else f"$10^{{{len(str(p)) - 1}}}$" for p in powers)])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(-0.2, max(1, last) * 1.3)


def depth_axis(axes: Axes) -> None:
    """Make x an axis of sites or matrices, numbered from the input."""
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.margins(x=0.08)


def log_axis(axes: Axes, low: float, high: float) -> None:
    """Make y logarithmic from `low` to `high`, with a few labels even on a short axis."""
    axes.set_yscale("log")
    subs = (1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=6))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(low / 1.2, 1.2 * high)


def percent_axis(axis: Any, low: float = 0.0, high: float = 1.0) -> None:
    """Show shares of 1 as percentages. By default, the axis has the whole range."""
    axis.set_major_locator(ticker.MultipleLocator(0.25 if high - low > 0.5 else 0.1))
    axis.set_major_formatter(ticker.PercentFormatter(1, decimals=0, symbol=None))
    margin = 0.03 * (high - low)
    axis.axes.set(**{f"{axis.axis_name}lim": (low - margin, high + margin)})


def guide(axes: Axes, value: float, horizontal: bool = True) -> None:
    """Draw a thin reference line behind the data, unless there is no data."""
    if axes.has_data():
        (axes.axhline if horizontal else axes.axvline)(value, color=PALE, linewidth=0.6, zorder=0)

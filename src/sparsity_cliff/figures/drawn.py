"""What a figure draws, as rows of numbers: the CSV beside each figure.

It is read off the finished figure, so it has exactly what is drawn, to the last digit. Guides, which are at the very
back (zorder 0), legends, and words are left out.
"""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch

#: Gids, which say of an artist what its type does not.
INTERVAL, OPEN_INTERVAL, END, BAND_OVER_Y = "interval", "open interval", "end of an interval", "band over y"
NONE = ("None", "none", " ", "")  # matplotlib's names of no line and no marker


@dataclass(frozen=True)
class Row:
    """A point of a line, a point, or the extent of a bar, band, or interval.

    panel: its title; "" for the only one. x_axis, y_axis: names of its axes, with units. series: the label of the
    artist; "" for none. x, y: coordinates. low, high: ends of an extent, along the coordinate that is missing. An open
    interval ends at the edge of the panel on its open side.
    """

    panel: str
    x_axis: str
    y_axis: str
    series: str
    kind: str
    x: float | None = None
    y: float | None = None
    low: float | None = None
    high: float | None = None


Numbers = dict[str, float]  # column of Row -> number
Points = list[tuple[float, float]]


def text(figure: Figure) -> str:
    """The rows of a figure as CSV. Numbers have all their digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(field.name for field in fields(Row))
    writer.writerows(astuple(row) for row in rows(figure))
    return out.getvalue()


def rows(figure: Figure) -> list[Row]:
    """The rows of all panels, in the order in which they were drawn.

    Raises TypeError for an artist of a kind that this module does not know, so that nothing is left out silently.
    """
    found = []
    for axes in figure.axes:
        title, x_axis, y_axis = _title(axes), _name(figure, axes, "xlabel"), _name(figure, axes, "ylabel")
        labels = {
            id(part): str(container.get_label())
            for container in axes.containers
            if isinstance(container, ErrorbarContainer)
            for part in (container.lines[0], *container.lines[1], *container.lines[2])
        }
        for artist in (*axes.lines, *axes.collections, *axes.patches):
            if artist.get_zorder() == 0:
                continue
            label = labels.get(id(artist), str(artist.get_label()))
            series = "" if label.startswith("_") else label
            for kind, numbers in _numbers(axes, artist):
                found.append(Row(title, x_axis, y_axis, series, kind, **numbers))
    return found


def _title(axes: Axes) -> str:
    """The title of a panel before it was folded into lines, which is its label, if it has one."""
    return str(axes.get_label() or axes.get_title() or axes.get_title(loc="left")).replace("\n", " ")


def _name(figure: Figure, axes: Axes, which: str) -> str:
    """The name of an axis. If only an outer panel shows it, that is the next one below, or one in the same line."""
    alike = [axes]
    if spot := axes.get_subplotspec():
        spots = [(own, other) for other in figure.axes if (own := other.get_subplotspec())]
        below = {own.rowspan.start: other for own, other in spots if own.colspan == spot.colspan}
        alike += [below[row] for row in sorted(below) if row > spot.rowspan.start and which == "xlabel"]
        alike += [other for own, other in spots if own.rowspan == spot.rowspan]
    names = [str(getattr(other, f"get_{which}")()) for other in alike]
    return next(filter(None, names), "").replace("\n", " ")


def _numbers(axes: Axes, artist: Artist) -> Iterator[tuple[str, Numbers]]:
    """(kind, numbers) of each row of an artist."""
    if isinstance(artist, Line2D):
        yield from _of_line(artist)
    elif isinstance(artist, PolyCollection):
        yield from (("band", numbers) for numbers in _of_band(artist))
    elif isinstance(artist, LineCollection):  # vlines, hlines, and the bars of errorbar
        for points in (_points(path.vertices) for path in artist.get_paths()):
            if points and _known(points):
                yield str(artist.get_gid() or INTERVAL), _extent(points)
    elif isinstance(artist, StepPatch):
        values, edges, _ = artist.get_data()
        for y, low, high in zip(values, edges[:-1], edges[1:], strict=True):
            yield "bar", {"y": float(y), "low": float(low), "high": float(high)}
    elif isinstance(artist, Rectangle):
        low, high = sorted((artist.get_x(), artist.get_x() + artist.get_width()))
        if artist.get_data_transform() == axes.transData:
            yield "bar", {"y": artist.get_y() + artist.get_height(), "low": low, "high": high}
        else:  # of axvspan, which has no height in the data
            yield "band", {"low": low, "high": high}
    else:
        raise TypeError(f"{type(artist).__name__} is no kind of artist whose numbers are known")


def _of_line(line: Line2D) -> Iterator[tuple[str, Numbers]]:
    points = _points(line.get_xydata())
    kind = str(line.get_gid() or "")
    if kind in (INTERVAL, OPEN_INTERVAL):
        yield kind, _extent(points)
        return
    alone = line.get_linestyle() in NONE or len(points) == 1
    for x, y in points:
        if _known([(x, y)]):
            yield kind or ("point" if alone else "line"), {"x": x, "y": y}


def _points(vertices: Any) -> Points:
    return [(float(x), float(y)) for x, y in vertices]


def _known(points: Points) -> bool:
    return all(math.isfinite(value) for point in points for value in point)


def _extent(points: Points) -> Numbers:
    """A segment along one of the axes."""
    x, y = zip(*points, strict=True)
    if x[0] == x[-1]:
        return {"x": x[0], "low": min(y), "high": max(y)}
    return {"y": y[0], "low": min(x), "high": max(x)}


def _of_band(band: PolyCollection) -> Iterator[Numbers]:
    """The ends at each place. The outline of a band passes each place on its way there and back."""
    along = int(band.get_gid() == BAND_OVER_Y)
    for path in band.get_paths():
        ends: dict[float, list[float]] = {}
        for vertex in _points(path.vertices):
            ends.setdefault(vertex[along], []).append(vertex[1 - along])
        for place in sorted(ends):
            yield {"xy"[along]: place, "low": min(ends[place]), "high": max(ends[place])}

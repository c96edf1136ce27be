"""The style of all figures: theme, sizes, and the color and marker of each activation.

The look of an activation depends only on its name, so it is the same in every figure and study. Color, marker, and,
within a family, lightness differ together, so that figures can be read without color.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from sparsity_cliff.traces.files import whole
from sparsity_cliff.traces.origin import remark

COLUMN, TEXT = 3.4, 7.0  # inches: widths of one column and of the whole page of a paper
SMALL, NORMAL = 6.0, 7.0  # points
INK, PALE = "#333333", "#999999"  # colors of annotations and of reference lines
ALERT = "#CC3311"  # of what is missing
#: Between activation and normalization, as in the table `points`, and between architecture and loss.
SEPARATOR = " · "

THEME = {
    "font.family": "DejaVu Sans",  # included in matplotlib, so equal on every machine
    "font.size": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.titleweight": "bold",
    "axes.labelsize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "lines.markeredgewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.35,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.0,
    "figure.dpi": 300,
    "savefig.dpi": 300,
    "savefig.bbox": None,  # keeps the page's width, so that fonts have their size in print
    "pdf.fonttype": 42,  # embedded TrueType, which journals require
}


@contextmanager
def styled(width: float = TEXT) -> Iterator[None]:
    """Within the context, matplotlib uses this style for pages of `width` inches and ignores the user's settings."""
    theme = {**sns.axes_style("ticks"), **sns.plotting_context("paper"), **THEME, "figure.figsize": (width, width)}
    with matplotlib.style.context(theme, after_reset=True):
        yield


def save(figure: Figure, path: str | Path, origin: str) -> None:
    """Write the figure without a time stamp, so that the same tables give the same bytes on one machine.

    origin: digest that the file carries (traces/origin.py).
    """
    text = remark(origin)
    about = {"CreationDate": None, "Keywords": text} if Path(path).suffix == ".pdf" else {"Comment": text}  # of PNG
    with whole(path) as temporary:
        figure.savefig(temporary, metadata=about)


# ------------------------------------------------------------------------------------------------- activations

Marker = str | tuple[int, int, int]  # of matplotlib; the tuples are stars
#: Activation or family -> (color, marker). Plain functions are blue, orange, and green (Okabe & Ito), squared functions
#: have a lighter shade of their base, and controls are black and gray.
KNOWN: dict[str, tuple[str, Marker]] = {
    "relu": ("#0072B2", "o"),
    "gelu": ("#D55E00", "s"),
    "silu": ("#009E73", "^"),
    "relu2": ("#56B4E9", "D"),
    "gelu2": ("#E69F00", "v"),
    "tanh": ("#000000", "X"),
    "identity": ("#808080", "P"),
    "leaky_relu": ("#1F4E79", "<"),
    "elu": ("#6B8E23", ">"),
    "bsilu": ("#66C2A5", "p"),
    "sugar_bsilu": ("#B5446E", "h"),
    "noisy_relu": ("#8C2D04", "d"),
    "topk": ("#8856A7", "*"),
    "topk (over=example)": ("#8856A7", "*"),  # mechanisms (see `mechanisms`)
    "topk (over=features)": ("#C51B8A", "H"),
    "quantile": ("#A6761D", (4, 1, 45)),
    "quantile_relu": ("#7A6A00", (4, 1, 0)),
}
#: Looks of all other names, with open markers, which known names do not have.
SPARE = [
    (color, marker, False)
    for color in ("#CC3377", "#117733", "#332288", "#994F00", "#44AA99", "#882255", "#666600")
    for marker in "osD^v<>pXPd*"
]


@dataclass(frozen=True)
class Look:
    """The look of an activation.

    family: its name without numbers. number: these numbers. color: the family's color. shade: a lighter or darker
    variant of it for this member.
    """

    family: str
    number: tuple[float, ...]
    color: str
    shade: str
    marker: Marker
    filled: bool

    @property
    def line(self) -> dict[str, Any]:
        """matplotlib's arguments for a line with markers."""
        face = self.shade if self.filled else "white"
        return {"color": self.shade, "marker": self.marker, "markerfacecolor": face}

    @property
    def point(self) -> dict[str, Any]:
        """matplotlib's arguments for markers alone. They are equal in a family, whose members differ in position."""
        face = self.color if self.filled else "none"
        return {"color": self.color, "marker": self.marker, "markerfacecolor": face, "linestyle": "none"}


def labeled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the columns `label` and `panel`.

    label: the activation, with the normalization if it is not the architecture's own. panel: the architecture, with the
    loss if it is not the first loss of the table.
    """
    default = frame["normalization"] == "default"
    first = frame["loss"] == next(iter(frame["loss"]), "")
    return frame.assign(
        label=frame["activation"].where(default, frame["activation"] + SEPARATOR + frame["normalization"]),
        panel=frame["architecture"].where(first, frame["architecture"] + SEPARATOR + frame["loss"]),
    )


def family(label: str) -> tuple[str, tuple[float, ...]]:
    """(name, numbers) of a label: ("topk", (80.0,)) for "topk_80", and ("relu2", ()) for "relu2"."""
    names, numbers = [], []
    for part in label.split(SEPARATOR):
        name, _, number = part.rpartition("_")
        isolated = bool(name) and number.isdecimal()
        names.append(name if isolated else part)
        numbers += [float(number)] if isolated else []
    return SEPARATOR.join(names), tuple(numbers)


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Label -> look, in the order of the legend: known names as listed, then others by name; families by number."""
    members: dict[str, list[tuple[tuple[float, ...], str]]] = {}
    for label in sorted(set(labels)):
        name, number = family(label)
        members.setdefault(name, []).append((number, label))
    order = sorted(members, key=lambda name: (list(KNOWN).index(name) if name in KNOWN else len(KNOWN), name))
    found: dict[str, Look] = {}
    for name in order:
        color, marker, filled = _look(name, list(found.values()))
        ranked = sorted(members[name])
        for (number, label), depth in zip(ranked, _depths([number for number, _ in ranked]), strict=True):
            found[label] = Look(name, number, color, _shade(color, depth), marker, filled)
    return found


def selected(styles: dict[str, Look], most: int) -> list[str]:
    """At most `most` labels: first the plain activations, then the last member of each family."""
    last = {look.family: name for name, look in styles.items()}
    plain = [name for name, look in styles.items() if not look.number]
    return [*plain, *(name for name in last.values() if name not in plain)][:most]


def _look(name: str, taken: list[Look]) -> tuple[str, Marker, bool]:
    """Color, marker, and filling of a name. A name that is not in KNOWN determines a look in SPARE.

    If this look is taken, the name gets the next one that differs most, first in marker, then in color.
    """
    if name in KNOWN:
        return *KNOWN[name], True

    def clash(spare: tuple[str, str, bool]) -> int:
        marker = any((look.marker, look.filled) == spare[1:] for look in taken)
        color = any(look.color == spare[0] for look in taken)
        both = any((look.color, look.marker, look.filled) == spare for look in taken)
        return 4 * both + 2 * marker + color

    start = zlib.crc32(name.encode()) % len(SPARE)
    return min(SPARE[start:] + SPARE[:start], key=clash)


def _depths(numbers: list[tuple[float, ...]]) -> list[float]:
    """Depths from 0 (light) to 1 (dark) for the members of a family, in order; 0.5 for a name without a number.

    Numbers up to 100 are percentages, whose depth does not depend on the other members in a study.
    """
    if numbers == [()]:
        return [0.5]
    if all(len(number) == 1 and number[0] <= 100 for number in numbers):
        return [(number[0] / 100) ** 2 for number in numbers]
    return [(i + 1) / (len(numbers) + 1) for i in range(len(numbers))]


def _shade(color: str, depth: float) -> str:
    """The color, mixed with white below a depth of 0.5, and with black above."""
    other, share = (1.0, 0.5 - depth) if depth < 0.5 else (0.0, depth - 0.5)
    red, green, blue = ((1 - 1.3 * share) * part + 1.3 * share * other for part in to_rgb(color))
    return to_hex((red, green, blue))


# ------------------------------------------------------------------------------------------------- words


def mechanisms(names: Iterable[str]) -> dict[str, str]:
    """Mechanism -> name in the legend: its function, with the options that tell it from others of this function."""
    parts = {text: text.removesuffix(")").partition("(") for text in dict.fromkeys(names)}
    named = {}
    for text, (function, _, options) in parts.items():
        others = [set(rest.split(", ")) for name, _, rest in parts.values() if name == function]
        own = [option for option in options.split(", ") if not all(option in other for other in others)]
        named[text] = f"{function} ({', '.join(own)})" if own else function
    return named


def span(values: Iterable[float]) -> str:
    """The common value, or a range such as "2–3"."""
    values = list(values)
    return "–".join(dict.fromkeys(f"{end:g}" for end in (min(values), max(values))))


def seeds(n: "pd.Series[int]") -> str:
    """The numbers of seeds in words, such as "n = 3 seeds"."""
    return f"n = {span(n)} seed{'s' if n.max() > 1 else ''}"

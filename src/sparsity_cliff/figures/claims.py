"""The claims of the paper: a panel per claim, with the effect in each architecture and the region that supports it."""

import itertools
import math
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sparsity_cliff.figures import drawn, page
from sparsity_cliff.figures.style import COLUMN, INK, PALE, SMALL, seeds, span

#: Claim -> its short name, as in docs/claims.md.
NAMES = {
    "C1": "gradient on positive pre-activations",
    "C2": "weights drift negative",
    "C3": "also on random data",
    "C4": "odd functions do not drift",
    "C5a": "drift becomes sparsity",
    "C5b": "soft suppression",
    "C5c": "90 % zeros in GPT-nano",
    "C6": "cliff above 70 %",
    "C7": "ReLU² at equal sparsity",
    "C8a": "ReLU² amplifies spikes",
    "C8b": "25 times",
    "C9": "clipping helps",
    "C10": "GELU² is the lowest",
}
#: (claim, unit in the table) -> name of the axis. A claim with two units has two panels.
EFFECTS = {
    ("C1", "loss ÷ pre-activation"): "∂L/∂z over z > 0 (loss/z)",
    ("C2", "initial standard deviations"): "drift d (σ₀)",
    ("C3", "initial standard deviations"): "drift d (σ₀)",
    ("C4", "initial standard deviations"): "drift d, or difference (σ₀)",
    ("C5a", "share of zeros"): "rise of zeros (points)",
    ("C5b", "share of values"): "rise of near-zeros (points)",
    ("C5c", "share of zeros"): "zeros at the end (%)",
    ("C6", "share of zeros"): "critical sparsity (%)",
    ("C7", "nats per token"): "loss, ReLU² − ReLU (nats)",
    ("C8a", "ratio"): "spike ratio, ReLU² ÷ ReLU (factor)",
    ("C8b", "ratio"): "spike, ReLU² ÷ ReLU (factor)",
    ("C9", "ratio"): "spike, clipped ÷ not (factor)",
    ("C9", "nats per token"): "loss, clipped − not (nats)",
    ("C10", "nats per token"): "loss, GELU² − another (nats)",
}
ALL, CLOSED_FORM, UNTESTED = "all", "closed form", "not tested in this study"
RATIO, SHARE = "ratio", "share"  # unit, and the beginning of units, that have an axis of their own kind

MARKS: dict[str, dict[str, Any]] = {
    "supported": {"color": "#0072B2", "marker": "o", "markersize": 3.8},
    "contradicted": {"color": "#CC3311", "marker": "x", "markersize": 4, "markeredgewidth": 1.2},
    "inconclusive": {"color": INK, "marker": "o", "markersize": 3.8, "markerfacecolor": "white"},
}
COLUMNS = 3
NAME = "architecture (n)"  # of the y axis; on a narrow page, there is no room for it
PITCH, LEAST = 0.13, 0.34  # inches: of a line of text in a panel, and height of the lowest panel
AROUND, ABOVE_NARROW = 0.62, 0.1  # inches: title, verdict, ticks, and axis of a panel; more of it on a narrow page
BESIDE = 0.75  # inches: width of the names of architectures, with n
FEW, REACH = 2, 2.0  # an axis shows intervals of so few seeds up to this multiple of the width of what it must show


class Panel(NamedTuple):
    """rows: of the table, in one unit. verdict: of the claim over all architectures; "" for the closed form."""

    title: str
    effect: str
    rows: pd.DataFrame
    verdict: str


def draw(claims: pd.DataFrame) -> Figure:
    """The figure. claims: the claims ledger, with a row per claim and architecture, and a summary of each claim."""
    tested = claims[(claims["architecture"] != ALL) & (claims["verdict"] != UNTESTED)]
    if tested.empty:
        return page.empty("Claims. No claim is tested in this study; no interval.")
    shown = _panels(tested, claims[claims["architecture"] == ALL])
    columns = page.per_line(COLUMNS)
    lines = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    networks = tested[tested["architecture"] != CLOSED_FORM]
    pitch = PITCH + 0.1 * max((_named(row).count("\n") for row in networks.itertuples()), default=0)
    most = [max(LEAST / pitch, *(len(panel.rows) + 0.2 for panel in line)) for line in lines]
    cut, narrow = False, page.width() == COLUMN
    figure = page.new(pitch * sum(most) + (AROUND + ABOVE_NARROW * narrow) * len(lines), page.width())
    grid = figure.add_gridspec(len(lines), min(columns, len(shown)), height_ratios=most)
    for number, line in enumerate(lines):
        for column, panel in enumerate(line):
            axes = figure.add_subplot(grid[number, column], label=panel.title)
            cut |= _panel(axes, panel, most[number], narrow)
            axes.set_ylabel("" if column or narrow else NAME)
    notes = [*([f"Beside each panel: {NAME}."] if narrow else []), *_notes(claims, tested, cut)]
    return page.finish(figure, _handles(tested), notes)


def _panels(tested: pd.DataFrame, summaries: pd.DataFrame) -> list[Panel]:
    """The closed form has a panel of its own, because its network, and so its scale, is another."""
    verdicts = dict(zip(summaries["claim"], summaries["verdict"], strict=True))
    closed = tested["architecture"] == CLOSED_FORM
    found = []
    for (claim, unit, alone), rows in tested.groupby(["claim", "unit", closed], sort=False):
        title = f"{claim} {NAMES.get(str(claim), '')}".strip()
        effect = EFFECTS.get((str(claim), str(unit)), f"effect ({unit})")
        if alone:
            found.append(Panel(f"{claim} in closed form", "∂L/∂z over z > 0 (s²)", rows, ""))
        else:
            found.append(Panel(title, effect, rows, str(verdicts[claim])))
    return found


def _named(row: Any) -> str:
    """The tick label of a row."""
    return page.folded(f"{row.architecture} ({row.n:,})", BESIDE, SMALL)


def _panel(axes: Axes, panel: Panel, most: float, narrow: bool) -> bool:
    """Draw a panel as high as one of `most` rows; whether it cuts off an interval.

    On a narrow page, words are to the right, because they have the room above the names of architectures there.
    """
    rows, log = panel.rows, bool((panel.rows["unit"] == RATIO).all())
    low, high = _limits(rows, log)
    regions = rows[["supported_low", "supported_high"]].to_numpy(float).tolist()
    place = 0
    for region, group in itertools.groupby(regions):  # one band for neighbors, so that no seam shows
        first, place = place, place + len(list(group))
        ends = max(region[0], low), min(region[1], high)
        band: Any = {"color": PALE, "alpha": 0.3, "linewidth": 0, "zorder": 0.5, "gid": drawn.BAND_OVER_Y}
        axes.fill_betweenx([first - 0.5, place - 0.5], *ends, **band, label="region of support")
    for y, row in enumerate(rows.itertuples()):
        _interval(axes, row, y, (low, high))
    if low < (zero := 1 if log else 0) < high:
        page.guide(axes, zero, horizontal=False)
    axes.set(xlim=(low, high), ylim=(most - 0.6, -0.6), xlabel=page.folded(panel.effect, 1.1 if narrow else 1.8))
    _ticks(axes, str(rows["unit"].iloc[0]), high / low if log else 0, most=2 if narrow else 4)
    axes.set_yticks(range(len(rows)), [_named(row) for row in rows.itertuples()])
    axes.yaxis.set_minor_locator(NullLocator())
    side: Any = "right" if narrow else "left"
    above: Any = {"textcoords": "offset points", "xycoords": "axes fraction", "va": "baseline", "ha": side}
    if panel.verdict:
        axes.annotate(f"over all: {panel.verdict}", (float(narrow), 1), (0, 4), fontsize=SMALL, **above)
    axes.set_title(
        page.folded(panel.title, 1.25 if narrow else 1.45), loc=side, pad=4 + 1.4 * SMALL * bool(panel.verdict)
    )
    return bool((rows["low"] < low).any() or (rows["high"] > high).any())


def _limits(rows: pd.DataFrame, log: bool) -> tuple[float, float]:
    """The ends of the axis. It shows the estimates, the ends of the regions, and the intervals.

    An interval of FEW seeds would flatten all others, and is cut off at REACH.
    """
    cut = (rows["n"] <= FEW) & rows["estimate"].notna() & (len(rows) > 1)
    bars = rows[["low", "high"]]
    scale, back = (math.log, math.exp) if log else (float, float)
    core, ends = (
        [scale(value) for value in numbers if math.isfinite(value) and (value > 0 or not log)]
        for numbers in (
            [*rows["estimate"], *rows["supported_low"], *rows["supported_high"], *bars[~cut].to_numpy(float).ravel()],
            [*bars.to_numpy(float).ravel()],
        )
    )
    low, high = min(core), max(core)
    reach = REACH * (high - low) or abs(low) or 1.0
    low, high = max(min([low, *ends]), low - reach), min(max([high, *ends]), high + reach)
    margin = 0.1 * (high - low) or 0.1 * reach
    low, high = back(low - margin), back(high + margin)
    share = rows["unit"].str.startswith(SHARE).all()
    return (max(low, -1.03), min(high, 1.03)) if share else (low, high)


def _interval(axes: Axes, row: Any, y: float, edges: tuple[float, float]) -> None:
    """The estimate and the interval of a row at height y. An open end is a dotted line to the edge of the panel.

    Without an estimate, the mark is at the end that is known. One seed has an estimate and no interval.
    """
    look = {**MARKS[row.verdict], "label": f"{row.architecture}, {row.verdict}"}
    line: Any = {"color": look["color"], "linewidth": 0.9, "zorder": 1.5, "label": look["label"]}
    low, high = (end if pd.notna(end) else None for end in (row.low, row.high))
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], **line, gid=drawn.INTERVAL)
    elif low is not None or high is not None or pd.isna(row.estimate):
        ends = [edges[0] if low is None else low, edges[1] if high is None else high]
        axes.plot(ends, [y, y], **line, linestyle=":", gid=drawn.OPEN_INTERVAL)
    if pd.notna(row.estimate):
        axes.plot([row.estimate], [y], **look, linestyle="none")
    elif (end := high if low is None else low) is not None:
        axes.plot([end], [y], **look, linestyle="none", gid=drawn.END)


def _ticks(axes: Axes, unit: str, factor: float, most: int) -> None:
    """Few and short numbers on the x axis. factor: from its low to its high end, if it is logarithmic.

    most: maximum number of intervals between ticks, if these are not logarithmic.
    """
    if factor:
        axes.set_xscale("log")
    if factor > 10:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if factor < 30 else (1,), numticks=most + 2))
    else:  # on a short logarithmic axis, too
        axes.xaxis.set_major_locator(MaxNLocator(most))
    times = 100 if unit.startswith(SHARE) else 1
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{times * value:.4g}".replace("-", "−")))
    axes.xaxis.set_minor_locator(NullLocator())


def _handles(tested: pd.DataFrame) -> page.Handles:
    found = set(tested["verdict"])
    handles: page.Handles = {
        verdict: Line2D([], [], **look, linestyle="none") for verdict, look in MARKS.items() if verdict in found
    }
    handles["region of support"] = Patch(color=PALE, alpha=0.3, linewidth=0)
    if (tested["low"].isna() != tested["high"].isna()).any() or tested[["estimate", "low"]].isna().all(axis=1).any():
        handles["open end"] = Line2D([], [], color=INK, linestyle=":", linewidth=0.9)
    return handles


def _notes(claims: pd.DataFrame, tested: pd.DataFrame, cut: bool) -> list[str]:
    closed = tested["architecture"] == CLOSED_FORM
    notes = ["No architecture tests a claim."] if closed.all() else [f"{seeds(tested.loc[~closed, 'n'])}."]
    if closed.any():
        notes.append(f"Closed form: n = {tested.loc[closed, 'n'].min():,} draws.")
    notes.append(f"Bars: {span(100 * tested['level'])} % intervals, of the part that decides; C6: bracket.")
    notes.append("Verdicts are corrected for the number of architectures and parts.")
    if tested.loc[tested["estimate"].isna(), ["low", "high"]].notna().any(axis=None):
        notes.append("No estimate: the mark is at the known end.")
    if cut:
        notes.append("An interval that ends at the edge of a panel extends beyond it.")
    summary = claims["architecture"] == ALL
    untested = claims.loc[summary & (claims["verdict"] == UNTESTED), "claim"]
    return [*notes, *([f"Not tested: {', '.join(untested)}."] if len(untested) else [])]

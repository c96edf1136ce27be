"""What zeros could save: relative score against the share of the dense FLOPs that remains."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from sparsity_cliff.figures import cliff, page
from sparsity_cliff.figures.style import looks, mechanisms, seeds, span

LEAST = 0.1  # share of the FLOPs at the left end of the axis, unless a level has fewer


def draw(flops: pd.DataFrame) -> Figure:
    """The figure. flops: mean relative scores of the levels of each mechanism, with the share of FLOPs."""
    shown = flops[flops["flops"] > 0]  # a logarithmic axis has no 0
    if shown.empty:
        return page.empty(
            "Score and FLOPs. No architecture has measured FLOPs and two finished seeds of the baseline on real data."
        )
    names = mechanisms(shown.loc[shown["mechanism"] != "none", "mechanism"])
    controls, others = looks(names.values()), looks(shown.loc[shown["mechanism"] == "none", "configuration"])
    architectures = list(shown["architecture"].unique())
    block = page.Block(architectures, "potential FLOPs (% of dense)", "relative score (%)", own_y=True)
    figure, (panels,) = page.panels([block], 1.7)
    for architecture, axes in panels.items():
        own = shown[shown["architecture"] == architecture]
        cliff.guides(axes)
        for mechanism, name in names.items():
            levels = own[own["mechanism"] == mechanism]
            cliff.curve(axes, levels, name, controls[name], "flops")
        cliff.points(axes, own[own["mechanism"] == "none"], others, "flops")
        cliff.score_axis(axes, min(0.9, own["relative"].min()) - 0.03)
        _axes(axes, shown["flops"].min())
    notes = [
        f"Means over seeds ({seeds(shown['n'])}), relative to the baseline.",
        f"Bars: {span(100 * shown['level'])} % t intervals over seeds and held-out examples.",
        "Lines: 1, 2, and 5 % of the score lost. Curve: the fit of the figure cliff.",
    ]
    none = flops[flops["flops"] <= 0]
    notes += [f"Not drawn (no FLOPs remain): {', '.join(none['configuration'].unique())}."] if len(none) else []
    return page.finish(figure, cliff.handles(controls, others), notes)


def _axes(axes: Axes, least: float) -> None:
    axes.set_xscale("log")
    low = min(LEAST, least / 1.3)
    axes.set_xlim(low, 1.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if low > 0.001 else (1,), numticks=8))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}")
    axes.xaxis.set_minor_locator(NullLocator())

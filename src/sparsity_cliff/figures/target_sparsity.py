"""Measured sparsity beyond the nominal setting of the sparsity controls."""

import math
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sparsity_cliff.figures import page
from sparsity_cliff.figures.style import PALE, looks, seeds

LEAST = 0.01  # the axis shows at least one point of sparsity on each side of 0


def draw(points: pd.DataFrame) -> Figure:
    """The figure. points: a row per finished seed. Rows without a nominal setting are left out."""
    controls = points[points["target_sparsity"].notna()]
    if controls.empty:
        return page.empty("Target and measured sparsity. No run with a sparsity control has finished.")
    # open markers, because families with equal targets overlap
    styles = {name: replace(look, filled=False) for name, look in looks(controls["configuration"]).items()}
    families = list(dict.fromkeys(look.family for look in styles.values()))
    block = page.Block(list(controls["architecture"].unique()), "target sparsity (%)", "measured − target (points)")
    figure, (panels,) = page.panels([block], 1.5, widest=4)
    for architecture, axes in panels.items():
        for name, look in styles.items():
            own = controls[(controls["architecture"] == architecture) & (controls["configuration"] == name)]
            size = max(2, 5 - 1.5 * families.index(look.family))  # nested sizes
            axes.plot(own["target_sparsity"], own["beyond_target"], **look.point, markersize=size, label=name)
        page.percent_axis(axes.xaxis, low=_low(controls))
        reach = max(LEAST, 1.1 * controls["beyond_target"].abs().max())
        axes.set_ylim(-reach, reach)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}".replace("-", "−"))
        page.guide(axes, 0)
    handles = page.point_handles(styles)
    handles["measured = target"] = Line2D([], [], color=PALE, linewidth=0.6)
    n = controls.groupby(["architecture", "configuration"])["seed"].nunique()
    return page.finish(figure, handles, [f"One point per seed ({seeds(n)}), so no interval."])


def _low(controls: pd.DataFrame) -> float:
    """The largest multiple of 0.1 that is not above any point."""
    return math.floor(10 * float(controls["target_sparsity"].min())) / 10

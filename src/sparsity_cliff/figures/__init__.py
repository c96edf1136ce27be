"""Figures, drawn from tables with matplotlib. They compute nothing and import no torch."""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A figure. module: module of sparsity_cliff with draw(*tables) -> Figure. tables: names of its arguments."""

    module: str
    tables: tuple[str, ...]


FIGURES = {
    "theory": Entry("figures.theory", ("theory", "gradient_signs")),
    "drift": Entry("figures.drift", ("drift", "drift_contrasts")),
    "sparsity_over_steps": Entry("figures.sparsity_over_steps", ("sparsity_over_steps",)),
    "near_zero_share": Entry("figures.near_zero_share", ("sparsity_over_steps",)),
    "sparsity_by_depth": Entry("figures.sparsity_by_depth", ("sparsity_by_depth",)),
    "critical": Entry("figures.critical", ("critical",)),
    "cliff": Entry("figures.cliff", ("levels", "critical", "cliff")),
    "claims": Entry("figures.claims", ("claims",)),
    "flops": Entry("figures.flops", ("flops",)),
    "target_sparsity": Entry("figures.target_sparsity", ("points",)),
    "weights": Entry("figures.weights", ("weight_histograms",)),
    "spikes": Entry("figures.spikes", ("spikes",)),
    "loss_and_spikes": Entry("figures.loss_and_spikes", ("loss_and_spikes",)),
}


def draw(name: str, tables: Iterable[str], outputs: Iterable[str], made: str) -> None:
    """Read the tables of a figure, draw it, and save it to each path in `outputs`, with the digest `made`.

    tables: paths of the figure's tables, and of the table `runs`, whose unfinished runs the figure names. An output
    that ends in .csv gets the numbers that the figure draws. An output such as cliff.column.pdf gets the figure for
    one column of a paper.
    """
    from sparsity_cliff.figures import drawn, page
    from sparsity_cliff.figures.style import COLUMN, TEXT, save, styled
    from sparsity_cliff.traces.origin import read_table, write_text
    from sparsity_cliff.traces.unfinished import unfinished

    *frames, runs = (read_table(table) for table in tables)
    module = importlib.import_module(f"sparsity_cliff.{FIGURES[name].module}")
    paths = list(map(Path, outputs))
    narrow = [path for path in paths if path.stem.endswith(".column")]
    for width, own in ((TEXT, [path for path in paths if path not in narrow]), (COLUMN, narrow)):
        if not own:
            continue
        with styled(width):
            figure = module.draw(*frames)
            page.warn(figure, unfinished(runs))
            for output in own:
                if output.suffix == ".csv":
                    write_text(drawn.text(figure), output, made)
                else:
                    save(figure, output, made)

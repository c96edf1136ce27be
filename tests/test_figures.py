"""Figures: each of the registry, drawn from tables that the analysis made of small invented studies."""

import ast
import importlib
import itertools
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import docutils.core
import jinja2
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from sparsity_cliff import analysis, cliff, figures
from sparsity_cliff.figures import FIGURES, page
from sparsity_cliff.figures.style import COLUMN, KNOWN, TEXT, looks, save, styled
from sparsity_cliff.traces import HISTOGRAM_EDGES

ROOT = Path(__file__).parent.parent
LEVEL = 0.9  # not the usual one, so that a note that does not read it from the table is found

PLAIN = ["relu", "gelu", "silu", "relu2", "gelu2", "tanh", "identity"]
FAMILIES = [*(f"topk_{k}" for k in range(50, 100, 5)), "quantile_70", "quantile_80", "quantile_90"]
MORE = ["leaky_relu", "elu", "bsilu", "sugar_bsilu", "noisy_relu", "relu2_clip50", "gelu2_clip50", "mine", "mine2"]
ARCHITECTURES = ["mlp", "cnn", "resnet", "vit", "gpt"]
LOSSES = ["cross_entropy", "mse"]
STUDIES = {
    "default": (ARCHITECTURES[:4], PLAIN + FAMILIES, LOSSES, 3, ["real", "random"]),
    "large": (ARCHITECTURES, PLAIN + MORE + FAMILIES, LOSSES, 3, ["real", "random"]),
    "one seed": (["mlp", "vit"], ["relu", "gelu", "tanh", "topk_50", "topk_90"], LOSSES[:1], 1, ["real"]),
    "one architecture": (["mlp"], [*PLAIN, "topk_50", "topk_90"], LOSSES[:1], 2, ["real"]),
    "dense": (["cnn"], ["relu", "gelu"], LOSSES[1:], 2, ["real"]),
    "soft": (["cnn"], ["gelu", "tanh"], LOSSES[:1], 2, ["real"]),
}


def facts(architectures, activations, losses, seeds, data):
    """Facts and runs of an invented study. Families are trained with the first loss and on real data only."""
    random = np.random.default_rng(0)
    steps = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, *range(250, 3001, 250)])
    edges = np.array([-np.inf, *HISTOGRAM_EDGES, np.inf])
    rows, runs = [], []
    for architecture, activation, loss, kind, seed in itertools.product(
        architectures, activations, losses, data, range(seeds)
    ):
        nominal = int(activation[-2:]) / 100 if activation in FAMILIES else np.nan
        if activation in FAMILIES and (loss != losses[0] or kind == "random"):
            continue
        if kind == "random" and activation not in PLAIN[:3]:
            continue
        run = f"{architecture}.{activation}.{loss}.{kind}"
        labels = {"run": run, "architecture": architecture, "activation": activation, "loss": loss, "data": kind}
        labels |= {"normalization": "default", "seed": seed}
        runs.append({**labels, "status": "finished", "target_sparsity": nominal})
        grown = steps / (steps + 200)
        odd = activation in ("tanh", "identity")
        final = 0.0 if odd else -4 - 30 * (loss == "mse") * crc32(activation.encode()) / 2**32
        drift = final * grown + random.normal(0, 0.4) * grown
        zeros = {"relu": 0.5, "relu2": 0.5, "gelu2": 0.1}.get(activation, 0.0 if np.isnan(nominal) else nominal)
        rise = 0.2 * grown * (zeros == 0.5)
        sparsity = (zeros > 0) * np.clip(zeros + rise + random.normal(0, 0.004), 0, 0.99)
        kept = 0.95 - 0.8 * np.maximum(0, sparsity[-1] - 0.75) + random.normal(0, 0.01)

        def add(metric, values, layer=None, depth=None, split="test", at=steps, labels=labels):
            rows.extend(
                {**labels, "step": step, "split": split, "layer": layer, "depth": depth, "metric": metric, "value": v}
                for step, v in zip(at, values, strict=True)
            )

        add("activation_sparsity", sparsity)
        add("near_zero_share", sparsity)
        add("accuracy", np.linspace(0.1, kept, len(steps)))
        for depth in range(4):
            add("activation_sparsity", sparsity * (0.9 + 0.03 * depth), f"blocks.{depth}.act", depth)
        add("drift_z", drift, "blocks.0.weight", 1, None)
        add("fed_by_activation", np.ones(len(steps)), "blocks.0.weight", 1)
        for step, mean in ((0, 0), (3000, final / 50)):
            weights = random.normal(mean, 1, 5000)
            for i, count in enumerate(np.histogram(weights, edges)[0]):
                add(f"weight_histogram.{i:02d}", [count / 5000], "blocks.0.weight", 1, None, [step])
    return pd.DataFrame(rows), pd.DataFrame(runs)


@cache
def tables(name):
    """All tables of an invented study, by name. "nothing": that every run has diverged."""
    if name == "nothing":
        return {table: frame.iloc[:0] for table, frame in tables("default").items()}
    settings = STUDIES[name]
    rows, runs = facts(*settings)
    points = analysis.points(rows, runs, settings[2][0], ["tanh", "identity"])
    baseline = points["configuration"].iloc[0]
    verdicts, curves = cliff.cliffs(points, baseline=baseline, level=LEVEL, resamples=100)
    return {
        "drift": analysis.drift(rows, runs, LEVEL),
        "drift_contrasts": analysis.drift_contrasts(rows, runs, ["tanh", "identity"], LEVEL),
        "sparsity_over_steps": analysis.sparsity_over_steps(rows, runs, LEVEL),
        "sparsity_by_depth": analysis.sparsity_by_depth(rows, runs, LEVEL),
        "weight_histograms": analysis.histograms(rows, runs),
        "points": cliff.relative_accuracy(points, baseline),
        "cliff": verdicts,
        "curves": curves,
    }


@cache
def draw(figure, name):
    """The figure of an invented study, laid out; any warning is an error."""
    module = importlib.import_module(f"sparsity_cliff.{FIGURES[figure].module}")
    with warnings.catch_warnings(), styled():
        warnings.simplefilter("error")
        page = module.draw(*(tables(name)[table] for table in FIGURES[figure].tables))
        page.draw_without_rendering()
    return page


EVERY = [(figure, name) for figure in FIGURES for name in [*STUDIES, "nothing"]]
every = pytest.mark.parametrize(("figure", "name"), EVERY)


def boxes(page: Figure):
    """Every text that is drawn, with its box in pixels. Tick labels outside the view are not drawn."""
    hidden = set()
    for axes in page.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    hidden |= {tick.label1, tick.label2}
    renderer = page.canvas.get_renderer()
    texts = [text for text in page.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text not in hidden]


@every
def test_every_text_is_inside_and_apart(figure, name):
    page = draw(figure, name)
    found = boxes(page)
    assert found
    for text, box in found:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= page.bbox.x1 and box.y1 <= page.bbox.y1, text
    for (text, box), (other, next_box) in itertools.combinations(found, 2):
        across = min(box.x1, next_box.x1) - max(box.x0, next_box.x0)
        along = min(box.y1, next_box.y1) - max(box.y0, next_box.y0)
        assert across <= 1 or along <= 1, f"{text!r} over {other!r}"


@every
def test_fits_a_page(figure, name):
    width, height = draw(figure, name).get_size_inches()
    assert width in (COLUMN, TEXT)
    assert height <= 9


@every
def test_axes_have_names_with_units(figure, name):
    page = draw(figure, name)
    for side, last in (("x", "is_last_row"), ("y", "is_first_col")):
        outer = [axes for axes in page.axes if getattr(axes.get_subplotspec(), last)()]
        names = {getattr(axes, f"get_{side}label")() for axes in outer}
        assert not outer or any(names)
        assert all(name.endswith(")") and " (" in name for name in names if name)


@every
def test_note_says_n_and_interval(figure, name):
    note = draw(figure, name).texts[-1].get_text().replace("\n", " ")
    if name == "nothing":
        assert "finished" in note
    elif name == "soft" and figure != "drift":
        assert "no interval" in note or "Too few" in note or "finished" in note
    elif not (figure == "target_sparsity" and name == "dense"):
        seeds = STUDIES[name][3]
        assert f"n = {seeds}" in note
        assert "90 %" in note or "no interval" in note or "Too few runs" in note


@every
def test_draws_only_what_is_there(figure, name):
    """Nothing computed: every drawn mean is a number of the table."""
    if figure not in ("drift", "sparsity_over_steps", "sparsity_by_depth"):
        return
    known = set(tables(name)[FIGURES[figure].tables[0]]["mean"])
    for axes in draw(figure, name).axes:
        for line in axes.lines:
            if line.get_marker() not in ("None", "none", None):
                assert set(line.get_ydata()) <= known


@pytest.mark.parametrize("figure", FIGURES)
def test_same_tables_give_same_bytes(figure, tmp_path):
    paths = []
    for table in FIGURES[figure].tables:
        paths.append(tmp_path / f"{table}.parquet")
        tables("one architecture")[table].to_parquet(paths[-1])
    written = [[tmp_path / f"{copy}.{kind}" for kind in ("pdf", "png")] for copy in range(2)]
    for outputs in written:
        figures.draw(figure, map(str, paths), map(str, outputs))
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert b"/FontFile2" in written[0][0].read_bytes()  # TrueType, embedded

"""Figures: each of the registry, drawn from tables that the analysis made of small invented studies."""

import ast
import dataclasses
import importlib
import io
import itertools
import re
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
import yaml
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from shared import shared

from sparsity_cliff import figures
from sparsity_cliff.analysis import cliff, critical, curves, drift, gradients, ledger, sparsity, spikes, weights
from sparsity_cliff.analysis.claims import CLAIMS
from sparsity_cliff.analysis.flops import flops
from sparsity_cliff.analysis.points import points as points_of
from sparsity_cliff.figures import FIGURES, drawn, style
from sparsity_cliff.figures import claims as claims_figure
from sparsity_cliff.figures import page as figure_page
from sparsity_cliff.figures.style import COLUMN, TEXT, looks, save, span, styled
from sparsity_cliff.traces import origin
from sparsity_cliff.traces.metrics import HISTOGRAM_EDGES
from sparsity_cliff.traces.unfinished import named, unfinished

ROOT = Path(__file__).parent.parent
LEVEL = 0.9  # not the usual one, so that a note that does not read it from the table is found

PLAIN = ["relu", "gelu", "silu", "relu2", "gelu2", "tanh", "identity"]
FAMILIES = [*(f"topk_{k}" for k in range(50, 100, 5)), "quantile_70", "quantile_80", "quantile_90"]
MORE = ["leaky_relu", "elu", "bsilu", "sugar_bsilu", "noisy_relu", "relu2_clip50", "gelu2_clip50", "mine", "mine2"]
LONG = ["a_quite_long_name_of_an_activation", "a_quite_long_name_of_an_activation_too", "relu"]
ARCHITECTURES = ["mlp", "cnn", "resnet", "vit", "gpt"]
LOSSES = ["cross_entropy", "mse"]
#: Architectures, activations, losses, number of seeds, data.
STUDIES = {
    "default": (ARCHITECTURES[:3], PLAIN + FAMILIES, LOSSES, 3, ["real", "random"]),
    "large": ([*ARCHITECTURES, "mpsenet"], PLAIN + MORE + FAMILIES[::3], LOSSES, 3, ["real"]),
    "one seed": (["mlp", "vit"], ["relu", "gelu", "tanh", "topk_50", "topk_90"], LOSSES[:1], 1, ["real"]),
    "one architecture": (["mlp"], [*PLAIN, "topk_50", "topk_90"], LOSSES[:1], 2, ["real"]),
    "five seeds": (["mlp", "gpt"], ["relu", "gelu", "relu2", "topk_50", "topk_90"], LOSSES[:1], 5, ["real"]),
    "dense": (["cnn"], ["relu", "gelu"], LOSSES[1:], 2, ["real"]),
    "soft": (["cnn"], ["gelu", "tanh"], LOSSES[:1], 2, ["real"]),
    "long names": (
        ["an_architecture_of_note", *ARCHITECTURES],
        LONG,
        ["cross_entropy_with_label_smoothing"],
        2,
        ["real"],
    ),
}
TOKENS = ["gpt"]  # architectures with token data
LINES = ["drift", "sparsity_over_steps", "near_zero_share", "sparsity_by_depth"]  # figures of lines alone


def facts(architectures, activations, losses, seeds, data):
    """Facts and runs of an invented study. Families have the first loss and real data only; one run diverges."""
    random = np.random.default_rng(0)
    steps = np.array([0, 1, 4, 16, 64, 250, 500, 1000, 2000, 3000])
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
        if architecture == "mpsenet" and loss != LOSSES[0]:
            continue
        diverges = (architecture, activation, loss, seed) == ("cnn", "relu2", "mse", 2)
        runs.append(
            {
                **labels,
                "status": "diverged at step 3" if diverges else "finished",
                "target_sparsity": nominal,
                "mechanism": f"{activation[:-3]}(base=relu)" if activation in FAMILIES else None,
            }
        )
        grown = steps / (steps + 200)
        odd = activation in ("tanh", "identity")
        final = 0.0 if odd else -4 - 30 * (loss == "mse") * crc32(activation.encode()) / 2**32
        drift = final * grown + random.normal(0, 0.4) * grown
        zeros = {"relu": 0.5, "relu2": 0.5, "gelu2": 0.1}.get(activation, 0.0 if np.isnan(nominal) else nominal)
        rise = 0.2 * grown * (activation in ("relu", "relu2"))
        sparsity = (zeros > 0) * np.clip(zeros + rise + random.normal(0, 0.004), 0, 0.99)
        kept = 0.95 - 0.8 * np.maximum(0, sparsity[-1] - 0.75) + random.normal(0, 0.01)

        def add(metric, values, layer=None, depth=None, split="test", at=steps, labels=labels):
            rows.extend(
                {**labels, "step": step, "split": split, "layer": layer, "depth": depth, "metric": metric, "value": v}
                for step, v in zip(at, values, strict=True)
            )

        add("activation_sparsity", sparsity)
        add("near_zero_share", np.maximum(sparsity, 0.02 * grown))
        if architecture == "mpsenet":
            add("pesq", np.linspace(1.1, 1.1 + 2 * kept, len(steps)))
            add("stoi", np.linspace(0.5, kept, len(steps)))
        else:
            add("accuracy", np.linspace(0.1, kept, len(steps)))
        add("loss", np.linspace(2.3, 2 - kept, len(steps)))
        add("dense_flops", [1000.0], at=[3000])
        add("potential_flops", [1000 - 900 * sparsity[-1]], at=[3000])
        spike = 3 * np.exp(random.normal(0, 0.1)) * (1 + 50 * ("2" in activation) * grown)
        add("spike", 2 * spike)
        for depth in range(3):
            site = f"blocks.{depth}.act", depth
            add("activation_sparsity", sparsity * (0.9 + 0.03 * depth), *site)
            add("spike", spike * (depth % 2 + 1), *site)
            add("spike_ratio", spike, *site)
            gradient = 0.1 + random.normal(0, 0.01)
            values = {"positive": gradient, "nonpositive": -gradient * odd, "all": (1 - odd) * gradient / 2}
            for region, value in values.items():
                add(f"gradient_{region}", [value + random.normal(0, 0.01)], *site, "train", [0])
            if architecture in TOKENS:
                add("spike_first_token_share", 0.1 + 0.7 * grown, *site)
                add("spike_delimiter_share", 0.2 - 0.1 * grown, *site)
        if architecture in TOKENS:
            add("first_token_share", np.full(len(steps), 1 / 64))
            add("delimiter_share", np.full(len(steps), 0.19))
        add("weight_mean", 0.01 * drift, "blocks.0.weight", 1, None)
        add("weight_std", np.ones(len(steps)), "blocks.0.weight", 1, None)
        add("preactivation_mean", 0.1 * drift, "blocks.0.act", 0)
        add("preactivation_std", np.ones(len(steps)), "blocks.0.act", 0)
        add("fed_by_activation", np.ones(len(steps)), "blocks.0.weight", 1)
        for step, mean in ((0, 0), (3000, final / 50)):
            weights = random.normal(mean, 1, 5000)
            for i, count in enumerate(np.histogram(weights, edges)[0]):
                add(f"weight_histogram.{i:02d}", [count / 5000], "blocks.0.weight", 1, None, [step])
    return pd.DataFrame(rows), pd.DataFrame(runs)


def theory(activations, losses):
    """The table of the theory: numbers as if z were ±1, and none for the families."""
    rows = []
    for activation, loss, region in itertools.product(activations, losses, ["positive", "nonpositive", "all"]):
        row = {
            "activation": activation,
            "loss": loss,
            "region": region,
            "left_out": "",
            "n": 10_000,
            "within": True,
            "tolerance": 4.0,
        }
        exact = {"positive": 2.0, "nonpositive": -2.0 * (activation in ("tanh", "identity"))}
        exact["all"] = sum(exact.values()) / 2
        row |= {"closed_form": exact[region], "mean": exact[region] + 0.01, "standard_error": 0.01}
        left_out = "mixes units" * (activation in FAMILIES) or "no closed form for this loss" * ("smooth" in loss)
        blank = {**dict.fromkeys(["closed_form", "mean", "n", "within", "tolerance"]), "left_out": left_out}
        rows.append(row | blank if left_out else row)
    return pd.DataFrame(rows)


@shared
def tables(name):
    """All tables of an invented study, by name. "nothing": of one whose every run has diverged."""
    settings = STUDIES.get(name, STUDIES["one seed"])
    rows, runs = facts(*settings)
    if name == "nothing":
        runs = runs.assign(status="diverged at step 3")
    baseline = settings[1][0]
    points = points_of(rows, runs, settings[2], baseline)
    controls, others = curves.curves(points, None, baseline), curves.others(points, None, baseline)
    levels = curves.levels([*controls, *others], LEVEL)
    brackets, closed_forms = critical.criticals(controls, level=LEVEL), theory(*settings[1:3])
    functions = [style.family(activation)[0] for activation in runs["activation"]]
    known = runs.assign(function=functions, options="{}", steps=3000)
    return {
        "claims": ledger.ledger(rows, known, points, brackets, closed_forms, baseline=baseline, level=LEVEL),
        "drift": drift.drift(rows, runs, LEVEL),
        "drift_contrasts": drift.drift_contrasts(rows, runs, ["tanh", "identity"], LEVEL),
        "sparsity_over_steps": sparsity.sparsity_over_steps(rows, runs, LEVEL),
        "sparsity_by_depth": sparsity.sparsity_by_depth(rows, runs, LEVEL),
        "weight_histograms": weights.histograms(rows, runs),
        "theory": closed_forms,
        "gradient_signs": gradients.gradient_signs(rows, runs, LEVEL),
        "spikes": spikes.spikes(rows, runs, "relu", LEVEL),
        "points": points,
        "levels": levels,
        "flops": flops(rows, points, levels, LEVEL),
        "loss_and_spikes": spikes.loss_and_spikes(rows, runs, LEVEL),
        "cliff": cliff.cliffs(controls, level=LEVEL),
        "critical": brackets,
    }


@cache
def draw(figure, name, width=TEXT):
    """The figure of an invented study, laid out; any warning is an error."""
    module = importlib.import_module(f"sparsity_cliff.{FIGURES[figure].module}")
    with warnings.catch_warnings(), styled(width):
        warnings.simplefilter("error")
        page = module.draw(*(tables(name)[table] for table in FIGURES[figure].tables))
        page.draw_without_rendering()
    return page


# with a scope, so that all tests of a figure and a study are neighbors: each worker draws it once
every_figure = pytest.mark.parametrize("figure", FIGURES, scope="module")
every_study = pytest.mark.parametrize(
    "name",
    [
        pytest.param("default", marks=pytest.mark.large),  # "large" has more of all but random data
        *(name for name in [*STUDIES, "nothing"] if name != "default"),
    ],
    scope="module",
)


def boxes(page):
    """Every text that is drawn, with its box in pixels. Tick labels outside the view are not drawn."""
    hidden = set()
    for axis in itertools.chain.from_iterable((axes.xaxis, axes.yaxis) for axes in page.axes):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        hidden |= {text for tick in ticks if not low <= tick.get_loc() <= high for text in (tick.label1, tick.label2)}
    renderer = page.canvas.get_renderer()
    texts = [text for text in page.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text not in hidden]


# ------------------------------------------------------------------------------------------------- legible


def assert_texts_apart(page):
    found = boxes(page)
    assert found
    for text, box in found:
        assert min(box.x0, box.y0, page.bbox.x1 - box.x1, page.bbox.y1 - box.y1) >= 0, text
    for (text, box), (other, next_box) in itertools.combinations(found, 2):
        across = min(box.x1, next_box.x1) - max(box.x0, next_box.x0)
        along = min(box.y1, next_box.y1) - max(box.y0, next_box.y0)
        assert across < -4 or along <= 1, f"{text!r} touches {other!r}"  # pixels; a point is 4 wide


@every_figure
@every_study
def test_every_text_is_inside_and_apart(figure, name):
    assert_texts_apart(draw(figure, name))


@every_figure
@pytest.mark.parametrize(
    "name", ["five seeds", "long names", *(pytest.param(name, marks=pytest.mark.large) for name in ("default", "soft"))]
)
def test_a_figure_fits_one_column_of_a_paper(figure, name):
    page = draw(figure, name, COLUMN)
    width, height = page.get_size_inches()
    assert width == COLUMN
    assert height <= 9
    assert min(text.get_fontsize() for text in page.findobj(Text) if text.get_text()) >= 6
    assert_texts_apart(page)
    bare = [[dataclasses.replace(row, y_axis="") for row in drawn.rows(each)] for each in (page, draw(figure, name))]
    assert bare[0] == bare[1]  # the same data; the narrow figure of claims has no names of its y axes


@every_figure
@every_study
def test_fits_a_page_of_a_paper(figure, name):
    page = draw(figure, name)
    width, height = page.get_size_inches()
    assert width in (COLUMN, TEXT)
    assert height <= 9
    assert all(text.get_fontsize() >= 6 for text in page.findobj(Text) if text.get_text())


@every_figure
@every_study
def test_axes_have_names_with_units(figure, name):
    page = draw(figure, name)
    for side, outermost in (("x", "is_last_row"), ("y", "is_first_col")):
        outer = [axes for axes in page.axes if getattr(axes.get_subplotspec(), outermost)()]
        names = [getattr(axes, f"get_{side}label")() for axes in outer]
        assert all(label.endswith(")") and " (" in label.replace("\n", " ") for label in names), names


@every_figure
@every_study
def test_note_says_what_is_missing_or_n_and_interval(figure, name):
    note = draw(figure, name).texts[-1].get_text().replace("\n", " ")
    sparsity = {"soft": "Not drawn (hardly any exact zeros): gelu, tanh"}
    expected = {
        "theory": dict.fromkeys(["one seed", "nothing"], "No signs at initialization"),
        "near_zero_share": {"nothing": "No run"},
        "spikes": {"nothing": "No run"},
        "loss_and_spikes": {"nothing": "No run"},
        "flops": dict.fromkeys(["one seed", "nothing"], "No architecture has measured FLOPs"),
        "drift": {"nothing": "No run"},
        "sparsity_over_steps": {"nothing": "No run", **sparsity},
        "sparsity_by_depth": {"nothing": "No run", **sparsity},
        "cliff": dict.fromkeys(["one seed", "nothing"], "No architecture has two finished seeds"),
        "critical": dict.fromkeys(
            ["one seed", "nothing", "dense", "soft", "long names"], "No architecture has a level"
        ),
        "target_sparsity": dict.fromkeys(["nothing", "dense", "soft", "long names"], "No run with a sparsity control"),
        "weights": {"nothing": "No run"},
        "claims": {"nothing": "No architecture tests a claim."},
    }[figure]
    if name in expected:
        assert expected[name] in note
        return
    n = STUDIES[name][3]
    assert f"n = {n} seed" in note or (f"n = {n - 1}–{n} seeds" in note and n == 3)
    assert "90 %" in note or "no interval" in note or "Too few runs" in note
    if figure == "drift":
        assert ("No runs on random data" in note) == ("random" not in STUDIES[name][4])
        assert ("No control" in note) == ("tanh" not in STUDIES[name][1])


def test_theory_names_what_has_no_closed_form():
    note = draw("theory", "default").texts[-1].get_text().replace("\n", " ")
    assert "No closed form (mixes units): topk_50 … 95, quantile_70 … 90." in note
    assert "42 of 42 agree to 4 standard errors" in note  # 7 activations x 2 losses x 3 regions
    note = draw("theory", "long names").texts[-1].get_text().replace("\n", " ")
    assert "No closed form (no closed form for this loss): cross_entropy_with_label_smoothing." in note


def test_spikes_say_where_they_are_only_for_token_data():
    note = draw("spikes", "default").texts[-1].get_text().replace("\n", " ")
    assert "These runs have no token data" in note
    page = draw("spikes", "large")
    labels = [axes.get_ylabel() for axes in page.axes]
    assert labels.count("windows (%)") == 1  # one line of panels: one architecture of the six, under each loss
    assert {"at token 0", "at a delimiter"} <= {text.get_text() for text in page.legends[0].get_texts()}


def test_weights_say_how_many_lie_beyond_the_axis():
    table = tables("dense")["weight_histograms"]
    module = importlib.import_module("sparsity_cliff.figures.weights")
    with styled():
        few, many = (module.draw(table.assign(outside=share)) for share in (0.0004, 0.034))
    notes = [page.texts[-1].get_text().replace("\n", " ") for page in (few, many)]
    assert "at most 0.04 % of them" in notes[0]
    assert "at most 3.4 % of them" in notes[1]
    said = [[axes.get_title().replace("\n", " ") for axes in page.axes] for page in (few, many)]
    assert said[1] == ["cnn, 3.4 % beyond"]
    assert not any("beyond" in text for text in said[0])


def test_several_numbers_of_seeds_are_a_range():
    assert span([3, 2, 3]) == "2–3"
    assert span([3, 3]) == "3"


# ------------------------------------------------------------------------------------------------- true


@pytest.mark.parametrize("figure", [*LINES, "spikes"])
@every_study
def test_lines_are_the_numbers_of_the_table(figure, name):
    table = tables(name)[FIGURES[figure].tables[0]]
    means, values = set(table["mean"]), set(table["values"].explode())
    for axes in draw(figure, name).axes:
        seeds = [line for line in axes.lines if ", seed " in line.get_label()]
        drawn = [line for line in axes.lines if line.get_marker() != "None" and line not in seeds]
        assert all(set(line.get_ydata()) <= means for line in drawn)
        assert all(set(line.get_ydata()) <= values for line in seeds)
        low, high = np.sort(axes.get_ylim())
        assert all((low <= line.get_ydata()).all() and (line.get_ydata() <= high).all() for line in [*drawn, *seeds])


@pytest.mark.parametrize("figure", [*LINES, "spikes"])
def test_few_seeds_are_drawn_and_more_have_an_interval(figure):
    for name, few in (("one seed", False), ("one architecture", True), ("default", True), ("five seeds", False)):
        found = drawn.rows(draw(figure, name))
        assert any(", seed " in row.series for row in found) == few, name
        assert any(row.kind in ("band", "interval") for row in found) == (name == "five seeds")
    note = draw(figure, "default").texts[-1].get_text().replace("\n", " ")
    assert "the seeds, so no interval" in note


def test_few_and_many_seeds_in_one_figure_are_told_apart():
    table = tables("five seeds")["drift"]
    some = table["activation"] == "gelu"
    values = table["values"].where(~some, table["values"].str[:2])
    mixed = table.assign(
        n=table["n"].where(~some, 2), values=values, seeds=table["seeds"].where(~some, table["seeds"].str[:2])
    )
    module = importlib.import_module("sparsity_cliff.figures.drift")
    with styled():
        page = module.draw(mixed, tables("five seeds")["drift_contrasts"])
    note = page.texts[-1].get_text().replace("\n", " ")
    assert "Mean of n = 2–5 seeds; band: 90 % t interval where n ≥ 4; thin lines: the seeds where n < 4." in note
    found = drawn.rows(page)
    assert {row.series for row in found if ", seed " in row.series} == {"gelu, seed 0", "gelu, seed 1"}
    assert "gelu" not in {row.series for row in found if row.kind == "band"}


def test_drift_shows_both_controls():
    page = draw("drift", "default")
    legend = [text.get_text() for text in page.legends[0].get_texts()]
    assert {"tanh (control)", "identity (control)", "real data", "random data"} <= set(legend)
    assert all(0 in line.get_ydata() for axes in page.axes for line in axes.lines if line.get_zorder() == 0)


@pytest.mark.parametrize(
    ("verdict", "low", "high", "words"),
    [
        ("bracket", 0.76, 0.83, "−5 % at 80 % [76, 83]"),
        ("beyond the range measured", 0.98, np.nan, "−5 % above 98 %"),
        ("beyond the range measured", 0.9991, np.nan, "−5 % above 99.9 %"),
        ("bracket", 0.995, 1.0, "−5 % at 80 % [99.5, 100]"),
        ("not reached", np.nan, 0.6, "−5 % below 60 %"),
        ("undecided", np.nan, 0.9, "−5 % in […, 90]"),
        ("too few runs", np.nan, np.nan, "too few runs"),
    ],
)
def test_cliff_says_each_verdict(verdict, low, high, words):
    names = ["levels", "critical", "cliff"]
    levels, critical, falls = (tables("default")[name] for name in names)
    changed = critical.assign(verdict=verdict, sparsity=0.8, low=low, high=high)
    module = importlib.import_module("sparsity_cliff.figures.cliff")
    with styled():
        page = module.draw(levels, changed, falls.assign(verdict="gradual decline"))
        page.draw_without_rendering()
    said = [text.get_text() for axes in page.axes for text in axes.texts]
    assert f"{words}\ngradual decline" in said


PAIRS = [*(title for name in ARCHITECTURES for title in (name, f"{name} · mse")), "mpsenet"]  # of "large"
BLOCKS = {"theory": [LOSSES, PAIRS], "drift": [PAIRS, PAIRS], "spikes": [PAIRS, PAIRS, ["gpt", "gpt · mse"]]}


@pytest.mark.parametrize("name", ["default", "large"])
def test_critical_sparsity_is_drawn_with_its_ends(name):
    table, page = tables(name)["critical"], draw("critical", name)
    assert [axes.get_title() for axes in page.axes] == list(table["architecture"].unique())
    kinds = {"-": set(), ":": set()}
    for axes in page.axes:
        own = table[table["architecture"] == axes.get_title()]
        known = own[["low", "high"]].notna().all(axis=1)
        bars = [line for line in axes.lines if len(line.get_xdata()) == 2]
        solid = sorted(tuple(line.get_xdata()) for line in bars if line.get_linestyle() == "-")
        assert solid == sorted(own.loc[known, ["low", "high"]].itertuples(index=False, name=None))
        assert len(bars) == len(own)
        marks = [(line.get_marker(), line.get_xdata()[0]) for line in axes.lines if len(line.get_xdata()) == 1]
        ends = sorted(x for marker, x in marks if marker == "|")
        assert ends == sorted(own[["low", "high"]].stack().dropna())
        assert sorted(x for marker, x in marks if marker != "|") == sorted(own["sparsity"].dropna())
        for line in bars:
            kinds[line.get_linestyle()].add(axes)
    assert all(kinds.values())  # or the study would show little


@pytest.mark.parametrize("figure", [*LINES, "weights", "theory", "spikes"])
def test_panels_are_the_pairs_of_the_study_and_leave_no_hole(figure):
    top, seen = 0, iter(draw(figure, "large").axes)
    across = 4 if figure == "spikes" else 3
    for titles in BLOCKS.get(figure, [PAIRS]):
        for place, title in enumerate(titles):
            axes, (line, column) = next(seen), divmod(place, across)
            spot = axes.get_subplotspec()
            assert (axes.get_title(), spot.rowspan.start, spot.colspan.start) == (title, top + line, column)
            assert bool(axes.get_xlabel()) == (place + across >= len(titles))  # nothing below it
            assert bool(axes.get_ylabel()) == (column == 0)
            assert axes.has_data()
        top += -(-len(titles) // across)
    assert next(seen, None) is None


def test_a_title_names_a_loss_that_is_not_the_first_and_the_note_names_that_one():
    table, contrasts = (tables("large")[name] for name in FIGURES["drift"].tables)
    own = table["loss"].where(table["architecture"] != "mpsenet", "spectra")
    module = importlib.import_module("sparsity_cliff.figures.drift")
    with styled():
        page = module.draw(table.assign(loss=own), contrasts)
    assert [axes.get_title() for axes in page.axes] == 2 * [*PAIRS[:-1], "mpsenet · spectra"]
    note, alone = (figure.texts[-1].get_text().replace("\n", " ") for figure in (page, draw("drift", "dense")))
    assert "Loss: cross_entropy if a title names no other." in note
    assert "Loss: mse." in alone
    assert [axes.get_title() for axes in draw("drift", "dense").axes] == ["cnn", "cnn"]


def test_one_site_needs_no_panel_by_depth():
    table = tables("default")["spikes"]
    module = importlib.import_module("sparsity_cliff.figures.spikes")
    one = (table["architecture"] == "mlp") & (table["depth"] > 0)
    with styled():
        some, none = (module.draw(table[~gone]) for gone in (one, table["depth"] > 0))
    titles = ["mlp", "mlp · mse", "cnn", "cnn · mse", "resnet", "resnet · mse"]
    assert [axes.get_title() for axes in some.axes] == titles + titles[2:]
    assert [axes.get_title() for axes in none.axes] == titles


def test_a_wide_interval_does_not_flatten_spikes():
    table = tables("default")["spikes"]
    module = importlib.import_module("sparsity_cliff.figures.spikes")
    with styled():
        page = module.draw(table.assign(low=table["mean"] / 1e9, high=table["mean"] * 1e9))
    means = table.loc[table["metric"] == "spike", "mean"]
    assert all(means.min() / 2 <= axes.get_ylim()[0] and axes.get_ylim()[1] <= 2 * means.max() for axes in page.axes)


def test_weights_are_the_changes_of_the_table():
    table = tables("default")["weight_histograms"]
    ends = table[(table["moment"] == "end") & (table["data"] == "real")]
    for axes, (architecture, loss) in zip(
        draw("weights", "default").axes, itertools.product(ARCHITECTURES[:3], LOSSES), strict=True
    ):
        own = ends[(ends["architecture"] == architecture) & (ends["loss"] == loss)]
        known = [
            tuple(bins[(bins["left"] >= -3) & (bins["right"] <= 3)].sort_values("left")["change"])
            for _, bins in own.groupby("activation")
        ]
        drawn = [tuple(line.get_ydata()) for line in axes.lines if line.get_marker() != "None"]
        assert drawn
        assert set(drawn) <= set(known)


def test_gelu_is_soft_though_some_of_its_values_underflow_later():
    rows, runs = facts(["mlp"], ["relu", "gelu", "topk_50"], LOSSES[:1], 2, ["real"])
    late = (rows["activation"] == "gelu") & (rows["metric"] == "activation_sparsity") & (rows["step"] > 1000)
    table = sparsity.sparsity_over_steps(rows.assign(value=rows["value"].where(~late, 0.02)), runs, LEVEL)
    about = table.drop_duplicates("activation").set_index("activation")
    assert about["soft"].to_dict() == {"relu": False, "gelu": True, "topk_50": False}
    assert about["control"].to_dict() == {"relu": False, "gelu": False, "topk_50": True}
    assert not about["dense"].any()
    module = importlib.import_module("sparsity_cliff.figures.near_zero_share")
    with styled():
        assert {row.series for row in drawn.rows(module.draw(table)) if row.kind == "line"} >= {"gelu"}


def test_target_sparsity_draws_the_difference():
    points = tables("default")["points"]
    controls = points[points["target_sparsity"].notna()]
    assert np.allclose(controls["beyond_target"], controls["sparsity"] - controls["target_sparsity"])
    drawn_points = {(row.x, row.y) for row in drawn.rows(draw("target_sparsity", "default"))}
    assert drawn_points == set(controls[["target_sparsity", "beyond_target"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("name", ["default", "five seeds"])
def test_loss_against_spikes_shows_means_and_their_intervals_or_seeds(name):
    table, found = tables(name)["loss_and_spikes"], drawn.rows(draw("loss_and_spikes", name))
    marks = {(row.x, row.y) for row in found if row.kind == "point" and ", seed " not in row.series}
    assert marks == set(table[["spike_ratio", "held_out_loss"]].itertuples(index=False, name=None))
    each = {(row.x, row.y) for row in found if ", seed " in row.series}
    ends = {(row.low, row.high) for row in found if row.kind == "interval"}
    if name == "default":
        seeds = table.explode(["ratios", "losses"])[["ratios", "losses"]].itertuples(index=False, name=None)
        assert (each, ends) == (set(seeds), set())
    else:
        sides = [table[[f"{name}_low", f"{name}_high"]] for name in ("ratio", "loss")]
        assert (each, ends) == (set(), {pair for side in sides for pair in side.itertuples(index=False, name=None)})


def test_levels_without_flops_are_named():
    table = tables("large")["flops"]
    module = importlib.import_module("sparsity_cliff.figures.flops")
    with styled():
        page = module.draw(table.assign(flops=table["flops"].where(table["configuration"] != "topk_95", 0.0)))
    assert "Not drawn (no FLOPs remain): topk_95." in page.texts[-1].get_text().replace("\n", " ")


def test_gradients_of_few_seeds_are_dots_and_of_more_intervals():
    few, many = (drawn.rows(draw("theory", name)) for name in ("default", "five seeds"))
    signs = tables("five seeds")["gradient_signs"]
    shown = signs[signs["metric"].isin(["gradient_positive", "gradient_all"])]
    shown = shown[shown["activation"] != "topk_50"]  # of a family, only the last member is drawn
    ends = {(row.low, row.high) for row in many if row.kind == "interval" and "loss/z" in row.y_axis}
    assert ends == set(shown[["low", "high"]].itertuples(index=False, name=None))
    assert not any("seeds" in row.series for row in many)
    assert any("seeds" in row.series for row in few)
    assert not any(row.kind == "interval" and "loss/z" in row.y_axis for row in few)


NAN = float("nan")
#: Claim, architecture, verdict, estimate, low, high, n.
JUDGED = [
    ("C2", "mlp", "supported", -0.03, -0.04, -0.02, 6),
    ("C2", "resnet", "contradicted", 0.001, -0.002, 0.004, 6),
    ("C2", "vit", "inconclusive", -0.01, -0.03, 0.01, 5),
    ("C2", "cnn", "inconclusive", -0.02, NAN, NAN, 1),
    ("C2", "gpt", "inconclusive", -0.01, -9.0, 8.98, 2),
    ("C4", "mlp", "supported", 0.001, -0.002, 0.004, 6),
    ("C4", "vit", "inconclusive", -0.03, -0.05, -0.01, 6),
    ("C6", "mlp", "supported", 0.7, 0.65, 0.75, 9),
    ("C6", "vit", "contradicted", NAN, 0.98, NAN, 9),
    ("C6", "gpt", "inconclusive", NAN, NAN, NAN, 3),
    ("C6", "cnn", "inconclusive", NAN, NAN, 0.7, 9),
    ("C8b", "gpt", "contradicted", 7.0, 5.0, 9.8, 4),
    ("C9", "gpt", "supported", -0.1, -0.2, -0.05, 4),
]


def judged():
    """An invented ledger with rows of every verdict; the second part of C4 and C9 decides the last row of each."""
    found = []
    for claim in CLAIMS:
        own = [row for row in JUDGED if row[0] == claim.id]
        for _, name, verdict, estimate, low, high, n in own:
            measure = claim.measures[-1 if name in ("vit", "gpt") else 0]
            row = ledger._row(claim, name, verdict, "", LEVEL, measure)
            found.append(dataclasses.replace(row, estimate=estimate, low=low, high=high, n=n))
        found.append(ledger._row(claim, "all", "contradicted" if own else ledger.UNTESTED, "", LEVEL))
    return pd.DataFrame([dataclasses.asdict(row) for row in found])


@cache
def claims_drawn():
    with styled():
        page = claims_figure.draw(judged())
        page.draw_without_rendering()
    return page


def test_claims_have_a_name_and_their_axes_one():
    assert set(claims_figure.NAMES) == {claim.id for claim in CLAIMS}
    units = [(claim.id, measure.unit) for claim in CLAIMS for measure in claim.measures]
    assert list(claims_figure.EFFECTS) == list(dict.fromkeys(units))
    named = (claims_figure.ALL, claims_figure.CLOSED_FORM, claims_figure.UNTESTED)
    assert named == (ledger.ALL, ledger.CLOSED_FORM, ledger.UNTESTED)


def test_a_panel_of_a_claim_has_the_numbers_of_the_ledger():
    page, table = claims_drawn(), judged()
    ids = [axes.get_label().split()[0] for axes in page.axes]
    assert ids == ["C2", "C4", "C6", "C8b", "C9"]
    for id, axes in zip(ids, page.axes, strict=True):
        own = table[(table["claim"] == id) & (table["architecture"] != "all")]
        assert [label.get_text() for label in axes.get_yticklabels()] == [
            f"{row.architecture} ({row.n})" for row in own.itertuples()
        ]
        marks = {line.get_ydata()[0]: line for line in axes.lines if line.get_linestyle() == "None"}
        assert [text.get_text() for text in axes.texts] == ["over all: contradicted"]
        for y, row in enumerate(own.itertuples()):
            known = [value for value in (row.estimate, row.low, row.high) if pd.notna(value)]
            assert [marks[y].get_xdata()[0]] == known[:1] if known else y not in marks
            bars = [line for line in axes.lines if list(line.get_ydata()) == [y, y] and line.get_zorder()]
            solid = [list(line.get_xdata()) for line in bars if line.get_linestyle() == "-"]
            assert solid == [[row.low, row.high]] * (pd.notna(row.low) and pd.notna(row.high))
            dotted = [list(line.get_xdata()) for line in bars if line.get_linestyle() == ":"]
            edges = axes.get_xlim()
            ends = [edges[0] if pd.isna(row.low) else row.low, edges[1] if pd.isna(row.high) else row.high]
            assert dotted == [ends] * (not solid and not (row.n == 1 and id == "C2"))


def test_a_verdict_has_a_mark_of_its_own():
    looks = {name: (look["marker"], look.get("markerfacecolor")) for name, look in claims_figure.MARKS.items()}
    assert looks == {"supported": ("o", None), "contradicted": ("x", None), "inconclusive": ("o", "white")}
    seen = {row.series.split(", ")[1] for row in drawn.rows(claims_drawn()) if row.kind == "point"}
    assert seen == set(looks)


def test_the_region_of_support_is_that_of_the_part_and_a_wide_interval_flattens_nothing():
    page = claims_drawn()
    bands = [row for row in drawn.rows(page) if row.kind == "band"]
    assert {row.series for row in bands} == {"region of support"}
    by_panel = {axes.get_label().split()[0]: axes for axes in page.axes}
    ends = {id: [(b.y, b.low, b.high) for b in bands if b.panel.split()[0] == id] for id in by_panel}
    left, right = by_panel["C2"].get_xlim()
    assert ends["C2"] == [(-0.5, left, -0.01), (4.5, left, -0.01)]
    assert -0.2 < left < -0.04  # the interval of two seeds reaches to -9
    assert 0.01 < right < 0.2
    low = by_panel["C4"].get_xlim()[0]
    assert ends["C4"] == [(-0.5, -0.01, 0.01), (0.5, -0.01, 0.01), (0.5, low, -0.01), (1.5, low, -0.01)]
    assert ends["C8b"][0][1:] == pytest.approx((12.5, 50))
    assert [by_panel[id].get_xscale() for id in ("C8b", "C9")] == ["log", "linear"]
    note = page.texts[-1].get_text().replace("\n", " ")
    assert "An interval that ends at the edge of a panel extends beyond it." in note
    assert "Not tested: C1, C3, C5a, C5b, C5c, C7, C8a, C10." in note


def test_without_any_test_the_figure_of_the_claims_says_so():
    table = judged()
    with styled():
        page = claims_figure.draw(table.assign(verdict=ledger.UNTESTED))
    assert "No claim is tested" in page.texts[0].get_text().replace("\n", " ")


# ------------------------------------------------------------------------------------------------- numbers


def numbers(figure, name):
    """The CSV beside a figure, as pandas reads it."""
    return pd.read_csv(io.StringIO(drawn.text(draw(figure, name))), keep_default_na=False, na_values=[""])


@pytest.mark.parametrize("figure", [*LINES, "spikes"])
@every_study
def test_numbers_of_lines_are_all_those_of_the_table(figure, name):
    found, table = numbers(figure, name), tables(name)[FIGURES[figure].tables[0]]
    single = found["series"].str.contains(", seed ").fillna(False).astype(bool)
    lines, ends = found[(found["kind"] == "line") & ~single], found[found["kind"].isin(["band", "interval"])]
    assert set(lines["y"]) <= set(table["mean"])
    assert set(found.loc[single, "y"]) <= set(table["values"].explode())
    assert set(ends["low"]) <= set(table["low"])
    assert set(ends["high"]) <= set(table["high"])
    assert set(found["series"].dropna()) >= set(ends["series"])
    if figure == "sparsity_over_steps" and len(lines):
        shown = table[(table["metric"] == "activation_sparsity") & ~table["dense"] & ~table["control"]]
        series = shown["activation"].where(shown["data"] == "real", shown["activation"] + ", random data")
        panel = shown["architecture"].where(
            shown["loss"] == table["loss"].iloc[0], shown["architecture"] + " · " + shown["loss"]
        )
        expected = zip(panel, series, shown["step"].astype(float), shown["mean"], strict=True)
        columns = ["panel", "series", "x", "y"]
        assert set(lines[columns].itertuples(index=False, name=None)) == set(expected)
        known = shown[shown["n"] >= 4]
        assert sorted(ends["low"]) == sorted(known["low"])
        assert sorted(ends["high"]) == sorted(known["high"])


def test_numbers_name_what_they_are():
    for figure in FIGURES:
        found = numbers(figure, "large")
        assert found[["panel", "x_axis", "y_axis", "series"]].notna().all(axis=None), figure
        assert found["kind"].notna().all()
        assert (found[["x", "y", "low", "high"]].notna().sum(axis=1) >= 2).all()


def test_numbers_of_critical_sparsity_and_of_the_cliff_are_those_of_their_tables():
    table = tables("large")["critical"]
    found = numbers("critical", "large")
    whole = table.dropna(subset=["low", "high"])
    assert sorted(found.loc[found["kind"] == "interval", "low"]) == sorted(whole["low"])
    assert sorted(found.loc[found["kind"] == "point", "x"]) == sorted(table["sparsity"].dropna())
    for figure, table, column in (("cliff", "levels", "sparsity"), ("flops", "flops", "flops")):
        levels, found = tables("large")[table], numbers(figure, "large")
        controls = levels[levels["mechanism"] != "none"]
        points = found[(found["kind"] == "point") & ~found["series"].str.contains("critical")]
        pairs = set(points[["x", "y"]].itertuples(index=False, name=None))
        assert set(controls[[column, "relative"]].itertuples(index=False, name=None)) <= pairs
        assert set(controls["fitted"]) == set(found.loc[found["kind"] == "line", "y"])


def test_numbers_of_every_kind_of_artist():
    with styled():
        page = Figure()
        axes = page.subplots()
        axes.bar([1.0, 3.0], [5.0, 7.0], width=2.0, label="_anonymous")
        axes.axvspan(2.0, 4.0, label="span")
        axes.hlines([1.5], [0.0], [2.0], label="h")
        axes.errorbar([1.0], [2.0], [0.5], label="bar", linestyle="none", marker="o")
        axes.stairs([1.0, 2.0], [0.0, 1.0, 4.0], label="steps")
        axes.fill_between([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, NAN, 2.0], [1.0, 3.0, NAN, 4.0], label="band")
        axes.plot([0.0, 1.0], [1.0, NAN], label="line")
        axes.axhline(0, zorder=0)
    found = {(row.series, row.kind, row.x, row.y, row.low, row.high) for row in drawn.rows(page)}
    assert found == {
        ("", "bar", None, 5.0, 0.0, 2.0),
        ("", "bar", None, 7.0, 2.0, 4.0),
        ("span", "band", None, None, 2.0, 4.0),
        ("h", "interval", None, 1.5, 0.0, 2.0),
        ("bar", "point", 1.0, 2.0, None, None),
        ("bar", "interval", 1.0, None, 1.5, 2.5),
        ("steps", "bar", None, 1.0, 0.0, 1.0),
        ("steps", "bar", None, 2.0, 1.0, 4.0),
        ("band", "band", 0.0, None, 0.0, 1.0),
        ("band", "band", 1.0, None, 1.0, 3.0),
        ("band", "band", 3.0, None, 2.0, 4.0),
        ("line", "line", 0.0, 1.0, None, None),
    }
    axes.scatter([1], [1])
    with pytest.raises(TypeError, match="PathCollection"):
        drawn.rows(page)


@every_figure
def test_an_empty_figure_has_no_numbers_but_a_header(figure):
    if not draw(figure, "nothing").axes:
        assert drawn.text(draw(figure, "nothing")) == "panel,x_axis,y_axis,series,kind,x,y,low,high\n"


def test_no_panel_makes_a_cliff_of_noise():
    assert all(np.ptp(axes.get_ylim()) >= 0.1 - 1e-9 for axes in draw("cliff", "dense").axes)


# ------------------------------------------------------------------------------------------------- looks


def gray(color):
    """Luminance of a color in print, 0 to 1."""
    return np.dot(to_rgb(color), [0.299, 0.587, 0.114])


def test_looks_can_be_told_apart_without_color():
    families = ["quantile_relu_70", "relu · layer_norm_q_70", "relu · layer_norm_q_80"]
    found = looks([*PLAIN, *FAMILIES, *MORE, *families])
    for one, other in itertools.combinations(found.values(), 2):
        if one.family == other.family:
            assert abs(gray(one.shade) - gray(other.shade)) > 0.02
        else:
            assert (one.marker, one.filled) != (other.marker, other.filled)
    assert all(gray(look.shade) < 0.8 for look in found.values())  # on white


def test_looks_do_not_depend_on_what_else_a_study_has():
    every = looks([*PLAIN, *FAMILIES, *MORE])
    for some in (PLAIN, FAMILIES[2:5], ["topk_95"], ["mine"], ["bsilu", "mine", "topk_50"]):
        assert looks(some) == {name: every[name] for name in looks(some)}


def test_families_of_other_numbers_are_ranked():
    shades = [look.shade for look in looks(["topk_128", "topk_32", "topk_1024"]).values()]
    assert list(looks(["topk_128", "topk_32", "topk_1024"])) == ["topk_32", "topk_128", "topk_1024"]
    assert sorted(shades, key=gray, reverse=True) == shades


def test_more_names_than_markers_still_differ():
    names = [f"name{i}x" for i in range(60)]
    assert len({(look.color, look.marker, look.filled) for look in looks(names).values()}) == len(names)


# ------------------------------------------------------------------------------------------------- unfinished runs


def finished_runs():
    """The table `runs` of a study of three runs with two seeds each, as far as figures read it."""
    names = ["mlp.relu.cross_entropy.real.s0-1", "mlp.gelu.cross_entropy.real.s0-1", "vit.relu.cross_entropy.real.s0-1"]
    rows = [{"run": name, "seed": seed, "status": "finished"} for name in names for seed in (0, 1)]
    return pd.DataFrame(rows)


def test_unfinished_runs_are_named():
    runs = finished_runs()
    assert unfinished(runs) == ""
    runs.loc[[0, 1], "status"] = "missing"
    runs.loc[3, "status"] = "diverged"
    assert unfinished(runs) == (
        "Incomplete: 1 of 3 runs have no results: mlp.relu.cross_entropy.real.s0-1. "
        "Diverged, so in no mean: mlp.gelu.cross_entropy.real.s0-1 (seed 1)."
    )
    assert named([f"run{i}" for i in range(11)]).endswith("run7, and 3 more")


@every_figure
@pytest.mark.parametrize("name", ["one architecture", "nothing"])
def test_a_figure_names_unfinished_runs_above_everything_else(figure, name):
    module = importlib.import_module(f"sparsity_cliff.{FIGURES[figure].module}")
    with styled():
        plain, page = (module.draw(*(tables(name)[table] for table in FIGURES[figure].tables)) for _ in range(2))
        figure_page.warn(plain, "")
        figure_page.warn(page, "Incomplete: 1 of 3 runs have no results: mlp.relu.cross_entropy.real.s0-1. " * 3)
        for each in (plain, page):
            each.draw_without_rendering()
    before, after = boxes(plain), boxes(page)
    assert len(after) == len(before) + 1
    (label,) = [box for text, box in after if text.startswith("Incomplete: 1 of 3")]
    others = [(text, box) for text, box in after if box is not label]
    assert label.y1 <= page.bbox.y1
    assert label.y0 >= max(box.y1 for _, box in others)
    assert [word for word, _ in others] == [word for word, _ in before]
    for (_, box), (_, moved) in zip(before, others, strict=True):  # nothing has moved from the lower edge of the page
        assert (moved.x0, moved.y0) == pytest.approx((box.x0, box.y0), abs=3)


# ------------------------------------------------------------------------------------------------- files


@every_figure
def test_same_tables_give_same_bytes(figure, tmp_path):
    paths = []
    for table in FIGURES[figure].tables:
        paths.append(tmp_path / f"{table}.parquet")
        tables("dense")[table].to_parquet(paths[-1])
    paths.append(tmp_path / "runs.parquet")
    finished_runs().to_parquet(paths[-1])
    written = [[tmp_path / f"{copy}.{kind}" for kind in ("pdf", "png", "csv", "column.pdf")] for copy in range(2)]
    for outputs in written:
        figures.draw(figure, map(str, paths), map(str, outputs), "f" * 64)
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    found = pd.read_csv(written[0][2], comment="#")
    assert list(found.columns) == [field.name for field in dataclasses.fields(drawn.Row)]
    assert len(found) == len(drawn.rows(draw(figure, "dense")))
    assert origin.of(written[0][2]) == "f" * 64
    pdf = written[0][0].read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/CreationDate" not in pdf
    size = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", written[0][3].read_bytes())
    assert float(size[1]) / 72 == pytest.approx(COLUMN)


def test_users_own_settings_change_nothing(tmp_path):
    import matplotlib

    for size, path in ((10, tmp_path / "plain.png"), (30, tmp_path / "large.png")):
        with matplotlib.rc_context({"font.size": size, "axes.grid": size > 10}), styled():
            module = importlib.import_module("sparsity_cliff.figures.drift")
            save(module.draw(tables("one seed")["drift"], tables("one seed")["drift_contrasts"]), path, "f" * 64)
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "large.png").read_bytes()


STATISTICS = {
    "mean",
    "median",
    "mode",
    "std",
    "var",
    "sem",
    "quantile",
    "agg",
    "apply",
    "corr",
    "rolling",
    "interpolate",
}


def test_figures_import_no_torch_and_compute_nothing():
    code = "import importlib, sys; from sparsity_cliff.figures import FIGURES\n"
    code += "for entry in FIGURES.values(): importlib.import_module(f'sparsity_cliff.{entry.module}')\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    allowed = {"matplotlib", "pandas", "seaborn", "sparsity_cliff", *sys.stdlib_module_names}
    for path in Path(figures.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            assert {name.partition(".")[0] for name in names} <= allowed, path
            ours = [name for name in names if name.startswith("sparsity_cliff")]
            assert all(name.startswith(("sparsity_cliff.figures", "sparsity_cliff.traces")) for name in ours), path
            statistic = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            assert statistic not in STATISTICS, f"{path}: {ast.unparse(node)}"


def test_registry_has_no_torch_nor_matplotlib():
    code = "import sys; import sparsity_cliff.figures; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@every_figure
def test_every_figure_has_a_caption(figure):
    config = yaml.safe_load((ROOT / "workflow/studies/smoke.yaml").read_text(encoding="utf-8"))
    text = (ROOT / f"workflow/report/{figure}.rst").read_text(encoding="utf-8")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text)
    words = template.render(snakemake=SimpleNamespace(config=config))
    html = docutils.core.publish_parts(words, writer="html", settings_overrides={"halt_level": 2})["body"]
    text = re.sub(r"<[^>]+>", "", html)
    assert "interval" in text
    assert re.search(r"\bn\b|number of seeds", text.replace("√n", "")), "what n is"


def test_no_caption_without_a_figure():
    assert {path.stem for path in (ROOT / "workflow/report").glob("*.rst")} == set(FIGURES)

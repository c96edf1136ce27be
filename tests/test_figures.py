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
import yaml
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from sparsity_cliff import analysis, cliff, figures
from sparsity_cliff.figures import FIGURES
from sparsity_cliff.figures.style import COLUMN, TEXT, looks, save, span, styled
from sparsity_cliff.traces import HISTOGRAM_EDGES

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
    "default": (ARCHITECTURES[:4], PLAIN + FAMILIES, LOSSES, 3, ["real", "random"]),
    "large": (ARCHITECTURES, PLAIN + MORE + FAMILIES, LOSSES, 3, ["real", "random"]),
    "one seed": (["mlp", "vit"], ["relu", "gelu", "tanh", "topk_50", "topk_90"], LOSSES[:1], 1, ["real"]),
    "one architecture": (["mlp"], [*PLAIN, "topk_50", "topk_90"], LOSSES[:1], 2, ["real"]),
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
        diverges = (architecture, activation, loss, seed) == ("cnn", "relu2", "mse", 2)
        runs.append({**labels, "status": "diverged at step 3" if diverges else "finished", "target_sparsity": nominal})
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
        add("near_zero_share", sparsity)
        add("accuracy", np.linspace(0.1, kept, len(steps)))
        for depth in range(3):
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
    """All tables of an invented study, by name. "nothing": of one whose every run has diverged."""
    settings = STUDIES.get(name, STUDIES["one seed"])
    rows, runs = facts(*settings)
    if name == "nothing":
        runs = runs.assign(status="diverged at step 3")
    points = analysis.points(rows, runs, settings[2][0], ["tanh", "identity"])
    baseline = points["configuration"].iloc[0] if len(points) else "relu"
    verdicts, curves = cliff.cliffs(points[points["fitted"]], baseline=baseline, level=LEVEL, resamples=300)
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


every_figure = pytest.mark.parametrize("figure", FIGURES)
every_study = pytest.mark.parametrize("name", [*STUDIES, "nothing"])


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


@every_figure
@every_study
def test_every_text_is_inside_and_apart(figure, name):
    page = draw(figure, name)
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
        named = [label for label in names if label]
        assert len(named) == len(names) or (figure, side, len(named)) == ("weights", "y", 1)  # its rows share one
        assert all(label.endswith(")") and " (" in label for label in named), names


@every_figure
@every_study
def test_note_says_what_is_missing_or_n_and_interval(figure, name):
    note = draw(figure, name).texts[-1].get_text().replace("\n", " ")
    sparsity = {"soft": "not drawn: gelu, tanh"}
    expected = {
        "drift": {"nothing": "No run"},
        "sparsity_over_steps": {"nothing": "No run", **sparsity},
        "sparsity_by_depth": {"nothing": "No run", **sparsity},
        "cliff": {"nothing": "No run"},
        "target_sparsity": dict.fromkeys(["nothing", "dense", "soft", "long names"], "No run with a sparsity control"),
        "weights": {"nothing": "No run"},
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


def test_several_numbers_of_seeds_are_a_range():
    assert span([3, 2, 3]) == "2–3"
    assert span([3, 3]) == "3"


# ------------------------------------------------------------------------------------------------- true


@pytest.mark.parametrize("figure", ["drift", "sparsity_over_steps", "sparsity_by_depth"])
@every_study
def test_lines_are_the_numbers_of_the_table(figure, name):
    table = tables(name)[FIGURES[figure].tables[0]]
    for axes in draw(figure, name).axes:
        drawn = [line for line in axes.lines if line.get_marker() != "None"]
        assert all(set(line.get_ydata()) <= set(table["mean"]) for line in drawn)
        limits = np.sort(axes.get_ylim())
        assert all((limits[0] <= line.get_ydata()).all() and (line.get_ydata() <= limits[1]).all() for line in drawn)


def test_drift_shows_both_controls():
    page = draw("drift", "default")
    legend = [text.get_text() for text in page.legends[0].get_texts()]
    assert {"tanh (control)", "identity (control)", "real data", "random data"} <= set(legend)
    assert all(0 in line.get_ydata() for axes in page.axes for line in axes.lines if line.get_zorder() == 0)


def test_cliff_says_each_verdict():
    table = (
        tables("default")["cliff"]
        .iloc[:4]
        .assign(
            verdict=["cliff", "no cliff in the range measured", "smooth decline", "smooth decline"],
            bends=[True, False, False, True],
            break_at=0.712,
            low=0.66,
            high=0.758,
        )
    )
    module = importlib.import_module("sparsity_cliff.figures.cliff")
    with styled():
        page = module.draw(tables("default")["points"], table, tables("default")["curves"])
        page.draw_without_rendering()
    said = [{text.get_text() for text in axes.texts} for axes in page.axes]
    assert "cliff at 71 % [66, 76]" in said[0]
    assert "no cliff in the range measured" in said[1]
    assert "smooth decline" in said[2]
    assert "smooth decline, bends near 71 % [66, 76]" in said[3]
    breaks = [[line for line in axes.lines if set(line.get_xdata()) == {0.712}] for axes in page.axes]
    assert [len(found) for found in breaks] == [1, 0, 0, 0]


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


# ------------------------------------------------------------------------------------------------- files


@every_figure
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
    pdf = written[0][0].read_bytes()
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/CreationDate" not in pdf


def test_users_own_settings_change_nothing(tmp_path):
    import matplotlib

    for size, path in ((10, tmp_path / "plain.png"), (30, tmp_path / "large.png")):
        with matplotlib.rc_context({"font.size": size, "axes.grid": size > 10}), styled():
            module = importlib.import_module("sparsity_cliff.figures.drift")
            save(module.draw(tables("one seed")["drift"], tables("one seed")["drift_contrasts"]), path)
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "large.png").read_bytes()


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
            assert all(name.startswith("sparsity_cliff.figures") for name in ours), path


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
    assert "interval" in html
    assert " n" in html


def test_no_caption_without_a_figure():
    assert {path.stem for path in (ROOT / "workflow/report").glob("*.rst")} == set(FIGURES)

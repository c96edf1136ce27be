"""What re-runs after which change of the smoke study.

A run is stale when its spec or the digests of its code differ from those of its trace. So most cases compare the two
before and after an edit, in this process. Some of each kind ask Snakemake, which must plan just these runs.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from sweeps import DEFAULT, TABLES, Sweep, copy_project, jobs

from sparsity_cliff.figures import FIGURES as ENTRIES
from sparsity_cliff.study import digests
from sparsity_cliff.study.spec import Study
from sparsity_cliff.study.table import load

FIGURES = {"drift", "sparsity_over_steps", "sparsity_by_depth", "cliff", "target_sparsity", "weights"}
FIGURES |= {"theory", "near_zero_share", "spikes", "critical", "claims", "flops", "loss_and_spikes"}
DOWNSTREAM = {"collect", "analyze_cliff", "analyze_drift", "analyze_layers", "analyze_claims", "draw"}


def runs_of(sweep: Sweep, part: str = "") -> set[str]:
    """Ids of the runs of the sweep's study that start with, or have a part named, `part`."""
    plan = load(yaml.safe_load(sweep.study))
    return {run for run in plan.runs if not part or part in run.split(".")}


def stale(before: Study, after: Study) -> set[str]:
    """Ids of the runs of `after` that no trace of `before` would do for: another spec, or other code."""
    made = {run.id: (run.spec, run.code) for run in before.runs.values()}
    folder = before.name == after.name  # another name is another folder of results
    return {run.id for run in after.runs.values() if not folder or made.get(run.id) != (run.spec, run.code)}


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """A copy of the project whose source, in place of this process's own, is what digests are made of."""
    copy = copy_project(tmp_path / "code")
    monkeypatch.setattr(sys, "path", [str(copy.folder / "src"), *sys.path])
    digests.forget()
    yield copy
    monkeypatch.undo()
    digests.forget()


def plan(sweep: Sweep) -> Study:
    digests.forget()
    return load(yaml.safe_load(sweep.study))


def test_finished_sweep_has_nothing_to_do(finished: Sweep) -> None:
    assert "Nothing to be done" in finished.snakemake()
    assert finished.planned() == set()


def test_swapped_values_of_two_keys_retrain(finished: Sweep) -> None:
    # Snakemake compares params as a set of values, so a swap among them would be invisible to it
    finished.edit("study.yaml", ("lr: 5e-3, adamw_lr: 1e-3", "lr: 1e-3, adamw_lr: 5e-3"))
    assert finished.trained() == runs_of(finished, "vit")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("function: mlp, width: 16, depth: 2", "depth: 2, width: 16, function: mlp"),
        ("lr: 1e-3}\n    steps: 20", "lr: 0.001}\n    steps: 20"),
        ("lr: 0.05", "lr: 5.0e-2"),
        ("    steps: 20\n    batch_size: 32", "    batch_size: 32  # examples\n    steps: 20  # a comment"),
        ("momentum: 0.9}", "momentum: 0.9, weight_decay: 0}"),  # its default, written out
    ],
)
def test_other_words_for_the_same_study_run_nothing(old: str, new: str) -> None:
    assert DEFAULT.count(old) == 1
    before, after = (load(yaml.safe_load(text)) for text in (DEFAULT, DEFAULT.replace(old, new)))
    assert after.runs == before.runs
    assert (after.cliff, after.drift) == (before.cliff, before.drift)


def test_order_of_sections_and_entries_runs_nothing(finished: Sweep) -> None:
    config = yaml.safe_load(finished.study)
    turned = {key: dict(reversed(value.items())) if isinstance(value, dict) else value for key, value in config.items()}
    (finished.folder / "study.yaml").write_text(yaml.safe_dump(dict(reversed(turned.items())), sort_keys=False))
    assert finished.planned() == set()


@pytest.mark.parametrize(
    ("module", "old", "new", "part"),
    [
        ("networks/models/vit.py", "x = x + self.attention", "x = x + 1 * self.attention", "vit"),
        ("networks/models/mlp.py", "nn.init.zeros_(module.bias)", "nn.init.ones_(module.bias)", "mlp"),
        ("networks/activations.py", "kept = max(1,", "kept = max(2,", "topk_80"),
        ("networks/activations.py", "return nn.Tanh()", "return nn.Hardtanh()", "tanh"),
        ("networks/losses/__init__.py", "return F.mse_loss(", "return 2 * F.mse_loss(", "mse"),
        (
            "networks/losses/mpsenet.py",
            "super().__init__()\n        self.metric",
            "super().__init__()\n        self.train()\n        self.metric",
            "mpsenet",
        ),
        ("networks/models/gpt.py", "x = x + self.scale", "x = x + 1 * self.scale", "gpt"),
        ("data/sources/text.py", "* 9 // 10", "* 8 // 10", "gpt"),
        ("data/sources/digits.py", "random_state=0", "random_state=1", ("resnet", "vit")),
        ("networks/normalizations.py", "nn.BatchNorm2d}", "nn.SyncBatchNorm}", "resnet"),
        ("training/loop.py", "CHECK_EVERY = 50", "CHECK_EVERY = 51", ""),
    ],
)
def test_edited_code_retrains_only_what_uses_it(
    code: Sweep, module: str, old: str, new: str, part: str | tuple[str, ...]
) -> None:
    before = plan(code)
    code.edit(f"src/sparsity_cliff/{module}", (old, new))
    parts = (part,) if isinstance(part, str) else part
    assert stale(before, plan(code)) == set().union(*(runs_of(code, name) for name in parts))


def test_snakemake_trains_what_edited_code_made_stale(finished: Sweep) -> None:
    finished.edit("src/sparsity_cliff/networks/models/vit.py", ("x = x + self.attention", "x = x + 1 * self.attention"))
    assert finished.trained() == runs_of(finished, "vit")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (
            "networks/models/vit.py",
            "        x = x + self.attention",
            "        # a comment\n        x = x  +  self.attention",
        ),
        ("networks/models/vit.py", '"""Vision transformer (', '"""Other words ('),
        ("networks/activations.py", "return Squared(nn.GELU(), clip)", "return Squared(nn.GELU(), 2)"),  # nobody's here
        ("training/optimizers.py", "betas=(beta1, beta2), weight_decay=weight_decay)\n\n\ndef muon", None),
    ],
)
def test_comments_and_unused_code_run_nothing(code: Sweep, module: str, old: str, new: str | None) -> None:
    before = plan(code)
    if new is None:  # adamw alone, which no run of the smoke study names
        text = (code.folder / "src/sparsity_cliff" / module).read_text()
        changed = re.sub(
            r"(def adamw\(.*?return _adaptive\(torch\.optim\.AdamW, model, )", r"\1maximize=True, ", text, flags=re.S
        )
        assert changed != text
        (code.folder / "src/sparsity_cliff" / module).write_text(changed)
    else:
        code.edit(f"src/sparsity_cliff/{module}", (old, new))
    assert plan(code) == before


def test_a_new_activation_in_the_code_retrains_nothing(code: Sweep) -> None:
    before = plan(code)
    code.edit(
        "src/sparsity_cliff/networks/activations.py",
        ('    "relu": relu,', '    "relu": relu,\n    "mish": mish,'),
        ("def relu() -> nn.Module:", "def mish() -> nn.Module:\n    return nn.Mish()\n\n\ndef relu() -> nn.Module:"),
    )
    assert plan(code) == before


def test_the_code_of_a_figure_redraws_that_figure(code: Sweep, finished: Sweep) -> None:
    def codes() -> dict[str, str]:
        digests.forget()
        return {name: json.dumps(digests.code(f"sparsity_cliff.{entry.module}")) for name, entry in ENTRIES.items()}

    assert set(ENTRIES) == FIGURES
    before, package = codes(), code.folder / "src" / "sparsity_cliff"
    for figure, entry in ENTRIES.items():
        path = package / f"{entry.module.replace('.', '/')}.py"
        text = path.read_text()
        path.write_text(text + "\nCHANGED = 1\n")
        after = codes()
        users = {"flops"} if figure == "cliff" else set()  # it draws the marks and curves of cliff
        assert {name for name in FIGURES if before[name] != after[name]} == {figure} | users
        path.write_text(text)

    path = finished.folder / "src" / "sparsity_cliff" / "figures" / "drift.py"
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert finished.planned() == {("draw", "drift")}


def test_the_common_style_redraws_all_figures_and_nothing_else(finished: Sweep) -> None:
    path = finished.folder / "src" / "sparsity_cliff" / "figures" / "style.py"
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    assert finished.planned() == {("draw", figure) for figure in FIGURES}


@pytest.mark.parametrize(
    ("module", "rules"),
    [
        ("analysis/cliff.py", {"analyze_cliff", "analyze_claims"}),
        ("analysis/facts.py", {"analyze_cliff", "analyze_drift", "analyze_layers", "analyze_claims"}),
    ],
)
def test_the_code_of_an_analysis_runs_the_scripts_that_import_it(finished: Sweep, module: str, rules: set[str]) -> None:
    path = finished.folder / "src" / "sparsity_cliff" / module
    path.write_text(path.read_text() + "\nCHANGED = 1\n")
    planned = finished.planned()
    assert ("draw", "cliff") in planned
    assert {rule for rule, _ in planned} == rules | {"draw"}


def test_settings_of_the_analysis_train_nothing(finished: Sweep) -> None:
    finished.edit("study.yaml", ("  baseline: relu\n", "  baseline: relu\n  level: 0.9\n"))
    assert finished.rules() == {"analyze_cliff", "analyze_claims", "draw"}


def test_a_new_block_of_seeds_trains_only_itself(finished: Sweep) -> None:
    before = runs_of(finished)
    finished.edit("study.yaml", ("seeds: [0-1]", "seeds: [0-1, 2]"))
    assert finished.trained() == runs_of(finished) - before == {run.replace("s0-1", "s2") for run in before}
    assert finished.rules() == {"train"} | DOWNSTREAM


def test_a_new_activation_trains_only_its_runs(finished: Sweep) -> None:
    finished.edit(
        "study.yaml",
        ("  gelu: {function: gelu}\n", "  gelu: {function: gelu}\n  silu: {function: silu}\n"),
        ("activations: [relu, tanh, topk_80]", "activations: [relu, tanh, topk_80, silu]"),
    )
    assert finished.trained() == runs_of(finished, "silu")
    assert len(finished.trained()) == 3
    assert finished.rules() == {"train", "analyze_theory"} | DOWNSTREAM


def test_removing_an_activation_leaves_no_stale_row(finished: Sweep) -> None:
    finished.edit("study.yaml", ("activations: [relu, tanh, topk_80]", "activations: [relu, tanh]"))
    done = finished.snakemake(*TABLES)
    assert {rule for rule, _ in jobs(done)} == (DOWNSTREAM | {"analyze_theory"}) - {"draw"}
    for table in finished.results("tables").glob("*.parquet"):
        text = pd.read_parquet(table).to_csv()
        assert "topk_80" not in text, table.name
    assert "relu" in pd.read_parquet(finished.results("tables", "runs.parquet")).to_csv()
    assert finished.planned() == {("draw", figure) for figure in FIGURES}


def test_a_lost_trace_trains_only_that_run(finished: Sweep) -> None:
    run = sorted(runs_of(finished, "resnet"))[0]
    finished.results("traces", f"{run}.parquet").unlink()
    assert finished.trained() == {run}


def test_lost_data_is_made_again_and_retrains_nothing(finished: Sweep) -> None:
    (file,) = (finished.folder / "results" / "data").glob("digits-*.npz")
    file.unlink()
    finished.snakemake()
    assert finished.planned() == set()


# --------------------------------------------------------------------------------------- every single key


def leaves(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key], (*path, key))]
    return [path]


CHANGED: dict[tuple[str, ...], object] = {  # a valid other value of every key of the smoke study
    ("study", "name"): "renamed",
    ("study", "seeds"): ["0-2"],
    ("data", "mnist1d", "examples"): 500,
    ("data", "text", "block"): 24,
    ("data", "text", "held_out"): 30,
    ("data", "speech", "utterances"): 5,
    ("data", "speech", "held_out"): 3,
    ("data", "speech", "segment"): 4096,
    ("architectures", "mlp", "model", "width"): 17,
    ("architectures", "mlp", "model", "depth"): 3,
    ("architectures", "mlp", "optimizer", "function"): "adamw",
    ("architectures", "mlp", "optimizer", "lr"): 2e-3,
    ("architectures", "mlp", "steps"): 21,
    ("architectures", "mlp", "batch_size"): 31,
    ("architectures", "resnet", "model", "blocks"): [1, 2],
    ("architectures", "resnet", "model", "width"): 5,
    ("architectures", "resnet", "optimizer", "lr"): 0.06,
    ("architectures", "resnet", "optimizer", "momentum"): 0.8,
    ("architectures", "resnet", "schedule", "function"): "constant",
    ("architectures", "resnet", "schedule", "warmup"): 3,
    ("architectures", "resnet", "steps"): 11,
    ("architectures", "resnet", "batch_size"): 31,
    ("architectures", "vit", "model", "patch"): 2,
    ("architectures", "vit", "model", "width"): 18,
    ("architectures", "vit", "model", "depth"): 2,
    ("architectures", "vit", "model", "heads"): 4,
    ("architectures", "vit", "optimizer", "lr"): 6e-3,
    ("architectures", "vit", "optimizer", "adamw_lr"): 2e-3,
    ("architectures", "vit", "schedule", "function"): "cosine",
    ("architectures", "vit", "steps"): 11,
    ("architectures", "vit", "batch_size"): 31,
    ("architectures", "gpt", "model", "width"): 16,
    ("architectures", "gpt", "model", "depth"): 1,
    ("architectures", "gpt", "model", "heads"): 3,
    ("architectures", "gpt", "optimizer", "lr"): 6e-3,
    ("architectures", "gpt", "optimizer", "adamw_lr"): 2e-3,
    ("architectures", "gpt", "schedule", "function"): "cosine",
    ("architectures", "gpt", "steps"): 11,
    ("architectures", "gpt", "batch_size"): 9,
    ("architectures", "gpt", "microbatch"): 3,
    ("architectures", "mpsenet", "model", "channels"): 6,
    ("architectures", "mpsenet", "model", "blocks"): 2,
    ("architectures", "mpsenet", "model", "heads"): 2,
    ("architectures", "mpsenet", "model", "kernel"): 5,
    ("architectures", "mpsenet", "model", "n_fft"): 256,
    ("architectures", "mpsenet", "model", "hop"): 32,
    ("architectures", "mpsenet", "optimizer", "function"): "adam",
    ("architectures", "mpsenet", "optimizer", "lr"): 2e-3,
    ("architectures", "mpsenet", "steps"): 5,
    ("architectures", "mpsenet", "batch_size"): 3,
    ("architectures", "mpsenet", "probes", "every"): 3,
    ("architectures", "mpsenet", "probes", "examples"): 2,
    ("activations", "relu", "function"): "elu",
    ("activations", "gelu", "function"): "silu",
    ("activations", "tanh", "function"): "identity",
    ("activations", "topk_80", "sparsity"): 0.75,
    ("losses", "cross_entropy", "function"): "mse",
    ("losses", "mse", "function"): "cross_entropy",
    ("losses", "speech", "metric"): 0.05,
    ("probes", "every"): 7,
    ("probes", "examples"): 50,
    ("probes", "measure"): ["weights", "activations"],
    ("cliff", "baseline"): "tanh",
    ("cliff", "losses"): ["mse"],
    ("drift", "controls"): ["relu"],
}
FIXED = {  # keys whose only valid change is another structure: they are changed in the tests above
    ("data", "mnist1d", "function"),
    ("data", "digits", "function"),
    ("data", "text", "function"),
    ("data", "speech", "function"),
    *((("architectures", name, "model", "function")) for name in ("mlp", "resnet", "vit", "gpt", "mpsenet")),
    *((("architectures", name, "data")) for name in ("mlp", "resnet", "vit", "gpt", "mpsenet")),
    *((("architectures", name, "optimizer", "function")) for name in ("resnet", "vit", "gpt")),
    ("losses", "speech", "function"),
    ("activations", "topk_80", "function"),
    ("grid",),
}


def affected(path: tuple[str, ...], runs: set[str]) -> set[str]:
    """Independently of the code: the runs that a key concerns, by the words of the contract."""
    match path:
        case ("study", *_) | ("probes", "measure"):
            return runs
        case ("probes", *_):
            return {run for run in runs if not run.startswith("mpsenet.")}  # it has its own
        case ("data", name, *_):
            user = {"mnist1d": "mlp", "text": "gpt", "speech": "mpsenet"}[name]
            return {run for run in runs if run.startswith(f"{user}.")}
        case ("architectures", name, *_) | ("activations", name, *_) | ("losses", name, *_):
            return {run for run in runs if name in run.split(".")}
        case ("cliff" | "drift", *_):
            return set()
    raise AssertionError(path)


def test_every_key_of_the_smoke_study_is_tried() -> None:
    assert set(leaves(yaml.safe_load(DEFAULT))) == set(CHANGED) | FIXED


def changed(path: tuple[str, ...]) -> dict[str, Any]:
    """The smoke study with another value of one key."""
    config: dict[str, Any] = yaml.safe_load(DEFAULT)
    section = config
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = CHANGED[path]
    if path[-1] == "function":  # other functions have other options
        for key in set(section) - {"function", "lr"}:
            del section[key]
    return config


@pytest.mark.parametrize("path", sorted(CHANGED), ids=".".join)
def test_changing_one_key_retrains_exactly_what_it_concerns(path: tuple[str, ...]) -> None:
    before, after = load(yaml.safe_load(DEFAULT)), load(changed(path))
    assert stale(before, after) == affected(path, set(after.runs))


@pytest.mark.parametrize("path", [("data", "speech", "segment"), ("study", "name"), ("cliff", "losses")], ids=".".join)
def test_snakemake_trains_what_a_changed_key_made_stale(finished: Sweep, path: tuple[str, ...]) -> None:
    (finished.folder / "study.yaml").write_text(yaml.safe_dump(changed(path)))
    assert finished.trained() == affected(path, runs_of(finished))

"""The study file: what it expands to, and the one line that each mistake in it gets."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sweeps import DEFAULT, Sweep

from sparsity_cliff import source, study

# ------------------------------------------------------------------------------------------ the run table


def smoke(**sections: Any) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(DEFAULT)
    return config | sections


def test_grid_blocks_are_full_cross_products() -> None:
    block = {
        "architectures": ["mlp", "vit"],
        "activations": ["relu", "gelu"],
        "losses": ["mse", "cross_entropy"],
        "normalizations": ["default", "plain"],
        "data": ["real", "random"],
        "seeds": ["0-2", 7],
    }
    config = smoke(grid=[block], normalizations={"plain": {"function": "none"}})
    config["drift"]["controls"], config["cliff"]["losses"] = ["gelu"], ["mse"]
    plan = study.load(config)
    assert len(plan.runs) == 2**6
    run = plan.runs["mlp.relu.plain.mse.random.s0-2"]
    assert run.seeds == (0, 1, 2)
    assert json.loads(run.spec)["data"] == {"axis": "random", "examples": 400, "function": "mnist1d", "name": "mnist1d"}
    assert "vit.gelu.cross_entropy.real.s7" in plan.runs


def test_ids_and_order_do_not_depend_on_yaml_details() -> None:
    plan = study.load(smoke())
    assert next(iter(plan.runs)) == "mlp.relu.cross_entropy.real.s0-1"
    assert all(run.id == name for name, run in plan.runs.items())
    assert set(plan.datasets) == {"mnist1d", "digits", "text", "speech"}


def test_a_spec_names_every_option_with_its_default() -> None:
    spec = json.loads(study.load(smoke()).runs["mlp.topk_80.cross_entropy.real.s0-1"].spec)
    assert spec["activation"] == {
        "name": "topk_80", "function": "topk", "sparsity": 0.8, "base": "relu", "by": "value", "over": "features",
    }  # fmt: skip
    assert spec["training"]["optimizer"] == {
        "function": "adam", "lr": 0.001, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0
    }  # fmt: skip


def test_the_spec_of_one_run_holds_nothing_of_another() -> None:
    plain, other = smoke(), smoke()
    other["architectures"]["vit"]["steps"] = 999
    other["activations"]["tanh"] = {"function": "identity"}
    run = "mlp.relu.cross_entropy.real.s0-1"
    assert study.load(plain).runs[run] == study.load(other).runs[run]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_canonical_json_round_trips_and_ignores_order(value: Any) -> None:
    text = study.canonical(value)
    assert json.loads(text) == value
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert study.canonical(turned) == text


def test_studies_of_the_project_are_valid() -> None:
    project = Path(study.SCHEMA_FILE).parents[2]
    for file in [project / "config.yaml", *project.glob("workflow/studies/*.yaml")]:
        assert study.load(study.read(file)).runs, file


# ------------------------------------------------------------------------------------------ the registries


@pytest.mark.parametrize("kind", source.REGISTRIES)
def test_what_is_read_from_source_is_what_importing_gives(kind: str) -> None:
    import importlib
    import inspect

    from sparsity_cliff import registry

    module, name = registry.REGISTRIES[kind]
    table = getattr(importlib.import_module(module), name)
    assert list(source.entries(kind)) == list(table)
    for function in table:
        factory = registry.load(kind, function)
        parameters = inspect.signature(factory).parameters.values()
        options = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        found = source.options(kind, function)
        assert list(found) == [p.name for p in options]
        for parameter in options:
            option = found[parameter.name]
            assert option.required == (parameter.default is inspect.Parameter.empty)
            assert option.required or option.default == parameter.default
            if not option.required:  # every default is valid by its own annotation
                source.convert(option.annotation, option.default)


# ------------------------------------------------------------------------------------------ mistakes

MISTAKES: list[tuple[str, str, str, str]] = [
    # what, old text of the smoke study, new text, what the line must say
    ("unknown section", "probes:\n", "probs:\n", "probs: unknown key 'probs' (did you mean probes?); valid: study, checkpoints, data"),
    ("unknown key of the study", "  seeds: [0-1]", "  sedes: [0-1]", "study.sedes: unknown key 'sedes' (did you mean seeds?)"),
    ("unknown key of an architecture", "    steps: 20", "    step: 20", "architectures.mlp.step: unknown key 'step'"),
    ("unknown option of a model", "width: 16, depth: 2", "widht: 16, depth: 2",
     "architectures.mlp.model.widht: unknown option of mlp 'widht' (did you mean width?); valid: width, depth, bias, init"),
    ("unknown option of an activation", "sparsity: 0.8", "sparcity: 0.8", "activations.topk_80.sparcity: unknown option of topk"),
    ("unknown key of a grid block", "    data: [random]", "    dat: [random]", "grid.1.dat: unknown key 'dat' (did you mean data?)"),
    ("unknown key of the probes", "  every: 10", "  evry: 10", "probes.evry: unknown key 'evry' (did you mean every?); valid: every, examples, measure"),
    ("unknown option of an optimizer", "momentum: 0.9", "momentun: 0.9", "architectures.resnet.optimizer.momentun: unknown option of sgd"),
    ("unknown activation function", "{function: gelu}", "{function: gleu}", "activations.gelu.function: unknown activation 'gleu' (did you mean gelu?); valid: relu, gelu"),
    ("unknown model", "function: mlp", "function: mpl", "architectures.mlp.model.function: unknown model 'mpl' (did you mean mlp?); valid: mlp, cnn, resnet, vit"),
    ("unknown loss", "{function: mse}", "{function: rmse}", "losses.mse.function: unknown loss 'rmse' (did you mean mse?); valid: cross_entropy, mse"),
    ("unknown optimizer", "function: adam,", "function: adagrad,", "architectures.mlp.optimizer.function: unknown optimizer 'adagrad'"),
    ("unknown data function", "{function: digits}", "{function: imagenet}", "data.digits.function: unknown data 'imagenet'; valid: mnist1d, digits, cifar10, cifar100"),
    ("unknown name in the grid", "activations: [relu, tanh, topk_80]", "activations: [relu, tanh, topk_90]",
     "grid.0.activations: unknown activation 'topk_90' (did you mean topk_80?); valid: relu, gelu, tanh, topk_80"),
    ("unknown data axis", "data: [random]", "data: [noise]", "grid.1.data: unknown data 'noise'; valid: real, random"),
    ("unknown data set", "    data: mnist1d", "    data: mnist2d", "architectures.mlp.data: unknown data set 'mnist2d' (did you mean mnist1d?)"),
    ("text for a number", "steps: 20", "steps: many", 'architectures.mlp.steps: "many" is not valid; valid: an integer >= 1'),
    ("negative steps", "steps: 20", "steps: -20", "architectures.mlp.steps: -20 is not valid; valid: an integer >= 1"),
    ("zero steps", "steps: 20", "steps: 0", "architectures.mlp.steps: 0 is not valid; valid: an integer >= 1"),
    ("fraction for a count", "width: 16, depth: 2", "width: 16.5, depth: 2", "architectures.mlp.model.width: 16.5 is not valid; valid: an integer >= 1"),
    ("boolean for a number", "lr: 0.05", "lr: true", "architectures.resnet.optimizer.lr: true is not valid; valid: a number > 0"),
    ("negative learning rate", "lr: 0.05", "lr: -0.05", "architectures.resnet.optimizer.lr: -0.05 is not valid; valid: a number > 0"),
    ("share above one", "sparsity: 0.8", "sparsity: 80", "activations.topk_80.sparsity: 80 is not valid; valid: a number from 0 to below 1"),
    ("unknown choice", "sparsity: 0.8", "sparsity: 0.8, by: size", 'activations.topk_80.by: "size" is not valid; valid: value, magnitude'),
    ("unknown base", "sparsity: 0.8", "sparsity: 0.8, base: swish", 'activations.topk_80.base: "swish" is not valid; valid: relu, gelu'),
    ("missing option", "function: topk, sparsity: 0.8", "function: topk", "activations.topk_80.sparsity: missing; topk needs it"),
    ("missing section", "losses:\n  cross_entropy: {function: cross_entropy}\n  mse: {function: mse}\n  speech: {function: mpsenet, metric: 0}\n", "", "losses: missing; a study needs study, data"),
    ("missing key", "    batch_size: 32\n  resnet", "  resnet", "architectures.mlp.batch_size: missing; architectures.mlp needs model"),
    ("missing function", "{function: gelu}", "{}", "activations.gelu.function: missing"),
    ("empty axis", "activations: [relu, tanh, topk_80]", "activations: []", "grid.0.activations: [] is not valid; valid: a list of at least one name"),
    ("axis that is no list", "activations: [relu, gelu]", "activations: gelu", 'grid.2.activations: "gelu" is not valid; valid: a list of at least one name'),
    ("name twice in an axis", "activations: [relu, gelu]", "activations: [gelu, gelu]", "grid.2.activations: [\"gelu\", \"gelu\"] is not valid; valid: a list of at least one name, without repeats"),
    ("run in two blocks", "activations: [relu, gelu]\n    losses: [mse]", "activations: [relu]\n    losses: [cross_entropy]",
     "grid.2: run mlp.relu.cross_entropy.real.s0-1 is in grid.0 already (seed 0)"),
    ("overlapping seeds", "seeds: [0-1]", "seeds: [0-1, 1-2]", "study.seeds: seed 1 stands in two blocks"),
    ("seeds backwards", "seeds: [0-1]", "seeds: [3-1]", "study.seeds: '3-1' is empty"),
    ("negative seed", "seeds: [0-1]", "seeds: [-1]", "study.seeds.0: -1 is not valid; valid: a seed (an integer >= 0) or a block first-last"),
    ("impossible data for the architecture", "    data: digits\n    optimizer: {function: sgd", "    data: mnist1d\n    optimizer: {function: sgd",
     "architectures.resnet.data: resnet takes image data, and mnist1d is signal data"),
    ("impossible optimizer", "{function: sgd, lr: 0.05, momentum: 0.9}", "{function: muon, lr: 0.05, adamw_lr: 1e-3}",
     "architectures.resnet: resnet needs optimizer != 'muon'; here optimizer=muon"),
    ("speech for a language model", "    data: text\n", "    data: speech\n", "architectures.gpt.data: gpt takes tokens data, and speech is speech data"),
    ("a classifier's loss for speech", "losses: [speech]\nprobes", "losses: [mse]\nprobes", "grid.4: loss mse (mse) is impossible for architecture mpsenet (mpsenet); valid: mpsenet"),
    ("probes of an architecture", "{every: 4, examples: 1}", "{every: 4, measure: [weights]}", "architectures.mpsenet.probes.measure: unknown key 'measure'; valid: every, examples"),
    ("microbatch of nothing", "microbatch: 4", "microbatch: 0", "architectures.gpt.microbatch: 0 is not valid; valid: an integer >= 1"),
    ("more processes than examples", "microbatch: 4", "processes: 9", "architectures.gpt.processes: 9 is not valid; valid: at most batch_size, here 8"),
    ("no processes", "microbatch: 4", "processes: 0", "architectures.gpt.processes: 0 is not valid; valid: an integer >= 1"),
    ("batch norm in parts", "    schedule: {function: cosine, warmup: 2}\n", "    processes: 2\n", "grid.0: resnet · relu · default · cross_entropy · real: resnet needs processes == 1 or normalization is not None; here processes=2, normalization=None"),
    ("no jobs on a GPU", "  seeds: [0-1]", "  seeds: [0-1]\n  jobs_per_gpu: 0", "study.jobs_per_gpu: 0 is not valid; valid: an integer >= 1"),
    ("unknown key of the checkpoints", "probes:\n", "checkpoints: {every_second: 60}\nprobes:\n", "checkpoints.every_second: unknown key 'every_second' (did you mean every_seconds?); valid: every_seconds, keep"),
    ("negative time between saves", "probes:\n", "checkpoints: {every_seconds: -1}\nprobes:\n", "checkpoints.every_seconds: -1 is not valid; valid: a number >= 0 of seconds between saves, 0 for a save at every step"),
    ("a number of kept states", "probes:\n", "checkpoints: {keep: 3}\nprobes:\n", "checkpoints.keep: 3 is not valid; valid: true to keep the final state of every seed, or false"),
    ("control over another control", "topk, sparsity: 0.8}", "topk, sparsity: 0.8, base: topk}", 'activations.topk_80.base: "topk" is not valid; valid: relu, gelu'),
    ("heads that do not divide the width", "depth: 1, heads: 2", "depth: 1, heads: 3", "architectures.vit: vit needs width % heads == 0; here width=16, heads=3"),
    ("patch that does not divide the image", "patch: 4", "patch: 3", "architectures.vit: vit needs height % patch == 0; here height=8, patch=3"),
    ("name with a dot", "  gelu: {function", "  gelu.1: {function", "activations: 'gelu.1' is not a valid name; valid: a letter, then letters, digits, _ and -"),
    ("reserved name", "probes:\n", "normalizations: {default: {function: none}}\nprobes:\n", "normalizations.default: this name is kept for"),
    ("key twice", "  every: 10", "  every: 10\n  every: 20", "line 74: key 'every' stands twice"),
    ("baseline that is not in the grid", "baseline: relu", "baseline: silu", "cliff.baseline: unknown name of the grid 'silu'"),
    ("control that is not in the grid", "controls: [tanh]", "controls: [tahn]", "drift.controls.0: unknown name of the grid 'tahn' (did you mean tanh?)"),
    ("architecture without a baseline", "architectures: [mlp, resnet, vit]\n    activations: [relu, tanh, topk_80]", "architectures: [vit]\n    activations: [tanh, topk_80]", "cliff.baseline: relu has no run on real data with architecture vit"),
    ("too few resamples", "  baseline: relu", "  baseline: relu\n  level: 0.99\n  resamples: 100", "cliff.resamples: 100 are too few for level 0.99; valid: 1250 or more"),
    ("probes that the analysis lacks", "[activations, weights, gradients, histograms]", "[weights]", "probes.measure: activations missing; the cliff and the drift need activations and weights"),
    ("excluded baseline", "  baseline: relu", "  baseline: relu\n  exclude: [relu]", "cliff.exclude: relu is the baseline; it must be a point of the curve"),
    ("unknown metric group", "[activations, weights, gradients, histograms]", "[activation]", "probes.measure.0: \"activation\" is not valid; valid: activations, weights, gradients or histograms"),
    ("unknown device", "  seeds: [0-1]", "  seeds: [0-1]\n  device: tpu", 'study.device: "tpu" is not valid; valid: auto, cpu, cuda or mps'),
    ("importable object that is not there", "{function: gelu}", "{function: 'my_lab.acts:MyAct'}", "activations.gelu.function: no module named my_lab"),
    ("object that its module lacks", "{function: gelu}", "{function: 'sparsity_cliff.losses:MyAct'}", "activations.gelu.function: module sparsity_cliff.losses has no function or class MyAct"),
]  # fmt: skip


def test_there_is_a_test_for_at_least_thirty_mistakes() -> None:
    assert len({what for what, *_ in MISTAKES}) == len(MISTAKES) >= 30


@pytest.mark.parametrize(("what", "old", "new", "says"), MISTAKES, ids=[what for what, *_ in MISTAKES])
def test_a_mistake_gets_one_clear_line_before_any_job(fresh: Sweep, what: str, old: str, new: str, says: str) -> None:
    fresh.edit("study.yaml", (old, new))
    output = fresh.snakemake(check=False)
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, output
    assert errors[0].startswith("error: study.yaml: ")
    assert says in errors[0]
    assert "Traceback" not in output
    assert not (fresh.folder / "results").exists()


def test_an_unreadable_study_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(study.StudyError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\)$"):
        study.read(tmp_path / "nowhere.yaml")
    with pytest.raises(study.StudyError, match=r"cannot be read \(Is a directory\)$"):
        study.read(tmp_path)
    for text, says in (
        (DEFAULT.replace("grid:", "grid: ["), "not valid YAML"),
        ("- study", "is a mapping of sections"),
    ):
        (tmp_path / "study.yaml").write_text(text)
        with pytest.raises(study.StudyError, match=rf"study\.yaml: .*{says}") as error:
            study.read(tmp_path / "study.yaml")
        assert "\n" not in str(error.value)
    (tmp_path / "latin.yaml").write_bytes(b"study: {name: caf\xe9}\n")
    with pytest.raises(study.StudyError, match=r"latin\.yaml: not a text in UTF-8$"):
        study.read(tmp_path / "latin.yaml")


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert study.read(tmp_path / "study.yaml")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("section", "name", "entry", "block", "says"),
    [
        ("activations", "ahead", {"function": "topk", "sparsity": 0.5, "over": "example"}, {"activations": ["ahead"]},
         "gpt · ahead · default · cross_entropy · real: gpt needs over != 'example' and activation != 'topk_gelu_reference'; here over=example, activation=topk"),
        ("normalizations", "batch", {"function": "quantile_batch_norm", "q": 0.5}, {"normalizations": ["batch"]},
         "gpt · relu · batch · cross_entropy · real: gpt needs normalization not in ('batch_norm', "),
        ("data", "text", {"function": "fineweb10b"}, {"losses": ["mse"]},
         "gpt · relu · default · mse · real: gpt needs loss != 'mse' or vocabulary <= 1024; here loss=mse, vocabulary=50257"),
    ],
    ids=["control that looks ahead", "normalization over the batch", "one-hot targets of a large vocabulary"],
)  # fmt: skip
def test_what_an_architecture_requires_of_a_cell(
    section: str, name: str, entry: dict[str, Any], block: dict[str, Any], says: str
) -> None:
    config = smoke()
    config.setdefault(section, {})[name] = entry
    config["grid"].append({"architectures": ["gpt"], "activations": ["relu"], "losses": ["cross_entropy"], **block})
    with pytest.raises(study.StudyError) as error:
        study.load(config)
    assert f"grid.5: {says}" in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "changes", "says"),
    [
        ("mlp", {}, None),
        ("vit", {}, None),
        ("mlp", {"normalization": "batch_norm"}, "share each batch, and the statistics of batch_norm are those of the"),
        ("vit", {"normalization": "quantile_batch_norm"}, "and the statistics of quantile_batch_norm are those of the"),
        ("mlp", {"normalization": "layer_norm"}, None),
        ("resnet", {}, "resnet needs processes == 1 or normalization is not None; here processes=2"),
        ("resnet", {"normalization": "layer_norm"}, None),
        ("mpsenet", {}, "mpsenet needs processes == 1; here processes=2"),
        ("mpsenet", {"normalization": "layer_norm"}, "mpsenet needs processes == 1; here processes=2"),
        ("mlp", {"device": "mps"}, "share each batch, and study.device mps has one device; valid: processes: 1"),
        ("mlp", {"device": "cuda"}, None),
    ],
)
def test_processes_share_batches_only_where_that_trains_the_same_network(
    architecture: str, changes: dict[str, str], says: str | None
) -> None:
    config = smoke()
    config["architectures"][architecture]["processes"] = 2
    config["study"]["device"] = changes.get("device", "auto")
    function = changes.get("normalization")
    config["normalizations"] = {
        "other": {"function": function, **({"q": 0.5} if function and "q" in function[:1] else {})}
    }
    if not function:
        del config["normalizations"]
    loss = "speech" if architecture == "mpsenet" else "cross_entropy"
    block = {"architectures": [architecture], "activations": ["relu"], "losses": [loss]}
    config["grid"] = [{**block, "normalizations": ["default"]}]
    if function:
        config["grid"] = [{**block, "normalizations": ["other"]}]
    config["drift"]["controls"] = []
    with pytest.raises(study.StudyError) as error:  # of the baseline, where nothing else is wrong
        study.load(config | {"cliff": {"baseline": "tanh", "losses": [loss]}})
    if says:
        assert says in str(error.value)
    else:
        assert "cliff.baseline" in str(error.value)


def test_a_users_normalization_may_need_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = tmp_path / "lab_of_norms.py"
    code = "from torch import nn\n\ndef mine(features, spatial):\n    return nn.BatchNorm1d(features)\n"
    norms.write_text(f'OVER_BATCH = ("mine",)\n{code}')
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["normalizations"] = {"own": {"function": "lab_of_norms:mine"}}
    block = {"architectures": ["mlp"], "activations": ["relu", "tanh"], "losses": ["cross_entropy"]}
    config["grid"] = [{**block, "normalizations": ["own"]}]
    config["architectures"]["mlp"]["processes"] = 2
    with pytest.raises(study.StudyError, match="and the statistics of lab_of_norms:mine are those of the whole batch"):
        study.load(config)


def test_a_discriminator_needs_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab(tmp_path)
    (tmp_path / "my_lab").rename(tmp_path / "lab_of_speech")
    file = tmp_path / "lab_of_speech" / "nets.py"
    file.write_text(file.read_text().replace('("signal",)', '("speech",)').replace("('mse',)", "('mpsenet',)"))
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["architectures"]["mpsenet"] |= {"model": {"function": "lab_of_speech.nets:Net"}, "processes": 2}
    assert study.load(config)
    config["losses"]["speech"] = {"function": "mpsenet", "metric": 0.05}
    with pytest.raises(study.StudyError, match="the discriminator of mpsenet learns from the whole batch"):
        study.load(config)


@pytest.mark.parametrize(("device", "gpus"), [("cpu", (0, 0)), ("auto", (0, 0)), ("cuda", (1, 2))])
def test_a_job_asks_for_a_gpu_for_each_of_its_processes(device: str, gpus: tuple[int, int]) -> None:
    config = smoke()
    config["study"]["device"] = device
    config["architectures"]["gpt"]["processes"] = 2
    runs = study.load(config).runs.values()
    found = {run.architecture: (run.processes, run.gpus) for run in runs}
    assert (found["mlp"], found["gpt"]) == ((1, gpus[0]), (2, gpus[1]))
    assert all(json.loads(run.spec)["training"]["processes"] == run.processes for run in runs)


def test_what_changes_no_number_is_in_no_spec() -> None:
    config = smoke(checkpoints={"every_seconds": "1e2", "keep": True})
    config["study"]["jobs_per_gpu"] = 3
    assert study.load(config).runs == study.load(smoke()).runs


# ------------------------------------------------------------------------------------------ from outside


def lab(folder: Path, losses: str = "('mse',)") -> None:
    (folder / "my_lab").mkdir()
    (folder / "my_lab" / "__init__.py").write_text("raise RuntimeError('a study is validated without importing')\n")
    (folder / "my_lab" / "nets.py").write_text(
        f"""
from torch import nn
from sparsity_cliff.registry import Count

ACCEPTS = ("signal",)
LOSSES = {losses}

class Net(nn.Module):
    def __init__(self, shape, classes, activation, normalization, *, width: Count = 8):
        super().__init__()
"""
    )


@pytest.mark.parametrize(
    ("name", "requirement", "says"),
    [
        ("not_met", "conv1 > 8", "not_met.nets:Net needs conv1 > 8; here conv1=8"),
        ("not_stated", "conv1 > height", None),  # the data are no image
        ("met", "conv1 == 8", None),
    ],
)
def test_a_requirement_is_asked_of_any_option_and_not_of_what_the_data_do_not_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, requirement: str, says: str | None
) -> None:
    lab(tmp_path)
    (tmp_path / "my_lab").rename(tmp_path / name)
    file = tmp_path / name / "nets.py"
    file.write_text(file.read_text().replace("width: Count", "conv1: Count") + f"\nREQUIRES = ({requirement!r},)\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["architectures"]["mlp"]["model"] = {"function": f"{name}.nets:Net"}
    config["losses"]["cross_entropy"] = {"function": "mse"}
    config["grid"] = config["grid"][:1]
    config["drift"]["controls"], config["cliff"]["losses"] = [], ["cross_entropy"]
    if says:
        with pytest.raises(study.StudyError, match=re.escape(says)):
            study.load(config)
    else:
        study.load(config)


def test_an_impossible_loss_for_an_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["architectures"]["mlp"]["model"] = {"function": "my_lab.nets:Net", "width": 4}
    with pytest.raises(study.StudyError) as error:
        study.load(config)
    assert str(error.value) == (
        "grid.0: loss cross_entropy (cross_entropy) is impossible for architecture mlp (my_lab.nets:Net); valid: mse"
    )
    config["architectures"]["mlp"]["model"]["widht"] = 4
    with pytest.raises(study.StudyError, match=r"unknown option of my_lab\.nets:Net 'widht' \(did you mean width\?\)"):
        study.load(config)


# ------------------------------------------------------------------------------------------ size


def test_ids_are_unique_in_a_large_study() -> None:
    config = smoke()
    config["study"]["seeds"] = [f"{3 * i}-{3 * i + 2}" for i in range(100)]
    plan = study.load(config)
    assert len(plan.runs) == 16 * 100
    assert len(set(itertools.chain.from_iterable((run.id,) for run in plan.runs.values()))) == 1600

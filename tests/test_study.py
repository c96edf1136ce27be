"""The study file: what it expands to, and the one line that each mistake in it gets."""

import contextlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Forked
from hypothesis import given
from hypothesis import strategies as st
from sweeps import DEFAULT, copy_project
from test_mutations import SECONDS

from sparsity_cliff.study import reading, source, structure, table
from sparsity_cliff.study.options import CALLED, convert, options_of
from sparsity_cliff.study.spec import canonical

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
    plan = table.load(config)
    assert len(plan.runs) == 2**6
    run = plan.runs["mlp.relu.plain.mse.random.s0-2"]
    assert run.seeds == (0, 1, 2)
    assert json.loads(run.spec)["data"] == {
        "axis": "random",
        "examples": 400,
        "held_out": None,
        "function": "mnist1d",
        "name": "mnist1d",
    }
    assert "vit.gelu.cross_entropy.real.s7" in plan.runs


def test_ids_and_order_do_not_depend_on_yaml_details() -> None:
    plan = table.load(smoke())
    assert next(iter(plan.runs)) == "mlp.relu.cross_entropy.real.s0-1"
    assert all(run.id == name for name, run in plan.runs.items())
    assert set(plan.datasets) == {"mnist1d", "digits", "text", "speech"}


def test_a_spec_names_every_option_with_its_default() -> None:
    spec = json.loads(table.load(smoke()).runs["mlp.topk_80.cross_entropy.real.s0-1"].spec)
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
    assert table.load(plain).runs[run] == table.load(other).runs[run]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_canonical_json_round_trips_and_ignores_order(value: Any) -> None:
    text = canonical(value)
    assert json.loads(text) == value
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert canonical(turned) == text


def test_studies_of_the_project_are_valid() -> None:
    project = Path(structure.SCHEMA_FILE).parents[2]
    for file in [project / "config.yaml", *project.glob("workflow/studies/*.yaml")]:
        assert table.load(table.read(file)).runs, file


# ------------------------------------------------------------------------------------------ the registries


@pytest.mark.parametrize("kind", CALLED)
def test_what_is_read_from_source_is_what_importing_gives(kind: str) -> None:
    import importlib
    import inspect

    from sparsity_cliff.study import registry

    module, name = registry.REGISTRIES[kind]
    table = getattr(importlib.import_module(module), name)
    assert list(source.entries(kind)) == list(table)
    for function in table:
        factory = registry.load(kind, function)
        parameters = inspect.signature(factory).parameters.values()
        options = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        found = options_of(kind, function)
        assert list(found) == [p.name for p in options]
        for parameter in options:
            option = found[parameter.name]
            assert option.required == (parameter.default is inspect.Parameter.empty)
            assert option.required or option.default == parameter.default
            if not option.required:  # every default is valid by its own annotation
                convert(option.annotation, option.default)


# ------------------------------------------------------------------------------------------ mistakes

SEEDS = ", ".join(f"{1000 * i}-{1000 * i + 999}" for i in range(60))
MISTAKES: list[tuple[str, str, str, str]] = [
    # what, old text of the smoke study, new text, what the line must say
    ("level that is no number", "  baseline: relu", "  baseline: relu\n  level: yes", "line 78: cliff.level: true is not valid; valid: a number from 0.5 to below 1"),
    ("endless seeds", "seeds: [0-1]", "seeds: [0-20000000]", "line 4: study.seeds.0: '0-20000000' is not valid; valid: at most 10000 seeds in a block"),
    ("large seed", "seeds: [0-1]", "seeds: [3000000000]", "study.seeds.0: 3000000000 is not valid; valid: a seed (an integer from 0 to 2147483647) or a block"),
    ("large seed in a block", "seeds: [0-1]", "seeds: [2147483647-2147483648]", "study.seeds.0: '2147483647-2147483648' is not valid; valid: seeds from 0 to 2147483647"),
    ("too many trainings", "seeds: [0-1]", f"seeds: [{SEEDS}]", "line 56: grid.0: 540000 trainings are too many; valid: at most 200000 in a block"),
    ("too many runs", "seeds: [0-1]", f"seeds: [{', '.join(map(str, range(3000)))}]", "grid.0: 27000 runs are too many; valid: at most 20000 in a block"),
    ("seed of half", "seeds: [0-1]", "seeds: [0.5]", "study.seeds.0: 0.5 is not valid; valid: a seed"),
    ("endless steps", "steps: 20", "steps: 1e300", "architectures.mlp.steps: 1000"),
    ("batch larger than the data", "batch_size: 32\n  resnet", "batch_size: 321\n  resnet", "architectures.mlp.batch_size: 321 is not valid; valid: at most 320 (training examples of mnist1d)"),
    ("microbatch larger than the batch", "microbatch: 4", "microbatch: 9", "architectures.gpt.microbatch: 9 is not valid; valid: at most 8 (batch_size)"),
    ("warmup as long as the run", "warmup: 2}", "warmup: 10}", "architectures.resnet.schedule.warmup: 10 is not valid; valid: below 10 (steps)"),
    ("more digits than there are", "{function: digits}", "{function: digits, examples: 1438}", "data.digits: digits needs examples is None or examples <= 1797 - held_out; got examples=1438, held_out=360"),
    ("nearly all digits held out", "{function: digits}", "{function: digits, held_out: 1788}", "data.digits: digits needs 10 <= held_out <= 1787; got held_out=1788"),
    ("all signals held out", "examples: 400", "examples: 400, held_out: 400", "data.mnist1d: mnist1d needs held_out is None or held_out < examples; got held_out=400, examples=400"),
    ("fewer examples than classes", "examples: 400", "examples: 9", "data.mnist1d: mnist1d needs examples >= 10 and examples % 10 == 0; got examples=9"),
    ("examples that are no multiple", "examples: 400", "examples: 405", "data.mnist1d: mnist1d needs examples >= 10 and examples % 10 == 0; got examples=405"),
    ("more held-out examples than there are", "{every: 4, examples: 1}", "{every: 4, examples: 100}", "architectures.mpsenet.probes.examples: 100 is not valid; valid: at most 2 (held-out examples of speech)"),
    ("long name", "  gelu: {", f"  {'g' * 61}: {{", "line 46: activations: \"ggg"),
    ("newline in a name", "  gelu: {", '  "gelu\\n": {', "line 48: key 'gelu\\n' is not valid; valid: at most 100 printable characters"),
    ("object without a module", "{function: gelu}", "{function: ':act'}", "activations.gelu.function: ':act' is not valid; valid: module:object, such as my_lab.acts:MyAct"),
    ("object of an object", "{function: gelu}", "{function: 'a:b:c'}", "activations.gelu.function: 'a:b:c' is not valid; valid: module:object"),
    ("digits of another script", "seeds: [0-1]", "seeds: [٠-٢]", "study.seeds.0: "),
    ("unknown section", "probes:\n", "probs:\n", "probs: unknown key \"probs\" (did you mean probes?); valid: study, checkpoints, data"),
    ("unknown key of the study", "  seeds: [0-1]", "  sedes: [0-1]", "study.sedes: unknown key \"sedes\" (did you mean seeds?)"),
    ("unknown key of an architecture", "    steps: 20", "    step: 20", "architectures.mlp.step: unknown key \"step\""),
    ("unknown option of a model", "width: 16, depth: 2", "widht: 16, depth: 2",
     "architectures.mlp.model.widht: unknown option of mlp \"widht\" (did you mean width?); valid: width, depth, bias, init"),
    ("unknown option of an activation", "sparsity: 0.8", "sparcity: 0.8", "activations.topk_80.sparcity: unknown option of topk"),
    ("unknown key of a grid block", "    data: [random]", "    dat: [random]", "grid.1.dat: unknown key \"dat\" (did you mean data?)"),
    ("unknown key of the probes", "  every: 10", "  evry: 10", "probes.evry: unknown key \"evry\" (did you mean every?); valid: every, examples, measure"),
    ("unknown option of an optimizer", "momentum: 0.9", "momentun: 0.9", "architectures.resnet.optimizer.momentun: unknown option of sgd"),
    ("unknown activation function", "{function: gelu}", "{function: gleu}", "activations.gelu.function: unknown activation \"gleu\" (did you mean gelu?); valid: relu, gelu"),
    ("unknown model", "function: mlp", "function: mpl", "architectures.mlp.model.function: unknown model \"mpl\" (did you mean mlp?); valid: mlp, cnn, resnet, vit"),
    ("unknown loss", "{function: mse}", "{function: rmse}", "losses.mse.function: unknown loss \"rmse\" (did you mean mse?); valid: cross_entropy, mse"),
    ("unknown optimizer", "function: adam,", "function: adagrad,", "architectures.mlp.optimizer.function: unknown optimizer \"adagrad\""),
    ("unknown data function", "{function: digits}", "{function: imagenet}", "data.digits.function: unknown data \"imagenet\"; valid: mnist1d, digits, cifar10, cifar100"),
    ("unknown name in the grid", "activations: [relu, tanh, topk_80]", "activations: [relu, tanh, topk_90]",
     "grid.0.activations: unknown activation \"topk_90\" (did you mean topk_80?); valid: relu, gelu, tanh, topk_80"),
    ("unknown data axis", "data: [random]", "data: [noise]", "grid.1.data: unknown data \"noise\"; valid: real, random"),
    ("unknown data set", "    data: mnist1d", "    data: mnist2d", "architectures.mlp.data: unknown data set \"mnist2d\" (did you mean mnist1d?)"),
    ("text for a number", "steps: 20", "steps: many", 'architectures.mlp.steps: "many" is not valid; valid: an integer from 1 to 2147483647'),
    ("negative steps", "steps: 20", "steps: -20", "architectures.mlp.steps: -20 is not valid; valid: an integer from 1 to 2147483647"),
    ("zero steps", "steps: 20", "steps: 0", "architectures.mlp.steps: 0 is not valid; valid: an integer from 1 to 2147483647"),
    ("fraction for a count", "width: 16, depth: 2", "width: 16.5, depth: 2", "architectures.mlp.model.width: 16.5 is not valid; valid: an integer from 1 to 2147483647"),
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
    ("name twice in an axis", "activations: [relu, gelu]", "activations: [gelu, gelu]", "grid.2.activations: gelu appears twice; valid: a list of names without repeats"),
    ("run in two blocks", "activations: [relu, gelu]\n    losses: [mse]", "activations: [relu]\n    losses: [cross_entropy]",
     "grid.2: run mlp.relu.cross_entropy.real.s0-1 is already in grid.0 (seed 0)"),
    ("overlapping seeds", "seeds: [0-1]", "seeds: [0-1, 1-2]", "study.seeds: seed 1 appears in two blocks"),
    ("seeds backwards", "seeds: [0-1]", "seeds: [3-1]", "study.seeds.0: '3-1' is empty"),
    ("negative seed", "seeds: [0-1]", "seeds: [-1]", "study.seeds.0: -1 is not valid; valid: a seed (an integer from 0 to 2147483647) or a block first-last"),
    ("impossible data for the architecture", "    data: digits\n    optimizer: {function: sgd", "    data: mnist1d\n    optimizer: {function: sgd",
     "architectures.resnet.data: resnet takes image data, but mnist1d is signal data"),
    ("impossible optimizer", "{function: sgd, lr: 0.05, momentum: 0.9}", "{function: muon, lr: 0.05, adamw_lr: 1e-3}",
     "architectures.resnet: resnet needs optimizer != 'muon'; got optimizer=muon"),
    ("speech for a language model", "    data: text\n", "    data: speech\n", "architectures.gpt.data: gpt takes tokens data, but speech is speech data"),
    ("a classifier's loss for speech", "losses: [speech]\nprobes", "losses: [mse]\nprobes", "grid.4: loss mse (mse) is not valid for architecture mpsenet (mpsenet); valid: mpsenet"),
    ("probes of an architecture", "{every: 4, examples: 1}", "{every: 4, measure: [weights]}", "architectures.mpsenet.probes.measure: unknown key \"measure\"; valid: every, examples"),
    ("microbatch of nothing", "microbatch: 4", "microbatch: 0", "architectures.gpt.microbatch: 0 is not valid; valid: an integer from 1 to 2147483647"),
    ("more processes than examples", "microbatch: 4", "processes: 9", "architectures.gpt.processes: 9 is not valid; valid: at most 8 (batch_size)"),
    ("no processes", "microbatch: 4", "processes: 0", "architectures.gpt.processes: 0 is not valid; valid: an integer from 1 to 2147483647"),
    ("batch norm in parts", "    schedule: {function: cosine, warmup: 2}\n", "    processes: 2\n", "grid.0: resnet · relu · default · cross_entropy · real: resnet needs processes == 1 or normalization is not None; got processes=2, normalization=None"),
    ("no jobs on a GPU", "  seeds: [0-1]", "  seeds: [0-1]\n  jobs_per_gpu: 0", "study.jobs_per_gpu: 0 is not valid; valid: an integer from 1 to 2147483647"),
    ("unknown key of the checkpoints", "probes:\n", "checkpoints: {every_second: 60}\nprobes:\n", "checkpoints.every_second: unknown key \"every_second\" (did you mean every_seconds?); valid: every_seconds, keep"),
    ("negative time between saves", "probes:\n", "checkpoints: {every_seconds: -1}\nprobes:\n", "checkpoints.every_seconds: -1 is not valid; valid: a number >= 0 of seconds between saves, 0 for a save at every step"),
    ("a number of kept states", "probes:\n", "checkpoints: {keep: 3}\nprobes:\n", "checkpoints.keep: 3 is not valid; valid: true to keep the final state of every seed, or false"),
    ("control over another control", "topk, sparsity: 0.8}", "topk, sparsity: 0.8, base: topk}", 'activations.topk_80.base: "topk" is not valid; valid: relu, gelu'),
    ("heads that do not divide the width", "depth: 1, heads: 2", "depth: 1, heads: 3", "architectures.vit: vit needs width % heads == 0; got width=16, heads=3"),
    ("patch that does not divide the image", "patch: 4", "patch: 3", "architectures.vit: vit needs height % patch == 0; got height=8, patch=3"),
    ("name with a dot", "  gelu: {function", "  gelu.1: {function", 'activations: "gelu.1" is not a valid name; valid: a letter, then letters, digits, _ or -, at most 60 characters'),
    ("reserved name", "probes:\n", "normalizations: {default: {function: none}}\nprobes:\n", "normalizations.default: this name is reserved for"),
    ("key twice", "  every: 10", "  every: 10\n  every: 20", "line 74: key 'every' appears twice"),
    ("baseline that is not in the grid", "baseline: relu", "baseline: silu", "cliff.baseline: unknown name of the grid \"silu\""),
    ("control that is not in the grid", "controls: [tanh]", "controls: [tahn]", "drift.controls.0: unknown name of the grid \"tahn\" (did you mean tanh?)"),
    ("architecture without a baseline", "architectures: [mlp, resnet, vit]\n    activations: [relu, tanh, topk_80]", "architectures: [vit]\n    activations: [tanh, topk_80]", "cliff.baseline: relu has no run on real data with architecture vit"),
    ("probes that the analysis lacks", "[activations, weights, gradients, histograms]", "[weights]", "probes.measure: activations missing; the cliff and the drift need activations and weights"),
    ("unknown metric group", "[activations, weights, gradients, histograms]", "[activation]", "probes.measure.0: \"activation\" is not valid; valid: activations, weights, gradients or histograms"),
    ("unknown device", "  seeds: [0-1]", "  seeds: [0-1]\n  device: tpu", 'study.device: "tpu" is not valid; valid: auto, cpu, cuda or mps'),
    ("importable object that is not there", "{function: gelu}", "{function: 'my_lab.acts:MyAct'}", "activations.gelu.function: no module named my_lab"),
    ("object that its module lacks", "{function: gelu}", "{function: 'sparsity_cliff.networks.losses:MyAct'}", "activations.gelu.function: module sparsity_cliff.networks.losses has no function or class MyAct"),
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with nothing run; its study file is for a test to write."""
    return copy_project(tmp_path_factory.mktemp("study") / "project").folder


def line_of(folder: Path, content: str | bytes) -> str:
    """What the reader says of a study file with this content. Both commands print it, as a test below holds."""
    (folder / "study.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with contextlib.chdir(folder), pytest.raises(reading.StudyError) as error:
        table.open_file("study.yaml")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("what", "old", "new", "says"), MISTAKES, ids=[what for what, *_ in MISTAKES])
def test_a_mistake_gets_one_clear_line(tmp_path: Path, what: str, old: str, new: str, says: str) -> None:
    assert DEFAULT.count(old) == 1
    line = line_of(tmp_path, DEFAULT.replace(old, new))
    assert says in line
    assert re.match(r"study\.yaml: (line \d+: )?[a-z]", line)


def instead(old: str, new: str) -> str:
    assert old in DEFAULT
    return DEFAULT.replace(old, new, 1)


def bomb(first: str, rest: str) -> str:
    """Ten levels, each of which names the one before ten times: 10 to the 10th values."""
    levels = (rest.format(i, ", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 11))
    return f"a0: &a0 {first}\n" + "".join(levels)


DECIMAL = "is not a decimal number; valid: digits without a leading 0"
#: what -> (a study, where and what its line says)
UNREADABLE: dict[str, tuple[str | bytes, str]] = {
    "not a number": (instead("seeds: [0-1]", "seeds: [.nan]"), "line 4: .nan is not valid; valid: finite decimal numbers"),
    "infinity": (instead("every: 10", "every: -.inf"), "line 73: -.inf is not valid; valid: finite decimal numbers"),
    "too large for a float": (instead("lr: 0.05", "lr: 1e400"), "line 20: 1e400 is not valid; valid: numbers up to 1.8e+308"),
    "too many digits": (instead("steps: 20", f"steps: {'9' * 5000}"), "line 15: 9999"),
    "octal": (instead("steps: 20", "steps: 0100"), f"line 15: 0100 {DECIMAL}"),
    "hexadecimal": (instead("steps: 20", "steps: 0x10"), f"line 15: 0x10 {DECIMAL}"),
    "to the base of sixty": (instead("steps: 20", "steps: 1:30"), f"line 15: 1:30 {DECIMAL}"),
    "date": (instead("steps: 20", "steps: 2024-01-01"), "line 15: 2024-01-01 is a timestamp in YAML; put such text in quotes"),
    "tag": (instead("steps: 20", "steps: !!int abc"), "line 15: tag 'tag:yaml.org,2002:int' is not valid; valid: values without"),
    "tag of one's own": (instead("steps: 20", "steps: !python abc"), "line 15: tag '!python' is not valid"),
    "list as a key": (f"[a, b]: c\n{DEFAULT}", "line 1: key a list or mapping is not a string"),
    "mapping as a key": (f"? {{a: b}}\n: c\n{DEFAULT}", "line 1: key a list or mapping is not a string"),
    "number as a key": (instead("  gelu:", "  1:"), "line 48: key 1 is not a string; put numbers, dates, and yes or no in quotes"),
    "yes as a key": (instead("  gelu:", "  yes:"), "line 48: key yes is not a string"),
    "recursive mapping": (f"x: &x {{y: *x}}\n{DEFAULT}", "line 1: *x is inside its own anchor"),
    "recursive list": (f"x: &x [*x]\n{DEFAULT}", "line 1: *x is inside its own anchor"),
    "alias of nothing": (instead("steps: 20", "steps: *nothing"), "line 15: alias *nothing has no anchor &nothing before it"),
    "merged number": (instead("    steps: 20", "    <<: 20"), "line 15: << takes a mapping or a list of mappings"),
    "merged twice": (f"a: {{<<: {{}}, <<: {{}}}}\n{DEFAULT}", "line 1: key '<<' appears twice"),
    "nested lists": (f"{DEFAULT}x: {'[' * 3000}", "line 81: nested too deeply; valid: at most 20 levels"),
    "nested mappings": (DEFAULT + "x: " + "{a: " * 3000, "line 81: nested too deeply; valid: at most 20 levels"),
    "nested blocks": ("".join(f"{' ' * i}a:\n" for i in range(600)), "line 20: nested too deeply; valid: at most 20 levels"),
    "bomb of aliases": (bomb("[x, x]", "a{0}: &a{0} [{1}]\n"), "line 6: too many values; valid: at most 100000"),
    "bomb of merges": (bomb("{x: 1}", "a{0}: &a{0} {{<<: [{1}]}}\n"), "line 6: too many values; valid: at most 100000"),
    "large": (DEFAULT + "#" * 250_000, "more than 250000 bytes; valid: at most 250000"),
    "empty": ("# nothing\n", "empty; a study file is a mapping of sections"),
    "list": ("- study\n", "a study file is a mapping of sections"),
    "second document": (f"{DEFAULT}---\nx: 1\n", "line 81: a second document; valid: one document"),
    "unclosed list": (instead("seeds: [0-1]", "seeds: [0-1"), "line 5: not valid YAML (while parsing a flow sequence"),
    "tab": (f"{DEFAULT}\tx: 1\n", "line 81: not valid YAML ("),
    "tab after a colon": (instead("steps: 20", "steps:\t20"), "line 15: not valid YAML ("),
    "question mark in a flow mapping": (instead("{function: mse}", "{func?tion: mse}"), "line 53: not valid YAML ("),
    "question mark in a flow list": (instead("seeds: [0-1]", "seeds: [0?1]"), "line 4: not valid YAML ("),
    "byte order mark inside": (instead("steps: 20", "steps: \ufeff20"), "line 15: "),
    "UTF-16": (DEFAULT.encode("utf-16"), "line 1: not valid UTF-8"),
    "Latin-1": (DEFAULT.encode() + b"# caf\xe9\n", "line 81: not valid UTF-8"),
    "binary": (bytes(range(256)), "line 2: not valid UTF-8"),
    "NUL": (f"{DEFAULT}x: \0\n", "line 81: character '\\x00' is not valid; valid: printable text"),
    "template": (f"__use_yte__: true\n{DEFAULT}", 'line 1: __use_yte__: unknown key "__use_yte__"; valid: study'),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_study_gets_one_clear_line(tmp_path: Path, what: str) -> None:
    content, says = UNREADABLE[what]
    assert line_of(tmp_path, content).startswith(f"study.yaml: {says}")


@pytest.mark.parametrize(
    "content",
    [
        UNREADABLE["binary"][0],
        UNREADABLE["bomb of merges"][0],
        UNREADABLE["bomb of aliases"][0],
        UNREADABLE["nested lists"][0],
        DEFAULT.replace("seeds: [0-1]", "seeds: [0-20000000]"),
        DEFAULT.replace("steps: 20", "step: 20"),
        DEFAULT.replace("{function: gelu}", "{function: 'my_lab.acts:MyAct'}"),
    ],
    ids=["no text", "merges", "aliases", "nesting", "seeds", "unknown key", "object that is not there"],
)
def test_both_commands_print_that_line_and_start_nothing(project: Path, forked: Forked, content: str | bytes) -> None:
    line = line_of(project, content)
    status, output = forked.run(project, "--configfile", "study.yaml", "--cores", "1", timeout=30)
    seconds = [forked.cpu]
    lines = [text for text in output.splitlines() if text and not text.startswith("Using workflow specific profile")]
    assert (status, lines) == (1, [f"error: {line}"])
    assert forked.cli(project, "runs", "study.yaml", timeout=30) == (1, f"error: {line}\n")
    assert max(*seconds, forked.cpu) < SECONDS
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--configfile", "nowhere.yaml"), "nowhere.yaml: cannot be read (No such file or directory)"),
        (("--configfile", "src"), "src: cannot be read (Is a directory)"),
        (("--configfiles", "study.yaml", "other.yaml"), "--configfile: a study is one file; got study.yaml, other.yaml"),
        (("--config", "study=3"), "--config: a study is one file; change a copy of it and use --configfile"),
        ((), "config.yaml: line 2: not valid YAML (mapping values are not allowed in this context)"),
        (("--configfile=bad.yaml", "--workflow-profile", "workflow/profiles/local"), "bad.yaml: line 2: not valid YAML ("),
        (("--configfiles=bad.yaml", "--workflow-profile", "workflow/profiles/slurm"), "bad.yaml: line 2: not valid YAML ("),
        (("--configfile", "study.yaml", "--config", "ab=1", "--workflow-profile", "none"), "--config: a study is one file;"),
        (("--configfile", "study.yaml", "study.yaml", "--workflow-profile", "none"), "--configfile: a study is one file;"),
    ],
)  # fmt: skip
def test_a_command_line_names_one_readable_study(
    project: Path, forked: Forked, arguments: tuple[str, ...], says: str
) -> None:
    (project / "study.yaml").write_text(DEFAULT)
    for name in ("config.yaml", "bad.yaml"):
        (project / name).write_text("study: 3\nx: y: z\n")
    status, output = forked.run(project, "--cores", "1", *arguments)
    lines = [line for line in output.splitlines() if not line.startswith("Using ")]
    assert (status, len(lines)) == (1, 1), output
    assert lines[0].startswith(f"error: {says}")
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--configfile bad.yaml", "bad.yaml: line 2: not valid YAML ("),
        ("--cores 2 --configfiles bad.yaml -n", "bad.yaml: line 2: not valid YAML ("),
        ("--configfile study.yaml bad.yaml", "--configfile: a study is one file; got study.yaml, bad.yaml"),
        ("-C a=1", "--config: a study is one file; change a copy of it and use --configfile COPY"),
        ("--configfile study.yaml --cores 2", ""),
        ("--cores 2", ""),  # the Snakefile reads config.yaml
    ],
)
def test_a_profile_checks_the_study_before_snakemake_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(DEFAULT)
    for name in ("bad.yaml", "config.yaml"):
        Path(name).write_text("study: 3\nx: y: z\n")
    if not says:
        reading.check(arguments.split())
        return
    with pytest.raises(SystemExit, match=re.escape(f"error: {says}")):
        reading.check(arguments.split())


@pytest.mark.parametrize("given", [False, True], ids=["config.yaml", "--configfile"])
def test_what_runs_is_what_our_reader_reads(project: Path, forked: Forked, given: bool) -> None:
    """Snakemake's reader takes 1e3 for a text, and quietly takes the second of two documents' worth of `[0]`."""
    text = instead("seeds: [0-1]", "seeds: [1e1, 2.0]").replace("steps: 20", "steps: 1e2").replace("10", "1_0")
    (project / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (project / "config.yaml").write_bytes((project / "bom.yaml").read_bytes())
    chosen = ("--configfile", "bom.yaml") if given else ()
    status, output = forked.run(project, "--dry-run", "--cores", "1", *chosen)
    assert status == 0, output
    found = set(re.findall(r"^    wildcards: run=(\S+)$", output, re.M))
    plan = table.open_file(project / "bom.yaml")
    assert found == set(plan.runs)
    assert {run.seeds for run in plan.runs.values()} == {(10,), (2,)}
    assert {json.loads(run.spec)["training"]["steps"] for run in plan.runs.values()} == {100, 10, 4}


def test_an_unreadable_study_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(reading.StudyError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\)$"):
        table.read(tmp_path / "nowhere.yaml")
    with pytest.raises(reading.StudyError, match=r"cannot be read \(Is a directory\)$"):
        table.read(tmp_path)
    for text, says in (
        (DEFAULT.replace("grid:", "grid: ["), "not valid YAML"),
        ("- study", "is a mapping of sections"),
    ):
        (tmp_path / "study.yaml").write_text(text)
        with pytest.raises(reading.StudyError, match=rf"study\.yaml: .*{says}") as error:
            table.read(tmp_path / "study.yaml")
        assert "\n" not in str(error.value)
    (tmp_path / "latin.yaml").write_bytes(b"study: {name: caf\xe9}\n")
    with pytest.raises(reading.StudyError, match=r"latin\.yaml: line 1: not valid UTF-8$"):
        table.read(tmp_path / "latin.yaml")


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert table.read(tmp_path / "study.yaml")["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("section", "name", "entry", "block", "says"),
    [
        ("activations", "ahead", {"function": "topk", "sparsity": 0.5, "over": "example"}, {"activations": ["ahead"]},
         "gpt · ahead · default · cross_entropy · real: gpt needs over != 'example' and activation != 'topk_gelu_reference'; got over=example, activation=topk"),
        ("normalizations", "batch", {"function": "quantile_batch_norm", "q": 0.5}, {"normalizations": ["batch"]},
         "gpt · relu · batch · cross_entropy · real: gpt needs normalization not in ('batch_norm', "),
        ("data", "text", {"function": "fineweb10b"}, {"losses": ["mse"]},
         "gpt · relu · default · mse · real: gpt needs loss != 'mse' or vocabulary <= 1024; got loss=mse, vocabulary=50257"),
    ],
    ids=["control that looks ahead", "normalization over the batch", "one-hot targets of a large vocabulary"],
)  # fmt: skip
def test_what_an_architecture_requires_of_a_cell(
    section: str, name: str, entry: dict[str, Any], block: dict[str, Any], says: str
) -> None:
    config = smoke()
    config.setdefault(section, {})[name] = entry
    config["grid"].append({"architectures": ["gpt"], "activations": ["relu"], "losses": ["cross_entropy"], **block})
    with pytest.raises(reading.StudyError) as error:
        table.load(config)
    assert f"grid.5: {says}" in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "changes", "says"),
    [
        ("mlp", {}, None),
        ("vit", {}, None),
        (
            "mlp",
            {"normalization": "batch_norm"},
            "share each batch, but batch_norm takes its statistics over the whole",
        ),
        (
            "vit",
            {"normalization": "quantile_batch_norm"},
            "but quantile_batch_norm takes its statistics over the whole",
        ),
        ("mlp", {"normalization": "layer_norm"}, None),
        ("resnet", {}, "resnet needs processes == 1 or normalization is not None; got processes=2"),
        ("resnet", {"normalization": "layer_norm"}, None),
        ("mpsenet", {}, "mpsenet needs processes == 1; got processes=2"),
        ("mpsenet", {"normalization": "layer_norm"}, "mpsenet needs processes == 1; got processes=2"),
        ("mlp", {"device": "mps"}, "share each batch, but study.device mps has one device; valid: processes: 1"),
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
    with pytest.raises(reading.StudyError) as error:  # of the baseline, where nothing else is wrong
        table.load(config | {"cliff": {"baseline": "tanh", "losses": [loss]}})
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
    with pytest.raises(reading.StudyError, match="but lab_of_norms:mine takes its statistics over the whole batch"):
        table.load(config)


def test_a_discriminator_needs_the_whole_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab(tmp_path)
    (tmp_path / "my_lab").rename(tmp_path / "lab_of_speech")
    file = tmp_path / "lab_of_speech" / "nets.py"
    file.write_text(file.read_text().replace('("signal",)', '("speech",)').replace("('mse',)", "('mpsenet',)"))
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["architectures"]["mpsenet"] |= {"model": {"function": "lab_of_speech.nets:Net"}, "processes": 2}
    assert table.load(config)
    config["losses"]["speech"] = {"function": "mpsenet", "metric": 0.05}
    with pytest.raises(reading.StudyError, match=r"mpsenet with metric=0\.05 learns from the whole batch"):
        table.load(config)


@pytest.mark.parametrize(("device", "gpus"), [("cpu", (0, 0)), ("auto", (0, 0)), ("cuda", (1, 2))])
def test_a_job_asks_for_a_gpu_for_each_of_its_processes(device: str, gpus: tuple[int, int]) -> None:
    config = smoke()
    config["study"]["device"] = device
    config["architectures"]["gpt"]["processes"] = 2
    runs = table.load(config).runs.values()
    found = {run.architecture: (run.processes, run.gpus) for run in runs}
    assert (found["mlp"], found["gpt"]) == ((1, gpus[0]), (2, gpus[1]))
    assert all(json.loads(run.spec)["training"]["processes"] == run.processes for run in runs)


def test_what_changes_no_number_is_in_no_spec() -> None:
    config = smoke(checkpoints={"every_seconds": "1e2", "keep": True})
    config["study"]["jobs_per_gpu"] = 3
    assert table.load(config).runs == table.load(smoke()).runs


# ------------------------------------------------------------------------------------------ from outside


def lab(folder: Path, losses: str = "('mse',)") -> None:
    (folder / "my_lab").mkdir()
    (folder / "my_lab" / "__init__.py").write_text("raise RuntimeError('a study is validated without importing')\n")
    (folder / "my_lab" / "nets.py").write_text(
        f"""
from torch import nn
from sparsity_cliff.study.registry import Count

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
        ("not_met", "conv1 > 8", "not_met.nets:Net needs conv1 > 8; got conv1=8"),
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
        with pytest.raises(reading.StudyError, match=re.escape(says)):
            table.load(config)
    else:
        table.load(config)


NET = "class Net:\n    def __init__(self, shape, classes, activation, normalization, *, width: Count = 8): pass\n"
WRONG_MODULES: dict[str, tuple[str, str]] = {  # what -> (the module of an architecture, what its line says)
    "no_expression": ('REQUIRES = ("width %% 2",)', "MODULE.REQUIRES 'width %% 2' cannot be evaluated (not a Python expression)"),
    "a_call": ('REQUIRES = ("exit()",)', "MODULE.REQUIRES 'exit()' cannot be evaluated (Call is not valid; valid: names, numbers, + -"),
    "a_power": ('REQUIRES = ("9 ** 9 ** 9 > width",)', "MODULE.REQUIRES '9 ** 9 ** 9 > width' cannot be evaluated (Pow is not valid"),
    "division_by_zero": ('REQUIRES = ("width % 0 == 0",)', "MODULE.REQUIRES 'width % 0 == 0' cannot be evaluated (integer modulo by zero)"),
    "another_type": ('REQUIRES = ("width < optimizer",)', "MODULE.REQUIRES 'width < optimizer' cannot be evaluated ('<' not supported"),
    "one_text": ('REQUIRES = "width > 2"', "MODULE.REQUIRES is 'width > 2'; valid: a tuple of strings, such as ('one',)"),
    "a_number": ("REQUIRES = (3,)", "MODULE.REQUIRES is (3,); valid: a tuple of strings"),
    "losses_a_text": ('LOSSES = "mse"', "MODULE.LOSSES is 'mse'; valid: a tuple of strings, such as ('one',)"),
    "losses_computed": ("LOSSES = tuple(ALL)", "MODULE.LOSSES is not a literal: tuple(ALL)"),
    "losses_divided": ("LOSSES = (1 / 0,)", "MODULE.LOSSES is not a literal: (1 / 0,)"),
    "accepts_a_text": ('ACCEPTS = "signal"', "MODULE.ACCEPTS is 'signal'; valid: a tuple of strings"),
    "unhashable": ("ACCEPTS = {[]: 1}", "MODULE.ACCEPTS is not a literal: {[]: 1}"),
    "not_python": ("def f(:", "not_python.py, line 2: invalid syntax"),
    "nul": ("x = '\0'", "nul.py"),
    "deep": (f"x = {'-' * 5000}1", "deep.py: not valid Python ("),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_MODULES)
def test_a_module_that_states_nonsense_of_itself_is_one_line_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    text, says = WRONG_MODULES[what]
    (tmp_path / f"{what}.py").write_text(f"from sparsity_cliff.study.registry import Count\n{text}\n{NET}")
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["architectures"]["mlp"]["model"] = {"function": f"{what}:Net"}
    with pytest.raises(reading.StudyError) as error:
        table.load(config)
    assert says.replace("MODULE", what) in str(error.value)
    assert "\n" not in str(error.value)


CALLS = {  # a class or function -> what is wrong with it as an entry of the kind
    (
        "model",
        "def f(shape, classes, activation, *, w: int = 1): pass",
    ): "takes (shape, classes, activation); valid: (shape,",
    (
        "model",
        "def f(shape, classes, activation, normalization, width): pass",
    ): "needs width; valid: (shape, classes, acti",
    (
        "model",
        "class f:\n    def __init__(self, shape, classes, activation, normalization, width=3, *, depth: int): pass",
    ): None,
    ("model", "class f:\n    def __init__(self, *arguments): pass"): None,
    (
        "activation",
        "class f:\n    def __init__(self, beta): pass",
    ): "needs beta; valid: (*, options), with keyword-only options",
    ("activation", "class f(Base): pass"): None,
    ("activation", "async def f(): pass"): "has no function or class f",
    ("loss", "def f(weight=1.0): pass"): None,
    ("loss", "def f(weight, /): pass"): "needs weight; valid: (*, options)",
    ("data", "def f(*, size: int): pass"): "takes (); valid: (root, *, options)",
    ("optimizer", "def f(model, lr): pass"): "needs lr; valid: (model, *, options), with keyword-only options",
    ("normalization", "def f(features): pass"): "takes (features); valid: (features, spatial, *, options)",
}


@pytest.mark.parametrize(("kind", "code"), CALLS)
def test_what_could_not_be_called_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, code: str
) -> None:
    module = f"calls_{list(CALLS).index((kind, code))}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    says = CALLS[kind, code]
    if says is None:
        options_of(kind, f"{module}:f")
    else:
        with pytest.raises(source.SourceError, match=re.escape(says)):
            options_of(kind, f"{module}:f")


@pytest.mark.parametrize("kind", CALLED)
def test_every_built_in_entry_can_be_called_as_its_kind_is(kind: str) -> None:
    for function in source.entries(kind):
        options_of(kind, function)


@pytest.mark.parametrize(
    ("name", "stated", "says"),
    [
        ("no_kind", "", "data.own.function: no_kind defines no KIND; valid: signal, image, tokens, speech"),
        ("odd_kind", "KIND = 'signals'", "data.own.function: odd_kind defines KIND = 'signals'; valid: signal, image"),
        ("own_needs", "KIND = 'signal'\nREQUIRES = ('size > 9',)", "data.own: own_needs:f needs size > 9; got size=8"),
        ("own_size", "KIND = 'signal'\nEXAMPLES = ('size * 3', 'size')", "architectures.mlp.batch_size: 32 is not valid; valid: at most 24 (training examples of own)"),
        ("odd_size", "KIND = 'signal'\nEXAMPLES = ('size / 0', 'size')", "odd_size.EXAMPLES 'size / 0' cannot be evaluated (division by zero)"),
        ("odd_shape", "KIND = 'signal'\nSHAPE = 40", "odd_shape.SHAPE is 40; valid: a tuple of integers"),
    ],
)  # fmt: skip
def test_what_a_data_sets_module_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stated: str, says: str
) -> None:
    (tmp_path / f"{name}.py").write_text(f"{stated}\ndef f(root, *, size: int = 8): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["data"]["own"] = {"function": f"{name}:f"}
    config["architectures"]["mlp"]["data"] = "own"
    with pytest.raises(reading.StudyError) as error:
        table.load(config)
    assert says in str(error.value)


def test_sizes_that_sources_state_are_those_of_their_arrays(tmp_path: Path) -> None:
    """Of those that need no network; the options in between are the data's own business."""
    from sparsity_cliff.study import expressions, registry

    for function, chosen in (
        ("mnist1d", {"examples": 50, "held_out": None}),
        ("mnist1d", {"examples": 50, "held_out": 30}),
        ("digits", {"examples": None, "held_out": 360}),
        ("digits", {"examples": 7, "held_out": 360}),
        ("digits", {"examples": None, "held_out": 500}),
    ):
        stated = source.words(source.locate("data", function)[0], "EXAMPLES")
        arrays = registry.load("data", function)(tmp_path, **chosen)
        assert [expressions.value(size, chosen) for size in stated] == [len(arrays["y_train"]), len(arrays["y_test"])]


def test_a_run_whose_name_is_no_file_name_is_refused() -> None:
    config = smoke()
    for section in ("architectures", "losses"):
        config[section] = {f"{name}{'x' * 50}": entry for name, entry in config[section].items()}
    config["activations"] = {"r" * 60: {"function": "relu"}, "t" * 60: {"function": "tanh"}}
    config["cliff"]["baseline"], config["drift"]["controls"] = "r" * 60, []
    config["cliff"]["losses"] = ["cross_entropy" + "x" * 50]
    block = {
        "architectures": ["mlp" + "x" * 50],
        "activations": ["r" * 60, "t" * 60],
        "losses": config["cliff"]["losses"],
    }
    config["grid"] = [block]
    with pytest.raises(reading.StudyError, match=r"^losses: \"cross_entropyx+\.\.\. is not a valid name"):
        table.load(config)
    config["losses"] = {"c" * 60: {"function": "cross_entropy"}}
    config["cliff"]["losses"] = block["losses"] = ["c" * 60]
    assert max(map(len, table.load(config).runs)) < 200
    config["study"]["seeds"] = ["1000000000-1000000001"]
    config["normalizations"] = {"n" * 60: {"function": "none"}}
    block["normalizations"] = ["n" * 60]
    with pytest.raises(
        reading.StudyError, match=r"^grid: run .* has 2\d\d characters in its id; valid: at most 200, with shorter"
    ):
        table.load(config)


def test_an_impossible_loss_for_an_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke()
    config["architectures"]["mlp"]["model"] = {"function": "my_lab.nets:Net", "width": 4}
    with pytest.raises(reading.StudyError) as error:
        table.load(config)
    assert str(error.value) == (
        "grid.0: loss cross_entropy (cross_entropy) is not valid for architecture mlp (my_lab.nets:Net); valid: mse"
    )
    config["architectures"]["mlp"]["model"]["widht"] = 4
    with pytest.raises(
        reading.StudyError, match=r'unknown option of my_lab\.nets:Net "widht" \(did you mean width\?\)'
    ):
        table.load(config)


# ------------------------------------------------------------------------------------------ size


def test_ids_are_unique_in_a_large_study() -> None:
    config = smoke()
    config["study"]["seeds"] = [f"{3 * i}-{3 * i + 2}" for i in range(100)]
    plan = table.load(config)
    assert len(plan.runs) == 16 * 100
    assert len(set(itertools.chain.from_iterable((run.id,) for run in plan.runs.values()))) == 1600

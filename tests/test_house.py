"""The house: formatters, linters, types, pinned versions, and the rules of docs/design.md that a machine can check."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sweeps import DEFAULT, PROJECT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["snakefmt", "--check", "Snakefile", "workflow"],
        ["snakemake", "--lint"],
    ],
    ids=" ".join,
)
def test_clean(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def lock() -> dict[str, str]:
    lines = (PROJECT / "requirements.lock").read_text().splitlines()
    pins = [re.fullmatch(r"([\w.-]+)==([\w.+!-]+)( ; platform_system == \"Linux\")?", line) for line in lines]
    assert all(pins), "exact pins only, no index addresses"
    return {pin[1].lower().replace("_", "-"): pin[2] for pin in pins if pin}


@pytest.mark.parametrize("name", ["train", "analysis"])
def test_environments_carry_the_versions_of_the_lock(name: str) -> None:
    environment = yaml.safe_load((PROJECT / "envs" / f"{name}.yaml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    pins = dict(requirement.split("==") for requirement in pip)
    assert pins == {package: lock()[package] for package in pins}


def test_the_lock_satisfies_pyproject() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(lock()[requirement.name.lower().replace("_", "-")]), text


def test_parsing_the_snakefile_imports_nothing_heavy() -> None:
    heavy = ("torch", "pandas", "pyarrow", "numpy", "matplotlib", "scipy")
    code = (
        "import sys; from sparsity_cliff import figures; from sparsity_cliff.study import digests, table\n"
        "table.load(table.read('workflow/studies/smoke.yaml')); digests.code('sparsity_cliff.analysis.points')\n"
        f"print(sorted(set(sys.modules) & set({heavy})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_keep_to_their_size() -> None:
    assert len((PROJECT / "Snakefile").read_text().splitlines()) <= 40
    for script in (PROJECT / "workflow" / "scripts").glob("*.py"):
        text = script.read_text()
        assert "def " not in text, script
        assert len([line for line in text.splitlines() if line.strip()]) <= 18, script
    for rules in (PROJECT / "workflow" / "rules").glob("*.smk"):
        assert len(rules.read_text().splitlines()) <= 100, rules
        assert rules.name == "common.smk" or "\ndef " not in rules.read_text(), rules


def test_every_rule_has_a_script_of_its_name() -> None:
    rules = "\n".join(path.read_text() for path in (PROJECT / "workflow" / "rules").glob("*.smk"))
    named = set(re.findall(r"^rule (\w+):", rules, re.M))
    assert named | {"draw_figure"} == {path.stem for path in (PROJECT / "workflow" / "scripts").glob("*.py")}


def test_the_tree_of_the_readme_names_every_file_at_its_place() -> None:
    """Each line is a path below the folder that it is indented under, and a comment."""
    tree = (PROJECT / "README.md").read_text().partition("## The tree")[2].split("```text")[1].split("```")[0]
    folders: list[str] = []
    named = []
    for line in tree.strip("\n").splitlines():
        words = re.fullmatch(r"( *)(\S+) {2,}(\S.*)|( *)(\S+)", line)
        assert words, line
        indent, name = words[1] or words[4] or "", words[2] or words[5]
        assert len(indent) % 2 == 0, line
        del folders[len(indent) // 2 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            assert words[3], f"{name}: no comment"
        named.append("".join(folders) if name.endswith("/") else "".join([*folders, name]))
    assert [name for name in named if not (PROJECT / name).exists()] == []
    files = [*(PROJECT / "src").rglob("*.py"), *(PROJECT / "workflow").rglob("*.smk")]
    files += [path for part in ("tests", "benchmarks", "workflow/scripts") for path in (PROJECT / part).glob("*.*")]
    expected = {str(path.relative_to(PROJECT)) for path in files if path.name != "__init__.py"}
    assert {name for name in named if name.endswith((".py", ".smk", ".sh")) and "/" in name} == expected


# ------------------------------------------------------------------------------------------ rooms

PACKAGE = PROJECT / "src" / "sparsity_cliff"
ROOMS = ["study", "traces", "data", "networks", "probes", "training", "analysis", "figures"]
WITHOUT = {"analysis": {"data", "networks", "probes", "training"}, "figures": set(ROOMS[:-1]) - {"traces"}}
THEORY = "sparsity_cliff.analysis.theory"  # a stage of its own, with torch


SOURCES = PACKAGE.parent


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PLUGIN = {name_of(path): path for path in sorted((SOURCES / "snakemake_executor_plugin_submitit").glob("*.py"))}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it, in their own files."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & (MODULES.keys() | PLUGIN.keys())) - {name_of(path)}


def room(module: str) -> str:
    return module.split(".")[1] if module.count(".") > 1 or module.partition(".")[2] in ROOMS else ""


def against_the_order(module: str, imported: str) -> bool:
    """Whether an import runs from a room to a later one, or to one that it must not know."""
    here, there = room(module), room(imported)
    if not there or here == there or not here:  # the package itself, and what stands above all rooms
        return bool(here) and not there and imported != "sparsity_cliff"
    forbidden = set() if module == THEORY else WITHOUT.get(here, set())
    return ROOMS.index(there) > ROOMS.index(here) or there in forbidden


def test_imports_follow_the_order_of_the_rooms() -> None:
    wrong = [(m, i) for m, path in MODULES.items() for i in imports(path) if against_the_order(m, i)]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("sparsity_cliff.study.table", "sparsity_cliff.training.loop"),
        ("sparsity_cliff.data.loading", "sparsity_cliff.logs"),
        ("sparsity_cliff.probes.sites", "sparsity_cliff.training.ranks"),
        ("sparsity_cliff.analysis.drift", "sparsity_cliff.probes.sites"),
        ("sparsity_cliff.figures.drift", "sparsity_cliff.analysis.drift"),
    ],
)
def test_an_import_against_the_order_is_seen(module: str, imported: str) -> None:
    assert {module, imported} <= MODULES.keys()
    assert against_the_order(module, imported)


PLUGIN_INIT = "snakemake_executor_plugin_submitit"  # every import of a part of it imports the package as well


def circle(graph: dict[str, set[str]]) -> list[str]:
    """What is left once everything that leads out of the graph is taken away: circles, and what leads to them."""
    left = {node: set(edges) for node, edges in graph.items()}
    while ends := [node for node, edges in left.items() if not edges & left.keys()]:
        for node in ends:
            del left[node]
    return sorted(left)


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]
    graph = {module: imports(path) for module, path in (MODULES | PLUGIN).items()}
    assert len(PLUGIN) > 10
    assert circle({module: found - {PLUGIN_INIT} for module, found in graph.items()}) == []
    assert [module for module in MODULES if graph[module] & PLUGIN.keys()] == []  # the study does without the plugin
    assert [module for module in PLUGIN if graph[module] & MODULES.keys()] == []  # and the plugin without the study


def test_no_function_is_long_but_the_loop() -> None:
    trees = [ast.parse(path.read_text()) for path in (PROJECT / "src").rglob("*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 60] == ["train_seed"]


def test_init_files_hold_registries_or_nothing() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        defined = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert defined in ([], ["draw"]), path  # the registry of figures also opens them


# ------------------------------------------------------------------------------------------ what an edit retrains

ALL, NONE = "all", "none"
#: Module -> the architectures of the smoke study that an edit of it retrains. A new module needs a row here.
RETRAINS = {
    "": ALL,
    "__main__ logs": NONE,
    "analysis analysis.claims analysis.cliff analysis.collect analysis.critical analysis.curves analysis.mixed": NONE,
    "analysis.drift analysis.effects analysis.facts analysis.ledger analysis.reference analysis.verdicts": NONE,
    "analysis.flops analysis.gradients analysis.means analysis.points": NONE,
    "analysis.sparsity analysis.spikes analysis.theory analysis.weights": NONE,
    "data data.errors data.layouts data.layouts.base data.loading data.seeds data.sources": ALL,
    "data.layouts.labeled": "mlp resnet vit",
    "data.layouts.speech data.quality data.spectrogram data.sources.speech": "mpsenet",
    "data.layouts.tokens data.shards data.sources.text": "gpt",
    "data.sources.digits": "resnet vit",
    "data.sources.mnist1d": "mlp",
    "data.fetch data.prepare data.sources.cifar data.sources.fineweb data.sources.voicebank": NONE,
    "figures figures.claims figures.cliff figures.critical figures.drawn figures.drift figures.flops": NONE,
    "figures.loss_and_spikes figures.near_zero_share figures.page figures.series": NONE,
    "figures.sparsity_by_depth figures.sparsity_over_steps figures.spikes figures.style figures.target_sparsity": NONE,
    "figures.theory figures.weights": NONE,
    "networks networks.activations networks.losses networks.models": ALL,
    "networks.losses.mpsenet networks.models.mpsenet": "mpsenet",
    "networks.models.cnn": NONE,
    "networks.models.gpt": "gpt",
    "networks.models.mlp": "mlp",
    "networks.models.resnet": "resnet",
    "networks.models.vit": "vit",
    "networks.normalizations": "mlp mpsenet resnet",  # vit and gpt have layer norms of torch's own
    "probes probes.activation_stats probes.flops probes.gradients probes.measurement probes.rows probes.sites": ALL,
    "probes.weights": ALL,
    "study study.registry study.spec": ALL,
    "study.contents study.digests study.expressions study.grid study.options study.reading study.requirements": NONE,
    "study.sections study.source study.structure study.table": NONE,
    "traces traces.metrics": ALL,
    "traces.files traces.origin traces.reader traces.schema traces.stale traces.unfinished traces.writer": NONE,
    "training training.batches training.build training.loop training.optimizers training.ranks": ALL,
    "training.schedules training.surroundings": ALL,
    "training.checkpoint training.environment training.job training.launch training.progress training.rank": NONE,
    "training.run training.states training.stopping": NONE,
}
EDIT_EACH = """
import ast, json
from functools import cache
from pathlib import Path
from sparsity_cliff.study import digests, table

walk = ast.walk
ast.parse, ast.unparse = cache(ast.parse), cache(ast.unparse)  # all files but one are the same each time
ast.walk = cache(lambda node: list(walk(node)))

def codes():
    digests.forget()
    return {run.id: run.code for run in table.load(config).runs.values()}

config, package, found = table.read("study.yaml"), Path("src/sparsity_cliff"), {}
before = codes()
for path in sorted(package.rglob("*.py")):
    text = path.read_text()
    path.write_text(text + "\\n_EDITED = 1\\n")
    after = codes()
    found[path.relative_to(package).with_suffix("").as_posix()] = [run for run in before if before[run] != after[run]]
    path.write_text(text)
assert codes() == before
print(json.dumps([sorted(before), found]))
"""


def test_an_edit_of_a_module_retrains_what_the_table_says(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "src" / "sparsity_cliff", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "workflow" / "schemas", tmp_path / "workflow" / "schemas")
    (tmp_path / "study.yaml").write_text(DEFAULT)
    environment = {
        key: value for key, value in os.environ.items() if key != "COVER_CODE"
    }  # it takes three times as long
    environment |= {"PYTHONPATH": str(tmp_path / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", EDIT_EACH]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    runs, found = json.loads(done.stdout)
    says = {name: what for names, what in RETRAINS.items() for name in names.split(" ")}
    expected = {}
    for name, what in says.items():
        chosen = [run for run in runs if what == ALL or run.split(".")[0] in what.split(" ")]
        expected[f"{name.replace('.', '/')}"] = sorted(chosen)
    got = {name.removesuffix("/__init__").removesuffix("__init__"): sorted(stale) for name, stale in found.items()}
    assert got == expected

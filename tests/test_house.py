"""The house: formatters, linters, types, pinned versions, and the rules of docs/design.md that a machine can check."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sweeps import PROJECT

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
        "import sys; from sparsity_cliff import study, source, figures\n"
        "study.load(study.read('workflow/studies/smoke.yaml')); source.code('sparsity_cliff.analysis')\n"
        f"print(sorted(set(sys.modules) & set({heavy})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_keep_to_their_size() -> None:
    assert len((PROJECT / "Snakefile").read_text().splitlines()) <= 30
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


def test_the_readme_names_every_file_of_the_package() -> None:
    readme = (PROJECT / "README.md").read_text()
    for path in (PROJECT / "src").rglob("*.py"):
        if path.name != "__init__.py" and "egg-info" not in str(path):
            assert path.name in readme, path


def test_the_tests_that_the_docs_name_exist() -> None:
    tests = "\n".join(path.read_text() for path in (PROJECT / "tests").glob("test_*.py"))
    for page in (PROJECT / "docs").glob("*.md"):
        named = re.findall(r"`(test_\w+)`", page.read_text())
        assert [name for name in named if f"def {name}(" not in tests] == [], page.name

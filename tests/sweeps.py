"""Real Snakemake runs for the tests: a copy of the project with a finished smoke study, and what it would run next."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from forked import Forked, python_of_scripts
from shared import folder as shared_folder

PROJECT = Path(__file__).parents[1]
PARTS = ("Snakefile", "profiles", "workflow", "src", "envs", "reference")
STUDY = "study.yaml"
DEFAULT = (PROJECT / "workflow" / "studies" / "smoke.yaml").read_text()


#: One table of each step, so that a sweep to them makes all tables.
TABLES = [f"results/smoke/tables/{name}.parquet" for name in ("claims", "cliff", "drift", "spikes", "theory")]
DRAW_ALL = """
import sys
from pathlib import Path
from sparsity_cliff import figures
results = Path(sys.argv[1])
for name, entry in figures.FIGURES.items():
    tables = [results / "tables" / f"{table}.parquet" for table in (*entry.tables, "runs")]
    outputs = [results / "figures" / f"{name}.{kind}" for kind in ("pdf", "png", "csv", "column.pdf")]
    outputs[0].parent.mkdir(exist_ok=True)
    figures.draw(name, tables, outputs, "f" * 64)
"""


class Sweep:
    """A copy of the project in `folder`; its study file is `study.yaml`. forked: where its dry runs happen."""

    def __init__(self, folder: Path, forked: Forked | None = None):
        self.folder, self.forked = folder, forked

    @property
    def study(self) -> str:
        return (self.folder / STUDY).read_text()

    def edit(self, path: str, *replacements: tuple[str, str]) -> None:
        """Replace text that must be there, exactly once."""
        text = (self.folder / path).read_text()
        for old, new in replacements:
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
            text = text.replace(old, new)
        (self.folder / path).write_text(text)

    def command(self, *arguments: str, fresh: bool = False) -> list[str]:
        """Snakemake's command line. fresh: whether each script is a fresh process, below Snakemake's own."""
        start = ["-m", "snakemake"]
        if self.forked is not None and not fresh:
            python = f"import sys; sys.executable = {str(python_of_scripts())!r}"
            start = ["-c", f"{python}; from snakemake.cli import main; main()"]
        return [sys.executable, *start, "--configfile", STUDY, *arguments]

    def snakemake(self, *arguments: str, cores: int = 2, check: bool = True, fresh: bool = False) -> str:
        """Run Snakemake; its output. check: whether it must succeed. fresh: whether each script is a fresh process."""
        arguments = ("--cores", str(cores), *arguments)
        if self.forked is not None and not fresh:
            status, output = self.forked.workflow(self.folder, "--configfile", STUDY, *arguments)
        else:
            command = self.command(*arguments, fresh=fresh)
            done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=1500)
            status, output = done.returncode, done.stdout + done.stderr
        assert (status == 0) == check, output
        return output

    def planned(self, *arguments: str) -> set[tuple[str, str]]:
        """(rule, wildcard) of every job that the next sweep would run."""
        if self.forked is None:
            return jobs(self.snakemake("--dry-run", *arguments))
        command = ["--configfile", STUDY, "--cores", "2", "--dry-run", *arguments]
        status, output = self.forked.run(self.folder, *command)
        assert status == 0, output
        return jobs(output)

    def trained(self) -> set[str]:
        """Runs that the next sweep would train."""
        return {wildcard for rule, wildcard in self.planned() if rule == "train"}

    def rules(self) -> set[str]:
        return {rule for rule, _ in self.planned()}

    def draw_all(self) -> None:
        """Draw every figure from the tables, in one process, which is faster than a job for each."""
        command = [sys.executable, "-c", DRAW_ALL, str(self.results())]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def results(self, *parts: str) -> Path:
        return self.folder.joinpath("results", "smoke", *parts)


def jobs(output: str) -> set[tuple[str, str]]:
    """(rule, wildcard) of every job announced in Snakemake's output; (draw, figure) for the rule of a figure."""
    found = set()
    for block in re.split(r"\n(?=\[|(?:local)?rule )", output):
        name = re.search(r"^(?:local)?rule (\w+):$", block, re.M)
        wildcard = re.search(r"^    wildcards: \w+=(\S+)$", block, re.M)
        if name and name[1].startswith("draw_"):
            found.add(("draw", name[1].removeprefix("draw_")))
        elif name and name[1] != "all":
            found.add((name[1], wildcard[1] if wildcard else ""))
    return found


def copy_project(folder: Path, forked: Forked | None = None) -> Sweep:
    folder.mkdir(parents=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / part)
    (folder / STUDY).write_text(DEFAULT)
    return Sweep(folder, forked)


@pytest.fixture(scope="session")
def pristine(forked: Forked) -> Path:
    """The smoke study, run once for all workers."""
    folder = shared_folder() / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_project(folder, forked).snakemake()
            (folder / "done").touch()
    return folder


@pytest.fixture
def finished(pristine: Path, tmp_path: Path, forked: Forked) -> Sweep:
    """A copy, of one's own, of the project with a finished smoke study."""
    folder = tmp_path / "sweep"
    shutil.copytree(pristine, folder)
    return Sweep(folder, forked)


@pytest.fixture
def fresh(tmp_path: Path, forked: Forked) -> Sweep:
    """A copy, of one's own, of the project with nothing run."""
    return copy_project(tmp_path / "fresh", forked)

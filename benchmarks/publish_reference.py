"""Makes the results of a finished study the reference results of this repository, and writes them into README.

Usage: python benchmarks/publish_reference.py [STUDY]

The tables go to reference/<study>. From those of the default study, the figure and the tables between the markers of
README are made, so that no number there is typed. The command refuses results that are not those of the commit.
"""

import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pages import publish

from sparsity_cliff.figures.cliff import START, place
from sparsity_cliff.figures.style import mechanisms
from sparsity_cliff.study import table

PROJECT = Path(__file__).parents[1]
DEFAULT = "laptop"  # name of the default study
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
TABLES = ("runs", "points", "levels", "critical", "worst", "cliff", "drift_contrasts", "examples", "claims")
NAMES = {"mlp": "MLP", "resnet": "ResNet", "vit": "ViT", "gpt": "GPT-nano", "mpsenet": "MP-SENet"}
SHOWN = ("relu", "tanh")  # activations whose drift README shows


def rows(*cells: list[str]) -> str:
    """A Markdown table. The first row of cells is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in cells)
    return "\n".join([head, f"| {' | '.join(['---'] * len(cells[0]))} |", *body])


def affordable(tables: Path) -> str:
    """Critical sparsity by architecture, way of making zeros, and tolerated loss, and how the score falls."""
    critical, cliff = (pd.read_parquet(tables / f"{name}.parquet") for name in ("critical", "cliff"))
    words = mechanisms(critical["mechanism"])
    tolerances = sorted(critical["tolerance"].unique())
    found = []
    for (architecture, mechanism), own in critical.groupby(["architecture", "mechanism"], sort=False):
        places = [place(row).partition(" % ")[2] for row in own.sort_values("tolerance").itertuples()]
        fall = cliff[(cliff["architecture"] == architecture) & (cliff["mechanism"] == mechanism)]
        verdict = fall.loc[fall["start"] == START, "verdict"].iloc[0]
        found.append([_name(architecture), f"`{words[mechanism]}`", *places, verdict])
    losses = [f"{100 * tolerance:g} % lost" for tolerance in tolerances]
    return rows(["architecture", "zeros made by", *losses, f"{100 - 100 * START:g} to 90 % of the score"], *found)


def drift(tables: Path) -> str:
    """Drift d of weights and pre-activations at the end of training, on real data, with the loss of the scores."""
    found, points = (pd.read_parquet(tables / f"{name}.parquet") for name in ("drift_contrasts", "points"))
    found = found[(found["against"] == "nothing") & (found["data"] == "real") & found["activation"].isin(SHOWN)]
    found = found.merge(points[["architecture", "loss"]].drop_duplicates())
    quantities = list(found["quantity"].unique())
    cells = []
    for (architecture, activation), own in found.groupby(["architecture", "activation"], sort=False):
        by = own.set_index("quantity")
        drifts = [f"{_signed(by['mean'][q])} [{_signed(by['low'][q])}, {_signed(by['high'][q])}]" for q in quantities]
        cells.append([_name(architecture), activation, *drifts, str(int(own["n"].iloc[0]))])
    return rows(["architecture", "activation", *quantities, "seeds"], *sorted(cells, key=lambda row: row[1]))


def origin(tables: Path, commit: str) -> str:
    """A sentence that says where the results are from."""
    runs = pd.read_parquet(tables / "runs.parquet")
    places = " and ".join(f"{a} ({b})" for a, b in runs[["processor", "instruction_set"]].drop_duplicates().to_numpy())
    seconds = runs["cpu_seconds"].sum()
    return textwrap.fill(
        f"These are the reference results (`reference/{DEFAULT}`): {len(runs)} trainings in {runs['run'].nunique()} "
        f"jobs, {seconds / 60:.0f} minutes of processor time on {places}, torch {runs['torch'].iloc[0]}, commit "
        f"{commit}.",
        width=120,
    )


def summary(tables: Path, commit: str) -> list[str]:
    """The parts that stand between the markers of README."""
    return [affordable(tables), drift(tables), origin(tables, commit)]


def commit_of(page: Path) -> str:
    """The commit that the results in README name."""
    return page.read_text(encoding="utf-8").partition(END)[0].rpartition("commit ")[2].strip(" .\n")


def _name(architecture: object) -> str:
    return NAMES.get(str(architecture), str(architecture))


def _signed(value: float) -> str:
    return re.sub(r"[+−](0\.000)", r"\1", f"{value:+.3f}".replace("-", "−"))


def problems(study: Path) -> Iterator[str]:
    """Why the results in this folder cannot be those of the commit; nothing if they can."""
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "src", "workflow", "*.yaml"], cwd=PROJECT).returncode:
        yield "the code or a study has changes that are not committed"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--configfile", str(study)]
    plan = subprocess.run([*command, "--dry-run", "--cores", "1"], capture_output=True, text=True)
    if plan.returncode or "Nothing to be done" not in plan.stdout + plan.stderr:
        yield f"{study}: its results are not current; run make sweep STUDY={study} first"


def main() -> None:
    file = Path(sys.argv[1] if len(sys.argv) > 1 else "config.yaml")
    if found := list(problems(file)):
        raise SystemExit("\n".join(f"error: {line}" for line in found))
    study = table.open_file(file)
    results, reference = Path("results") / study.name, PROJECT / "reference" / study.name
    reference.mkdir(parents=True, exist_ok=True)
    for name in [*(f"{name}.parquet" for name in TABLES), "claims.md"]:
        shutil.copy(results / "tables" / name, reference / name)
    if study.name == DEFAULT:
        shutil.copy(results / "figures" / "cliff.png", PROJECT / "docs" / "images" / "cliff.png")
        commit = ["git", "rev-parse", "--short", "HEAD"]
        text = subprocess.run(commit, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
        publish(PROJECT / "README.md", BEGIN, END, summary(reference, text))


if __name__ == "__main__":
    main()

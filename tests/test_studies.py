"""The studies that come with the tool: they are valid, and the two of 79 configurations are the same 79."""

import json
from pathlib import Path

import pytest
from sweeps import PROJECT

from sparsity_cliff.study import table
from sparsity_cliff.study.spec import Run, Study

STUDIES = [PROJECT / "config.yaml", *sorted((PROJECT / "workflow" / "studies").glob("*.yaml"))]
FIVE = {"mlp", "resnet", "vit", "gpt", "mpsenet"}  # the architectures of the paper
LARGE = {"paper"}  # their data do not come with the package


def plan(name: str) -> Study:
    return table.load(table.read(PROJECT / "workflow" / "studies" / f"{name}.yaml"))


def configurations(found: Study) -> list[tuple[str, str, str]]:
    """What is counted: real data, a loss of the cliff, and no control activation."""
    fitted = [
        run
        for run in found.runs.values()
        if run.data == "real" and run.loss in found.cliff["losses"] and run.activation not in found.drift["controls"]
    ]
    return list(dict.fromkeys((run.architecture, run.activation, run.normalization) for run in fitted))


def models(found: Study) -> set[str]:
    return {str(json.loads(run.spec)["model"]["function"]) for run in found.runs.values()}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_is_valid(path: Path) -> None:
    assert table.load(table.read(path)).runs


@pytest.mark.parametrize("name", ["paper", "cpu79"])
def test_a_study_of_79_configurations_has_79_over_five_architectures_and_three_seeds(name: str) -> None:
    found = plan(name)
    assert len(configurations(found)) == 79
    assert models(found) == FIVE
    for cell in configurations(found):
        seeds = {seed for run in found.runs.values() if _cell(run) == cell for seed in run.seeds}
        assert len(seeds) >= 3, cell


def _cell(run: Run) -> tuple[str, str, str]:
    return run.architecture, run.activation, run.normalization


def test_the_two_studies_have_the_same_configurations() -> None:
    assert configurations(plan("paper")) == configurations(plan("cpu79"))


@pytest.mark.parametrize("path", [STUDIES[0], PROJECT / "workflow" / "studies" / "smoke.yaml"], ids=lambda p: p.stem)
def test_the_default_and_the_smoke_study_have_all_five_architectures(path: Path) -> None:
    assert models(table.load(table.read(path))) == FIVE


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_what_runs_without_a_network_or_a_folder(path: Path) -> None:
    embedded = {"mnist1d", "digits", "text", "speech"}
    sources = {json.loads(data.spec)["function"] for data in table.load(table.read(path)).datasets.values()}
    assert (sources <= embedded) == (path.stem not in LARGE)

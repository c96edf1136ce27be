"""Reference results: a study that agrees, one that does not, and the command."""

import importlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sweeps import PROJECT, Sweep

from sparsity_cliff.__main__ import main
from sparsity_cliff.analysis.reference import disagreements


@pytest.fixture(scope="module")
def publish_reference() -> Iterator[Any]:
    """benchmarks/publish_reference.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT / "benchmarks")
        yield importlib.import_module("publish_reference")


def study(key: int, shift: float = 0.0, seeds: int = 4) -> pd.DataFrame:
    random = np.random.default_rng(key)
    rows = [
        (architecture, configuration, seed, random.normal(0.7 + shift * (configuration == "topk_90"), 0.01), 0.5)
        for architecture in ("mlp", "vit")
        for configuration in ("relu", "gelu", "topk_80", "topk_90")
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows, columns=["architecture", "configuration", "seed", "score", "sparsity"])


def test_two_runs_of_the_same_study_agree_but_for_one_in_a_thousand() -> None:
    assert sum(disagreements(study(2 * i), study(2 * i + 1)) != [] for i in range(200)) <= 2
    assert disagreements(study(0), study(0)) == []


def test_a_change_beyond_the_noise_is_named_with_both_numbers() -> None:
    lines = disagreements(study(0, shift=0.06), study(1))
    assert [line.partition(":")[0] for line in lines] == ["mlp · topk_90", "vit · topk_90"]
    assert all("score 0.7" in line and "reference 0." in line for line in lines)
    assert disagreements(study(0).assign(sparsity=0.6), study(1))[0].startswith("mlp · gelu: sparsity 0.6000")


def test_missing_configurations_and_single_seeds_are_named() -> None:
    whole = study(0)
    part = whole[whole["configuration"] != "gelu"]
    assert disagreements(part, whole) == [f"{name} · gelu: only in the reference" for name in ("mlp", "vit")]
    assert disagreements(whole, part) == [f"{name} · gelu: not in the reference" for name in ("mlp", "vit")]
    alone = disagreements(study(0, seeds=1), study(1, seeds=1))
    assert alone[0] == "mlp: one seed of each configuration, which shows no noise"


def test_a_score_that_is_not_a_number_disagrees() -> None:
    broken = study(0)
    broken.loc[0, "score"] = np.nan
    assert any(line.startswith("mlp · relu: score nan") for line in disagreements(broken, study(0)))


def test_the_smoke_study_agrees_with_its_reference(
    finished: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.folder)
    main(["reference", "study.yaml"])
    assert capsys.readouterr().out.startswith("smoke: 13 configurations agree with reference/smoke")
    path = finished.results("tables", "points.parquet")
    points = pd.read_parquet(path)
    points.loc[points["architecture"] == "vit", "score"] += 0.9
    points.to_parquet(path)
    with pytest.raises(SystemExit) as raised:
        main(["reference", "study.yaml"])
    assert "vit · relu: score" in str(raised.value)
    path.write_bytes(b"torn")
    with pytest.raises(SystemExit, match=r"^error: results/smoke/tables/points\.parquet: cannot be read \(.+\)$"):
        main(["reference", "study.yaml"])
    path.unlink()
    with pytest.raises(
        SystemExit, match=r"^error: results/smoke/tables/points\.parquet: missing; run the sweep first$"
    ):
        main(["reference", "study.yaml"])
    points.to_parquet(path)
    reference = finished.folder / "reference"
    (reference / "smoke" / "points.parquet").unlink()
    others = ", ".join(sorted(path.parent.name for path in reference.glob("*/points.parquet")))
    line = f"error: reference/smoke/points.parquet: missing; studies with reference results: {others}"
    with pytest.raises(SystemExit, match=f"^{line}$"):
        main(["reference", "study.yaml"])


def test_the_numbers_of_readme_are_those_of_the_reference_results(publish_reference: Any) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    own = text.partition(publish_reference.BEGIN)[2].partition(publish_reference.END)[0]
    commit = publish_reference.commit_of(PROJECT / "README.md")
    assert own.strip() == "\n\n".join(publish_reference.summary(PROJECT / "reference" / "laptop", commit))


def test_readme_shows_every_answer_about_critical_sparsity(publish_reference: Any, tmp_path: Path) -> None:
    bare = {"architecture": "mlp", "mechanism": "topk()", "level": 0.95, "tolerance": 0.01}
    ends = {"sparsity": 0.83, "low": 0.78, "high": 0.86}
    answers = [
        bare | ends | {"verdict": "bracket"},
        bare | ends | {"verdict": "undecided", "high": np.nan, "tolerance": 0.02},
        bare | {"verdict": "beyond the range measured", "low": 0.999, "tolerance": 0.05},
        bare | {"verdict": "not reached", "high": 0.58, "tolerance": 0.1},
    ]
    pd.DataFrame(answers).to_parquet(tmp_path / "critical.parquet")
    falls = [(0.01, "cliff"), (0.02, "gradual decline")]
    cliff = pd.DataFrame(falls, columns=["start", "verdict"]).assign(architecture="mlp", mechanism="topk()")
    cliff.to_parquet(tmp_path / "cliff.parquet")
    row = "| MLP | `topk` | at 83 % [78, 86] | in [78, …] | above 99.9 % | below 58 % | gradual decline |"
    assert publish_reference.affordable(tmp_path).splitlines()[2:] == [row]


def test_only_current_results_of_committed_code_are_published(
    publish_reference: Any, finished: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a", *words], cwd=finished.folder, check=True)

    def problems() -> list[str]:
        return list(publish_reference.problems(Path("study.yaml")))

    monkeypatch.chdir(finished.folder)
    monkeypatch.setattr(publish_reference, "PROJECT", finished.folder)
    git("init", "--quiet")
    git("add", "src", "workflow", "study.yaml")
    git("commit", "--quiet", "--message", "all")
    assert problems() == []
    current = "study.yaml: its results are not current; run make sweep STUDY=study.yaml first"
    finished.results("tables", "cliff.parquet").write_bytes(b"torn")
    assert problems() == [current]
    path = finished.folder / "src" / "sparsity_cliff" / "analysis" / "cliff.py"
    path.write_text(path.read_text() + "# a comment\n")
    assert problems() == ["the code or a study has changes that are not committed", current]

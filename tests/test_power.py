"""The power of a study before it is run: what it plans, and that more seeds narrow what it expects."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from sparsity_cliff.study import table

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def power() -> Iterator[Any]:
    """benchmarks/power.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROJECT / "benchmarks")
        yield importlib.import_module("power")


def study(**seeds: list[int | str]) -> table.Study:
    """The MLP's cross-entropy runs of the default study. seeds: activation -> its seeds."""
    config = yaml.safe_load((PROJECT / "config.yaml").read_text(encoding="utf-8"))
    config["grid"] = [
        {"architectures": ["mlp"], "activations": [name], "losses": ["cross_entropy"], "seeds": values}
        for name, values in seeds.items()
    ]
    config["cliff"]["losses"], config["drift"]["controls"] = ["cross_entropy"], []
    return table.load(config)


LEVELS = ["topk_62", "topk_66", "topk_70", "topk_74", "topk_78", "topk_82", "topk_86", "topk_90", "topk_95"]


def test_designs_are_the_curves_that_a_study_plans(power: Any) -> None:
    plan = study(relu=["0-8"], topk_70=["0-2", 3], topk_90=["0-1"], gelu=["0-3"])
    (found,) = power.designs(plan)
    assert (found.architecture, found.targets, found.seeds, found.reference) == ("mlp", [0.7, 0.9], [4, 2], 9)
    assert found.mechanism == "topk(base=relu, by=value, over=example)"


@pytest.mark.parametrize("resample", [False, True])
def test_more_seeds_narrow_the_expected_bracket(power: Any, resample: bool) -> None:
    widths = []
    for last in (1, 39):
        plan = study(relu=[f"0-{4 * last + 3}"], **{name: [f"0-{last}"] for name in LEVELS})
        found = power.power(plan, PROJECT / "reference" / "laptop", 10, resample).set_index("tolerance")
        assert found.loc[0.05, "levels"] == len(LEVELS)
        widths.append(found["half-width"].sum())
    assert widths[1] < widths[0]


def test_a_curve_that_no_finished_study_has_is_named_without_numbers(power: Any) -> None:
    plan = study(relu=["0-8"], quantile_90=["0-2"])
    found = power.power(plan, PROJECT / "reference" / "laptop", 5, False)
    assert found[["architecture", "levels", "seeds", "reference"]].to_numpy().tolist() == [["mlp", 1, 3, 9]]
    assert "half-width" not in found


def test_the_published_table_puts_what_was_promised_beside_what_was_measured(power: Any) -> None:
    tables = PROJECT / "reference" / "laptop"
    _, _, *rows = power.compared(study(relu=["0-7"], **{name: ["0-3"] for name in LEVELS}), tables, 5).splitlines()
    found = pd.read_parquet(tables / "critical.parquet").query("architecture == 'mlp' and tolerance == 0.05")
    (measured,) = (found["high"] - found["low"])[found["mechanism"].str.startswith("topk")]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert [cells[0], cells[1], cells[2], cells[-1]] == ["mlp", str(len(LEVELS)), "8, 4", f"{50 * measured:.1f}"]
    assert len(rows) == 1
    assert all(0 < float(cell) < 50 for cell in cells[4:6])

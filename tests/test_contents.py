"""Data of one's own: what lies in the files that a study names."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeps import PROJECT

from sparsity_cliff.study import contents, digests, reading, table

MODULE = """
from pathlib import Path
import numpy as np
KIND = "signal"
SHAPE = (4,)


def table(root: Path, *, path: str, more: list[str] = ("none",), version: int = 1, how: str = "csv") -> dict:
    rows = np.loadtxt(path, delimiter=",")
    x, y = rows[:, :4].astype(np.float32), rows[:, 4].astype(np.int64)
    return {"x_train": x[:30], "y_train": y[:30], "x_test": x[30:], "y_test": y[30:]}
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of one's own, a table and another one; the working directory."""
    (tmp_path / "lab.py").write_text(MODULE)
    (tmp_path / "mine.csv").write_text("1,2,3,4,0\n" * 40)
    (tmp_path / "other.csv").write_text("1,2,3,4,1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    digests.forget()
    yield tmp_path
    digests.forget()


def config(**options: object) -> reading.Config:
    found = table.read(PROJECT / "workflow" / "studies" / "smoke.yaml")
    found["data"]["mnist1d"] = {"function": "lab:table", "path": "mine.csv", **options}
    found["architectures"]["mlp"]["batch_size"] = 8
    return found


def specs(**options: object) -> tuple[dict[str, str], str]:
    """Specs of the runs on the data set, and the name of its file."""
    plan = table.load(config(**options))
    return {run.id: run.spec for run in plan.runs.values() if run.dataset == "mnist1d"}, plan.datasets["mnist1d"].file


def test_a_changed_file_is_other_data_and_a_touched_one_is_not(lab: Path) -> None:
    before = specs()
    os.utime(lab / "mine.csv", (1e9, 1e9))
    assert specs() == before
    text = (lab / "mine.csv").read_text()
    (lab / "mine.csv").write_text(text.replace("4,0", "5,0", 1))  # as long as before
    os.utime(lab / "mine.csv", (1e9, 1e9))  # and as old
    after = specs()
    assert before[1] != after[1]
    assert before[0].keys() == after[0].keys()
    assert all(before[0][run] != after[0][run] for run in after[0])
    (lab / "mine.csv").write_text(text)
    assert specs() == before


def test_the_reason_names_the_file(lab: Path) -> None:
    from sparsity_cliff.traces import reader

    before = next(iter(specs()[0].values()))
    (lab / "mine.csv").write_text("1,2,3,4,1\n" * 40)
    assert reader.difference(before, next(iter(specs()[0].values()))).startswith("data.contents.mine.csv changed from ")


def test_lists_and_folders_count_and_other_texts_do_not(lab: Path) -> None:
    (lab / "folder" / "below").mkdir(parents=True)
    (lab / "folder" / "below" / "a.txt").write_text("a")
    entry = {
        "function": "lab:table",
        "path": "folder",
        "more": ["mine.csv", "no such file"],
        "version": 1,
        "how": "csv",
    }
    before = contents.of_entry(entry)
    assert before.keys() == {"folder", "mine.csv"}
    (lab / "folder" / "below" / "a.txt").rename(lab / "folder" / "below" / "b.txt")
    assert contents.of_entry(entry)["folder"] != before["folder"]
    (lab / "folder" / "below" / "b.txt").rename(lab / "folder" / "below" / "a.txt")
    assert contents.of_entry(entry) == before
    (lab / "other.csv").write_text("not named")
    assert contents.of_entry(entry) == before


def test_a_declared_version_is_other_data(lab: Path) -> None:
    assert specs(version=2)[1] != specs()[1]


def test_built_in_data_names_no_files() -> None:
    plan = table.load(table.read(PROJECT / "config.yaml"))
    assert not any(dataset.contents for dataset in plan.datasets.values())


def test_a_large_file_is_read_once_until_it_changes(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "LARGE", 100)
    read: list[str] = []
    digest = contents._read
    monkeypatch.setattr(contents, "_read", lambda path: read.append(path) or digest(path))
    first = specs()
    assert specs() == first
    assert read == ["mine.csv"]
    (lab / "mine.csv").touch()
    assert specs() == first
    assert read == ["mine.csv"] * 2
    stat = os.stat(lab / "mine.csv")
    (lab / "mine.csv").write_text((lab / "mine.csv").read_text().replace("4,0", "5,0"))
    os.utime(lab / "mine.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # size and time as before
    assert specs() != first
    contents.KEPT.write_text("{")  # torn
    specs()
    assert json.loads(contents.KEPT.read_text())


def test_a_file_that_cannot_be_read_is_one_line(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> str:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(contents, "_read", fail)
    with pytest.raises(reading.StudyError, match=r"data\.mnist1d: mine\.csv: cannot be read \(Input/output error\)"):
        specs()

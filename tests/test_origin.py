"""What tables and figures say of their origin."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sparsity_cliff.figures.style import save
from sparsity_cliff.traces import files, origin

ORIGIN = "0123456789abcdef" * 4


def test_a_table_carries_its_origin_and_is_read_as_it_was(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": pd.Categorical(["a", "b"]), "value": [1.5, float("nan")], "n": [1, 2]})
    origin.write_table(table, tmp_path / "table.parquet", ORIGIN)
    assert origin.of(tmp_path / "table.parquet") == ORIGIN
    pd.testing.assert_frame_equal(origin.read_table(tmp_path / "table.parquet"), table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_a_figure_carries_its_origin(tmp_path: Path, kind: str) -> None:
    figure = plt.figure(figsize=(1, 1))
    save(figure, tmp_path / f"figure.{kind}", ORIGIN)
    plt.close(figure)
    assert origin.of(tmp_path / f"figure.{kind}") == ORIGIN
    assert [path.name for path in tmp_path.iterdir()] == [f"figure.{kind}"]


@pytest.mark.parametrize("kind", ["csv", "md"])
def test_a_text_carries_its_origin_in_a_comment(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"table.{kind}"
    origin.write_text("a,b\n1,ß\n", path, ORIGIN)
    assert origin.of(path) == ORIGIN
    assert path.read_text(encoding="utf-8").startswith("a,b\n1,ß\n")
    if kind == "csv":
        assert pd.read_csv(path, comment="#").to_dict("list") == {"a": [1], "b": ["ß"]}


@pytest.mark.parametrize("name", ["missing.parquet", "torn.parquet", "plain.parquet", "missing.png", "torn.png"])
def test_what_is_not_ours_has_no_origin(tmp_path: Path, name: str) -> None:
    if "torn" in name:
        (tmp_path / name).write_bytes(b"PAR1\x00\xff")
    if "plain" in name:
        pd.DataFrame({"a": [1]}).to_parquet(tmp_path / name)
    assert origin.of(tmp_path / name) is None
    with pytest.raises(origin.UnknownOrigin, match=f"{name}: missing, torn, or not made by this workflow"):
        origin.digest("{}", [tmp_path / name])


def test_the_digest_tells_settings_inputs_and_their_order(tmp_path: Path) -> None:
    for name, digest in (("a", "0" * 64), ("b", "1" * 64)):
        origin.write_table(pd.DataFrame({"x": [1]}), tmp_path / f"{name}.parquet", digest)
    one, two = tmp_path / "a.parquet", tmp_path / "b.parquet"
    digests = {
        origin.digest(own, inputs) for own in ("{}", "[]") for inputs in ([], [one], [two], [one, two], [two, one])
    }
    assert len(digests) == 10
    assert origin.digest("{}", [one]) in digests


def test_half_a_file_is_seen_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), files.whole(path) as temporary:
        print(temporary.write_text("half") / 0)
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("table.txt", "before")]

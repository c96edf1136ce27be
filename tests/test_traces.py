"""Traces: what is written comes back, and nothing but the run's own, whole trace does."""

import hashlib
import json
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsity_cliff.study.spec import Run
from sparsity_cliff.traces import reader, stale, writer
from sparsity_cliff.traces.schema import LABELS, SCHEMA, Fact, TraceError, digest
from sparsity_cliff.training import environment

SPEC = '{"seeds":[0,1],"training":{"steps":2}}'
ABOUT = {"run": "mlp.relu", "spec": SPEC, "status": {"0": "finished", "1": "diverged at step 1"}, "threads": 1}
TEXTS = {"run": "mlp.relu", "architecture": "mlp", "activation": "relu", "loss": "mse", "normalization": "default"}
TEXTS |= {"data": "real"}
FACTS = [
    Fact(0, 0, "test", None, None, "loss", 2.5),
    Fact(0, 0, None, "head.weight", 1, "drift_z", -0.0),
    Fact(1, 2**40, "train", "stem.act", 0, "activation_sparsity", 1 / 3),
    Fact(1, 1, "test", None, None, "loss", float("inf")),
]


def written(path: Path, **about: Any) -> Path:
    writer.write(path, TEXTS, FACTS, ABOUT | about)
    return path


def refusal(path: Path, *expected: str) -> str:
    """What reading `path` is refused with: one line that begins with the path."""
    with pytest.raises(TraceError) as caught:
        reader.read(path, *expected)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# ------------------------------------------------------------------------------------------ whole traces


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    table, about = reader.read(written(tmp_path / "new" / "folder" / "a.parquet"), "mlp.relu", SPEC)
    assert table.schema.equals(SCHEMA)
    assert about == ABOUT
    rows = [{**TEXTS, **vars(fact)} for fact in FACTS]
    assert table.to_pylist() == rows
    assert str(table["value"][1].as_py()) == "-0.0"


@given(
    st.lists(
        st.builds(
            Fact,
            seed=st.integers(0, 2**31 - 1),
            step=st.integers(0, 2**63 - 1),
            split=st.none() | st.sampled_from(["train", "test"]),
            layer=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            depth=st.none() | st.integers(0, 2**15 - 1),
            metric=st.text(st.characters(exclude_categories=["Cs"])),
            value=st.floats(allow_nan=False),
        ),
        max_size=5,
    )
)
def test_any_facts_come_back(tmp_path_factory: pytest.TempPathFactory, facts: list[Fact]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    writer.write(path, TEXTS, facts, ABOUT)
    assert reader.read(path)[0].to_pylist() == [{**TEXTS, **vars(fact)} for fact in facts]


def test_not_a_number_comes_back(tmp_path: Path) -> None:
    writer.write(tmp_path / "a.parquet", TEXTS, [Fact(0, 1, "train", None, None, "loss", float("nan"))], ABOUT)
    (value,) = reader.read(tmp_path / "a.parquet")[0]["value"].to_pylist()
    assert value != value


def test_a_trace_is_readable_without_this_package(tmp_path: Path) -> None:
    frame = pq.read_table(written(tmp_path / "a.parquet")).to_pandas()
    assert frame["metric"].tolist() == [fact.metric for fact in FACTS]
    assert set(LABELS) <= set(frame.columns)


# ------------------------------------------------------------------------------------------ atomic writing


def test_writing_leaves_nothing_but_the_trace(tmp_path: Path) -> None:
    written(tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == ["a.parquet"]


def half_a_table(table: pa.Table, where: Path, **options: Any) -> None:
    where.write_bytes(b"PAR1 and then the disk was full")
    raise OSError("No space left on device")


def test_a_write_that_fails_leaves_the_old_trace_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.parquet")
    before = path.read_bytes()
    monkeypatch.setattr(pq, "write_table", half_a_table)
    with pytest.raises(OSError, match="No space"):
        written(path, threads=2)
    assert os.listdir(tmp_path) == ["a.parquet"]
    assert path.read_bytes() == before


def test_the_file_is_whole_when_its_name_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = []

    def watch(old: Path, new: Path) -> None:
        assert reader.read(old, "mlp.relu", SPEC)[1] == ABOUT
        assert not new.exists()
        renamed.append(new)

    monkeypatch.setattr(os, "replace", watch)
    written(tmp_path / "a.parquet")
    assert renamed == [tmp_path / "a.parquet"]


# ------------------------------------------------------------------------------------------ refusals


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.parquet") == "trace missing"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"run,seed\n1,2\n" * 99], ids=["empty", "magic only", "csv"])
def test_what_is_not_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    assert refusal(path).startswith("not a readable trace (")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_trace_is_refused(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "not a readable trace" in refusal(path)


@cache
def good(folder: Path) -> tuple[bytes, list[Any], dict[str, Any]]:
    path = written(folder / "good.parquet")
    table, about = reader.read(path)
    return path.read_bytes(), table.to_pylist(), about


def flip(folder: Path, place: int, mask: int) -> None:
    """Change one byte of a good trace: reading it must refuse it, or find all that was written."""
    content, rows, about = good(folder)
    flipped = bytearray(content)
    flipped[place] ^= mask
    path = folder / "flipped.parquet"
    path.write_bytes(flipped)
    try:
        table, read = reader.read(path, "mlp.relu", SPEC)
    except TraceError:
        refusal(path, "mlp.relu", SPEC)
    else:
        assert (table.to_pylist(), read) == (rows, about), f"byte {place}"


@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: float, mask: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    flip(folder, int(place * len(good(folder)[0])), mask)


def test_a_changed_page_header_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    # the page checksums do not cover these, and a wrong number of values there is no error of the Parquet reader
    group = pq.ParquetFile(pa.BufferReader(good(tmp_path)[0])).metadata.row_group(0)
    columns = [group.column(SCHEMA.get_field_index(name)) for name in ("run", "layer", "value")]
    for start in {place for c in columns for place in (c.dictionary_page_offset, c.data_page_offset) if place}:
        for place in range(start, start + 20):
            flip(tmp_path, place, 0x80)


def test_changed_rows_or_metadata_do_not_match_the_checksum(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet")
    table = pq.read_table(path)
    payload = json.loads(table.schema.metadata[b"sparsity_cliff"])
    nicer = table.set_column(table.schema.get_field_index("value"), SCHEMA.field("value"), pa.array([0.0] * 4))
    other = payload | {"about": json.dumps(ABOUT | {"spec": "{}"})}
    bare = {"about": payload["about"]}
    for changed, said in ((nicer, payload), (table, other), (table[:2], payload), (table, bare)):
        pq.write_table(changed.replace_schema_metadata({b"sparsity_cliff": json.dumps(said)}), path)
        assert "do not match the checksum" in refusal(path)


@pytest.mark.parametrize("metadata", [None, {"other": "{}"}, {"sparsity_cliff": "[]"}, {"sparsity_cliff": "no JSON"}])
def test_a_file_without_our_metadata_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = written(tmp_path / "a.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    assert "not a readable trace" in refusal(path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet")
    table = pq.read_table(path)
    text = table.set_column(0, "run", table["run"].cast(pa.string()))  # same values, another type
    for changed in (table.drop_columns(["depth"]), table.append_column("more", table["seed"]), text):
        pq.write_table(changed, path, store_schema=True)
        assert "columns are not those of a trace" in refusal(path)


def test_another_runs_trace_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet")
    assert refusal(path, "mlp.gelu") == "this is the trace of mlp.relu, not of mlp.gelu; delete it and run again"


def test_another_specs_trace_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet")
    says = refusal(path, "mlp.relu", SPEC.replace('"steps":2', '"steps":300'))
    assert says == "made with another spec (training.steps changed from 2 to 300); delete it and run again"


# ------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": "x"}}}, 'a.b.c changed from 1 to "x"'),
        ({"a": 1}, {"a": 1, "b": None}, "b is new: null"),
        ({"a": 1, "b": [1, 2]}, {"a": 1}, "b is gone: was [1, 2]"),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, "a changed from 1 to 2; b changed from 1 to 2"),
        ({"a": {"b": 1}}, {"a": 2}, "a is new: 2; a.b is gone: was 1"),
    ],
)
def test_difference_says_what_changed(old: Any, new: Any, words: str) -> None:
    assert reader.difference(json.dumps(old), json.dumps(new)) == words


def test_versions_name_what_can_change_a_number() -> None:
    found = environment.versions()
    assert found["pyarrow"] == pa.__version__
    assert set(found) == {"python", "sparsity_cliff", "torch", "numpy", "pyarrow"}


@pytest.mark.parametrize(
    ("cpuinfo", "named", "kind", "expected"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 9J14\nflags\t: fpu\n", "", "x86_64", "AMD EPYC 9J14"),
        ("processor\t: 0\nCPU part\t: 0xd40\n", "", "aarch64", "aarch64"),  # Linux on ARM has no model name
        (None, "arm", "arm64", "arm"),  # macOS
        (None, "", "arm64", "arm64"),
    ],
)
def test_the_processor_is_named_as_well_as_the_system_can(
    cpuinfo: str | None, named: str, kind: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if cpuinfo is None:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: named)
    monkeypatch.setattr(platform, "machine", lambda: kind)
    assert environment.processor() == expected


# ------------------------------------------------------------------------------------------ digests


def plain_digest(table: pa.Table, about: str) -> str:
    """The digest of a table, computed from its values one by one."""
    sha = hashlib.sha256(about.encode())
    for field in SCHEMA:
        values = table[field.name].to_pylist()
        present = [value for value in values if value is not None]
        kind = field.type
        if pa.types.is_dictionary(kind):
            names = list(dict.fromkeys(present))
            sha.update(json.dumps(names).encode())
            values, kind = [None if value is None else names.index(value) for value in values], kind.index_type
        sha.update(bytes(value is not None for value in values))
        filled = [0 if value is None else value for value in values]
        sha.update(pa.array(filled, kind).to_numpy(zero_copy_only=False).tobytes())
    return sha.hexdigest()


def test_the_digest_covers_the_values_and_not_their_encoding(tmp_path: Path) -> None:
    table, _ = reader.read(written(tmp_path / "a.parquet"))
    expected = plain_digest(table, "about")
    names = ["unused", *table["metric"].unique().to_pylist(), "loss"]  # another order, and one name twice
    first = pa.array([names.index(name) for name in table["metric"].to_pylist()], pa.int32())
    codes = pa.array([first[0].as_py(), *first.to_pylist()[1:-1], len(names) - 1], pa.int32())
    place = SCHEMA.get_field_index("metric")
    for indices in (first, codes):
        column = pa.DictionaryArray.from_arrays(indices, pa.array(names))
        assert digest(table.set_column(place, SCHEMA.field("metric"), column), "about") == expected
    assert digest(pa.concat_tables([table[:1], table[1:]]), "about") == expected
    assert digest(table[:0], "") == plain_digest(table[:0], "")
    assert digest(table[1:], "about") != expected


# ------------------------------------------------------------------------------------------ the answer at a sweep's end


def test_a_trace_is_read_again_only_if_its_file_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {key: TEXTS[key] for key in ("architecture", "activation", "normalization", "loss", "data")}
    run = Run("mlp.relu", **labels, seeds=(0, 1), dataset="digits", spec=SPEC, code="{}", processes=1, gpus=0)
    assert stale.why_run_again(run, tmp_path) == stale.why_run(run, tmp_path) == "new"
    path = written(tmp_path / "traces" / "mlp.relu.parquet", code={})
    read, count = reader.read, 0

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return read(*arguments)

    monkeypatch.setattr(reader, "read", counted)
    assert [stale.why_run_again(run, tmp_path) for _ in range(3)] == [stale.UP_TO_DATE] * 3
    assert count == 1
    written(path, code={"a": "b"})
    assert stale.why_run_again(run, tmp_path) == "code of a changed"
    path.write_bytes(path.read_bytes()[:-9])
    assert stale.why_run_again(run, tmp_path).startswith("trace refused: ")
    assert count == 3
    path.unlink()
    assert stale.why_run_again(run, tmp_path) == "new"

"""The plugin's folder among files of others, and with damaged files: nothing of others is lost, no job is forgotten."""

import errno
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flows import Flow

from snakemake_executor_plugin_submitit import ledger
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger, LedgerError, Submission

DAY = 86400


class Book(Ledger):
    """A ledger that keeps what it warns of."""

    def __init__(self, folder: Path):
        self.told: list[str] = []
        super().__init__(folder, self.told.append)

    def saved(self, jobs: int = 1, **changes: Any) -> Submission:
        content: dict[str, Any] = {
            "backend": "slurm",
            "entries": [Entry(f"key{i}", "work", f"i={i}", [f"out/{i}.txt"]) for i in range(jobs)],
            "allocations": [[i] for i in range(jobs)],
            "parallel": False,
            "gpus": 0,
            "requeue": True,
            "requeue_limit": 100,
        }
        made = self.new("work", **(content | changes))
        made.folder.mkdir()
        made.save()
        return made


@pytest.fixture
def open_book() -> Iterator[Callable[[Path], Book]]:
    made: list[Book] = []

    def do(folder: Path) -> Book:
        made.append(Book(folder))
        return made[-1]

    yield do
    for book in made:
        book.release()


def over(made: Submission) -> Submission:
    """As it is a year after its jobs have ended."""
    for number in range(len(made.entries)):
        made.close(number, "success")
    then = time.time() - 365 * DAY
    os.utime(made.folder, (then, then))
    return made


def tree(folder: Path) -> dict[str, str]:
    """What lies in a folder: texts of files, targets of links."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_text(errors="replace")
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def foreign(folder: Path) -> None:
    """Old folders of others: a repository, results, two that look like a submission, one with a copied submission."""
    for name in (".git/objects", "x/deep", "20260101-000000-deadbeef", "20260101-000000-cafecafe/more", "copy"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("precious")
    content = {"entries": [], "allocations": [], "name": "mine", "backend": "slurm"}
    for name in ("x", "20260101-000000-cafecafe"):
        (folder / name / "submission.json").write_text(json.dumps(content))
    for path in [*folder.rglob("*")]:
        os.utime(path, (0, 0))


@pytest.mark.parametrize("through_link", [False, True])
def test_nothing_that_the_ledger_did_not_make_is_removed(
    tmp_path: Path, open_book: Callable[[Path], Book], through_link: bool
) -> None:
    """As with --submitit-folder results, or with a folder that is a link to another one."""
    place = tmp_path / "results"
    place.mkdir()
    foreign(place)
    folder = tmp_path / "link" if through_link else place
    if through_link:
        folder.symlink_to(place)
    before = tree(place)
    book = open_book(folder)
    made = over(book.saved())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = over(book.saved())
    moved.folder.rename(elsewhere / moved.folder.name)
    moved.folder.symlink_to(elsewhere / moved.folder.name)
    copied = place / f"20260101-000000-{'0' * 8}"
    copied.mkdir()
    for name in ("submission.json", "closed"):
        (copied / name).write_text((made.folder / name).read_text())
    os.utime(copied, (0, 0))
    kept = tree(elsewhere)
    for days in (0, 10):
        book.clean(days, keep_successful=False)
    assert not made.folder.exists()
    assert moved.folder.is_symlink()
    assert tree(elsewhere) == kept
    after = tree(place)
    assert {name: after[name] for name in before} == before
    assert (copied / "submission.json").exists()


def test_of_an_old_submission_only_the_plugins_files_go(tmp_path: Path, open_book: Callable[[Path], Book]) -> None:
    book = open_book(tmp_path / "own")
    made = book.saved()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    for name in ("0.sh", "0.log", "0.json", "id", "12_0_log.out", "12_submitted.pkl", ".0.json.77"):
        (made.folder / name).touch()
    (made.folder / "12_result.pkl").symlink_to(precious / "file")
    (made.folder / "1.log").symlink_to(precious)
    for name in ("notes.txt", "0.log.mine"):
        (made.folder / name).write_text("precious")
    (made.folder / "analysis").mkdir()
    over(made)
    book.clean(0, keep_successful=False)
    assert sorted(tree(made.folder)) == ["0.log.mine", "analysis", "notes.txt"]
    assert tree(precious) == {"file": "precious"}
    over(plain := book.saved())
    book.clean(0, keep_successful=False)
    assert not plain.folder.exists()


def test_a_submission_that_could_not_be_saved_leaves_no_folder_that_nobody_would_remove(
    tmp_path: Path, open_book: Callable[[Path], Book]
) -> None:
    """Killed between: an empty folder, which costs nothing, and is left alone."""
    book = open_book(tmp_path)
    made = book.saved()
    (made.folder / "submission.json").unlink()
    assert list(book.submissions()) == []
    assert book.told == []


# ------------------------------------------------------------------------------------------ lock and map


def hostile(path: Path, kind: str) -> None:
    """Something at a path where the plugin expects a file of its own."""
    target = path.with_name("target")
    target.write_text("precious")
    {
        "link": lambda: path.symlink_to(target),
        "hard link": lambda: path.hardlink_to(target),
        "dangling link": lambda: path.symlink_to(path.with_name("nowhere")),
        "folder": lambda: path.mkdir(),
        "pipe": lambda: os.mkfifo(path),
        "bytes": lambda: path.write_bytes(b"\xff\xfe\0"),
        "text": lambda: path.write_text("of another program\n"),
    }[kind]()


KINDS = ("link", "hard link", "dangling link", "folder", "pipe", "bytes", "text")


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_not_the_plugins_is_refused_by_name_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    hostile(folder / "lock", kind)
    before = {name: text for name, text in tree(folder).items() if name != "lock" or kind in ("text", "hard link")}
    with pytest.raises(LedgerError) as error:
        Ledger(folder)
    assert (
        str(error.value)
        == f"{folder}/lock: not a lock file of this plugin; remove it, or use another --submitit-folder"
    )
    assert (folder / "target").read_text() == "precious"
    if kind not in ("bytes", "pipe"):
        assert {name: text for name, text in tree(folder).items() if name in before} == before


def test_a_lock_of_before_is_taken(tmp_path: Path) -> None:
    for text in ("", "process 17 on login-1.site\n", "process 1"):
        (tmp_path / "lock").write_text(text)
        Ledger(tmp_path).release()


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_is_not_the_plugins_is_named_once_and_left_as_it_is(
    tmp_path: Path, open_book: Callable[[Path], Book], kind: str
) -> None:
    book = open_book(tmp_path / "own")
    path = tmp_path / "own" / "map.tsv"
    hostile(path, kind)
    made = over(book.saved())
    for _ in range(3):
        book.tell("submitted", made, 0)
    book.clean(0, keep_successful=False)
    assert not made.folder.exists()
    assert book.told == [f"{path}: not a map of this plugin; job events are not recorded there"]
    assert path.with_name("target").read_text() == "precious"
    assert not path.with_name("nowhere").exists()
    if kind == "text":
        assert path.read_text() == "of another program\n"


def test_rows_that_the_plugin_did_not_write_stay_in_the_map(tmp_path: Path, open_book: Callable[[Path], Book]) -> None:
    book = open_book(tmp_path)
    made = book.saved()
    odd = Entry("key", "work", "i=\udcff a\tb\nc\u2028d", [])  # a wildcard from a file name of any bytes
    over(other := book.saved(entries=[odd]))
    book.tell("submitted", made, 0)
    book.tell("success", other, 0)
    rows = (tmp_path / "map.tsv").read_bytes().split(b"\n")
    assert rows[2].split(b"\t")[4] == b"i=\xff a b c d"
    with open(tmp_path / "map.tsv", "ab") as file:
        file.write(b"a note of mine \xfe\nx/y\t../../0.log\n")
    book.clean(0, keep_successful=False)
    rows = (tmp_path / "map.tsv").read_bytes().splitlines()
    assert [row.split(b"\t")[-1] for row in rows[1:]] == [
        f"{made.folder.name}/0.log".encode(), b"a note of mine \xfe", b"../../0.log",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ damaged submissions


def change(**changes: Any) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return do


def without(name: str) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        content = json.loads(path.read_text())
        del content[name]
        path.write_text(json.dumps(content))

    return do


def text(content: str | bytes) -> Callable[[Path], None]:
    return lambda path: void(path.write_bytes(content if isinstance(content, bytes) else content.encode()))


def void(_: object) -> None:
    pass


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def do(path: Path) -> None:
        path.unlink()
        make(path)

    return do


ENTRY = {"key": "k", "rule": "work", "wildcards": "", "outputs": [], "rounds": 0}
DAMAGES = {
    "empty": text(""),
    "torn": lambda path: path.write_text(path.read_text()[:100]),
    "bytes": text(b"\xff\xfe\0\0"),
    "deep": text("[" * 100_000),
    "list": text("[1, 2]"),
    "number": text("7"),
    "null": text("null"),
    "foreign": text('{"name": "my-paper", "version": 2}'),
    "folder": replaced(Path.mkdir),
    "link": replaced(lambda path: path.symlink_to("/etc/passwd")),
    "dangling link": replaced(lambda path: path.symlink_to("nowhere")),
    "pipe": replaced(os.mkfifo),
    "without a name": without("name"),
    "without jobs": without("entries"),
    "jobs no list": change(entries=5),
    "jobs a text": change(entries="abc"),
    "a job no object": change(entries=[1]),
    "a job without a key": change(entries=[{"rule": "work"}]),
    "a rule no text": change(entries=[ENTRY | {"rule": 3}]),
    "outputs no list": change(entries=[ENTRY | {"outputs": "out/0.txt"}]),
    "rounds negative": change(entries=[ENTRY | {"rounds": -1}]),
    "allocations of none": change(allocations=[]),
    "allocation of another job": change(allocations=[[7]]),
    "allocation twice": change(allocations=[[0], [0]]),
    "allocations no numbers": change(allocations=[["0"]]),
    "parallel no switch": change(parallel="no"),
    "limit no number": change(requeue_limit="many"),
    "another folder's name": change(name="work-00000000"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_submission_is_named_and_left_alone_and_the_others_are_read(
    tmp_path: Path, open_book: Callable[[Path], Book], damage: str
) -> None:
    book = open_book(tmp_path)
    good, bad = book.saved(), over(book.saved())
    DAMAGES[damage](bad.folder / "submission.json")
    for _ in range(2):
        assert [one.name for one in book.submissions()] == [good.name]
        book.clean(0, keep_successful=False)
    assert len(book.told) == 1
    assert book.told[0].startswith(f"{bad.folder}/submission.json: ")
    assert book.told[0].endswith("; its jobs are not watched, and its folder must be removed by hand")
    assert len(book.told[0].splitlines()) == 1
    assert (bad.folder / "closed").exists()


def test_the_id_of_what_cannot_be_read_is_said(tmp_path: Path, open_book: Callable[[Path], Book]) -> None:
    book = open_book(tmp_path)
    for content in (b"12", b"\x1b[2J"):
        made = book.saved()
        (made.folder / "submission.json").write_text("")
        (made.folder / "id").write_bytes(content)
    assert list(book.submissions()) == []
    assert sorted("its jobs (id 12) are not watched" in told for told in book.told) == [False, True]
    assert not any("\x1b" in told for told in book.told)


def test_fields_of_another_version_are_named_and_ignored(tmp_path: Path, open_book: Callable[[Path], Book]) -> None:
    book = open_book(tmp_path)
    made = book.saved()
    path = made.folder / "submission.json"
    content = json.loads(path.read_text())
    content["entries"][0]["priority"] = 3
    path.write_text(json.dumps(content | {"cluster": "big"}))
    assert list(book.submissions()) == [made]
    assert book.told == [f"{path}: written by another version; ignoring 'cluster', 'priority'"]


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"12", ["12_0", "12_1"]),
        (b"", []),
        (b"\xff\xfe", []),
        (b"twelve", []),
        (b"12 13", []),
        (b"12\n13", []),
        (b"-1", []),
        (b"0", []),
        (b"99999999999999999999", []),
        (b"4294901759", []),  # for which squeue 22.05 refuses the whole question
        (None, []),  # a folder
    ],
)
def test_a_damaged_id_is_looked_for_by_its_name(
    tmp_path: Path, open_book: Callable[[Path], Book], content: bytes | None, ids: list[str]
) -> None:
    book = open_book(tmp_path)
    made = book.saved(jobs=2)
    path = made.folder / "id"
    path.mkdir() if content is None else path.write_bytes(content)
    assert [one.ids for one in book.submissions()] == [ids]
    assert len(book.told) == (0 if ids or content == b"" else 1)
    assert all(told.startswith(f"{path}: ") and told.endswith("; looking for its job by name") for told in book.told)


@pytest.mark.parametrize("name", ["closed", "starts"])
def test_damaged_lines_are_named_and_skipped(tmp_path: Path, open_book: Callable[[Path], Book], name: str) -> None:
    book = open_book(tmp_path)
    made = book.saved(jobs=3)
    made.close(1, "success")
    made.start(0, "12_0")
    path = made.folder / name
    with open(path, "ab") as file:
        file.write(b"x y\n\xff\n\n-1 success\n9999 success\n2\n0 suc")
    for _ in range(2):
        assert made.closed() == {1: "success"}
        assert (made.starts(0), made.starts(1)) == (1, 0)
        assert made.started_ids[0] == "12_0"
    assert len(book.told) == 1
    assert book.told[0].startswith(f"{path}: ")
    path.unlink()
    path.mkdir()
    assert (made.closed() if name == "closed" else made.started_ids) in ({}, [])
    assert book.told[1] == f"{path}: cannot be read ({os.strerror(errno.EISDIR)}); treated as empty"


OUTCOMES: dict[str, str | bytes | None] = {
    "empty": "",
    "torn": '{"outcome": "succ',
    "bytes": b"\xff\xfe",
    "list": "[]",
    "null": "null",
    "unknown": '{"outcome": "splendid"}',
    "rounds missing": '{"outcome": "come back"}',
    "rounds no number": '{"outcome": "come back", "rounds": "many"}',
    "outcome a list": '{"outcome": ["success"]}',
    "reason a number": '{"outcome": "failure", "reason": 5}',
    "exit a list": '{"outcome": "failure", "exit": [1]}',
    "node null": '{"outcome": "failure", "node": null}',
    "folder": None,
}


def spoil(path: Path, kind: str) -> None:
    content = OUTCOMES[kind]
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("kind", OUTCOMES)
def test_a_damaged_outcome_is_named_once_and_is_none(
    tmp_path: Path, open_book: Callable[[Path], Book], kind: str
) -> None:
    book = open_book(tmp_path)
    made = book.saved()
    path = made.folder / "0.json"
    spoil(path, kind)
    for _ in range(3):
        assert made.outcome(0) is None
        assert made.finished_at(0) is None
    assert len(book.told) == 1
    assert book.told[0].startswith(f"{path}: ")
    assert book.told[0].endswith("; SLURM's state is used instead")


def test_a_folder_that_somebody_removed_is_no_error(tmp_path: Path, open_book: Callable[[Path], Book]) -> None:
    book = open_book(tmp_path / "own")
    made = book.saved()
    made.folder.rename(tmp_path / made.folder.name)
    for path in (tmp_path / "own").iterdir():
        path.unlink()
    (tmp_path / "own").rmdir()
    book.clean(0, keep_successful=False)
    book.tell("success", made, 0)
    made.close(0, "success")
    made.note_id("12")
    assert list(book.submissions()) == []
    assert (made.outcomes(), made.outcome(0), made.closed()) == (set(), None, {})
    assert book.told == []


def test_no_damage_to_any_file_is_an_error_or_touches_what_is_not_the_plugins(
    tmp_path: Path, open_book: Callable[[Path], Book]
) -> None:
    """200 rounds of random damage to random files of a folder that others use, too."""
    draw = random.Random(10)
    book = open_book(tmp_path)
    foreign(tmp_path)
    before = tree(tmp_path)
    for name in ("lock", "map.tsv"):
        before.pop(name, None)
    for _ in range(200):
        made = book.saved(jobs=2)
        made.note_id("12")
        made.start(0, "12_0")
        made.finish(0, outcome="success")
        over(made)
        book.tell("success", made, 0)
        for _ in range(draw.randint(1, 3)):
            path = made.folder / draw.choice(["submission.json", "id", "starts", "closed", "0.json"])
            damage = draw.choice(["cut", "flip", "folder", "gone"])
            if path.is_dir() or not path.exists():
                continue
            content = bytearray(path.read_bytes())
            if damage == "cut":
                path.write_bytes(content[: draw.randrange(len(content) + 1)])
            elif damage == "flip" and content:
                content[draw.randrange(len(content))] = draw.randrange(256)
                path.write_bytes(content)
            elif damage != "flip":
                path.unlink()
                if damage == "folder":
                    path.mkdir()
        for one in book.submissions():
            one.closed(), one.outcome(0), one.starts(0), one.started_ids, one.finished_at(1)
            assert [one.id_of(number) for number in range(len(one.entries))] if one.ids else True
        book.clean(draw.choice([0, 400]), keep_successful=draw.random() < 0.5)
        after = tree(tmp_path)
        assert {name: after.get(name) for name in before} == before
    with pytest.raises(LedgerError, match=r"submission\.json: damaged"):
        ledger.read(tmp_path / "x")


# ------------------------------------------------------------------------------------------ whole runs

WORK = """
rule all:
    input: expand("out/{i}.txt", i=range(2))
rule work:
    output: "out/{i}.txt"
    shell: "echo begun >> out/{wildcards.i}.starts; sleep {SECONDS}; echo {wildcards.i} > {output}"
"""


def test_a_start_in_a_damaged_ledger_among_files_of_others_runs_all_and_loses_nothing(tmp_path: Path) -> None:
    """With --submitit-folder ., the working directory itself."""
    flow = Flow(tmp_path / "flow", WORK)
    foreign(flow.folder)
    book = Book(flow.folder)
    (flow.folder / "map.tsv").write_bytes(b"\xff\xfe of another program\n")
    for damage in DAMAGES:
        DAMAGES[damage](over(book.saved(backend="local")).folder / "submission.json")
    for spoiled in ("closed", "starts", "id", "0.json"):
        made = over(book.saved(backend="local"))
        (made.folder / spoiled).write_bytes(b"\xff\xfe\n")
    with open(book.saved(backend="local").folder / "closed", "wb") as file:  # what nobody has closed is looked after
        file.write(b"\xff\n")
    book.release()
    (flow.folder / "lock").unlink()
    before = tree(flow.folder)
    output = flow.run("--config", "seconds=0", folder=".")
    assert flow.outputs() == {"0": "0\n", "1": "1\n"}
    assert "Traceback" not in output
    assert '  File "' not in output
    assert output.count("its folder must be removed by hand") == len(DAMAGES) + 1  # and what only looks like ours
    after = tree(flow.folder)
    kept = [name for name in before if not ledger.FOLDER.match(name) or "deadbeef" in name or "cafecafe" in name]
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    assert all(after[name] == before[name] for name in before if name.endswith("/submission.json") and name in after)


def test_a_ledger_that_is_removed_during_a_run_ends_in_the_summary(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", WORK)
    process = flow.start("--keep-going", "--latency-wait", "1", "--config", "seconds=2")
    flow.wait_for("out/0.starts", "out/1.starts")
    shutil.rmtree(flow.folder / ".snakemake/submitit")
    output = flow.finish(process, check=False)
    assert "Traceback" not in output.replace("  | Traceback", "")
    assert output.count("was removed while it ran") == 2
    assert "At least one job did not complete successfully." in output
    flow.run("--config", "seconds=0")
    assert len(flow.outputs()) == 2


def test_a_link_in_the_locks_place_is_refused_before_any_job(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", WORK)
    (flow.folder / "precious").write_text("precious")
    (flow.folder / ".snakemake/submitit").mkdir(parents=True)
    (flow.folder / ".snakemake/submitit/lock").symlink_to("../../precious")
    output = flow.run(check=False)
    assert re.search(
        r"^Error: \S+submitit/lock: not a lock file of this plugin; remove it, or use another", output, re.MULTILINE
    )
    assert "Traceback" not in output
    assert (flow.folder / "precious").read_text() == "precious"
    assert flow.starts() == {}

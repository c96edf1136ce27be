"""The executor plugin without SLURM: its parts on real files and processes, and the local and the debug backend."""

import contextlib
import gc
import linecache
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from flows import RESUMABLE, Flow
from hypothesis import given
from hypothesis import strategies as st
from snakemake import api
from snakemake.common.tests import TestWorkflowsLocalStorageBase
from snakemake.settings import types as settings
from snakemake_interface_common.exceptions import ApiError
from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import _make_sbatch_string

import gpu_claims
from snakemake_executor_plugin_submitit import ExecutorSettings, jobs, ledger, local, report, resources, runner, slurm
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger, LedgerError, Submission
from snakemake_executor_plugin_submitit.members import Member
from snakemake_executor_plugin_submitit.settings import RANGES, check, check_paths

DAY = 86400


SHORT = """
rule all:
    input: expand("out/{i}.txt", i=range(int(config.get("jobs", 2))))
rule work:
    output: "out/{i}.txt"
    shell: "echo begun >> out/{wildcards.i}.starts; sleep {SECONDS}; echo {wildcards.i} > {output}"
"""


def submission(folder: Path, scripts: list[str], **changes: Any) -> Submission:
    """A saved submission of one allocation, whose jobs are these shell scripts, run in `folder`."""
    content: dict[str, Any] = {
        "backend": "local",
        "entries": [Entry(f"key{i}", "work", f"i={i}", [f"out/{i}.txt"]) for i in range(len(scripts))],
        "allocations": [list(range(len(scripts)))],
        "parallel": False,
        "gpus": 0,
        "requeue": True,
        "requeue_limit": 100,
    }
    made = Submission(folder=folder / "submission", name="work-1", **(content | changes))
    made.folder.mkdir(parents=True)
    for number, script in enumerate(scripts):
        made.script(number).write_text(f"cd {folder}\n{textwrap.dedent(script)}\n")
    made.save()
    return made


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------ settings


def refusal(**given: Any) -> str:
    with pytest.raises(ApiError) as error:
        check(ExecutorSettings(**given))
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize(("name", "least", "most"), [(name, *ends) for name, ends in RANGES.items()])
def test_a_number_outside_its_range_is_refused_with_the_range(name: str, least: int, most: float) -> None:
    flag = "--submitit-" + name.replace("_", "-")
    valid = f"{least} or more" if most == inf else f"{least} to {most}"
    assert refusal(**{name: least - 1}) == f"{flag} {least - 1} is not valid; valid: {valid}"
    if most < inf:
        assert refusal(**{name: most + 1}) == f"{flag} {most + 1} is not valid; valid: {valid}"
    for value in (least, min(most, 10**9)):
        good: Any = {name: value}
        check(ExecutorSettings(**good))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"backend": "pbs"}, "--submitit-backend 'pbs' is not valid; valid: slurm, local, debug"),
        ({"backend": None}, "--submitit-backend None is not valid; valid: slurm, local, debug"),
        ({"status_command": "qstat"}, "--submitit-status-command 'qstat' is not valid; valid: auto, sacct, squeue"),
        ({"folder": ""}, "--submitit-folder '' is not valid; valid: a folder that is visible to all nodes"),
    ],
)
def test_a_word_that_is_not_valid_is_refused_with_the_valid_ones(given: dict[str, Any], text: str) -> None:
    assert refusal(**given) == text


def test_every_number_has_a_range() -> None:
    numbers = {name for name, kind in ExecutorSettings.__annotations__.items() if "int" in str(kind)}
    assert numbers == set(RANGES)


def test_a_number_that_is_set_to_nothing_is_its_default() -> None:
    nothing: Any = dict.fromkeys(RANGES)
    unset = ExecutorSettings(**nothing)
    check(unset)
    assert unset == ExecutorSettings()


def test_the_command_line_refuses_a_setting_in_one_line(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT)
    output = flow.run(requeue_limit=-1, check=False)
    assert "Error: --submitit-requeue-limit -1 is not valid; valid: 0 or more" in output.splitlines()
    assert "Traceback" not in output
    assert '  File "' not in output  # nor a part of one
    assert flow.submissions() == []


def test_the_command_line_refuses_resources_in_one_line_before_anything_is_submitted(tmp_path: Path) -> None:
    flow = Flow(
        tmp_path / "flow",
        """
rule all:
    default_target: True
    input: "out/second.txt"
rule first:
    output: "out/first.txt"
    shell: "touch {output}"
rule second:
    input: "out/first.txt"
    output: "out/second.txt"
    resources: mem_gb=4
    shell: "touch {output}"
""",
    )
    output = flow.run(check=False)
    assert re.search(
        r"^Error: unknown resource 'mem_gb' of rule second; did you mean mem_mb\?.*$", output, re.MULTILINE
    )
    assert "Traceback" not in output
    assert '  File "' not in output  # nor a part of one
    folder = flow.folder / ".snakemake/submitit"
    assert [path for path in folder.rglob("*") if path.is_dir()] == []
    assert not (flow.folder / "out/first.txt").exists()


# ------------------------------------------------------------------------------------------ ledger


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small file systems of their own, with the given options; skips where that is not allowed."""
    folders: list[Path] = []

    def mount(*options: str) -> Path:
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=64k", *options]), "none", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"cannot mount: {error}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.release()


def fill(folder: Path) -> None:
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def new(book: Ledger, jobs: int = 1, **changes: Any) -> Submission:
    """A saved submission in a ledger."""
    content: dict[str, Any] = {
        "backend": "local",
        "entries": [Entry(f"key{i}", "work", f"i={i}", [f"out/{i}.txt"]) for i in range(jobs)],
        "allocations": [[i] for i in range(jobs)],
        "parallel": False,
        "gpus": 0,
        "requeue": True,
        "requeue_limit": 100,
    }
    made = book.new("work", **(content | changes))
    made.folder.mkdir()
    made.save()
    return made


def age(made: Submission, days: float) -> None:
    when = time.time() - days * DAY
    os.utime(made.folder, (when, when))


@given(
    rounds=st.integers(0, 1000),
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
    outputs=st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
    switches=st.tuples(st.booleans(), st.booleans()),
)
def test_a_submission_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rounds: int,
    texts: list[str],
    outputs: list[str],
    switches: tuple[bool, bool],
) -> None:
    folder = tmp_path_factory.mktemp("submission")
    entry = Entry(texts[0], texts[1], texts[2], outputs, rounds)
    made = Submission(folder, "work-1", "slurm", [entry, entry], [[0, 1]], switches[0], 2, switches[1], 7)
    made.save()
    assert ledger.read(folder) == made


@pytest.mark.parametrize(
    ("backend", "allocations", "base", "ids"),
    [
        ("slurm", [[0], [1], [2]], "12", ["12_0", "12_1", "12_2"]),  # an array
        ("slurm", [[0, 1, 2]], "12", ["12", "12", "12"]),  # a pack
        ("slurm", [[0, 2], [1]], "12", ["12_0", "12_1", "12_0"]),
        ("local", [[0], [1, 2]], "501 502", ["501", "502", "502"]),
        ("debug", [[0], [1], [2]], "debug debug debug", ["debug"] * 3),
    ],
)
def test_each_job_has_the_id_of_its_allocation_also_for_another_snakemake(
    book: Ledger, backend: str, allocations: list[list[int]], base: str, ids: list[str]
) -> None:
    made = new(book, jobs=3, backend=backend, allocations=allocations)
    assert ledger.read(made.folder).ids == []
    made.note_id(base)
    assert [made.id_of(number) for number in range(3)] == ids
    assert [ledger.read(made.folder).id_of(number) for number in range(3)] == ids


def test_what_the_node_and_snakemake_write_is_read_back(book: Ledger) -> None:
    made = new(book, jobs=2)
    assert (made.outcomes(), made.outcome(0), made.finished_at(0), made.closed(), made.started_ids) == (
        set(), None, None, {}, [],
    )  # fmt: skip
    assert [made.start(0, "12_0"), made.start(1, "12_1"), made.start(0, "12_0")] == [1, 1, 2]
    assert (made.starts(0), made.starts(1), made.started_ids) == (2, 1, ["12_0", "12_1", "12_0"])
    made.finish(1, outcome="failure", exit=3)
    assert made.outcomes() == {1}
    assert made.outcome(1) == {"outcome": "failure", "exit": 3}
    assert made.finished_at(1) == pytest.approx(time.time(), abs=5)
    made.close(0, "back to the queue")
    assert made.closed() == {0: "back to the queue"}


def test_a_file_is_written_whole_or_not_at_all(mounted: Callable[..., Path]) -> None:
    disk = mounted()
    ledger.write(disk / "file", "old")
    with pytest.raises(OSError, match="No space left"):
        ledger.write(disk / "file", "x" * 100_000)
    assert (disk / "file").read_text() == "old"
    assert [path.name for path in disk.iterdir()] == ["file"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "file", ("a" * 100_000, "b" * 100_000)
    ledger.write(path, texts[0])
    code = "import sys, pathlib; from snakemake_executor_plugin_submitit import ledger\n"
    code += "for i in range(300): ledger.write(pathlib.Path(sys.argv[1]), 'ab'[i % 2] * 100_000)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as writer:
        seen = set()
        while writer.poll() is None:
            seen.add(path.read_text())
    assert writer.returncode == 0
    assert seen == set(texts)


HOLDER = """
import sys, pathlib
from snakemake_executor_plugin_submitit.ledger import Ledger
ledger = Ledger(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_holder_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LedgerError) as error:
            Ledger(tmp_path)
        holder.kill()
        holder.wait()
        book = Ledger(tmp_path)
    host = os.uname().nodename
    assert str(error.value) == (
        f"{tmp_path}: in use by another Snakemake (process {holder.pid} on {host}); wait for it or stop it"
    )
    assert (tmp_path / "lock").read_text() == f"process {os.getpid()} on {host}"
    book.release()
    Ledger(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(mounted: Callable[..., Path]) -> None:
    disk = mounted()
    (disk / "used").mkdir()
    (disk / "used/lock").touch()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for folder in (disk, disk / "submitit", disk / "used"):
        with pytest.raises(LedgerError) as error:
            Ledger(folder)
        assert str(error.value) == (
            f"{folder}: not writable (Read-only file system); jobs and their logs are kept there"
        )


def test_a_file_in_the_folders_place_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "submitit").touch()
    with pytest.raises(LedgerError, match=r"^\S+submitit: not writable \(File exists\); jobs and their logs"):
        Ledger(tmp_path / "submitit")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_refused_in_one_line(mounted: Callable[..., Path]) -> None:
    disk = mounted()
    (disk / "submitit").mkdir()
    fill(disk)
    refused = ""
    try:
        Ledger(disk / "submitit")
    except LedgerError as error:
        refused = str(error)
    except OSError:
        pass  # with its traceback goes the open file, so that no other test hears of it
    assert refused.startswith(f"{disk}/submitit: not writable (No space left on device)")
    assert len(refused.splitlines()) == 1


def test_submissions_are_listed_oldest_first_and_only_those_that_were_saved(tmp_path: Path, book: Ledger) -> None:
    made = [new(book) for _ in range(2)]
    for number, one in enumerate(reversed(made)):
        one.folder = one.folder.rename(tmp_path / f"2026010{number}-000000-{one.folder.name[-8:]}")
    (tmp_path / "20260109-000000-00000000").mkdir()  # Snakemake was killed before it could save it
    assert [one.folder for one in book.submissions()] == [made[1].folder, made[0].folder]


def test_the_map_has_a_row_for_each_event(tmp_path: Path, book: Ledger) -> None:
    made = new(book, jobs=2, backend="slurm")
    book.tell("failure", made, 0)  # before it had an id
    made.note_id("12")
    book.tell("submitted", made, 1)
    rows = [line.split("\t") for line in (tmp_path / "map.tsv").read_text().splitlines()]
    assert rows[0] == ["time", "event", "id", "rule", "wildcards", "log"]
    assert [row[1:] for row in rows[1:]] == [
        ["failure", "", "work", "i=0", f"{made.folder.name}/0.log"],
        ["submitted", "12_1", "work", "i=1", f"{made.folder.name}/1.log"],
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row[0]) for row in rows[1:])


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_stops_no_bookkeeping(mounted: Callable[..., Path], there: bool) -> None:
    """What it is called from would lose a job where it raised."""
    disk = mounted()
    book = Ledger(disk)
    made = new(book, backend="slurm")
    if there:
        book.tell("submitted", made, 0)
        book.tell("x" * 5000, made, 0)  # beyond a page, so that the next line may need a new one
    fill(disk)
    try:
        made.note_id("12")
        made.close(0, "success")
        for _ in range(100):
            book.tell("success", made, 0)
    finally:
        book.release()
    assert made.id_of(0) == "12"


def test_successful_jobs_are_removed_at_once_and_others_by_age(tmp_path: Path, book: Ledger) -> None:
    old = {event: new(book) for event in ("success", "failure", "cancelled")}
    young = {event: new(book) for event in ("success", "failure")}
    fresh, running = new(book), new(book, jobs=2)
    for events, days in ((old, 11.0), (young, 9.0)):
        for event, made in events.items():
            book.tell(event, made, 0)
            made.close(0, event)
            age(made, days)
    fresh.close(0, "success")  # and may have a few words to write
    running.close(0, "success")
    age(running, 100)

    book.clean(10, keep_successful=True)
    kept = {young["success"].folder, young["failure"].folder, fresh.folder, running.folder}
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == kept
    rows = (tmp_path / "map.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[1] for row in rows] == ["success", "failure"]

    for made in young.values():
        age(made, 9)
    book.clean(10, keep_successful=False)
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == kept - {young["success"].folder}


def test_looking_at_a_submission_makes_it_no_younger(book: Ledger) -> None:
    """Else what is looked at every day, as each start of Snakemake does, would be kept for ever."""
    made = new(book)
    made.note_id("501")
    made.close(0, "failure")
    age(made, 9)
    book.clean(10, keep_successful=False)
    assert [one.name for one in book.submissions()] == [made.name]
    assert time.time() - made.folder.stat().st_mtime > 8.9 * DAY


# ------------------------------------------------------------------------------------------ slurm

task_sets = st.dictionaries(st.integers(1, 99999).map(str), st.sets(st.integers(0, 4000)), max_size=5)


@given(task_sets)
def test_one_word_per_array_means_the_same_tasks(arrays: dict[str, set[int]]) -> None:
    """An array without tasks stands for a job that is no array."""
    ids = [f"{base}_{task}" if tasks else base for base, tasks in arrays.items() for task in (tasks or [0])]
    words = slurm.compress(ids)
    assert len(words) == len(arrays)
    assert sorted(task for word in words for task in slurm._expand(word, set(ids))) == sorted(ids)


def test_ranges_of_tasks_are_expanded_as_far_as_they_are_asked_for() -> None:
    wanted = {f"12_{task}" for task in range(8)} | {"13"}
    assert slurm._expand("12_[3-5%2]", wanted) == ["12_3", "12_4", "12_5"]
    assert slurm._expand("12_[0,2-3,7-9%1]", wanted) == ["12_0", "12_2", "12_3", "12_7"]
    assert slurm._expand("12_1", wanted) == ["12_1"]
    for beyond_us in ("12_[1,3,...]", "12_[1,3,...%2]", "12_[0-6:2]"):
        assert sorted(slurm._expand(beyond_us, wanted)) == sorted(wanted - {"13"})
    assert slurm._expand("13", wanted) == ["13"]
    assert slurm._expand("12", wanted) == []


def test_one_impossible_id_hides_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """squeue then says nothing of all that it was asked for, and a job that is not known may be started again."""

    def call(*command: str) -> str:
        asked = next(word for word in command if word.startswith("--jobs=")).removeprefix("--jobs=").split(",")
        if "0" in asked:
            raise slurm.SlurmError("squeue: squeue: error: Invalid job id: 0")
        return "".join(f"{job_id}|RUNNING|n1|None\n" for job_id in asked)

    monkeypatch.setattr(slurm, "call", call)
    assert slurm.squeue(["7", "0", "12"]).keys() == {"7", "12"}


def test_scancel_gets_one_word_per_array(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(slurm, "call", lambda *command: calls.append(command))
    slurm.cancel([*(f"12_{task}" for task in range(3)), "15"])
    slurm.cancel([str(job) for job in range(slurm.CHUNK + 1)])
    slurm.cancel([])
    assert calls[0] == ("scancel", "12_[0-2]", "15")
    assert [len(call) - 1 for call in calls[1:]] == [slurm.CHUNK, 1]


def test_variables_of_an_outer_allocation_go_and_those_that_say_where_slurm_is_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if slurm.OUTER.match(name):
            monkeypatch.delenv(name)
    gone = [
        "PMIX_RANK",
        "PMI_RANK",
        "SALLOC_PARTITION",
        "SBATCH_PARTITION",
        "SLURMD_NODENAME",
        "SLURM_JOB_ID",
        "SLURM_NTASKS",
    ]
    kept = ["MY_SLURM_JOB_ID", "SLURM", "SLURM_CLUSTERS", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"]
    for name in [*gone, *kept]:
        monkeypatch.setenv(name, "1")
    assert slurm.outer_variables() == gone
    inside = {line.partition("=")[0] for line in slurm.call("env").splitlines()}
    assert set(kept) <= inside
    assert not set(gone) & inside


def set_only(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in list(os.environ):
        if slurm.OUTER.match(name):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_users_defaults_reach_sbatch_outside_of_an_allocation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    set_only(monkeypatch, SBATCH_ACCOUNT="mine", SBATCH_WAIT="1", SLURM_HINT="x")
    assert slurm.outer_variables() == ["SLURM_HINT"]
    assert slurm.decided_variables() == ["SBATCH_WAIT"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm.outer_variables() == ["SBATCH_ACCOUNT", "SBATCH_WAIT", "SLURM_HINT", "SLURM_JOB_ID"]
    assert slurm.decided_variables() == []


@pytest.mark.parametrize(
    ("options", "environment", "gone"),
    [
        ({"account": "x"}, "ACCOUNT PARTITION", "ACCOUNT"),
        ({"time": 5}, "TIMELIMIT TIME_MIN", "TIMELIMIT"),
        ({"mem": "5M"}, "MEM_PER_CPU MEM_PER_GPU MEM_PER_NODE MEM_BIND", "MEM_PER_CPU MEM_PER_GPU MEM_PER_NODE"),
        ({"mem_per_cpu": "5M"}, "MEM_PER_NODE", "MEM_PER_NODE"),
        ({"gpus": "1"}, "GPUS GPUS_PER_NODE GPU_BIND GRES=gpu:2", "GPUS GPUS_PER_NODE GRES"),
        ({"gpus": "1"}, "GRES=lustre:2", ""),
        ({"gres": "gpu:2"}, "GPUS GRES=gpu:2", "GPUS GRES"),
        ({"gres": "lustre:2"}, "GPUS GRES=gpu:2", "GRES"),
        ({"reservation": "x", "qos": "y"}, "RESERVATION QOS CONSTRAINT", "QOS RESERVATION"),
        ({"mail-type": "END", "switches": "1", "exclusive": True}, "REQ_SWITCH WAIT4SWITCH EXCLUSIVE",
         "EXCLUSIVE REQ_SWITCH WAIT4SWITCH"),
    ],
)  # fmt: skip
def test_what_the_workflow_asks_for_goes_before_a_default_of_the_users(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], environment: str, gone: str
) -> None:
    pairs = (word.partition("=") for word in environment.split())
    set_only(monkeypatch, **{f"SBATCH_{name}": value or "1" for name, _, value in pairs})
    assert slurm.given_variables(options) == [f"SBATCH_{name}" for name in gone.split()]


def test_every_option_that_the_plugin_sets_is_kept_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sbatch(1), INPUT ENVIRONMENT VARIABLES: what stands there for an option that every script has."""
    asked = resources.allocation("work", 2, {"runtime": 5, "mem_mb": 10, "slurm_account": "x"})
    made = resources.parameters(asked, "name", 90, 5)
    set_only(monkeypatch, **{f"SBATCH_{name}": "1" for name in OF_SBATCH.split()})
    executor: Any = SimpleNamespace(parameters=made)
    words = slurm.Sbatch._make_submission_command(executor, Path("script.sh"))
    script = _make_sbatch_string(command="", folder="folder", **made, map_count=3)
    irregular = {"array": "ARRAY_INX", "time": "TIMELIMIT", "mem": "MEM_PER_NODE"}
    for option in re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE):
        variable = "SBATCH_" + irregular.get(option, option.replace("-", "_").upper())
        assert variable in words or variable not in os.environ, option
    assert not {"SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_CONSTRAINT"} & set(words)


def test_the_variables_that_the_plugin_decides_are_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "slurm-reference.md").read_text()
    listed = text[text.index("`SBATCH_ARRAY_INX`") : text.index("A limit that comes from")]
    assert tuple(name.removeprefix("SBATCH_") for name in re.findall(r"`(\w+)`", listed)) == slurm.DECIDED


OF_SBATCH = (
    "ACCOUNT ACCTG_FREQ ARRAY_INX BATCH CLUSTERS CONSTRAINT CONTAINER CORE_SPEC CPUS_PER_GPU DEBUG DELAY_BOOT "
    "DISTRIBUTION ERROR EXCLUSIVE EXPORT GET_USER_ENV GPU_BIND GPU_FREQ GPUS GPUS_PER_NODE GPUS_PER_TASK GRES "
    "GRES_FLAGS HINT IGNORE_PBS INPUT JOB_NAME MEM_BIND MEM_PER_CPU MEM_PER_GPU MEM_PER_NODE NETWORK NO_KILL "
    "NO_REQUEUE OPEN_MODE OUTPUT OVERCOMMIT PARTITION POWER PROFILE QOS REQ_SWITCH REQUEUE RESERVATION SIGNAL "
    "SPREAD_JOB THREAD_SPEC THREADS_PER_CORE TIMELIMIT USE_MIN_NODES WAIT WAIT_ALL_NODES WAIT4SWITCH WCKEY"
)


class Trials:
    """Stands in for sbatch and the pauses between its trials: raises or returns what it is given, one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str | Exception):
        self.answers, self.pauses, self.told = list(answers), list[float](), list[str]()
        monkeypatch.setattr(slurm, "time", SimpleNamespace(sleep=self.pauses.append))

    def __call__(self) -> str:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"

PASSING = [
    TIMED_OUT,
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
    "and/or time limits)",
]
LASTING = [
    "sbatch: error: invalid partition specified: nowhere",
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    "sbatch: error: Batch job submission failed: Invalid qos specification",
    "sbatch: error: Batch job submission failed: Requested node configuration is not available",
    "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
    "sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification",
    "sbatch: error: Batch job submission failed: User's group not permitted to use this partition",
    "sbatch: error: Batch job submission failed: Access/permission denied",
    "sbatch: error: Memory specification can not be satisfied",
    "sbatch: unrecognized option '--nonsense'",
]


@pytest.mark.parametrize("complaint", PASSING)
def test_what_may_pass_is_tried_again_with_growing_pauses(monkeypatch: pytest.MonkeyPatch, complaint: str) -> None:
    sbatch = Trials(monkeypatch, *[FailedJobError(complaint)] * 9, "77")
    assert slurm.submit(sbatch, lambda: None, 9, sbatch.told.append) == "77"
    assert len(sbatch.pauses) == len(sbatch.told) == 9
    for trial, pause in enumerate(sbatch.pauses):
        assert 0.5 <= pause / min(60, 2**trial) <= 1.5
    assert sbatch.told[8].startswith(f"sbatch failed ({complaint}); trying again in ")
    assert sbatch.told[8].endswith(" s (retries left: 1)")


@pytest.mark.parametrize("complaint", LASTING)
def test_what_lasts_is_tried_once(monkeypatch: pytest.MonkeyPatch, complaint: str) -> None:
    sbatch = Trials(monkeypatch, FailedJobError(complaint.replace(": ", ":\n")))
    with pytest.raises(slurm.SlurmError) as error:
        slurm.submit(sbatch, lambda: None, 9, sbatch.told.append)
    assert str(error.value) == complaint  # in one line
    assert sbatch.pauses == []


def test_the_trials_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = Trials(monkeypatch, *[FailedJobError(TIMED_OUT)] * 3)
    with pytest.raises(slurm.SlurmError, match="Socket timed out"):
        slurm.submit(sbatch, lambda: None, 2, sbatch.told.append)
    assert (sbatch.answers, len(sbatch.pauses)) == ([], 3)  # after the last, too, SLURM may have accepted it


def test_what_was_accepted_though_it_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = Trials(monkeypatch, FailedJobError(TIMED_OUT))
    assert slurm.submit(sbatch, lambda: "77", 6, sbatch.told.append) == "77"


@pytest.mark.parametrize("retries", [0, 2])
def test_what_the_last_trial_had_accepted_is_found(monkeypatch: pytest.MonkeyPatch, retries: int) -> None:
    """Else it would be reported as failed while it runs, and a retry would run beside it."""
    sbatch = Trials(monkeypatch, *[FailedJobError(TIMED_OUT)] * (retries + 1))
    assert slurm.submit(sbatch, lambda: None if sbatch.answers else "77", retries, sbatch.told.append) == "77"


def test_a_slurm_that_cannot_be_asked_is_told_and_sbatch_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = Trials(monkeypatch, FailedJobError(TIMED_OUT), "77")

    def find() -> str:
        raise slurm.SlurmError("squeue: connection refused")

    assert slurm.submit(sbatch, find, 6, sbatch.told.append) == "77"
    assert sbatch.told[1:] == ["squeue: connection refused"]


def test_slurm_is_asked_patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = Trials(monkeypatch, *[slurm.SlurmError("squeue: connection refused")] * 7, "answer")
    assert slurm.patiently(squeue, squeue.told.append) == "answer"
    assert squeue.pauses == [2, 4, 8, 16, 32, 60, 60]
    assert squeue.told == ["squeue: connection refused; waiting for SLURM to report which jobs are running"] * 7


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("no-such-command",), "no-such-command: No such file or directory"),
        (("sh", "-c", "echo all; echo is >&2; echo lost >&2; exit 3"), "sh: is lost"),
        (("sh", "-c", "echo said on stdout; exit 3"), "sh: said on stdout"),
        (("sh", "-c", "exit 3"), "sh: exit 3"),
        (("sleep", "5"), "sleep did not answer within 0 s"),
    ],
)
def test_a_command_that_fails_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr(slurm, "ANSWER_WITHIN", 0.3)
    with pytest.raises(slurm.SlurmError) as error:
        slurm.call(*command)
    assert str(error.value) == text


#: squeue(1), JOB STATE CODES, of SLURM 22.05 and 24.11.
OVER = "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT"
NOT_OVER = (
    "COMPLETING CONFIGURING EXPEDITING PENDING POWER_UP_NODE REQUEUED REQUEUE_FED REQUEUE_HOLD RESIZING RESV_DEL_HOLD "
    "RUNNING SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED UPDATE_DB"
)


def test_only_a_state_that_slurm_calls_final_is_an_end() -> None:
    assert [slurm.State(name).ended for name in OVER.split()] == [True] * 10
    assert {name for name in [*NOT_OVER.split(), "UNKNOWN", "", "completed"] if slurm.State(name).ended} == set()
    assert {name for name in slurm.INNOCENT if not slurm.State(name).ended} == set()


# ------------------------------------------------------------------------------------------ paths

ODD = (
    "cmd$(touch pwned)x",
    "b`touch pwned`",
    "it's",
    'a"b',
    "sp ace; touch pwned #",
    "$HOME",
    "~",
    "*",
    "& touch pwned",
    "é",
)


@pytest.mark.parametrize("name", ODD)
def test_no_folders_name_is_code_in_the_batch_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The script that sbatch would get, run by bash."""
    folder = tmp_path / name / "submitit"
    folder.mkdir(parents=True)
    (folder / "submitted.pkl").write_text("pickle")
    monkeypatch.setattr(slurm.Sbatch, "affinity", classmethod(lambda cls: 2))  # no srun needed
    executor = slurm.Sbatch(folder, python=f"exec echo {slurm.PYTHON}")
    monkeypatch.setattr(executor, "_submit_command", lambda command: SimpleNamespace(job_id=12))
    executor.update_parameters(job_name="work", use_srun=False)
    executor.submit_tasks(folder / "submitted.pkl", 2)
    script = executor._make_submission_file_text(executor._submitit_command_str, "")
    environment = os.environ | {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "13"}
    done = subprocess.run(["bash"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{sys.executable} -u -m submitit.core._submit {folder}\n"
    assert (folder / "12_1_submitted.pkl").read_text() == "pickle"
    assert {path.name for path in tmp_path.rglob("*")} == {name, "submitit", "submitted.pkl", "12_1_submitted.pkl"}


REFUSED = {
    "100%": "%",
    "%j": "%",
    "back\\slash": "a backslash",
    "a\nb": "a line break or another control character",
    "a\x1b[2J": "a line break or another control character",
    "\udcff": "a character that is not UTF-8",
    "it's $(touch pwned)": 'an apostrophe beside one of " $ `',
    "`touch pwned`'": 'an apostrophe beside one of " $ `',
    "'\"": 'an apostrophe beside one of " $ `',
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_path_that_would_be_misread_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    workflow = SimpleNamespace(main_snakefile="/flow/Snakefile", overwrite_configfiles=[])
    given = ExecutorSettings()
    check_paths(given, workflow)
    here = tmp_path / name
    here.mkdir()
    what = {
        "working directory": lambda: monkeypatch.chdir(here),
        "--submitit-folder": lambda: setattr(given, "folder", str(here)),
        "--snakefile": lambda: setattr(workflow, "main_snakefile", str(here)),
        "--configfile": lambda: workflow.overwrite_configfiles.append(here),
    }
    for number, (where, change) in enumerate(what.items()):
        change()
        with pytest.raises(ApiError) as error:
            check_paths(given, workflow)
        text = str(error.value)
        assert len(text.splitlines()) == 1
        assert f"cannot be used: it contains {REFUSED[name]}, which would be misread in job scripts" in text
        if number > 0:
            assert text.startswith(f"{where} {str(here)!r} ")
        monkeypatch.chdir(tmp_path)
        given, workflow.main_snakefile = ExecutorSettings(), "/flow/Snakefile"
    assert not [*tmp_path.rglob("pwned")]


@pytest.mark.parametrize("name", ODD)
def test_other_paths_are_taken(name: str) -> None:
    assert slurm.misread(f"/home/user/{name}/.snakemake/submitit") == ""


def test_a_wildcard_is_no_code_in_a_jobs_script(tmp_path: Path) -> None:
    """Snakemake's own quoting makes a double-quoted word of it, in which a shell runs what a dollar begins."""
    wildcard = "it's $(touch pwned)"
    flow = Flow(
        tmp_path / "flow",
        f"""
rule all:
    default_target: True
    input: {"out/" + wildcard + ".txt"!r}
rule work:
    output: "out/{{i}}.txt"
    run: open(output[0], "w").write(wildcards.i)
""",
    )
    flow.run()
    assert flow.outputs() == {wildcard: wildcard}
    assert not [*flow.folder.rglob("pwned")]


# ------------------------------------------------------------------------------------------ the runner

#: Stands in for the Snakemake in a job: runs a rule's command in a shell, and does not end before it.
SNAKEMAKE = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: None)
status = subprocess.call(["bash", "-c", sys.argv[1]])
sys.exit(status if status >= 0 else 1)
"""
RUNNER = """
import sys, pathlib
from snakemake_executor_plugin_submitit.runner import Runner
Runner(pathlib.Path(sys.argv[1]), 0)()
"""
#: Says that it runs, saves for a second on SIGTERM, and then says so.
SLOW_SAVER = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path("saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("running").touch()
time.sleep(30)
"""


class Node:
    """Where one allocation's jobs run, in a process of its own, as submitit starts it."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name, text in (("snakemake", SNAKEMAKE), ("resumable", RESUMABLE), ("saver", SLOW_SAVER)):
            (folder / f"{name}.py").write_text(text)

    def command(self, text: str) -> str:
        """A job's script in which Snakemake runs a rule's command."""
        return f'{sys.executable} snakemake.py "{text}"'

    def resumable(self, name: str, seconds: float) -> str:
        return self.command(f"python3 resumable.py {name}.txt {seconds}")

    def start(self, made: Submission, **environment: str) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not slurm.OUTER.match(name)}
        with open(self.folder / "node.log", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(made.folder)],
                env=inherited | environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def wait_for(self, *names: str) -> None:
        wait_until(lambda: all((self.folder / name).exists() for name in names))

    def end(self, process: subprocess.Popen[bytes], ended_well: bool) -> str:
        """Wait for its end; what it has said."""
        try:
            status = process.wait(30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        said = (self.folder / "node.log").read_text()
        assert (status == 0) == ended_well, said
        assert ended_well == ("JobFailed" not in said)
        return said

    def run(self, made: Submission, ended_well: bool, **environment: str) -> str:
        return self.end(self.start(made, **environment), ended_well)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def outcomes(made: Submission) -> dict[int, str]:
    return {number: (made.outcome(number) or {})["outcome"] for number in made.outcomes()}


def test_jobs_run_one_after_another_and_those_with_an_outcome_do_not(node: Node) -> None:
    made = submission(node.folder, [f"echo begin {i} >> said; sleep 0.1; echo end {i} >> said" for i in range(3)])
    made.finish(1, outcome="success")
    node.run(made, ended_well=True)
    assert (node.folder / "said").read_text() == "begin 0\nend 0\nbegin 2\nend 2\n"
    assert outcomes(made) == {0: "success", 1: "success", 2: "success"}


def test_parallel_jobs_run_side_by_side(node: Node) -> None:
    """Each waits for the others."""
    scripts = [f"touch here{i}; until [ -e here0 -a -e here1 -a -e here2 ]; do sleep 0.05; done" for i in range(3)]
    made = submission(node.folder, scripts, parallel=True)
    node.run(made, ended_well=True)
    assert outcomes(made) == {0: "success", 1: "success", 2: "success"}


def test_parallel_jobs_share_the_devices_and_no_two_get_the_same(node: Node) -> None:
    scripts = ["echo $CUDA_VISIBLE_DEVICES > devices0", "echo $CUDA_VISIBLE_DEVICES > devices1"]
    # as under SLURM, which hands the devices out itself
    made = submission(node.folder, scripts, parallel=True, gpus=4, backend="slurm")
    node.run(made, ended_well=True, CUDA_VISIBLE_DEVICES="0,1,2,3")
    assert [(node.folder / f"devices{i}").read_text() for i in range(2)] == ["0,1\n", "2,3\n"]


def test_jobs_in_turn_have_all_devices_each(node: Node) -> None:
    scripts = ["echo $CUDA_VISIBLE_DEVICES > devices0", "echo $CUDA_VISIBLE_DEVICES > devices1"]
    made = submission(node.folder, scripts, gpus=2, backend="slurm")
    node.run(made, ended_well=True, CUDA_VISIBLE_DEVICES="4,7")
    assert [(node.folder / f"devices{i}").read_text() for i in range(2)] == ["4,7\n", "4,7\n"]


def test_a_failed_job_says_how_and_stops_no_other(node: Node) -> None:
    made = submission(node.folder, ["echo lost; echo words >&2; exit 3", "kill -9 $$", "true"])
    node.run(made, ended_well=False)
    assert outcomes(made) == {0: "failure", 1: "failure", 2: "success"}
    assert [(made.outcome(number) or {}).get("exit") for number in range(3)] == [3, -9, None]
    assert (made.outcome(0) or {})["node"] == os.uname().nodename
    assert made.log(0).read_text() == "lost\nwords\n"


def test_at_a_stop_signal_the_running_job_saves_and_the_rest_is_left(node: Node) -> None:
    made = submission(node.folder, [node.resumable("0", 20), node.resumable("1", 0.1)])
    process = node.start(made)
    node.wait_for("0.starts")
    process.send_signal(signal.SIGUSR2)
    said = node.end(process, ended_well=False)
    assert "job 0: sending SIGTERM to 1 of its commands" in said
    assert (node.folder / "0.state").exists()
    assert not (node.folder / "1.starts").exists()
    assert outcomes(made) == {0: "come back", 1: "come back"}
    assert [(made.outcome(number) or {})["rounds"] for number in range(2)] == [1, 1]


def test_rounds_of_this_submission_and_of_those_before_add_up(node: Node) -> None:
    entries = [Entry("key", "work", "", [], rounds=rounds) for rounds in (0, 4)]
    made = submission(node.folder, [node.resumable("0", 20), "true"], entries=entries)
    made.start(0, "501")
    made.start(0, "501")
    process = node.start(made)
    node.wait_for("0.starts")
    process.send_signal(signal.SIGUSR2)
    node.end(process, ended_well=False)
    assert [(made.outcome(number) or {})["rounds"] for number in range(2)] == [7, 7]


def test_of_parallel_jobs_those_that_can_save_come_back_and_others_run_to_their_end(node: Node) -> None:
    plain = node.command("touch begun; sleep 1.5; touch done")
    made = submission(node.folder, [node.resumable("0", 20), plain], parallel=True)
    process = node.start(made)
    node.wait_for("0.starts", "begun")
    process.send_signal(signal.SIGUSR2)
    said = node.end(process, ended_well=False)
    assert "job 1: its command does not catch SIGTERM and keeps running" in said
    assert outcomes(made) == {0: "come back", 1: "success"}
    assert (node.folder / "done").exists()


LATE = """
import pathlib, time
pathlib.Path("begun").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.05)
exec(open("resumable.py").read())
"""


def test_a_command_that_the_signal_finds_importing_is_asked_as_soon_as_it_can_save(node: Node) -> None:
    (node.folder / "late.py").write_text(LATE)
    made = submission(node.folder, [node.command("python3 late.py 0.txt 20")])
    process = node.start(made)
    node.wait_for("begun")
    process.send_signal(signal.SIGUSR2)
    wait_until(lambda: "job 0: its command does not catch SIGTERM" in (node.folder / "node.log").read_text())
    (node.folder / "go").touch()
    said = node.end(process, ended_well=False)
    assert said.count("does not catch SIGTERM") == 1
    assert int((node.folder / "0.state").read_text()) < 50
    assert outcomes(made) == {0: "come back"}


def test_a_job_that_the_signal_finds_starting_is_asked_when_its_command_begins(node: Node) -> None:
    script = f"touch begun; while [ ! -e go ]; do sleep 0.05; done; {node.resumable('0', 20)}"
    made = submission(node.folder, [script])
    process = node.start(made)
    node.wait_for("begun")
    process.send_signal(signal.SIGUSR2)
    time.sleep(0.5)  # some looks at it
    (node.folder / "go").touch()
    node.end(process, ended_well=False)
    assert int((node.folder / "0.state").read_text()) < 50
    assert outcomes(made) == {0: "come back"}


def test_a_job_that_ends_well_after_the_signal_is_a_success(node: Node) -> None:
    made = submission(
        node.folder, [node.command("trap 'touch asked' TERM; touch begun; while [ ! -e asked ]; do sleep 0.1; done")]
    )
    process = node.start(made)
    node.wait_for("begun")
    process.send_signal(signal.SIGUSR2)
    node.end(process, ended_well=True)
    assert outcomes(made) == {0: "success"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"requeue": False}, "stopped before it finished, and requeue is off"),
        ({"requeue_limit": 0}, "not finished after 1 rounds (requeue limit 0)"),
    ],
)
def test_a_job_that_may_not_come_back_fails_and_says_why(node: Node, changes: dict[str, Any], reason: str) -> None:
    made = submission(node.folder, [node.resumable("0", 20)], **changes)
    process = node.start(made)
    node.wait_for("0.starts")
    process.send_signal(signal.SIGUSR2)
    node.end(process, ended_well=False)
    assert (made.outcome(0) or {})["reason"] == reason
    assert outcomes(made) == {0: "failure"}


def test_commands_that_outlive_their_shells_are_waited_for(node: Node) -> None:
    """As at scancel: SIGTERM to all processes at once, the shells die of it, and what they ran is still saving."""
    made = submission(node.folder, [node.command("python3 saver.py")])
    process = node.start(made)
    node.wait_for("running")
    os.killpg(process.pid, signal.SIGTERM)
    node.end(process, ended_well=False)
    assert (node.folder / "saved").exists()
    assert made.outcomes() == set()  # cancelled: neither a success nor a failure


def test_an_outcome_that_cannot_be_written_stops_no_other_job(node: Node) -> None:
    made = submission(node.folder, ["mkdir submission/0.json", "true"])
    said = node.run(made, ended_well=False)
    assert "job 0: cannot write its outcome, {'outcome': 'success'}" in said
    assert made.outcome(1) is not None


def test_a_task_of_an_array_runs_its_own_jobs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    made = submission(node.folder, ["touch ran0", "touch ran1"], allocations=[[0], [1]], backend="debug")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    before = [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)]
    runner.Runner(made.folder)()
    assert [signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)] == before
    assert (node.folder / "ran1").exists()
    assert not (node.folder / "ran0").exists()
    assert (made.starts(0), made.starts(1)) == (0, 1)


SAY = 'os.write(1, b"1\\n")'  # at once: two commands may say it
CATCHING = f"python3 -c 'import os, signal, time; signal.signal(15, print); {SAY}; time.sleep(30)'"
IGNORING = CATCHING.replace("print)", "signal.SIG_IGN)")
PLAIN = CATCHING.replace("signal.signal(15, print); ", "")


@contextlib.contextmanager
def running(script: str) -> Iterator[subprocess.Popen[str]]:
    """A script, as soon as it has said 1."""
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "catches"),
    [
        ("exec bash -c 'trap : TERM; echo 1; while :; do sleep 1; done'", True),
        ("exec bash -c 'echo 1; while :; do sleep 1; done'", False),
        ("exec bash -c 'trap \"\" TERM; echo 1; while :; do sleep 1; done'", False),
        (f"exec {CATCHING}", True),
        (f"exec {IGNORING}", False),
        (f"exec {PLAIN}", False),
    ],
)
def test_who_catches_sigterm_is_known(script: str, catches: bool) -> None:
    with running(script) as process:
        assert runner.catches_sigterm(psutil.Process(process.pid)) is catches


def test_who_has_ended_catches_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        ended = psutil.Process(process.pid)
    assert not runner.catches_sigterm(ended)
    assert runner.below(process.pid) == ([], [])


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("python3 catching.py", ["catching.py"]),
        ("python3 catching.py | cat", ["cat", "catching.py"]),
        ("python3 catching.py & python3 plain.py & wait", ["catching.py", "plain.py"]),
        ("set -euo pipefail; (sh -c 'python3 plain.py; true'); true", ["plain.py"]),  # shells in between
        ("trap : TERM; python3 plain.py; true", ["trap : TERM; python3 plain.py; true"]),  # a shell that can save
        ("python3 launcher.py", ["launcher.py"]),  # passes signals on to its workers as it likes
    ],
)
def test_commands_are_found_below_snakemake_and_the_shells(node: Node, command: str, found: list[str]) -> None:
    wait = f"{SAY}; time.sleep(30)"
    (node.folder / "plain.py").write_text(f"import os, time; {wait}")
    (node.folder / "catching.py").write_text(f"import os, signal, time; signal.signal(15, print); {wait}")
    (node.folder / "launcher.py").write_text("import subprocess; subprocess.run(['python3', 'plain.py'])")

    def below(pid: int) -> tuple[list[str], list[str]]:
        snakemakes, commands = runner.below(pid)
        return [p.cmdline()[1] for p in snakemakes], sorted(p.cmdline()[-1] for p in commands)

    with running(f"cd {node.folder}; {node.command(command)}; true") as process:
        wait_until(lambda: below(process.pid) == (["snakemake.py"], found), seconds=3)


# ------------------------------------------------------------------------------------------ processes of this machine


def test_a_process_runs_only_while_it_lives_and_is_that_submissions(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", str(tmp_path / "mine")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert local.runs(process.pid, tmp_path / "mine")
    assert not local.runs(process.pid, tmp_path / "other")
    assert local.is_named(Path(sys.executable).name, tmp_path / "mine")
    assert not local.is_named("sbatch", tmp_path / "mine")
    process.kill()
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert not local.runs(process.pid, tmp_path / "mine")
    process.communicate()
    assert not local.runs(process.pid, tmp_path / "mine")


def test_processes_are_asked_to_end_and_killed_with_all_below_them_when_they_do_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local, "GRACE", 2.0)
    stubborn_script = f"trap '' TERM; {IGNORING}; touch {tmp_path}/next"
    with running(stubborn_script) as stubborn, running(PLAIN) as plain:
        below = psutil.Process(stubborn.pid).children(recursive=True)
        assert below
        local.end([stubborn.pid, plain.pid, 2**22 + 1])  # the last is nobody's number
        assert plain.wait(5) != -signal.SIGKILL
        assert stubborn.wait(5) == -signal.SIGKILL
        assert psutil.wait_procs(below, timeout=5)[1] == []
        assert not (tmp_path / "next").exists()  # the shell was not left to run its next command


# ------------------------------------------------------------------------------------------ the report


def failed(folder: Path, words: str = "", own: str | None = None, rule_log: str | None = None) -> Member:
    """A failed job: what its node, its script and its rule have written."""
    made = submission(folder, ["false"])
    made.note_id("501")
    (made.folder / "501_0_log.out").write_text(words)
    if own is not None:
        made.log(0).write_text(own)
    logs = [folder / "rule.log"]
    if rule_log is not None:
        logs[0].write_text(rule_log)
    job = SimpleNamespace(is_group=lambda: False, log=logs)
    return Member(made, 0, SimpleNamespace(job=job))


@pytest.mark.parametrize(
    ("state", "outcome", "first", "cause"),
    [
        (None, {"outcome": "failure", "exit": 3, "node": "n1"}, "FAILED, exit code 3, on node n1", None),
        (slurm.State("FAILED", "1:0", "n2"), {}, "FAILED, exit code 1:0, on node n2", None),
        (slurm.State("FAILED", "1:0", "n2"), {"exit": 3, "node": "n1"}, "FAILED, exit code 3, on node n1", None),
        (slurm.State("TIMEOUT"), {}, "TIMEOUT", "timed out: the job exceeded its limit; increase runtime"),
        (slurm.State("DEADLINE"), {}, "DEADLINE", "timed out: the job's deadline has passed"),
        (
            slurm.State("OUT_OF_MEMORY"),
            {},
            "OUT_OF_MEMORY",
            "out of memory: the job used more than it requested; increase mem",
        ),
        (slurm.State("CANCELLED"), {}, "CANCELLED", "cancelled by scancel or by an administrator"),
        (slurm.State("NODE_FAIL"), {}, "NODE_FAIL", "the node failed"),
        (slurm.State("PREEMPTED"), {}, "PREEMPTED", "preempted, and requeue is off"),
        (None, {}, "lost", "SLURM no longer knows the job, and it left no outcome"),
        (slurm.State("FAILED"), {"outcome": "failure", "reason": "not finished"}, "FAILED", "not finished"),
    ],
)
def test_a_failure_is_named_with_its_cause(
    tmp_path: Path, state: slurm.State | None, outcome: dict[str, Any], first: str, cause: str | None
) -> None:
    lines = report.failure(failed(tmp_path), state, outcome).splitlines()
    assert lines[0] == f"rule work, i=0: {first}"
    if cause is not None:
        assert lines.pop(1).startswith(cause)
    assert lines[1:] == [f"job: 501; its log: {tmp_path}/submission/0.log"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch cgroup", "OUT_OF_MEMORY"),
        ("slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.batch. Some may be killed", "OUT_OF_MEMORY"),
        ("slurmstepd: error: Job 12 exceeded memory limit (9000 > 1000), being killed", "OUT_OF_MEMORY"),
        ("slurmstepd: error: Step 12.0 exceeded memory limit (9000 > 1000), being killed", "OUT_OF_MEMORY"),
        ("slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***", "FAILED"),
        ("", "FAILED"),
    ],
)
def test_slurmds_words_about_memory_are_a_cause(tmp_path: Path, words: str, name: str) -> None:
    text = report.failure(failed(tmp_path, words), slurm.State("FAILED"), {})
    assert text.startswith(f"rule work, i=0: {name}\n")
    assert ("increase mem_mb" in text) == (name == "OUT_OF_MEMORY")
    assert [line for line in text.splitlines() if line.startswith("  |")] == ([f"  | {words}"] if words else [])


def test_the_end_of_the_rules_own_log_is_shown_before_other_words(tmp_path: Path) -> None:
    lines = "".join(f"line {i}\n" for i in range(1000))
    shown = [f"  | line {i}" for i in range(1000 - jobs.TAIL, 1000)]
    for number, (own, rule_log, place, tail) in enumerate(
        [
            ("own", lines, "{}/rule.log", shown),
            (lines, None, "{}/submission/0.log", shown),
            (lines, "", "{}/submission/0.log", shown),  # an empty log says nothing
            ("", None, "{}/submission/0.log", ["  | slurmd's"]),
        ]
    ):
        folder = tmp_path / str(number)
        text = report.failure(failed(folder, "slurmd's", own, rule_log), None, {"exit": 1}).splitlines()
        assert text[1] == "job: 501; its log: " + place.format(folder)
        assert text[2:] == tail


def test_a_log_that_is_no_text_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 30_000 + b"\n\xff\xfe\nend\n\n")
    assert jobs.last_lines(tmp_path / "log")[1:] == ["\ufffd\ufffd", "end"]
    assert jobs.last_lines(tmp_path / "log", 1) == ["end"]
    assert jobs.last_lines(tmp_path / "missing") == []


# ------------------------------------------------------------------------------------------ what a job would do

WORK = """
rule work:
    input: "in.txt"
    output: "{i}.txt"
    params: word="old", more=[1, {"a": 2.5}]
    shell: "cp {input} {output}"
"""
SCRIPT = """
rule work:
    input: "in.txt"
    output: "{i}.txt"
    script: "scripts/one.py"
"""


def real_job(folder: Path, rule: str) -> Any:
    """The job of Snakemake's that makes a.txt in a workflow of one rule."""
    folder.mkdir(exist_ok=True)
    for name in ("in.txt", "scripts/one.py", "scripts/a.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_text("1\n")
            os.utime(folder / name, ns=(1, 1))
    linecache.clearcache()  # Snakemake reads a rule's source through it
    (folder / "Snakefile").write_text(rule + 'rule all:\n    default_target: True\n    input: "a.txt"\n')
    with warnings.catch_warnings(action="ignore"), contextlib.chdir(folder):
        with api.SnakemakeApi(settings.OutputSettings(quiet={settings.Quietness.ALL})) as snakemake:
            flow = snakemake.workflow(
                resource_settings=settings.ResourceSettings(cores=1), workdir=folder, snakefile=folder / "Snakefile"
            )
            flow.dag().summary()
            job = next(job for job in flow._workflow.dag.jobs if job.name == "work")
        gc.collect()
    return job


def key(folder: Path, rule: str) -> str:
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        return jobs.key(real_job(folder, rule))


PYTHON = WORK.replace('shell: "cp {input} {output}"', "run: open(output[0], 'w').write('a')")


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        (WORK, '"old"', '"new"'),
        (WORK, "2.5", "2.6"),
        (WORK, "cp {input}", "cp -r {input}"),
        (WORK, 'output: "{i}.txt"', 'output: "{i}.txt", "{i}.2"'),
        (PYTHON, "write('a')", "write('b')"),
        (SCRIPT, "one.py", "a.py"),
    ],
)
def test_a_changed_rule_changes_the_key_and_an_equal_one_does_not(
    tmp_path: Path, rule: str, old: str, new: str
) -> None:
    before = key(tmp_path / "flow", rule)
    assert key(tmp_path / "flow", rule.replace("rule work:", "# a comment\nrule work:")) == before
    assert key(tmp_path / "flow", rule.replace(old, new)) != before


def test_an_input_that_is_newer_or_larger_changes_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    keys = [key(folder, WORK)]
    for text, time_ns in (("1\n", 2), ("12\n", 2), ("1\n", 1)):
        (folder / "in.txt").write_text(text)
        os.utime(folder / "in.txt", ns=(time_ns, time_ns))
        keys.append(key(folder, WORK))
    assert len(set(keys)) == 3
    assert keys[3] == keys[0]


def test_a_scripts_text_changes_the_key_and_its_time_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    before = key(folder, SCRIPT)
    (folder / "scripts/one.py").touch()
    assert key(folder, SCRIPT) == before
    (folder / "scripts/one.py").write_text("2\n")
    assert key(folder, SCRIPT) != before


def test_where_a_value_lies_in_memory_is_no_part_of_a_key(tmp_path: Path) -> None:
    rule = WORK.replace("old", "new").replace(
        "params:", "params: a=object(), b=[1, object()], c=lambda wildcards: object(),"
    )
    assert key(tmp_path / "flow", rule) == key(tmp_path / "flow", rule)


def test_a_script_named_by_a_wildcard_is_part_of_a_key(tmp_path: Path) -> None:
    rule = SCRIPT.replace("one.py", "{wildcards.i}.py")
    before = key(tmp_path / "flow", rule)
    assert key(tmp_path / "flow", rule) == before
    (tmp_path / "flow/scripts/a.py").write_text("2\n")
    assert key(tmp_path / "flow", rule) != before


def test_the_order_of_a_set_is_no_part_of_a_key() -> None:
    """It differs from process to process, and then no job could be taken over."""
    code = """
from types import SimpleNamespace
from snakemake_executor_plugin_submitit import jobs
rule = SimpleNamespace(name="work", shellcmd="true", run_func_src=None, script=None, notebook=None)
params = [{"a", "b", "c", "d", "e"}]
job = SimpleNamespace(is_group=lambda: False, rule=rule, wildcards_dict={}, output=[], input=[], params=params)
print(jobs.key(job))
"""
    found = {
        subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": str(seed)})
        for seed in range(3)
    }
    assert len(found) == 1


def test_the_wildcards_of_a_group_are_those_of_its_jobs() -> None:
    parts = [SimpleNamespace(wildcards_dict=wildcards) for wildcards in ({"a": "1", "b": "2"}, {}, {"a": "3"})]
    group = SimpleNamespace(is_group=lambda: True, jobs=parts)
    assert jobs.wildcards(group) == "a=1, b=2; a=3"


# ------------------------------------------------------------------------------------------ the local backend


def events(flow: Flow) -> list[tuple[str, str]]:
    rows = (flow.folder / ".snakemake/submitit/map.tsv").read_text().splitlines()[1:]
    return [(row.split("\t")[1], row.split("\t")[4]) for row in rows]


def test_local_jobs_succeed_are_retried_and_reported(tmp_path: Path) -> None:
    """0 is good at its second try, 1 never."""
    snakefile = SHORT.replace(
        "sleep {SECONDS};",
        "echo trying; [ $(( {wildcards.i} + 2 )) -le $(wc -l < out/{wildcards.i}.starts) ];",
    )
    flow = Flow(tmp_path / "flow", snakefile)
    output = flow.run("--keep-going", "--retries", "1", check=False)
    assert flow.outputs() == {"0": "0\n"}
    assert flow.starts() == Counter({"0": 2, "1": 2})
    host = re.escape(os.uname().nodename)
    first = rf"rule work, (i=\d): FAILED, exit code 1, on node {host}\n\s*job: \d+; its log: (\S+)\n"
    reports = re.findall(first, output)
    assert sorted(wildcards for wildcards, _ in reports) == ["i=0", "i=1", "i=1"]
    assert all("trying" in Path(log).read_text() for _, log in reports)
    assert "  | trying" in output
    assert Counter(events(flow)) == Counter(
        {
            ("submitted", "i=0"): 2, ("failure", "i=0"): 1, ("success", "i=0"): 1,
            ("submitted", "i=1"): 2, ("failure", "i=1"): 2,
        }
    )  # fmt: skip


def test_local_jobs_outlive_a_killed_snakemake_and_are_taken_over(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", SHORT)
    arguments = ("--config", "seconds=3")
    process = flow.start(*arguments)
    wait_until(lambda: sum(flow.starts().values()) == 2)
    process.kill()
    process.wait()
    output = flow.run(*arguments)
    assert "Found 2 job(s) of an earlier Snakemake; taking over those that are still needed." in output
    assert flow.starts() == Counter({"0": 1, "1": 1})
    assert flow.outputs() == {"0": "0\n", "1": "1\n"}


RESUMABLE_FLOW = """
rule work:
    output: "out/0.txt"
    shell: "python3 resumable.py {output} {SECONDS}"
"""


def test_a_local_job_that_is_asked_to_save_goes_on_in_a_process_of_its_own(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "flow", RESUMABLE_FLOW)
    process = flow.start("--config", "seconds=2")
    flow.wait_for("out/0.starts")
    shell = psutil.Process(int(next(flow.folder.glob(".snakemake/submitit/*/id")).read_text()))
    runner = next(child for child in shell.children(recursive=True) if "submitit.core._submit" in child.cmdline())
    runner.send_signal(signal.SIGUSR2)  # as submitit's, before the time limit
    flow.finish(process)
    assert flow.outputs() == {"0": "x" * 20}
    assert flow.starts() == Counter({"0": 2})
    assert [event for event, _ in events(flow)] == ["submitted", "back to the queue", "submitted", "success"]
    assert sorted(one["entries"][0]["rounds"] for one in flow.submissions()) == [0, 1]


@pytest.mark.parametrize(
    "at_terminal",
    [False, True],
)
def test_ctrl_c_ends_local_jobs_which_save_and_go_on_later(tmp_path: Path, at_terminal: bool) -> None:
    """At a terminal all processes get the signal; here it is one inside an allocation, whose variables must go."""
    flow = Flow(tmp_path / "flow", RESUMABLE_FLOW)
    flow.outer = {"SLURM_JOB_ID": "999"} if at_terminal else {}
    process = flow.start("--config", "seconds=3")
    flow.wait_for("out/0.starts")
    if at_terminal:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    flow.finish(process, check=False)
    saved = int((flow.folder / "out/0.state").read_text())
    assert 0 < saved < 30
    flow.run("--config", "seconds=3")
    starts = [line.split() for line in (flow.folder / "out/0.starts").read_text().splitlines()]
    assert starts == [["0", "None"], [str(saved), "None"]]
    assert flow.outputs() == {"0": "x" * 30}


def test_local_jobs_side_by_side_have_a_device_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gpu_claims.CLAIMED, raising=False)
    snakefile = SHORT.replace(
        "sleep {SECONDS};",
        "for try in $(seq 200); do [ -e out/0.starts -a -e out/1.starts ] && break; sleep 0.1; done; "
        "[ $try -lt 200 ]; echo $CUDA_VISIBLE_DEVICES > out/{wildcards.i}.device;",
    )
    flow = Flow(tmp_path / "flow", snakefile)
    names = [f"{tmp_path.name}-{os.getpid()}-{number}" for number in (5, 6)]  # nobody else's
    flow.outer = {"CUDA_VISIBLE_DEVICES": ",".join(names)}
    flow.run("--default-resources", "gpu=1")
    assert sorted(file.read_text().strip() for file in (flow.folder / "out").glob("*.device")) == names
    for file in gpu_claims._folder().glob(f"{tmp_path.name}-{os.getpid()}-*"):
        file.unlink()


def test_the_debug_backend_runs_one_job_after_another(tmp_path: Path) -> None:
    snakefile = SHORT.replace("sleep {SECONDS};", "echo + >> out/order; sleep 0.2; echo - >> out/order;")
    flow = Flow(tmp_path / "flow", snakefile)
    flow.run(backend="debug", keep_successful=True)
    assert (flow.folder / "out/order").read_text() == "+\n-\n" * 2
    assert len(flow.outputs()) == 2
    assert [one["backend"] for one in flow.submissions()] == ["debug"]


# ------------------------------------------------------------------------------------------ Snakemake's own tests


@pytest.mark.large
@pytest.mark.filterwarnings("ignore")  # Snakemake's, and those of what it uses
class TestLocal(TestWorkflowsLocalStorageBase):  # type: ignore[misc]
    __test__ = True
    test_group_workflow = pytest.mark.large(TestWorkflowsLocalStorageBase.test_group_workflow)

    @pytest.fixture(autouse=True)
    def here(self) -> Iterator[None]:
        with contextlib.chdir("."):
            yield

    def get_executor(self) -> str:
        return "submitit"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(backend="local", status_interval=1)

    def cleanup_test(self) -> None:
        gc.collect()


class TestDebug(TestLocal):
    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(backend="debug")

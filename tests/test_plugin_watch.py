"""What the plugin says of jobs that wait, and its one report for what failed together."""

from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_plugin_submitit import jobs, progress, slurm
from snakemake_executor_plugin_submitit.ledger import Entry
from snakemake_executor_plugin_submitit.members import Member
from snakemake_executor_plugin_submitit.roster import Roster
from snakemake_executor_plugin_submitit.watch import Pace, Watch


class Waiting:
    def __init__(self, job_id: str, wildcards: str):
        self.id, self.entry = job_id, Entry("key", "work", wildcards, [])


def member(job_id: str, wildcards: str = "") -> Any:
    return Waiting(job_id, wildcards)


class Said(progress.Progress):
    def __init__(self) -> None:
        self.told: list[str] = []
        self.warned: list[str] = []
        super().__init__(self.told.append, self.warned.append)


#: As squeue of SLURM 22.05 prints them, and what helps.
STUCK = [
    ("PENDING", "JobHeldUser", "`scontrol release 12`"),
    ("PENDING", "job requeued in held state", "`scontrol release 12`"),
    ("PENDING", "launch failed requeued held", "`scontrol release 12`"),
    ("REQUEUE_HOLD", "None", "`scontrol release 12`"),
    ("SPECIAL_EXIT", "None", "`scontrol release 12`"),
    ("PENDING", "JobHeldAdmin", "held by an administrator"),
    ("RESV_DEL_HOLD", "None", "held by an administrator or a reservation"),
    ("SUSPENDED", "None", "suspended by the scheduler or an administrator"),
    ("PENDING", "ReqNodeNotAvail", "`sinfo -R`"),
    ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", "`sinfo -R`"),
    (
        "PENDING",
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
        "`sinfo -R`",
    ),
    ("PENDING", "PartitionDown", "another slurm_partition"),
    ("PENDING", "PartitionTimeLimit", "`scancel 12`, correct the resources"),
    ("PENDING", "QOSMaxWallDurationPerJobLimit", "`scancel 12`, correct the resources"),
    ("PENDING", "BadConstraints", "`scancel 12`, correct the resources"),
    ("PENDING", "QOSMaxJobsPerUserLimit", "a limit of the account or QOS"),
    ("PENDING", "AssocGrpCpuLimit", "a limit of the account or QOS"),
    ("PENDING", "Reservation", "the reservation has not begun"),
    ("PENDING", "SomethingNew", "`scontrol show job 12`"),
]


@pytest.mark.parametrize(("state", "reason", "helps"), STUCK)
def test_what_keeps_a_job_from_starting_is_said_once_with_what_helps(state: str, reason: str, helps: str) -> None:
    said, stuck = Said(), member("12", "i=0")
    for _ in range(3):
        said.see({stuck: slurm.State(state, reason=reason)})
    why = state if reason == "None" else f"{state}, {reason}"
    assert len(said.warned) == 1
    assert said.warned[0].startswith(f"1 job does not start: 12 (rule work, i=0): {why}")
    assert helps in said.warned[0]


@pytest.mark.parametrize("reason", sorted(progress.ORDINARY))
def test_an_ordinary_wait_is_only_counted(reason: str) -> None:
    said, waiting = Said(), member("12")
    said.see({waiting: slurm.State("PENDING", reason=reason)})
    assert said.warned == []
    why = reason if reason not in ("", "None") else "PENDING"
    assert said.line([waiting]) == f"jobs: 1 waiting (1 {why}), 0 running, 0 done, 0 failed"


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "CONFIGURING", "COMPLETED", "CANCELLED", "FAILED"])
def test_an_old_reason_of_a_job_that_runs_or_is_over_is_not_said(state: str) -> None:
    said = Said()
    said.see({member("12"): slurm.State(state, reason="JobHeldUser")})
    assert said.warned == []


def test_jobs_that_are_stuck_alike_share_a_line_and_one_that_is_stuck_anew_is_said_again() -> None:
    said, held = Said(), slurm.State("PENDING", reason="JobHeldUser")
    tasks = [member(f"12_{i}", f"i={i}") for i in range(5)]
    said.see(dict.fromkeys(tasks, held))
    assert len(said.warned) == 1
    named = "rule work, i=0; rule work, i=1; rule work, i=2; and 2 more"
    assert said.warned[0].startswith(f"5 jobs do not start: 12_[0-4] ({named}): PENDING, JobHeldUser: ")
    assert "`scontrol release 12_[0-4]`" in said.warned[0]
    said.see(dict.fromkeys(tasks, slurm.State("RUNNING")))
    said.see({tasks[0]: held, tasks[1]: slurm.State("PENDING", reason="PartitionDown")})
    assert len(said.warned) == 3


def test_jobs_are_counted_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    said, six = Said(), [member(f"12_{i}") for i in range(6)]
    waiting = [slurm.State("PENDING", reason=reason) for reason in ("Priority", "Priority", "JobHeldUser")]
    states = [slurm.State("RUNNING"), *waiting, slurm.State("COMPLETED")]
    said.see(dict(zip(six, states, strict=False)))
    said.ended(six[4], well=True)
    said.ended(member("13"), well=False)
    for second in range(0, 185, 5):
        now[0] = second
        said.minute([*six[:4], six[5]])
    counts = "jobs: 3 waiting (2 Priority, 1 JobHeldUser), 1 running, 1 in an unknown state, 1 done, 1 failed"
    assert said.told == [counts] * 3


def test_jobs_that_failed_together_are_one_report_and_each_is_known_to_have_failed() -> None:
    reports: list[tuple[Any, str]] = []
    failed: list[Any] = []
    executor: Any = SimpleNamespace(
        workflow=SimpleNamespace(scheduler=SimpleNamespace(error_callback=failed.append)),
        report_job_error=lambda info, msg: (reports.append((info.job, msg)), failed.append(info.job)),
    )
    infos: Any = [SimpleNamespace(job=i) for i in range(4)]
    nothing: Any = None
    Roster(executor, nothing, nothing, nothing).report_together(infos, "refused")
    assert reports == [(0, "refused\n")]
    assert failed == [0, 1, 2, 3]


def test_a_job_whose_outcome_is_an_error_of_ours_fails_by_name_and_the_others_are_read() -> None:
    """What no check foresees must not leave a job without an end."""
    ended: list[str] = []
    warned: list[str] = []

    class Folder:
        folder, entries, backend = "folder", [None, None], "local"

        def outcomes(self) -> set[int]:
            return {0, 1}

        def outcome(self, number: int) -> dict[str, str]:
            return {"outcome": {1: "success"}[1 // number]}

    submission: Any = Folder()
    members = [Member(submission, number, info=number) for number in range(2)]
    executor: Any = SimpleNamespace(
        report_job_success=lambda info: ended.append(f"{info} succeeded"),
        report_job_error=lambda info, msg: ended.append(f"{info} {msg}"),
    )
    ledger: Any = SimpleNamespace(warn=warned.append, tell=lambda *words: None)
    roster = Roster(executor, ledger, Said(), lambda: None)
    roster.under_way.update(members)
    Watch(roster, Pace(1, 1), "", lambda member, rounds: None).read_outcomes(members)
    assert len(warned) == 1
    assert ended == [f"0 {warned[0]}\n", "1 succeeded"]
    assert roster.under_way == set()
    assert warned[0].startswith("folder/0.json: ZeroDivisionError")


@pytest.mark.parametrize(("attempt", "restart_times"), [(1, 0), (1, 3), (4, 3)])
def test_a_job_that_is_given_up_has_no_attempt_left(attempt: int, restart_times: int) -> None:
    job: Any = SimpleNamespace(attempt=attempt, restart_times=restart_times)
    jobs.give_up(job)
    assert not job.restart_times > job.attempt - 1  # the scheduler's condition for another one


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["12_3", "12_1", "12_2", "12_7", "13"], ["12_[1-3,7]", "13"]),
        (["12_0"], ["12_[0]"]),
        ([], []),
    ],
)
def test_ids_are_shortened(ids: list[str], words: list[str]) -> None:
    assert slurm.compress(ids) == words

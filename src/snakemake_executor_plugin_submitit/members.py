"""Snakemake's jobs as members of submissions: which of them are active, and how they are cancelled."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from snakemake_executor_plugin_submitit import local, slurm
from snakemake_executor_plugin_submitit.ledger import Entry, Submission


@dataclass(eq=False)
class Member:
    """A Snakemake job in a submission, until its end is reported."""

    submission: Submission
    number: int
    info: Any = None  # Snakemake's SubmittedJobInfo, unless another Snakemake submitted it
    over: tuple[str, float] | None = None  # (state in which it ended, or "" if SLURM lost it; since when)
    failed: float | None = None  # when its outcome was first read as a failure

    @property
    def entry(self) -> Entry:
        """The job's entry in the ledger."""
        return self.submission.entries[self.number]

    @property
    def id(self) -> str:
        """The id of the allocation that runs the job. Packed jobs share it."""
        return self.submission.id_of(self.number)

    @property
    def on_slurm(self) -> bool:
        """Whether the job runs on SLURM and not on this machine."""
        return self.submission.backend == "slurm"

    @property
    def starts(self) -> int:
        """How often the job's allocation has started."""
        jobs = next(i for i, jobs in enumerate(self.submission.allocations) if self.number in jobs)
        return self.submission.starts(jobs)

    def close(self, event: str) -> None:
        """Record on disk that Snakemake knows of the job's end."""
        self.submission.close(self.number, event)


def runs(member: Member) -> bool:
    """Whether the process of a local job is alive."""
    return member.id.isdigit() and local.runs(int(member.id), member.submission.folder)


def active(members: Iterable[Member]) -> set[Member]:
    """The members that are queued or running. Raises SlurmError if SLURM does not answer."""
    known = [member for member in members if member.submission.ids]
    found = {member for member in known if not member.on_slurm and runs(member)}
    if queued := [member for member in known if member.on_slurm]:
        states = slurm.squeue([member.id for member in queued])
        found |= {member for member in queued if member.id in states and not states[member.id].ended}
    return found


def cancel(members: Iterable[Member], warn: Callable[[str], None]) -> None:
    """Cancel jobs, with all that share their allocations. Warns if SLURM does not cancel them."""
    members = list(members)
    queued = [member for member in members if member.on_slurm]
    nameless = {member.submission.name for member in queued if not member.submission.ids}
    try:
        slurm.cancel(sorted({member.id for member in queued if member.submission.ids}))
        for name in nameless:  # sbatch was called, but its answer was lost
            slurm.cancel_by_name(name)
    except slurm.SlurmError as error:
        warn(f"could not cancel all jobs: {error}")
    processes = [member for member in members if member.submission.backend == "local" and member.submission.ids]
    local.end({int(member.id) for member in processes})

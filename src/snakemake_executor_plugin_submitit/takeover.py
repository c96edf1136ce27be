"""Takeover of jobs that an earlier Snakemake submitted before it was killed."""

import time
from collections.abc import Callable

import psutil
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

from snakemake_executor_plugin_submitit import local, slurm
from snakemake_executor_plugin_submitit.ledger import Entry, Submission, is_number
from snakemake_executor_plugin_submitit.members import Member, active, cancel
from snakemake_executor_plugin_submitit.roster import Roster

BEGAN = psutil.Process().create_time()  # start of this Snakemake, in Unix time


class Takeover:
    """The jobs that an earlier Snakemake left on a backend. They are collected once, when this Snakemake starts.

    resubmit: submits a member again, given its number of rounds so far.
    """

    def __init__(self, roster: Roster, backend: str, resubmit: Callable[[Member, int], None]):
        self.roster, self.backend, self._resubmit = roster, backend, resubmit
        self._tell, self._warn = roster.executor.logger.info, roster.executor.logger.warning
        self._left = self._left_by_another()  # output -> member

    def take(self, job: JobExecutorInterface, entry: Entry) -> bool:
        """Take over a job if an earlier Snakemake submitted the same work. Outdated jobs are cancelled.

        Returns whether the job was taken over.
        """
        left = {self._left.pop(output) for output in entry.outputs or [entry.key] if output in self._left}
        for member in left:
            if len(left) == 1 and member.entry.key == entry.key:
                member.info = SubmittedJobInfo(job)
                self.roster.by_job[job] = member
                self.roster.watch(member)
                return True
            self._end(member)
        return False

    def _left_by_another(self) -> dict[str, Member]:
        """Output -> job that an earlier Snakemake left active, or that has ended since this Snakemake started."""
        members = self._unclosed()
        if not members:
            return {}
        for submission in {member.submission.folder: member.submission for member in members}.values():
            if not submission.ids:
                self._find_lost_id(submission)
        running = slurm.patiently(lambda: active(members), self._warn)
        left = {}
        for member in members:
            finished = member.submission.finished_at(member.number)  # read after the query: the job may have just ended
            outcome = member.submission.outcome(member.number) or {}
            if (member in running and not finished) or (finished or 0) > BEGAN:
                for output in member.entry.outputs or [member.entry.key]:
                    left[output] = member
            else:
                member.close(outcome.get("outcome", "lost"))
        if left:
            count = len(set(left.values()))
            self._tell(f"Found {count} job(s) of an earlier Snakemake; taking over those that are still needed.")
        return left

    def _unclosed(self) -> list[Member]:
        """Jobs whose end no Snakemake knows. Waits until all cancelled jobs have ended."""
        members, cancelled = [], []
        for submission in self.roster.ledger.submissions():
            closed = submission.closed()
            if submission.backend != self.backend:
                continue
            for number in range(len(submission.entries)):
                if number not in closed:
                    members.append(Member(submission, number))
                elif closed[number] == "cancelled":
                    cancelled.append(Member(submission, number))
        self._until_gone(cancelled)
        return members

    def _find_lost_id(self, submission: Submission) -> None:
        """Find the id of a submission whose Snakemake was killed before it could save the id."""
        if self.backend != "slurm":
            return
        while local.is_named("sbatch", submission.folder):
            time.sleep(0.2)  # this sbatch outlived its Snakemake and will soon have its answer
        started = (job_id.split("_")[0] for job_id in submission.started_ids)
        found = next(filter(is_number, started), None)
        if found := found or slurm.patiently(lambda: slurm.find(submission.name), self._warn):
            submission.note_id(found)

    def _end(self, member: Member) -> None:
        """Cancel an outdated job. Jobs that are packed with it are submitted again."""
        under_way = self.roster.under_way
        together = {
            other
            for other in {*self._left.values(), *under_way, member}
            if other.submission.folder == member.submission.folder and other.id == member.id
        }
        cancel([member], self._warn)
        self._until_gone(list(together))
        self._left = {output: other for output, other in self._left.items() if other not in together}
        for other in together & under_way:
            if other.submission.outcome(other.number) is None:
                self._resubmit(other, other.entry.rounds)

    def _until_gone(self, members: list[Member]) -> None:
        """Wait for cancelled jobs to end. They may still be saving, and no two jobs may write the same files."""
        while left := slurm.patiently(lambda: active(members), self._warn):
            self._tell(f"Waiting for {len(left)} cancelled job(s) to end.")
            time.sleep(2)
        for member in members:
            member.close("gone")

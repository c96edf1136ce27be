"""The jobs under way, from submission until their end is reported to Snakemake, the map, and the counts."""

from collections.abc import Callable
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

from snakemake_executor_plugin_submitit import jobs, report, slurm
from snakemake_executor_plugin_submitit.ledger import Ledger
from snakemake_executor_plugin_submitit.members import Member, cancel
from snakemake_executor_plugin_submitit.progress import Progress, named


class Roster:
    """Members under way, and the member of each Snakemake job.

    `executor` reports changes to Snakemake. `soon` is called after each change, so that SLURM is queried soon.
    """

    def __init__(self, executor: RemoteExecutor, ledger: Ledger, progress: Progress, soon: Callable[[], None]):
        self.executor, self.ledger, self.progress, self._soon = executor, ledger, progress, soon
        self.under_way: set[Member] = set()  # members whose end was not reported yet
        self.by_job: dict[JobExecutorInterface, Member] = {}

    def watch(self, member: Member) -> None:
        """Start to watch a submitted job."""
        member.info.external_jobid = member.id
        member.info.aux = {"member": member}
        self.under_way.add(member)
        self.executor.report_job_submission(member.info, register_job=False)
        self._soon()

    def succeed(self, member: Member) -> None:
        """Report a success."""
        self.under_way.discard(member)
        self.progress.ended(member, well=True)
        self.ledger.tell("success", member.submission, member.number)
        self._soon()
        self.executor.report_job_success(member.info)

    def fail(self, member: Member, state: slurm.State | None, outcome: dict[str, Any], note: str = "") -> None:
        """Report a failure, with SLURM's state and the job's own outcome."""
        text = report.failure(member, state, outcome, note)
        if state is not None and state.name == "CANCELLED":
            jobs.give_up(member.info.job)  # cancelled on purpose: no retries
        self.fail_with(member, text)

    def fail_with(self, member: Member, text: str) -> None:
        """Report a failure with the given text."""
        self._note_failure(member)
        self.executor.report_job_error(member.info, msg=f"{text}\n")

    def fail_together(self, members: list[Member], error: Exception) -> None:
        """Report the jobs of an sbatch that failed, in one report."""
        for member in members:
            self._note_failure(member)
            if isinstance(error, slurm.RefusedError):
                jobs.give_up(member.info.job)
        infos = [member.info for member in members]
        others = f" ({len(members)} jobs: {named(members)})" if len(members) > 1 else ""
        self.report_together(infos, f"could not be submitted: {error}{others}")

    def report_together(self, infos: list[SubmittedJobInfo], text: str) -> None:
        """Report several failures as one: only the first job's report has the text."""
        self.executor.report_job_error(infos[0], msg=f"{text}\n")
        for info in infos[1:]:
            self.executor.workflow.scheduler.error_callback(info.job)

    def _note_failure(self, member: Member) -> None:
        self.under_way.discard(member)
        self.progress.ended(member, well=False)
        self.ledger.tell("failure", member.submission, member.number)
        self._soon()

    def back_to_the_queue(self, member: Member) -> None:
        """Close a job's current submission, because the job is submitted again."""
        self.under_way.discard(member)
        self.progress.forget(member)
        member.close("back to the queue")
        self.ledger.tell("back to the queue", member.submission, member.number)

    def cancel(self) -> None:
        """Cancel all submitted jobs, including those that are being checked right now."""
        under_way = self.under_way.copy()
        cancel(under_way, self.executor.logger.warning)
        for member in under_way:
            member.close("cancelled")
            self.ledger.tell("cancelled", member.submission, member.number)
            self.under_way.discard(member)

"""The jobs under way: from their submission until Snakemake, the map and the counts have heard how they ended."""

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
    """Members under way, and the member of each job of Snakemake's.

    Snakemake hears of changes through `executor`. `soon` is called at each of them: the next question to SLURM is then
    due soon.
    """

    def __init__(self, executor: RemoteExecutor, ledger: Ledger, progress: Progress, soon: Callable[[], None]):
        self.executor, self.ledger, self.progress, self._soon = executor, ledger, progress, soon
        self.under_way: set[Member] = set()  # those whose end was not reported yet
        self.by_job: dict[JobExecutorInterface, Member] = {}

    def watch(self, member: Member) -> None:
        """From now on the job's end is looked for."""
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
        """Report a failure, with what SLURM and the job itself say of it."""
        text = report.failure(member, state, outcome, note)
        if state is not None and state.name == "CANCELLED":
            jobs.give_up(member.info.job)  # somebody wanted it to end
        self.fail_with(member, text)

    def fail_with(self, member: Member, text: str) -> None:
        """Report a failure in these words."""
        self._note_failure(member)
        self.executor.report_job_error(member.info, msg=f"{text}\n")

    def fail_together(self, members: list[Member], error: Exception) -> None:
        """Report jobs of one sbatch that did not succeed, in one report."""
        for member in members:
            self._note_failure(member)
            if isinstance(error, slurm.RefusedError):
                jobs.give_up(member.info.job)
        infos = [member.info for member in members]
        others = f" ({len(members)} jobs: {named(members)})" if len(members) > 1 else ""
        self.report_together(infos, f"could not be submitted: {error}{others}")

    def report_together(self, infos: list[SubmittedJobInfo], text: str) -> None:
        """Snakemake's report for the first of some jobs; of the others it hears only that they failed."""
        self.executor.report_job_error(infos[0], msg=f"{text}\n")
        for info in infos[1:]:
            self.executor.workflow.scheduler.error_callback(info.job)

    def _note_failure(self, member: Member) -> None:
        self.under_way.discard(member)
        self.progress.ended(member, well=False)
        self.ledger.tell("failure", member.submission, member.number)
        self._soon()

    def back_to_the_queue(self, member: Member) -> None:
        """The job's submission is over, and another will take its place."""
        self.under_way.discard(member)
        self.progress.forget(member)
        member.close("back to the queue")
        self.ledger.tell("back to the queue", member.submission, member.number)

    def cancel(self) -> None:
        """End all that were submitted, also those that are just being looked at."""
        under_way = self.under_way.copy()
        cancel(under_way, self.executor.logger.warning)
        for member in under_way:
            member.close("cancelled")
            self.ledger.tell("cancelled", member.submission, member.number)
            self.under_way.discard(member)

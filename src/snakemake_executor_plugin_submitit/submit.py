"""Submission: ready jobs with equal requests become packs and arrays, which are recorded before sbatch is called."""

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import submitit
from snakemake_interface_common.exceptions import ApiError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from submitit.helpers import DelayedSubmission

from snakemake_executor_plugin_submitit import jobs, resources, slurm
from snakemake_executor_plugin_submitit.ledger import Entry, Submission
from snakemake_executor_plugin_submitit.members import Member
from snakemake_executor_plugin_submitit.resources import Allocation
from snakemake_executor_plugin_submitit.roster import Roster
from snakemake_executor_plugin_submitit.runner import Runner
from snakemake_executor_plugin_submitit.settings import ExecutorSettings

YEAR = 60 * 24 * 365  # minutes
ANY_NUMBER = 10**6

Ready = tuple[JobExecutorInterface, Entry]  # a job and its ledger entry


class Submitter:
    """Submits Snakemake's jobs. If a submission fails, its jobs are reported to the roster as failures.

    declared: names of the workflow's own resources. array_size: maximum jobs per array; None: no limit.
    """

    def __init__(
        self,
        executor: RemoteExecutor,
        settings: ExecutorSettings,
        roster: Roster,
        declared: Collection[str],
        array_size: int | None,
    ):
        self.executor, self.settings, self.roster, self.ledger = executor, settings, roster, roster.ledger
        self.declared, self.array_size = declared, array_size
        self.scripts: dict[JobExecutorInterface, Path] = {}
        self._submitting = threading.Lock()

    def submit(self, ready: list[Ready]) -> None:
        """Submit jobs, as one array for each distinct allocation."""
        fresh: dict[Allocation, list[Ready]] = defaultdict(list)
        refused: dict[str, list[SubmittedJobInfo]] = defaultdict(list)
        for job, entry in ready:
            try:
                allocation = jobs.allocation(job, self.declared)
            except ApiError as error:  # of a resource that depends on files; the other jobs continue
                refused[str(error)].append(SubmittedJobInfo(job))
                continue
            assert allocation is not None, "a job that is ready has its inputs"
            fresh[replace(allocation, pack=1) if job.is_group() else allocation].append((job, entry))
        for text, infos in refused.items():
            self.roster.report_together(infos, text)
        for allocation, members in fresh.items():
            self._submit_all(allocation, members)

    def resubmit(self, member: Member, rounds: int) -> None:
        """Submit a job again, alone, because SLURM did not requeue it."""
        if rounds > member.submission.requeue_limit:
            limit = f"not finished after {rounds} rounds (requeue limit {member.submission.requeue_limit})"
            self.roster.fail(member, None, {"reason": limit})
            return
        self.roster.back_to_the_queue(member)
        job = member.info.job
        allocation = jobs.allocation(job, self.declared)
        assert allocation is not None, "it had one before"
        self._submit(resources.packed(allocation, 1), [[(job, replace(member.entry, rounds=rounds))]])

    def _submit_all(self, allocation: Allocation, ready: list[Ready]) -> None:
        """Submit jobs in packs, and packs in arrays. A last pack that is not full requests only what its jobs need."""
        alone = [(job, entry) for job, entry in ready if job.is_group()]
        others = [(job, entry) for job, entry in ready if not job.is_group()]
        packs = [others[i : i + allocation.pack] for i in range(0, len(others), allocation.pack)]
        for size in sorted({len(pack) for pack in packs}, reverse=True):
            equal = [pack for pack in packs if len(pack) == size]
            step = self.array_size or len(equal)
            for first in range(0, len(equal), step):
                self._submit(resources.packed(allocation, size), equal[first : first + step])
        for one in alone:
            self._submit(allocation, [[one]])

    def _submit(self, allocation: Allocation, packs: list[list[Ready]]) -> None:
        """Call sbatch once. If it finally fails, its jobs fail, and no others."""
        submission = self._submission(allocation, packs)
        ready = [each for pack in packs for each in pack]
        members = [Member(submission, number, SubmittedJobInfo(job)) for number, (job, _) in enumerate(ready)]
        self.roster.by_job.update((member.info.job, member) for member in members)
        try:
            self._write(submission, members, allocation)
            self.roster.under_way.update(members)  # so that cancelling finds them
            with self._submitting:
                submission.note_id(getattr(self, f"_submit_to_{self.settings.backend}")(submission, allocation))
        except (slurm.SlurmError, OSError) as error:
            with contextlib.suppress(OSError):
                submission.folder.rmdir()  # only if it is empty
            self.roster.fail_together(members, error)
            return
        for member in members:
            self.ledger.tell("submitted", submission, member.number)
            self.roster.watch(member)
        if self.settings.backend != "debug":  # debug jobs have already ended
            self._say_submitted(submission)

    def _submission(self, allocation: Allocation, packs: list[list[Ready]]) -> Submission:
        """A submission of packs of jobs, which is not on disk yet."""
        entries = [entry for pack in packs for _, entry in pack]
        rules = {entry.rule for entry in entries}
        position = iter(range(len(entries)))
        return self.ledger.new(
            rules.pop() if len(rules) == 1 else "snakemake",
            backend=self.settings.backend,
            entries=entries,
            allocations=[[next(position) for _ in pack] for pack in packs],
            parallel=allocation.pack_parallel,
            gpus=allocation.gpus,
            requeue=allocation.requeue,
            requeue_limit=self.settings.requeue_limit,
        )

    def _write(self, submission: Submission, members: list[Member], allocation: Allocation) -> None:
        """Write the files that the node needs, and Snakemake's own records."""
        submission.folder.mkdir()
        submission.save()  # first: a folder without submission.json is never removed
        for member in members:
            job, script = member.info.job, submission.script(member.number)
            self.scripts[job] = script
            self.executor.write_jobscript(job, script)
            if not member.entry.rounds:
                self._record(job)
            job.register(external_jobid=submission.name)
        delayed = DelayedSubmission(Runner(submission.folder))
        delayed.set_timeout(allocation.minutes or YEAR, ANY_NUMBER)  # the runner applies the requeue limit
        delayed.dump(submission.pickle)

    def _record(self, job: JobExecutorInterface) -> None:
        """Write Snakemake's own records of a job before the job can start.

        Snakemake records params and code when a job succeeds. If Snakemake is killed before that, the job may still
        succeed, and without a record, nothing would show later that its params are outdated. The job itself removes
        its mark of an incomplete job, so a mark that is set after that would stay forever.
        """
        workflow = self.executor.workflow
        for part in jobs.parts(job):
            workflow.async_run(workflow.persistence.finished(part))

    def _say_submitted(self, submission: Submission) -> None:
        count = f"{len(submission.entries)} job{'s' if len(submission.entries) > 1 else ''}"
        if submission.backend == "slurm":
            kind = "array" if len(submission.ids) > 1 else "job"
            how = f"as {kind} {slurm.compress(submission.ids)[0]}"
        else:
            number = len(submission.ids)
            how = f"as {number} process{'es' if number > 1 else ''} on this machine"
        place = os.path.relpath(self.ledger.folder / "map.tsv")
        self.executor.logger.info(f"Submitted {count} {how}; ids and logs: {place}")

    # ------------------------------------------------------------------------------------------ backends

    def _submit_to_slurm(self, submission: Submission, allocation: Allocation) -> str:
        executor = slurm.Sbatch(submission.folder, python=f"exec {slurm.PYTHON}")
        executor.update_parameters(
            **resources.parameters(
                allocation,
                submission.name,
                self.settings.signal_delay or 0,
                self.settings.array_parallelism or len(submission.allocations),
            )
        )
        return slurm.submit(
            lambda: executor.submit_tasks(submission.pickle, len(submission.allocations)),
            lambda: slurm.find(submission.name),
            self.settings.submit_retries or 0,
            self.executor.logger.warning,
        )

    def _submit_to_local(self, submission: Submission, allocation: Allocation) -> str:
        executor = submitit.LocalExecutor(submission.folder)
        executor.update_parameters(
            timeout_min=allocation.minutes or YEAR,
            signal_delay_s=self.settings.signal_delay,
            stderr_to_stdout=True,
            setup=["trap '' INT HUP"],  # a terminal sends Ctrl-C to all processes; only the plugin ends jobs
        )
        return " ".join(
            str(executor.submit(Runner(submission.folder, number)).job_id)
            for number in range(len(submission.allocations))
        )

    def _submit_to_debug(self, submission: Submission, allocation: Allocation) -> str:
        executor = submitit.DebugExecutor(submission.folder)
        for number in range(len(submission.allocations)):
            executor.submit(Runner(submission.folder, number)).exception()
        return " ".join("debug" for _ in submission.allocations)

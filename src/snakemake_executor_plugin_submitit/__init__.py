"""Snakemake executor plugin that submits jobs to SLURM, or runs them as processes on this machine, through submitit.

Snakemake's executor plugin interface looks up ExecutorSettings, common_settings, and Executor here. A job passes
through these modules: `takeover` checks whether an earlier Snakemake submitted it, `resources` maps its resources to
options of sbatch, `submit` groups it with other jobs, `ledger` records the submission, `slurm` calls sbatch, `runner`
runs the job on the node and writes its outcome, `watch` reads the outcome, and `roster` reports it to Snakemake.
Meanwhile, `progress` logs how many jobs wait, and why.
"""

import shlex
from collections.abc import AsyncGenerator
from pathlib import Path

from snakemake_interface_common.exceptions import ApiError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings, SharedFSUsage
from snakemake_interface_executor_plugins.utils import encode_target_jobs_cli_args, format_cli_arg

from snakemake_executor_plugin_submitit import jobs as snakemake_jobs
from snakemake_executor_plugin_submitit import settings
from snakemake_executor_plugin_submitit.ledger import Ledger, LedgerError
from snakemake_executor_plugin_submitit.members import Member
from snakemake_executor_plugin_submitit.progress import Progress
from snakemake_executor_plugin_submitit.roster import Roster
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.submit import Submitter
from snakemake_executor_plugin_submitit.takeover import Takeover
from snakemake_executor_plugin_submitit.watch import Pace, Watch

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=False,  # SLURM passes the environment on; scripts on disk must hold no secrets
    auto_deploy_default_storage_provider=False,
    pass_group_args=True,
    init_seconds_before_status_checks=0,  # the first checks only read files
)


class Executor(RemoteExecutor):  # type: ignore[misc]
    """Implements Snakemake's executor interface by delegating to the other modules."""

    def __post_init__(self) -> None:
        # RemoteExecutor's polling thread is already running, but has no jobs yet
        self.settings: ExecutorSettings = self.workflow.executor_settings or ExecutorSettings()
        settings.check(self.settings)
        settings.check_paths(self.settings, self.workflow)
        declared = set(self.workflow.resource_settings.resources)
        for job in self.dag.needrun_jobs():
            if not job.is_local:
                snakemake_jobs.allocation(job, declared)  # raises an error before anything is submitted
        try:
            self.ledger = Ledger(Path(self.settings.folder or ""), self.logger.warning)
        except LedgerError as error:
            raise ApiError(str(error)) from error
        self._clean()
        progress = Progress(self.logger.info, self.logger.warning)
        pace = Pace(float(self.settings.status_interval or 0), float(self.settings.status_interval_max or 0))
        on_slurm = self.settings.backend == "slurm"
        site = settings.meet_slurm(self.settings, self.logger.warning) if on_slurm else settings.Site("", None)
        self._roster = Roster(self, self.ledger, progress, pace.soon)
        self._submitter = Submitter(self, self.settings, self._roster, declared, site.array_size)
        self._watch = Watch(self._roster, pace, site.status_command, self._submitter.resubmit)
        self._takeover = Takeover(self._roster, str(self.settings.backend), self._submitter.resubmit)

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit a job that is ready."""
        self.run_jobs([job])

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit jobs that are ready, except those that an earlier Snakemake submitted."""
        fresh = []
        for job in jobs:
            self.run_job_pre(job)
            entry = snakemake_jobs.entry(job)
            if not self._takeover.take(job, entry):
                fresh.append((job, entry))
        self._submitter.submit(fresh)

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report the jobs that have ended; yield the others."""
        members: list[Member] = [info.aux["member"] for info in active_jobs if info.aux]
        if members:  # otherwise __post_init__ may not have finished
            await self._watch.look(members)
        for member in members:
            if member in self._roster.under_way:
                yield member.info

    def handle_job_success(self, job: JobExecutorInterface) -> None:
        """Close a job that succeeded. Snakemake has recorded it, so no later Snakemake has to take it over."""
        self._roster.by_job.pop(job).close("success")

    def handle_job_error(self, job: JobExecutorInterface) -> None:
        """Close a job that failed."""
        if member := self._roster.by_job.pop(job, None):  # None: it was never submitted
            member.close("failure")

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel all submitted jobs, including those that are being checked right now."""
        self._roster.cancel()

    def shutdown(self) -> None:
        """Remove files that need not be kept, and release the folder for another Snakemake."""
        super().shutdown()
        self._clean()
        self.ledger.release()

    def _clean(self) -> None:
        self.ledger.clean(self.settings.keep_days or 0, bool(self.settings.keep_successful))

    # ------------------------------------------------------------------------------------------ the job's command

    def get_jobscript(self, job: JobExecutorInterface) -> str:
        """The path of a job's script."""
        return str(self._submitter.scripts[job])

    def get_job_args(self, job: JobExecutorInterface) -> str:
        """Snakemake's arguments for a job: its cores, and its input files in a list that outlives Snakemake."""
        arguments = str(RealExecutor.get_job_args(self, job, cores=job.threads))
        # Snakemake quotes with repr. A shell would run wildcards with both an apostrophe and a dollar sign as code.
        target = encode_target_jobs_cli_args(job.get_target_spec())
        arguments = arguments.replace(format_cli_arg("--target-jobs", target), f"--target-jobs {shlex.join(target)}", 1)
        if SharedFSUsage.INPUT_OUTPUT not in self.workflow.storage_settings.shared_fs_usage:
            return arguments
        files = self._submitter.scripts[job].with_suffix(".files")
        files.write_text("".join(f"{file}\n" for file in job.get_wait_for_files()))
        return f"{arguments} --wait-for-files-file {shlex.quote(str(files.absolute()))}"

    def additional_general_args(self) -> str:
        """Extra arguments for the Snakemake process inside a job."""
        # Snakemake passes --retries 0, which does not disable a rule's own `retries:`, so these would count twice
        return "--preemptible-retries 0 --preemptible-rules"

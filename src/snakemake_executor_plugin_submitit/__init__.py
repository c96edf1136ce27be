"""Snakemake executor plugin: jobs go to SLURM, or to processes of this machine, through submitit.

Snakemake looks here for ExecutorSettings, common_settings and Executor (its executor plugin interface). The way of a
job: `resources` says what it asks for, `run_jobs` groups the jobs that are ready into arrays, `ledger` writes them
down, `slurm` submits them, `runner` runs them on the node and writes outcomes, `check_active_jobs` reads these,
`watch` says what waits and why.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, Optional

import psutil
import submitit
from snakemake_interface_common.exceptions import ApiError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase, SharedFSUsage
from snakemake_interface_executor_plugins.utils import encode_target_jobs_cli_args, format_cli_arg
from submitit.helpers import DelayedSubmission

from snakemake_executor_plugin_submitit import jobs as snakemake_jobs
from snakemake_executor_plugin_submitit import local, report, resources, slurm
from snakemake_executor_plugin_submitit.ledger import Entry, Ledger, LedgerError, Submission, is_number
from snakemake_executor_plugin_submitit.runner import Runner
from snakemake_executor_plugin_submitit.watch import Watch, named, waits

REPORT_WITHIN = 30.0  # seconds in which SLURM should say how a failed job ended
YEAR = 60 * 24 * 365  # minutes
ANY_NUMBER = 10**6
BEGAN = psutil.Process().create_time()  # of this Snakemake
REASONS_AFTER = 60.0  # seconds between two questions for reasons, where the accounting does not know them
LOST_AFTER = 120.0  # seconds for which SLURM may know nothing of a job before it counts as lost
BACKENDS = ("slurm", "local", "debug")
STATUS_COMMANDS = ("auto", *slurm.STATUS)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):  # type: ignore[misc]
    # Optional[...] and not `... | None`: the latter breaks every Snakemake command
    backend: Optional[str] = field(  # noqa: UP045
        default="slurm",
        metadata={
            "help": "Where jobs run: slurm (sbatch), local (processes of this machine), debug (one after another in "
            "Snakemake's own process)."
        },
    )
    folder: Optional[str] = field(  # noqa: UP045
        default=".snakemake/submitit",
        metadata={"help": "Folder for what is submitted, its logs and outcomes; every node must see it."},
    )
    array_size: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "At most so many jobs in one array. Default: the cluster's MaxArraySize. 1: no arrays."},
    )
    array_parallelism: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "At most so many jobs of one array run at once. Default: all that --jobs allows."},
    )
    requeue_limit: Optional[int] = field(  # noqa: UP045
        default=100,
        metadata={
            "help": "So often may a job go back to the queue, after its time limit, a preemption or a node's failure."
        },
    )
    signal_delay: Optional[int] = field(  # noqa: UP045
        default=90, metadata={"help": "Seconds before the time limit at which a job is asked to save its state."}
    )
    status_command: Optional[str] = field(  # noqa: UP045
        default="auto",
        metadata={
            "help": "What tells the state of jobs: sacct, squeue, or auto: sacct where the cluster has accounting."
        },
    )
    status_interval: Optional[int] = field(  # noqa: UP045
        default=10,
        metadata={"help": "Seconds between two questions to SLURM after a change; grows while nothing happens."},
    )
    status_interval_max: Optional[int] = field(  # noqa: UP045
        default=120, metadata={"help": "Seconds up to which that interval grows."}
    )
    submit_retries: Optional[int] = field(  # noqa: UP045
        default=6, metadata={"help": "So often is an sbatch tried again that failed for a reason that may pass."}
    )
    keep_days: Optional[int] = field(  # noqa: UP045
        default=10, metadata={"help": "Days for which the logs of failed jobs are kept."}
    )
    keep_successful: bool = field(default=False, metadata={"help": "Keep the logs of successful jobs for as long."})


#: Setting -> its least value, and its greatest where it has one.
RANGES: dict[str, tuple[int, float]] = {
    "array_size": (1, inf),
    "array_parallelism": (1, inf),
    "requeue_limit": (0, inf),
    "signal_delay": (1, 65535),  # of sbatch's --signal
    "status_interval": (1, inf),
    "status_interval_max": (1, inf),
    "submit_retries": (0, inf),
    "keep_days": (0, inf),
}

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=False,  # SLURM passes the environment on; a script on disk should hold no secrets
    auto_deploy_default_storage_provider=False,
    pass_group_args=True,
    init_seconds_before_status_checks=0,  # a look reads files; SLURM is asked later
)


@dataclass(eq=False)
class Member:
    """One job of Snakemake's in one submission, until its end was reported."""

    submission: Submission
    number: int
    info: Any = None  # Snakemake's SubmittedJobInfo, unless another Snakemake submitted it
    over: tuple[str, float] | None = None  # the state in which it has ended, "" if SLURM lost it, and since when
    failed: float | None = None  # when its outcome was seen to be a failure

    @property
    def entry(self) -> Entry:
        return self.submission.entries[self.number]

    @property
    def id(self) -> str:
        return self.submission.id_of(self.number)

    @property
    def starts(self) -> int:
        jobs = next(i for i, jobs in enumerate(self.submission.allocations) if self.number in jobs)
        return self.submission.starts(jobs)

    def close(self, event: str) -> None:
        self.submission.close(self.number, event)


def _runs(member: Member) -> bool:
    return member.id.isdigit() and local.runs(int(member.id), member.submission.folder)


class Executor(RemoteExecutor):  # type: ignore[misc]
    def __post_init__(self) -> None:
        # RemoteExecutor's thread already looks for jobs, and finds none
        self.settings: ExecutorSettings = self.workflow.executor_settings or ExecutorSettings()
        self._check_settings()
        self._check_paths()
        self.backend = self.settings.backend
        self._declared = set(self.workflow.resource_settings.resources)
        for job in self.dag.needrun_jobs():
            if not job.is_local:
                self._allocation(job)  # what is wrong is said before anything is submitted
        try:
            self.ledger = Ledger(Path(self.settings.folder or ""), self.logger.warning)
        except LedgerError as error:
            raise ApiError(str(error)) from error
        self._clean()
        self._watch_over = Watch(self.logger.info, self.logger.warning)
        self._members: set[Member] = set()  # those whose end was not reported yet
        self._scripts: dict[JobExecutorInterface, Path] = {}
        self._submitting = threading.Lock()
        self._by_job: dict[JobExecutorInterface, Member] = {}
        self._asked, self._asked_why = time.monotonic(), -inf  # SLURM, the last time
        self._soon()
        if self.backend == "slurm":
            self._meet_slurm()
        self._left = self._left_by_another()

    # ------------------------------------------------------------------------------------------ settings

    def _check_settings(self) -> None:
        def refuse(name: str, valid: str) -> None:
            flag = f"--submitit-{name.replace('_', '-')}"
            raise ApiError(f"{flag} {getattr(self.settings, name)!r} is not valid; valid: {valid}")

        if self.settings.backend not in BACKENDS:
            refuse("backend", ", ".join(BACKENDS))
        if self.settings.status_command not in STATUS_COMMANDS:
            refuse("status_command", ", ".join(STATUS_COMMANDS))
        if not self.settings.folder:
            refuse("folder", "a folder that every node sees")
        for name, (least, most) in RANGES.items():
            value = getattr(self.settings, name)
            if value is None and name not in ("array_size", "array_parallelism"):
                setattr(self.settings, name, getattr(ExecutorSettings, name))
            elif value is not None and not least <= value <= most:
                refuse(name, f"{least} to {most}" if most < inf else f"{least} or more")

    def _check_paths(self) -> None:
        """Paths that are part of each job's script."""
        paths = [
            ("--submitit-folder", os.path.abspath(self.settings.folder or "")),
            ("working directory", os.getcwd()),
            ("--snakefile", str(self.workflow.main_snakefile)),
            *(("--configfile", str(file)) for file in self.workflow.overwrite_configfiles),
        ]
        for name, path in paths:
            if found := slurm.misread(path):
                raise ApiError(f"{name} {path!r} cannot be used: {found} in it would be misread in jobs' scripts")

    def _meet_slurm(self) -> None:
        """Which commands tell the state, and how large an array may be."""
        if missing := [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if not shutil.which(name)]:
            raise ApiError(
                f"no SLURM here: {', '.join(missing)} not found; use a login node, or --submitit-backend local"
            )
        if decided := slurm.decided_variables():
            self.logger.warning(f"{', '.join(decided)}: not followed, since the plugin itself decides that")
        try:
            configuration = slurm.configuration()
        except slurm.SlurmError as error:
            self.logger.warning(f"{error}; assuming SLURM's defaults")
            configuration = {}
        accounting = not configuration.get("AccountingStorageType", "").endswith("none")
        command = self.settings.status_command
        self._status_command = ("sacct" if accounting else "squeue") if command == "auto" else str(command)
        largest = int(configuration.get("MaxArraySize", 1001))
        self._array_size = min(self.settings.array_size or largest, largest)

    def _allocation(self, job: JobExecutorInterface) -> resources.Allocation | None:
        """What a job asks for; None where that depends on files that are not there yet."""
        try:
            return resources.allocation(job.name, job.threads, dict(job.resources.items()), self._declared)
        except resources.Pending:
            return None
        except resources.ResourceError as error:
            raise ApiError(str(error)) from error

    # ------------------------------------------------------------------------------------------ submitting

    def run_job(self, job: JobExecutorInterface) -> None:
        self.run_jobs([job])

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit what is ready, as few arrays as there are kinds of allocations among it."""
        fresh: dict[resources.Allocation, list[tuple[JobExecutorInterface, Entry]]] = defaultdict(list)
        refused: dict[str, list[Any]] = defaultdict(list)
        for job in jobs:
            self.run_job_pre(job)
            entry = Entry(
                snakemake_jobs.key(job), job.name, snakemake_jobs.wildcards(job), [str(file) for file in job.output]
            )
            if self._take_over(job, entry):
                continue
            try:
                allocation = self._allocation(job)
            except ApiError as error:  # of a resource that depends on files: no reason to stop the others
                refused[str(error)].append(SubmittedJobInfo(job))
                continue
            assert allocation is not None, "a job that is ready has its inputs"
            fresh[replace(allocation, pack=1) if job.is_group() else allocation].append((job, entry))
        for text, infos in refused.items():
            self._report_together(infos, text)
        for allocation, members in fresh.items():
            self._submit_all(allocation, members)

    def _submit_all(self, allocation: resources.Allocation, members: list[tuple[JobExecutorInterface, Entry]]) -> None:
        """Packs of jobs, arrays of packs. A last pack that is not full is an allocation of its own size."""
        alone = [member for member in members if member[0].is_group()]
        others = [member for member in members if not member[0].is_group()]
        packs = [others[i : i + allocation.pack] for i in range(0, len(others), allocation.pack)]
        for size in sorted({len(pack) for pack in packs}, reverse=True):
            equal = [pack for pack in packs if len(pack) == size]
            step = self._array_size if self.backend == "slurm" else len(equal)
            for first in range(0, len(equal), step):
                self._submit(resources.packed(allocation, size), equal[first : first + step])
        for member in alone:
            self._submit(allocation, [[member]])

    def _submit(self, allocation: resources.Allocation, packs: list[list[tuple[JobExecutorInterface, Entry]]]) -> None:
        """One call of sbatch. Where it fails for good, its jobs fail, and no others."""
        flat = [member for pack in packs for member in pack]
        rules = {entry.rule for _, entry in flat}
        position = iter(range(len(flat)))
        submission = self.ledger.new(
            rules.pop() if len(rules) == 1 else "snakemake",
            backend=self.backend,
            entries=[entry for _, entry in flat],
            allocations=[[next(position) for _ in pack] for pack in packs],
            parallel=allocation.pack_parallel,
            gpus=allocation.gpus,
            requeue=allocation.requeue,
            requeue_limit=self.settings.requeue_limit,
        )
        members = [Member(submission, number, SubmittedJobInfo(job)) for number, (job, _) in enumerate(flat)]
        self._by_job.update((member.info.job, member) for member in members)
        try:
            submission.folder.mkdir()
            submission.save()  # first: what is not saved is not known for ours, and nobody would remove it
            for number, (job, _) in enumerate(flat):
                self._scripts[job] = submission.script(number)
                self.write_jobscript(job, submission.script(number))
                if not members[number].entry.rounds:
                    self._record(job)
                job.register(external_jobid=submission.name)
            delayed = DelayedSubmission(Runner(submission.folder))
            delayed.set_timeout(allocation.minutes or YEAR, ANY_NUMBER)  # the runner decides how often it may come back
            delayed.dump(submission.pickle)
            self._members.update(members)  # so that cancelling finds them
            with self._submitting:
                submission.note_id(getattr(self, f"_submit_to_{self.backend}")(submission, allocation))
        except (slurm.SlurmError, OSError) as error:
            with contextlib.suppress(OSError):
                submission.folder.rmdir()  # where it is empty
            self._fail_together(members, error)
            return
        for member in members:
            self.ledger.tell("submitted", submission, member.number)
            self._watch(member)
        if self.backend != "debug":  # there, they have ended
            self._say_submitted(submission)

    def _say_submitted(self, submission: Submission) -> None:
        count = f"{len(submission.entries)} job{'s' if len(submission.entries) > 1 else ''}"
        if self.backend == "slurm":
            kind = "array" if len(submission.ids) > 1 else "job"
            how = f"as {kind} {slurm.compress(submission.ids)[0]}"
        else:
            how = f"to {len(submission.ids)} processes of this machine"
        place = os.path.relpath(self.ledger.folder / "map.tsv")
        self.logger.info(f"Submitted {count} {how}; ids and logs: {place}")

    def _record(self, job: JobExecutorInterface) -> None:
        """Tell Snakemake's own records of a job before it can begin.

        Snakemake itself writes params and code down when it hears of a job's success. If it is killed before, the job
        ends well all the same, and nothing would show that its params are outdated by then. The mark of an incomplete
        job, in turn, is taken away by the job itself: set after that, it would never go.
        """
        persistence = self.workflow.persistence
        for part in snakemake_jobs.parts(job):
            self.workflow.async_run(persistence.finished(part))

    def _watch(self, member: Member) -> None:
        """From now on the job's end is looked for."""
        member.info.external_jobid = member.id
        member.info.aux = {"member": member}
        self._members.add(member)
        self.report_job_submission(member.info, register_job=False)
        self._soon()

    def _submit_to_slurm(self, submission: Submission, allocation: resources.Allocation) -> str:
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
            self.logger.warning,
        )

    def _submit_to_local(self, submission: Submission, allocation: resources.Allocation) -> str:
        executor = submitit.LocalExecutor(submission.folder)
        executor.update_parameters(
            timeout_min=allocation.minutes or YEAR,
            signal_delay_s=self.settings.signal_delay,
            stderr_to_stdout=True,
            setup=["trap '' INT HUP"],  # Ctrl-C at a terminal reaches all; who ends jobs, and how, is our matter
        )
        return " ".join(
            str(executor.submit(Runner(submission.folder, number)).job_id)
            for number in range(len(submission.allocations))
        )

    def _submit_to_debug(self, submission: Submission, allocation: resources.Allocation) -> str:
        executor = submitit.DebugExecutor(submission.folder)
        for number in range(len(submission.allocations)):
            executor.submit(Runner(submission.folder, number)).exception()
        return " ".join("debug" for _ in submission.allocations)

    # ------------------------------------------------------------------------------------------ the job's command

    def get_jobscript(self, job: JobExecutorInterface) -> str:
        return str(self._scripts[job])

    def get_job_args(self, job: JobExecutorInterface) -> str:
        """Snakemake's arguments, with the cores of the allocation, and files to wait for in a list that outlives us."""
        arguments = str(RealExecutor.get_job_args(self, job, cores=job.threads))
        # Snakemake quotes with repr, which for a shell is code where wildcards have an apostrophe and a dollar
        target = encode_target_jobs_cli_args(job.get_target_spec())
        arguments = arguments.replace(format_cli_arg("--target-jobs", target), f"--target-jobs {shlex.join(target)}", 1)
        if SharedFSUsage.INPUT_OUTPUT not in self.workflow.storage_settings.shared_fs_usage:
            return arguments
        files = self._scripts[job].with_suffix(".files")
        files.write_text("".join(f"{file}\n" for file in job.get_wait_for_files()))
        return f"{arguments} --wait-for-files-file {shlex.quote(str(files.absolute()))}"

    def additional_general_args(self) -> str:
        # --retries 0, which Snakemake passes, leaves a rule's own `retries:` in force: it would count twice
        return "--preemptible-retries 0 --preemptible-rules"

    # ------------------------------------------------------------------------------------------ taking over

    def _left_by_another(self) -> dict[str, Member]:
        """Jobs that a Snakemake submitted whose end it did not live to see: still active, or successful."""
        members, cancelled = [], []
        for submission in self.ledger.submissions():
            closed = submission.closed()
            if submission.backend != self.backend:
                continue
            for number in range(len(submission.entries)):
                if number not in closed:
                    members.append(Member(submission, number))
                elif closed[number] == "cancelled":
                    cancelled.append(Member(submission, number))
        self._until_gone(cancelled)
        if not members:
            return {}
        for submission in {member.submission.folder: member.submission for member in members}.values():
            if not submission.ids:
                self._find_lost_id(submission)
        active = slurm.patiently(lambda: self._active(members), self.logger.warning)
        left = {}
        for member in members:
            finished = member.submission.finished_at(member.number)  # after the question: it may have just ended
            outcome = member.submission.outcome(member.number) or {}
            if (member in active and not finished) or (finished or 0) > BEGAN:
                for output in member.entry.outputs or [member.entry.key]:
                    left[output] = member
            else:
                member.close(outcome.get("outcome", "lost"))
        if left:
            count = len(set(left.values()))
            self.logger.info(f"{count} jobs of an earlier Snakemake are under way; those still needed are taken over.")
        return left

    def _find_lost_id(self, submission: Submission) -> None:
        """The id of a submission whose Snakemake was killed before it could note it."""
        if self.backend != "slurm":
            return
        while local.is_named("sbatch", submission.folder):
            time.sleep(0.2)  # it outlived its Snakemake, and is about to be answered
        started = (job_id.split("_")[0] for job_id in submission.started_ids)
        found = next(filter(is_number, started), None)
        if found := found or slurm.patiently(lambda: slurm.find(submission.name), self.logger.warning):
            submission.note_id(found)

    def _active(self, members: Iterable[Member]) -> set[Member]:
        """Those that wait in the queue or run. SlurmError where SLURM does not say."""
        known = [member for member in members if member.submission.ids]
        if self.backend != "slurm":
            return {member for member in known if _runs(member)}
        if not known:
            return set()
        states = slurm.squeue([member.id for member in known])
        return {member for member in known if member.id in states and not states[member.id].ended}

    def _take_over(self, job: JobExecutorInterface, entry: Entry) -> bool:
        """Whether the job is under way, or done, by another Snakemake's hand. An outdated one is ended."""
        left = {self._left.pop(output) for output in entry.outputs or [entry.key] if output in self._left}
        for member in left:
            if len(left) == 1 and member.entry.key == entry.key:
                member.info = SubmittedJobInfo(job)
                self._by_job[job] = member
                self._watch(member)
                return True
            self._end(member)
        return False

    def _end(self, member: Member) -> None:
        """Cancel a job that would make what nobody wants any more. What is packed with it has to start again."""
        together = {
            other
            for other in {*self._left.values(), *self._members, member}
            if other.submission.folder == member.submission.folder and other.id == member.id
        }
        self._cancel([member])
        self._until_gone(list(together))
        self._left = {output: other for output, other in self._left.items() if other not in together}
        for other in together & self._members:
            if other.submission.outcome(other.number) is None:
                self._resubmit(other, other.entry.rounds)

    def _until_gone(self, members: list[Member]) -> None:
        """Wait for cancelled jobs, which may take their time to save their state: no two may write the same files."""
        while active := slurm.patiently(lambda: self._active(members), self.logger.warning):
            self.logger.info(f"Waiting for {len(active)} cancelled jobs to end.")
            time.sleep(2)
        for member in members:
            member.close("gone")

    # ------------------------------------------------------------------------------------------ watching

    def _soon(self, seconds: float | None = None) -> None:
        """Something changed: the next question to SLURM comes soon, and then less and less often."""
        self._interval = float(self.settings.status_interval or 0) if seconds is None else seconds

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Outcomes first, which are files; then one question to SLURM for all others, now and then."""
        members: list[Member] = [info.aux["member"] for info in active_jobs if info.aux]
        try:
            self._read_outcomes(members)
            left = [member for member in members if member in self._members]
            if left:
                self._watch_over.minute(left)
            if left and time.monotonic() - self._asked >= self._interval:
                async with self.status_rate_limiter:
                    await asyncio.to_thread(self._ask, left)
        except Exception as error:  # must not end the thread that looks: the jobs would be lost
            self.ledger.warn(f"could not look after all jobs: {type(error).__name__}: {error}")
        for member in members:
            if member in self._members:
                yield member.info

    def _read_outcomes(self, members: list[Member]) -> None:
        listed: dict[Path, set[int]] = {}
        for member in members:
            folder = member.submission.folder
            if folder not in listed:
                listed[folder] = member.submission.outcomes()
            if member.number not in listed[folder]:
                continue
            try:
                if outcome := member.submission.outcome(member.number):
                    self._read_outcome(member, outcome)
            except Exception as error:  # of one job; the others have ended, too
                text = f"{folder}/{member.number}.json: {type(error).__name__}: {error}"
                self.ledger.warn(text)
                if member in self._members:  # or nobody would ever hear of its end
                    self._note_failure(member)
                    self.report_job_error(member.info, msg=f"{text}\n")

    def _read_outcome(self, member: Member, outcome: dict[str, Any]) -> None:
        if outcome["outcome"] == "success":
            self._succeed(member)
        elif outcome["outcome"] == "come back":
            self._resubmit(member, outcome["rounds"])
        elif self.backend != "slurm" or time.monotonic() - (member.failed or time.monotonic()) > REPORT_WITHIN:
            self._fail(member, None, outcome)
        elif member.failed is None:
            member.failed = time.monotonic()
            self._soon(0)  # SLURM's state belongs into the report

    def _ask(self, members: list[Member]) -> None:
        """Ask for the states of jobs, and act on those that have ended without an outcome."""
        self._asked = time.monotonic()
        self._interval = min(max(self._interval, 1.0) * 1.5, float(self.settings.status_interval_max or 0))
        try:
            if self.backend == "slurm":
                states = slurm.STATUS[self._status_command](sorted({member.id for member in members}))
            else:
                states = {member.id: slurm.State("RUNNING" if _runs(member) else "FAILED") for member in members}
            silent = [member for member in members if member.failed is None]
            over = [member for member in silent if self._seems_over(member, states.get(member.id))]
            active = self._active(over)
        except slurm.SlurmError as error:
            self.logger.warning(f"{error}; jobs are taken to run on until it answers")
            return
        for member in members:
            state = states.get(member.id)
            if member.failed is not None and state is not None and state.ended:
                self._fail(member, state, member.submission.outcome(member.number) or {})
        for member in over:
            if member in active or member.submission.outcome(member.number) is not None:
                member.over = None  # it went back to the queue, or has just been seen to end
            else:
                self._judge(member, states.get(member.id))
        with contextlib.suppress(slurm.SlurmError):  # the next time, then
            self._watch_over.see(self._with_reasons([each for each in members if each in self._members], states))

    def _with_reasons(self, members: list[Member], states: dict[str, slurm.State]) -> dict[Member, slurm.State]:
        """States, with reasons for waiting: sacct's are old, and it may not know what waits. squeue is asked seldom."""
        known = {member: states[member.id] for member in members if member.id in states}
        unclear = [member for member in members if member not in known or waits(known[member])]
        if not unclear or self.backend != "slurm" or self._status_command == "squeue":
            return known
        if time.monotonic() - self._asked_why < REASONS_AFTER:
            before = self._watch_over.states
            return known | {member: before[member] for member in unclear if waits(before.get(member))}
        self._asked_why = time.monotonic()
        reasons = slurm.squeue(sorted({member.id for member in unclear}))
        return known | {member: reasons[member.id] for member in unclear if member.id in reasons}

    def _seems_over(self, member: Member, state: slurm.State | None) -> bool:
        """Whether a job has ended, or SLURM has not known it, for so long that no outcome of it is to be expected."""
        if state is not None and not state.ended:
            member.over = None
            return False
        now = time.monotonic()
        name = state.name if state else ""
        if member.over is None or member.over[0] != name:
            member.over = name, now
        patience = self.workflow.execution_settings.latency_wait if state else LOST_AFTER
        if now - member.over[1] < patience:
            # its outcome may be on its way through a network file system
            self._soon(min(patience, float(self.settings.status_interval_max or 0)))
            return False
        return True

    def _judge(self, member: Member, state: slurm.State | None) -> None:
        """Report a job that is over and left no outcome."""
        if state is not None and state.name == "COMPLETED":
            self._succeed(member)  # its exit code says so; Snakemake will look for its files
        elif state is not None and state.name in slurm.INNOCENT and member.submission.requeue:
            self._resubmit(member, member.entry.rounds + max(1, member.starts))
        else:
            self._fail(member, state, {}, self._damage(member))

    def _damage(self, member: Member) -> str:
        """Why a job that is over may have left no outcome, as far as its folder shows."""
        path = member.submission.folder / f"{member.number}.json"
        if not path.parent.exists():
            return f"its folder {path.parent} was removed while it ran"
        return f"its outcome cannot be read: {path}" if os.path.lexists(path) else ""

    def _succeed(self, member: Member) -> None:
        self._members.discard(member)
        self._watch_over.ended(member, well=True)
        self.ledger.tell("success", member.submission, member.number)
        self._soon()
        self.report_job_success(member.info)

    def _fail(self, member: Member, state: slurm.State | None, outcome: dict[str, Any], note: str = "") -> None:
        text = report.failure(member, state, outcome, note)
        if state is not None and state.name == "CANCELLED":
            self._give_up(member.info.job)  # somebody wanted it to end
        self._note_failure(member)
        self.report_job_error(member.info, msg=f"{text}\n")

    def _fail_together(self, members: list[Member], error: Exception) -> None:
        """Jobs of one sbatch that did not succeed: one report."""
        for member in members:
            self._note_failure(member)
            if isinstance(error, slurm.RefusedError):
                self._give_up(member.info.job)
        infos = [member.info for member in members]
        others = f" ({len(members)} jobs: {named(members)})" if len(members) > 1 else ""
        self._report_together(infos, f"could not be submitted: {error}{others}")

    def _note_failure(self, member: Member) -> None:
        self._members.discard(member)
        self._watch_over.ended(member, well=False)
        self.ledger.tell("failure", member.submission, member.number)
        self._soon()

    def _report_together(self, infos: list[SubmittedJobInfo], text: str) -> None:
        """Snakemake's report for the first of some jobs; of the others it hears only that they failed."""
        self.report_job_error(infos[0], msg=f"{text}\n")
        for info in infos[1:]:
            self.workflow.scheduler.error_callback(info.job)

    @staticmethod
    def _give_up(job: JobExecutorInterface) -> None:
        """Not again, whatever --retries says: Snakemake runs a job again that has attempts left."""
        job.attempt = max(job.attempt, job.restart_times + 1)

    def _resubmit(self, member: Member, rounds: int) -> None:
        """Back to the queue as a job of its own, where SLURM did not put it back itself."""
        if rounds > member.submission.requeue_limit:
            limit = f"not finished after {rounds} rounds (requeue limit {member.submission.requeue_limit})"
            self._fail(member, None, {"reason": limit})
            return
        self._members.discard(member)
        self._watch_over.forget(member)
        member.close("back to the queue")
        self.ledger.tell("back to the queue", member.submission, member.number)
        job = member.info.job
        allocation = self._allocation(job)
        assert allocation is not None, "it had one before"
        self._submit(resources.packed(allocation, 1), [[(job, replace(member.entry, rounds=rounds))]])

    # ------------------------------------------------------------------------------------------ ending

    def handle_job_success(self, job: JobExecutorInterface) -> None:
        """Snakemake has its own record of the job by now: nobody needs to take it over any more."""
        self._by_job.pop(job).close("success")

    def handle_job_error(self, job: JobExecutorInterface) -> None:
        if member := self._by_job.pop(job, None):  # none: it was not submitted at all
            member.close("failure")

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """All that were submitted, also those that are just being looked at."""
        members = self._members.copy()
        self._cancel(members)
        for member in members:
            member.close("cancelled")
            self.ledger.tell("cancelled", member.submission, member.number)
            self._members.discard(member)

    def _cancel(self, members: Iterable[Member]) -> None:
        ids = {member.id for member in members if member.submission.ids}
        nameless = {member.submission.name for member in members if not member.submission.ids}
        try:
            if self.backend == "slurm":
                slurm.cancel(sorted(ids))
                for name in nameless:  # sbatch was called, and nobody heard its answer
                    slurm.cancel_by_name(name)
        except slurm.SlurmError as error:
            self.logger.warning(f"could not cancel all jobs: {error}")
        if self.backend == "local":
            local.end(int(pid) for pid in ids)

    def shutdown(self) -> None:
        super().shutdown()
        self._clean()
        self.ledger.release()

    def _clean(self) -> None:
        self.ledger.clean(self.settings.keep_days or 0, bool(self.settings.keep_successful))

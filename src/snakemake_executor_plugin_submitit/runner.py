"""The process on the node. It runs the jobs of one allocation, passes signals on, and writes outcomes.

submitit starts it, and requeues it after a stop signal.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
from submitit import JobEnvironment
from submitit.helpers import DelayedSubmission

import gpu_claims
from snakemake_executor_plugin_submitit import ledger, report, slurm

SHELLS = {"ash", "bash", "dash", "ksh", "sh", "zsh"}
PR_SET_CHILD_SUBREAPER = 36  # Linux: <linux/prctl.h>
LOOK_EVERY = 0.1  # seconds between checks of the running commands


class JobFailed(RuntimeError):
    """A job failed. The error makes the allocation fail in SLURM, too; the outcome files have the details."""


class Runner:
    """Runs those jobs of one allocation that have no outcome yet.

    SLURM sends SIGUSR2 before the time limit or at a preemption. The runner then sends SIGTERM to each command that
    has a handler for it. If such a command ends without success, the allocation returns to the queue. A command
    without a handler cannot save anything, so it keeps running. A command that is still starting receives its SIGTERM
    as soon as it has a handler.

    On SIGTERM (scancel, or a preemption without SIGUSR2), every command receives SIGTERM. A preempted job then returns
    to the queue, and a cancelled job ends.
    """

    def __init__(self, folder: Path, allocation: int | None = None):
        self.folder, self.allocation = folder, allocation
        self.devices = os.environ.get("CUDA_VISIBLE_DEVICES")  # saved, since submitit empties it for local jobs

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs after a requeue (a method of submitit's protocol)."""
        return DelayedSubmission(self)

    def __call__(self) -> None:
        submission = ledger.read(self.folder)
        if submission.backend == "local":
            for name in [*slurm.outer_variables(), "CUDA_VISIBLE_DEVICES"]:
                os.environ.pop(name, None)
            if self.devices is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = self.devices
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)) if self.allocation is None else self.allocation
        Allocation(submission, number).run()


class Allocation:
    """Runs the jobs of one allocation."""

    def __init__(self, submission: ledger.Submission, number: int):
        self.submission, self.jobs = submission, submission.allocations[number]
        self.round = submission.start(number, job_id())
        self.about = {"id": job_id(), "node": os.environ.get("SLURMD_NODENAME", socket.gethostname())}
        self.signals: list[int] = []
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.asked: set[int] = set()  # jobs whose commands were told to save and stop
        self.deaf: set[int] = set()  # jobs without a command that has a SIGTERM handler so far
        self.stopped: list[int] = []  # jobs that ended early because of a signal
        self.failed: list[int] = []

    def run(self) -> None:
        """Run the jobs. Raises JobFailed if a job did not succeed, and SystemExit after a requeue."""
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's handler
        if self.submission.backend != "debug":
            _adopt_orphans()
            signal.signal(signal.SIGUSR2, self._note)
            signal.signal(signal.SIGTERM, self._note)
        if self.submission.backend == "local" and self.submission.gpus:
            gpu_claims.claim(self.submission.gpus)
        waiting = [job for job in self.jobs if self.submission.outcome(job) is None]
        handled = 0
        try:
            while self.running or (waiting and not self.signals):
                while waiting and not self.signals and (self.submission.parallel or not self.running):
                    self._start(waiting.pop(0))
                time.sleep(LOOK_EVERY)
                received = self.signals[handled:]
                handled += len(received)
                if signal.SIGUSR2 in self.signals:
                    self._ask_to_save()
                if signal.SIGTERM in received:
                    self._end_commands()
                for job, command in list(self.running.items()):
                    if command.poll() is not None:
                        del self.running[job]
                        self._ended(job, command.returncode)
        finally:
            for command in self.running.values():  # only after an internal error
                command.kill()
        while self.signals and psutil.wait_procs(psutil.Process().children(recursive=True), timeout=1)[1]:
            pass  # SIGTERM to a whole job ends its shells at once, but their commands may still be saving
        left = [*self.stopped, *waiting]
        if left and self._is_preempted():
            self._come_back(left, requeue)
        elif left and signal.SIGUSR2 in self.signals:
            for job in set(self.stopped) - self.asked:
                self._finish(job, outcome="failure", reason=report.CAUSES["TIMEOUT"])
            if back := [job for job in left if job in self.asked or job in waiting]:
                self._come_back(back, requeue)
        if left or self.failed:
            raise JobFailed(f"{self.submission.folder}: failed: {self.failed}; stopped before they finished: {left}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)

    def _start(self, job: int) -> None:
        environment = dict(os.environ)
        devices = [device for device in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
        if self.submission.parallel and self.submission.gpus:
            share, position = len(devices) // len(self.jobs), self.jobs.index(job)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[position * share : (position + 1) * share])
        with open(self.submission.log(job), "ab") as log:
            command = ["sh", str(self.submission.script(job))]
            self.running[job] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def _ask_to_save(self) -> None:
        """Send SIGTERM to commands with a handler. Repeated at each check, since a command may still be starting."""
        for job in self.running.keys() - self.asked:
            snakemakes, commands = below(self.running[job].pid)
            if catching := [process for process in commands if catches_sigterm(process)]:
                self.asked.add(job)
                self._terminate(job, snakemakes, catching)
            elif commands and job not in self.deaf:
                self.deaf.add(job)
                print(f"job {job}: its command does not catch SIGTERM and keeps running", flush=True)

    def _end_commands(self) -> None:
        for job, command in self.running.items():
            self._terminate(job, *below(command.pid))

    def _terminate(self, job: int, snakemakes: list[psutil.Process], commands: list[psutil.Process]) -> None:
        print(f"job {job}: sending SIGTERM to {len(commands)} of its commands", flush=True)
        for process in [*snakemakes, *commands]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                process.terminate()

    def _ended(self, job: int, status: int) -> None:
        if status == 0:
            self._finish(job, outcome="success")
        elif job in self.asked or signal.SIGTERM in self.signals:
            self.stopped.append(job)
        else:
            self.failed.append(job)
            self._finish(job, outcome="failure", exit=status)

    def _finish(self, job: int, **outcome: Any) -> None:
        try:
            self.submission.finish(job, **outcome, **self.about)
        except OSError as error:  # such as a full disk: other jobs continue, and SLURM's state replaces the outcome
            print(f"job {job}: cannot write its outcome, {outcome}: {error}", flush=True)
            self.failed.append(job)

    def _is_preempted(self) -> bool:
        """Whether SLURM is preempting the job. SLURM requeues a preempted job only if it has to kill it."""
        try:
            return self.submission.backend == "slurm" and slurm.is_preempted(self.about["id"])
        except slurm.SlurmError as error:
            print(f"cannot tell whether this is a preemption or a cancellation: {error}", flush=True)
            return False

    def _come_back(self, left: list[int], requeue: Any) -> None:
        """Requeue the allocation. If that fails, write outcomes: Snakemake then resubmits the jobs, or they fail."""
        rounds = self.round + max(self.submission.entries[job].rounds for job in left)
        outcome = {"outcome": "come back", "rounds": rounds}
        if not self.submission.requeue:
            outcome = {"outcome": "failure", "reason": "stopped before it finished, and requeue is off"}
        elif rounds > self.submission.requeue_limit:
            limit = self.submission.requeue_limit
            outcome = {"outcome": "failure", "reason": f"not finished after {rounds} rounds (requeue limit {limit})"}
        elif self.submission.backend == "slurm":
            try:
                requeue(signal.SIGUSR2, None)  # ends the process
            except Exception as error:
                print(f"cannot requeue: {error}", flush=True)
        for job in left:
            self._finish(job, **outcome)


def _adopt_orphans() -> None:
    """Become the parent of orphaned descendants, so that the runner can wait for them."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the runner does not wait for orphans
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def job_id() -> str:
    """The id of the allocation in which this process runs, as submitit reports it."""
    try:
        return JobEnvironment().job_id
    except RuntimeError:  # submitit's debug executor sets no environment
        return "debug"


def below(pid: int) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """(Snakemake's processes, the commands of their rules) that a script started, without the shells around them."""
    try:
        snakemakes = _without_shells([psutil.Process(pid)])
        return snakemakes, _without_shells([child for process in snakemakes for child in process.children()])
    except psutil.NoSuchProcess:
        return [], []


def _without_shells(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Replace each shell without a SIGTERM handler by the processes that it started."""
    found = []
    for process in processes:
        if process.name() in SHELLS and not catches_sigterm(process):
            found += _without_shells(process.children())
        else:
            found.append(process)
    return found


def catches_sigterm(process: psutil.Process) -> bool:
    """Whether a process has a SIGTERM handler and can therefore save its state."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)

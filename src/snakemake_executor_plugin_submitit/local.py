"""Processes on this machine that run the jobs of the local backend."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

GRACE = 30.0  # seconds between SIGTERM and SIGKILL, like SLURM's KillWait


def runs(pid: int, folder: Path) -> bool:
    """Whether a process is alive and runs a job of a submission. A later process may have reused its pid."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(folder) in " ".join(process.cmdline())
    except (psutil.Error, OverflowError):  # the pid is too large
        return False


def is_named(name: str, folder: Path) -> bool:
    """Whether a command with this name is running on a submission's folder."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(folder) in " ".join(words) and any(Path(word).name == name for word in words):
            return True
    return False


def end(pids: Iterable[int]) -> None:
    """Send SIGTERM to jobs, wait up to GRACE seconds for them to save, then send SIGKILL to what is left."""
    trees = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            trees += [process, *process.children(recursive=True)]
            for each in (process, *process.children()):  # the shell, and submitit's process in it, which passes it on
                each.terminate()
    left = psutil.wait_procs(trees, timeout=GRACE)[1]
    for process in trees:  # parents first: a shell that outlives its command starts the next one
        if process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

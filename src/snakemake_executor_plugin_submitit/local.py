"""Processes of this machine: the local backend's jobs."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

import psutil

GRACE = 30.0  # seconds between SIGTERM and SIGKILL, as SLURM's KillWait


def runs(pid: int, folder: Path) -> bool:
    """Whether the process that runs a submission's job is alive; its number may be another's by now."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(folder) in " ".join(process.cmdline())
    except (psutil.Error, OverflowError):  # no process has a number so large
        return False


def is_named(name: str, folder: Path) -> bool:
    """Whether a command of this name works on a submission."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(folder) in " ".join(words) and any(Path(word).name == name for word in words):
            return True
    return False


def end(pids: Iterable[int]) -> None:
    """SIGTERM to jobs, time to save their state, then SIGKILL to what is left of them."""
    trees = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            trees += [process, *process.children(recursive=True)]
            for each in (process, *process.children()):  # a shell, and submitit's process within, which passes it on
                each.terminate()
    left = psutil.wait_procs(trees, timeout=GRACE)[1]
    for process in trees:  # from the top: a shell that outlives its command goes on with the next one
        if process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

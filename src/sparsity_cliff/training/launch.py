"""Data-parallel training. The job's process starts the ranks of a run, which share each batch and sum their gradients.

It passes signals on and watches the ranks: if one fails, it ends all of them. Each rank (rank.py) finds its number and
the address in submitit's environment variables, like a task of a submitit job.
"""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import torch

from sparsity_cliff.training.stopping import COME_BACK, Interrupted, StopRequest

LOOK_EVERY = 0.05  # seconds
HOST = "127.0.0.1"  # all ranks run on this machine


class RankError(RuntimeError):
    """The ranks of a run cannot start or could not finish; the message is one line."""


def launch(size: int, device: torch.device, arguments: dict[str, Any]) -> None:
    """Train a run in `size` ranks.

    arguments: those of run.train_here, JSON-compatible; `threads` counts the threads of all ranks. Raises RankError as
    soon as a rank fails; the other ranks are then ended, and the checkpoint stays. Raises Interrupted once the ranks
    have stopped because of a signal.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # local: some builds of torch lack it

    devices = _devices(size, device)
    threads = max(1, arguments["threads"] // size)
    task = json.dumps({**arguments, "threads": threads, "device": device.type})
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)  # 0: any free port
    processes: list[subprocess.Popen[str]] = []
    ended: list[int | None] = []
    with StopRequest().listening() as stop:
        try:
            for rank in range(size):
                environment = {**os.environ, **_task_environment(rank, size, store.port), **devices[rank]}
                environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                command = [sys.executable, "-c", "from sparsity_cliff.training.rank import main; main()"]
                processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True))
                _tell(processes[-1], task)
            told = False
            good = {None, 0, COME_BACK}
            while None in (ended := [process.poll() for process in processes]) and not set(ended) - good:
                if stop and not told:
                    told = True
                    for process in processes:
                        process.send_signal(signal.SIGTERM)
                time.sleep(LOOK_EVERY)
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.stdin:
                    process.stdin.close()
    _judge(ended, bool(stop), store)


def _judge(ended: list[int | None], stop: bool, store: Any) -> None:
    """Raise the error that follows from the ranks' exit statuses. None marks a rank that had to be ended."""
    for rank, status in enumerate(ended):
        if status is not None and status < 0:  # checked first, because a rank that lost a peer also fails
            if stop:
                raise Interrupted  # the signal came before its handler; the previous checkpoint remains
            name = signal.Signals(-status).name
            raise RankError(f"rank {rank} of {len(ended)} was killed ({name}), so the others were ended; {_NEXT}")
    if store.check(["error"]):
        raise RankError(store.get("error").decode())
    for rank, status in enumerate(ended):
        if status not in (None, 0, COME_BACK):
            raise RankError(f"rank {rank} of {len(ended)} ended with status {status}, so the others were, too; {_NEXT}")
    if COME_BACK in ended:
        raise Interrupted


_NEXT = "the next attempt resumes from the last checkpoint"


def _devices(size: int, device: torch.device) -> list[dict[str, str]]:
    """Environment variables that make one device visible to each rank. Raises RankError if there are too few."""
    if device.type == "mps":
        raise RankError(f"processes={size}: training in several processes needs device cpu or cuda, not mps")
    if device.type != "cuda":
        return [{}] * size
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if len(names) < size:
        raise RankError(f"processes={size}: {len(names)} GPUs are visible here ({', '.join(names) or 'none'})")
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:size]]


def _task_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The environment variables that submitit's local executor sets for a task, with the port of the store."""
    about = {"NTASKS": size, "JOB_NUM_NODES": 1, "NODEID": 0, "JOB_ID": os.getpid(), "GLOBALID": rank, "LOCALID": rank}
    named = {f"SUBMITIT_LOCAL_{name}": str(value) for name, value in about.items()}
    return {"SUBMITIT_EXECUTOR": "local", "MASTER_PORT": str(port), **named}


def _tell(process: subprocess.Popen[str], task: str) -> None:
    assert process.stdin
    try:
        process.stdin.write(f"{task}\n")
        process.stdin.flush()  # stays open, because its end signals the end of the job
    except BrokenPipeError:
        pass  # the process has ended; its status shows why

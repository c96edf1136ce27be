"""Data-parallel training: one run by several processes of this machine, which share each batch and add up gradients.

The job's own process starts the ranks, passes signals on and watches: the end of any rank but a good one ends all of
them. Each rank finds its number and the address in submitit's environment, as a task of a submitit job would.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sparsity_cliff.checkpoint import COME_BACK, Interrupted, StopRequest

#: The other ranks wait for rank 0 while it measures and saves. Not for a rank that died: that is seen at once.
PATIENCE = timedelta(hours=2)
LOOK_EVERY = 0.05  # seconds
HOST = "127.0.0.1"  # all ranks are on this machine

T = TypeVar("T")


class RankError(RuntimeError):
    """Ends the job of a run whose ranks could not finish; the message is one line."""


class Ranks:
    """The ranks of a run, seen from one of them. Alone, as by default, every method gives back what it got."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def share(self, parts: Sequence[T]) -> Sequence[T]:
        """This rank's of all parts of a batch."""
        return parts[self.rank :: self.size]

    def add(self, tensors: list[Tensor]) -> None:
        """In place: the sum over ranks of each tensor, the same to the bit on all of them."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            torch.distributed.all_reduce(flat)
            sizes = [tensor.numel() for tensor in tensors]
            for tensor, total in zip(tensors, torch.split(flat, sizes), strict=True):
                tensor.copy_(total.view_as(tensor))

    def highest(self, number: int) -> int:
        """The highest of the ranks' numbers."""
        if self.size > 1:
            numbers = torch.tensor(number)  # on the CPU, so that no rank waits for its device
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
            return int(numbers)
        return number

    def all_of(self, item: T) -> list[T]:
        """Every rank's, in their order."""
        items = [item] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(items, item)
        return items


ALONE = Ranks()


def check(ranks: Ranks, batch_size: int, model: nn.Module, loss: nn.Module) -> None:
    """ValueError where ranks that each see a part of the batch would train another network than one that sees it all.

    The study's validation knows our own architectures and losses; this is for a user's.
    """
    if ranks.size > batch_size:
        raise ValueError(f"a batch of {batch_size} examples is too small for processes={ranks.size}")
    if ranks.size > 1 and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules()):
        raise ValueError(f"processes={ranks.size}: the model has a batch norm, which would see a part of the batch")
    if ranks.size > 1 and any(True for _ in loss.parameters()):
        raise ValueError(f"processes={ranks.size}: the loss learns from the batch itself, and would from a part of it")


# ------------------------------------------------------------------------------------------------- the job


def launch(size: int, device: torch.device, arguments: dict[str, Any]) -> None:
    """Train a run in `size` ranks. arguments: of train.train_here, JSON-compatible; `threads` are those of all ranks.

    RankError as soon as a rank dies or fails: then the others are ended, and the checkpoint stays. Interrupted once
    they have stopped because a signal asked them to.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # here: not every build of torch has it

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
                command = [sys.executable, "-c", "from sparsity_cliff.parallel import main; main()"]
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
    """What the ranks' exit statuses, None for those that had to be ended, mean for the job."""
    for rank, status in enumerate(ended):
        if status is not None and status < 0:  # first: whoever lost a peer complains as well
            if stop:
                raise Interrupted  # asked to stop before it could listen; what was saved before is there
            name = signal.Signals(-status).name
            raise RankError(f"rank {rank} of {len(ended)} was killed ({name}), so the others were ended; {_NEXT}")
    if store.check(["error"]):
        raise RankError(store.get("error").decode())
    for rank, status in enumerate(ended):
        if status not in (None, 0, COME_BACK):
            raise RankError(f"rank {rank} of {len(ended)} ended with status {status}, so the others did; {_NEXT}")
    if COME_BACK in ended:
        raise Interrupted


_NEXT = "the next attempt resumes from the last checkpoint"


def _devices(size: int, device: torch.device) -> list[dict[str, str]]:
    """Per rank, what makes one device visible to it. RankError where there are too few."""
    if device.type == "mps":
        raise RankError(f"processes={size}: training by several processes needs device cpu or cuda, and this is mps")
    if device.type != "cuda":
        return [{}] * size
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if len(names) < size:
        raise RankError(f"processes={size}: {len(names)} GPUs are visible here ({', '.join(names) or 'none'})")
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:size]]


def _task_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What submitit's local executor tells a task, with a port that is free."""
    about = {"NTASKS": size, "JOB_NUM_NODES": 1, "NODEID": 0, "JOB_ID": os.getpid(), "GLOBALID": rank, "LOCALID": rank}
    named = {f"SUBMITIT_LOCAL_{name}": str(value) for name, value in about.items()}
    return {"SUBMITIT_EXECUTOR": "local", "MASTER_PORT": str(port), **named}


def _tell(process: subprocess.Popen[str], task: str) -> None:
    assert process.stdin
    try:
        process.stdin.write(f"{task}\n")
        process.stdin.flush()  # and stays open: its end is the end of the job
    except BrokenPipeError:
        pass  # it died; its status says so


# ------------------------------------------------------------------------------------------------- a rank


def main() -> None:
    """One rank, as a process of its own: joins the others, trains, and leaves its error, if any, with the job."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_job, daemon=True).start()
    from submitit.helpers import TorchDistributedEnvironment
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from sparsity_cliff.train import train_here

    about = TorchDistributedEnvironment()
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a network that comes or goes is none of their business
    device = torch.device(task["device"])
    store = TCPStore(HOST, about.master_port, is_master=False)
    status = 0
    try:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend, store=store, rank=about.rank, world_size=about.world_size, timeout=PATIENCE
        )
        train_here(**{**task, "device": device}, ranks=Ranks(about.rank, about.world_size))
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:
        traceback.print_exc()
        kind = "" if isinstance(error, ValueError) else f"rank {about.rank}: {type(error).__name__}: "
        store.compare_set("error", "", f"{kind}{' '.join(str(error).split())}")  # the first: it is the cause of others
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking the group down in order would wait for ranks that are gone


def _end_with_the_job() -> None:
    """The pipe ends when the job does, however it does: a rank must not train on beside the job's next attempt."""
    sys.stdin.read()
    os._exit(1)

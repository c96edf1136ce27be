"""A rank of a data-parallel run: a process that joins the others, trains, and reports an error to the job."""

import json
import os
import sys
import threading
import traceback
from datetime import timedelta

import torch
from submitit.helpers import TorchDistributedEnvironment

from sparsity_cliff.training.launch import HOST
from sparsity_cliff.training.ranks import Ranks
from sparsity_cliff.training.run import train_here

#: Maximum wait for rank 0 while it measures and saves. The job detects the death of a rank at once.
PATIENCE = timedelta(hours=2)


def main() -> None:
    """Run a rank in this process: join the others, train, and report an error, if any, to the job."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_job, daemon=True).start()
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # local: some builds of torch lack it

    about = TorchDistributedEnvironment()
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # independent of network changes
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
        store.compare_set("error", "", f"{kind}{' '.join(str(error).split())}")  # the first, which causes the others
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # an orderly shutdown would wait for ranks that are gone


def _end_with_the_job() -> None:
    """Exit when the pipe closes, that is, when the job ends, so that no rank runs beside the job's next attempt."""
    sys.stdin.read()
    os._exit(1)

"""Train a run: a block of seeds, one after another, which gives one trace."""

import gc
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from sparsity_cliff.data.errors import DataError
from sparsity_cliff.data.loading import load
from sparsity_cliff.study.spec import Spec
from sparsity_cliff.traces.schema import Fact, TraceError
from sparsity_cliff.traces.writer import write
from sparsity_cliff.training import checkpoint
from sparsity_cliff.training.checkpoint import UnfitError
from sparsity_cliff.training.environment import environment, pick_device
from sparsity_cliff.training.job import Job
from sparsity_cliff.training.launch import launch
from sparsity_cliff.training.loop import train_seed
from sparsity_cliff.training.ranks import ALONE, Ranks


def train_run(
    run: str,
    spec: str,
    code: str,
    data: str | Path,
    output: str | Path,
    threads: int = 1,
    started: float | None = None,
    every_seconds: float = 60,
    keep: bool = False,
) -> None:
    """Train every seed of a run and write its trace to `output`. Lines of progress go to standard output.

    spec, code: canonical JSON from the run table. data: file of the data stage. threads: number of threads of all
    processes together. started: when the job started (time.time()), for the time of imports. every_seconds: seconds
    between checkpoints; 0 saves at every step. keep: whether to keep the final state of each seed in
    checkpoints/<run>/<digest>/seed-<seed>.pt, which can be loaded like this:

        state = checkpoint.load(path)
        model = build(Spec.of_text(state["spec"]), load(data_file), state["seed"])
        model.load_state_dict(state["model"])

    No run resumes from this file. If a finished run is trained again, it starts from scratch.

    Raises Interrupted after a request to stop, once the state is saved. Raises TraceError if the trace cannot be
    written, DataError if the data cannot be used, and RankError if one of several processes fails.
    """
    plan = Spec.of_text(spec)
    processes, device = plan.training.processes, pick_device(plan.device)
    arguments: dict[str, Any] = {"run": run, "spec": spec, "code": code, "data": str(data), "output": str(output)}
    arguments |= {"threads": threads, "started": started or time.time()}
    arguments |= {"every_seconds": float(every_seconds), "keep": keep}
    if processes > 1:
        launch(processes, device, arguments)
    else:
        train_here(**arguments, device=device)


def train_here(
    run: str,
    spec: str,
    code: str,
    data: str,
    output: str,
    threads: int,
    started: float,
    every_seconds: float,
    keep: bool,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> None:
    """Run `train_run` in this process, for the whole run or one rank of it."""
    gc.enable()  # off during the imports of a job (logs.py)
    torch.set_num_threads(threads)
    plan = Spec.of_text(spec)
    identity = hashlib.sha256(f"{spec}\n{code}".encode()).hexdigest()
    path = Path(output).parent.parent / "checkpoints" / run / identity[:16] / "state.pt"
    job = Job(plan, path, identity, lambda text: print(f"{run}  {text}", flush=True), every_seconds, keep, ranks)
    job.environments = [environment(device, threads)]
    seconds = job.seconds
    seconds["import"] = time.time() - started
    with job.stop.listening():
        # train
        with job.clock("data"):
            dataset = load(data)
        if (size := plan.training.batch_size) > dataset.examples:  # prepared for another study
            raise DataError(f"{data}: {dataset.examples} training examples; batch_size is {size}")
        current = job.resume()
        with job.clock("seeds"):
            while (position := len(job.done)) < len(plan.seeds):
                try:
                    job.done.append(train_seed(plan, position, dataset, device, job, current))
                    job.log(f"seed {plan.seeds[position]}: {job.done[-1]['status']}")
                except UnfitError as error:
                    job.start_afresh(error)
                current = None
        seconds["training"] = seconds.pop("seeds") - sum(seconds[part] for part in ("probes", "saving"))
        if not job.first:
            return

        # write
        seconds |= {"wall": time.time() - started, "cpu": time.process_time()}
        status = {str(seed): done["status"] for seed, done in zip(plan.seeds, job.done, strict=True)}
        about = {"run": run, "spec": spec, "code": json.loads(code), "status": status, "seconds": seconds}
        about |= {**job.environments[-1], "environments": job.environments}
        labels = {key: str(getattr(plan, key).name) for key in ("activation", "loss", "normalization")}
        labels |= {"run": run, "architecture": plan.architecture, "data": plan.data.axis}
        facts = [Fact(*fact) for done in job.done for fact in done["facts"]]
        try:
            write(output, labels, facts, about)
        except OSError as error:
            raise TraceError(f"{output}: trace not written ({error}); the next attempt resumes") from error
    checkpoint.remove(path)

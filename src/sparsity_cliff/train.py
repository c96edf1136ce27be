"""Train one run. `train_seed` holds the loop; `train_run` is the job around it: one trace for a block of seeds."""

import gc
import hashlib
import importlib
import json
import math
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsity_cliff import checkpoint, parallel, probes, registry, traces
from sparsity_cliff.activations import Site
from sparsity_cliff.data import DataError
from sparsity_cliff.data.layouts import Batch, Dataset, Tokens, load
from sparsity_cliff.seeds import derive, generator, random_state, set_random_state

Spec = dict[str, Any]
CHECK_EVERY = 50  # steps between looks at the losses, each of which waits for the device


# ------------------------------------------------------------------------------------------------- building


def make(kind: str, entry: Spec, *arguments: Any) -> Any:
    """The object that an entry {function, **options} of a spec describes."""
    options = {key: value for key, value in entry.items() if key not in ("name", "function", "axis")}
    return registry.load(kind, entry["function"])(*arguments, **options)


def build(spec: Spec, data: Dataset, seed: int) -> nn.Module:
    """The model of a spec with the initial weights of this seed, on the CPU."""
    own = spec["normalization"]["function"] is None  # the architecture's own

    def site(dim: int) -> Site:
        return Site(make("activation", spec["activation"]), dim)

    def norm(features: int, spatial: int) -> nn.Module:
        module: nn.Module = make("normalization", spec["normalization"], features, spatial)
        return module

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        model: nn.Module = make("model", spec["model"], data.shape, data.classes, site, None if own else norm)
    return model


def build_loss(spec: Spec, seed: int) -> nn.Module:
    """The loss of a spec; one that learns itself (a discriminator) has the initial weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "loss"))
        loss: nn.Module = make("loss", spec["loss"])
    return loss


class Batches:
    """The training batch of each step, a pure function of (seed, step): a new order each epoch, its rest dropped."""

    def __init__(self, data: Dataset, size: int, seed: int):
        self._data, self._size, self._seed = data, min(size, data.examples), seed
        self._per_epoch = data.examples // self._size
        self._epoch = -1

    def __call__(self, step: int) -> Batch:
        epoch, position = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            stream = generator(self._seed, f"order/{epoch}")
            self._order = torch.randperm(self._data.examples, generator=stream)
            self._draws = torch.rand(self._data.examples, generator=stream)
            self._epoch = epoch
        cut = slice(position * self._size, (position + 1) * self._size)
        return self._data.batch(self._order[cut], self._draws[cut])


# ------------------------------------------------------------------------------------------------- measuring


def measure(
    spec: Spec, model: nn.Module, loss_of: nn.Module, data: Dataset, initial: Any, autocast: Any, step: int
) -> list[probes.Row]:
    """The rows of one measurement: loss and scores on the held-out data, and the study's groups of probes.

    At the last step of all held-out examples, before of the first `examples` of them. FLOPs and histograms at the first
    and the last step.
    """
    groups, last = spec["probes"]["measure"], step == spec["training"]["steps"]
    batches = data.held_out(None if last else spec["probes"]["examples"])
    judged: list[dict[str, Tensor | float]] = []  # per batch

    def forward(batch: Batch) -> None:
        x, y = batch
        with autocast():
            outputs = model(x).float()
        if len(judged) < len(batches):  # probes may pass them twice
            judged.append({"loss": loss_of(outputs, y), **data.scores(outputs, y, last)})

    model.eval()
    loss_of.eval()
    with torch.no_grad():
        rows: list[probes.Row] = []
        if "activations" in groups:
            rows += probes.activations(model, forward, batches, data.delimiters)
            if last or step == 0:
                x, y = batches[0]
                rows += probes.flops(model, forward, (x[:1], y[:1]), rows)
        else:
            for batch in batches:
                forward(batch)
        examples = [len(x) for x, _ in batches]
        for name in dict.fromkeys(name for scores in judged for name in scores):
            found = [(n, scores[name]) for n, scores in zip(examples, judged, strict=True) if name in scores]
            values = torch.stack([torch.as_tensor(value, dtype=torch.float32) for _, value in found]).tolist()
            total = sum(n * value for (n, _), value in zip(found, values, strict=True))
            rows.append(("test", None, None, name, total / sum(n for n, _ in found)))
            if name == "loss" and isinstance(data, Tokens) and spec["loss"]["function"] == "cross_entropy":
                rows.append(("test", None, None, "perplexity", float(np.exp(rows[-1][-1]))))
        if "weights" in groups:
            rows += probes.weights(model, initial)
        if "histograms" in groups and (last or step == 0):
            rows += probes.histograms(model, initial)
    model.train()
    loss_of.train()
    return rows


class Progress:
    """Tells of the run every two seconds: percent, loss, steps per second, remaining time."""

    def __init__(self, log: Callable[[str], None], seeds: list[int], steps: int):
        self._log, self._seeds, self._steps = log, seeds, steps
        self._told = self._started = time.monotonic()
        self._first: int | None = None

    def __call__(self, position: int, step: int, loss: float) -> None:
        now, total, done = time.monotonic(), len(self._seeds) * self._steps, position * self._steps + step
        self._first = done if self._first is None else self._first
        if now - self._told < 2 and step < self._steps:
            return
        self._told = now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        minutes, seconds = divmod(round((total - done) / rate) if rate else 0, 60)
        self._log(
            f"{100 * done / total:3.0f} %  seed {self._seeds[position]}  step {step}/{self._steps}  loss {loss:.4g}  "
            f"{rate:.0f} steps/s  remaining {minutes}:{seconds:02d}"
        )


# ------------------------------------------------------------------------------------------------- training


class Wish(IntEnum):
    GO_ON = 0
    SAVE = 1
    STOP = 2  # once it has saved


class Job:
    """What the loop needs of its surroundings: a place for its state, a log, a clock, word that it should stop, and the
    other processes of the run. Only rank 0 of these writes and tells."""

    def __init__(
        self,
        checkpoint_path: Path,
        identity: str,
        log: Callable[[str], None] = print,
        save_every: float = 60.0,  # seconds
        keep: bool = False,
        ranks: parallel.Ranks = parallel.ALONE,
    ):
        self.ranks = ranks
        self.first = self.ranks.rank == 0
        self.log: Callable[[str], None] = log if self.first else lambda text: None
        self.stop = checkpoint.StopRequest()
        self.seconds: dict[str, float] = defaultdict(float)
        self.done: list[Spec] = []  # finished seeds
        self.environments: list[Spec] = []  # in which parts of the run were trained; the last is this process's
        self._path, self._identity, self._save_every, self._keep = checkpoint_path, identity, save_every, keep
        self._saved = time.monotonic()
        self._troubled = False  # the last save failed, and was told

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    @property
    def wish(self) -> Wish:
        if self.stop:
            return Wish.STOP
        return Wish.SAVE if time.monotonic() - self._saved >= self._save_every else Wish.GO_ON

    def save(self, current: Spec, stop: bool) -> None:
        """Save the state; with `stop`, end the process then. A save that fails is an error only where it is the last:
        training goes on with the checkpoint of before."""
        with self.clock("saving"):
            self._saved = time.monotonic()
            try:
                if self.first:
                    state = {"done": self.done, "current": current, "environments": self.environments}
                    checkpoint.save(self._path, self._identity, state)
                self._troubled = False
            except OSError as error:
                problem = f"{self._path}: state not saved ({error.strerror or error})"
                if stop:
                    raise checkpoint.CheckpointError(f"{problem}, though asked to stop") from error
                if not self._troubled:
                    self.log(f"{problem}; training goes on, and what was saved before is there")
                self._troubled = True
        if stop:
            self.log(f"asked to stop: state saved in {self._path}")
            raise checkpoint.Interrupted

    def keep(self, seed: int, final: Spec) -> None:
        """Keep the final state of a seed, where the study wants that, under a name that no run resumes from."""
        path = self._path.with_name(f"seed-{seed}.pt")
        if self._keep and self.first:
            try:
                with self.clock("saving"):
                    checkpoint.save(path, self._identity, final)
            except OSError as error:
                raise checkpoint.CheckpointError(f"{path}: final state not kept ({error.strerror or error})") from error

    def resume(self, spec: Spec) -> Spec | None:
        """The state of the seed that was under way, if any; `done` then holds the seeds before it."""
        state, problem = None, ""
        try:
            state = checkpoint.load(self._path, self._identity)
            if state is not None:
                check_progress(state, spec, self.ranks.size)
        except Exception as error:  # of many kinds, depending on what the state holds instead
            problem = self._unfit(error)
        try:
            self.agree(problem)
        except checkpoint.UnfitError as error:
            self.start_afresh(error)
            return None
        if state is None:
            return None
        self.done = state["done"]
        earlier = [environment for environment in state["environments"] if environment not in self.environments]
        self.environments = earlier + self.environments
        return state["current"]  # type: ignore[no-any-return]

    def take_over(self, restoring: Callable[[], None]) -> None:
        """Call `restoring`, which puts a state in place. UnfitError on every rank where that failed on any."""
        problem = ""
        try:
            restoring()
        except torch.OutOfMemoryError:
            raise  # of the device, not of the checkpoint
        except Exception as error:
            problem = self._unfit(error)
        self.agree(problem)

    def _unfit(self, error: Exception) -> str:
        if isinstance(error, checkpoint.CheckpointError):
            return str(error)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{self._path}: not a state of this run ({reason if len(reason) < 200 else reason[:200] + '...'})"

    def agree(self, problem: str) -> None:
        """UnfitError on every rank where one of them has a problem, told as the first of these has it."""
        for found in self.ranks.all_of(problem):
            if found:
                raise checkpoint.UnfitError(found)

    def start_afresh(self, error: checkpoint.UnfitError) -> None:
        self.log(f"{error}: not used, starting afresh")
        self.done, self.environments = [], self.environments[-1:]


def check_progress(state: Spec, spec: Spec, ranks: int) -> None:
    """An error of some kind where `state` is not what a run of `spec` saves on its way."""
    seeds, steps, done, current = spec["seeds"], spec["training"]["steps"], state["done"], state["current"]
    step, losses, random = current["step"], current["losses"], current["random"]
    if len(done) >= len(seeds):
        raise ValueError(f"{len(done)} finished seeds of {len(seeds)}")
    if type(step) is not int or not 0 <= step <= steps:
        raise ValueError(f"step {step} of {steps}")
    measured = [measured for measured in probes.schedule(steps, spec["probes"]["every"]) if measured < step]
    if len(losses) != step - (measured[-1] if measured else step) or not all(type(loss) is float for loss in losses):
        raise ValueError(f"not the losses since the last measurement before step {step}")
    if {fact[1] for fact in current["facts"]} != set(measured):
        raise ValueError(f"not the facts of the measurements before step {step}")
    if len(random) != ranks:
        raise ValueError(f"random states of {len(random)} processes in place of {ranks}")
    if not all(isinstance(environment, dict) for environment in state["environments"]):
        raise ValueError("environments are no such")
    kinds = (int, int, str | None, str | None, int | None, str, float | int)  # of a fact's seven values
    for seed, part in zip(seeds, [*done, current], strict=False):  # the seeds that have begun
        if part is not current and not re.fullmatch(r"finished|diverged at step \d+", part["status"]):
            raise ValueError(f"status {part['status']!r} of seed {seed}")
        for fact in part["facts"]:
            if fact[0] != seed or not all(map(isinstance, fact, kinds)) or len(fact) != len(kinds):
                raise ValueError(f"not a fact of seed {seed}: {fact!r}")


def train_seed(spec: Spec, position: int, data: Dataset, device: torch.device, job: Job, resume: Spec | None) -> Spec:
    """Train the seed at `position` of the run's block. Returns {facts, status}.

    status: "finished", or "diverged at step N", N being the first step whose loss was not finite. facts: of rank 0, the
    only one that measures. UnfitError, before the first step and on every rank, where `resume` is no state of it.
    """
    ranks = job.ranks
    seed, training, steps = spec["seeds"][position], spec["training"], spec["training"]["steps"]
    measured = set(probes.schedule(steps, spec["probes"]["every"]))
    gradients = "gradients" in spec["probes"]["measure"]
    bfloat16 = training["precision"] == "bfloat16"
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if bfloat16 else nullcontext

    # build
    if spec["data"]["axis"] == "random":
        data = data.randomized(seed)
    data = data.to(device)
    batches = Batches(data, training["batch_size"], seed)
    model = build(spec, data, seed).to(device)
    initial = probes.InitialWeights.of(model)
    loss_of, factor = build_loss(spec, seed).to(device), make("schedule", training["schedule"])
    optimizers = make("optimizer", training["optimizer"], model)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    torch.manual_seed(derive(seed, f"noise/{ranks.rank}" if ranks.rank else "noise"))
    parallel.check(ranks, min(training["batch_size"], data.examples), model, loss_of)

    # resume
    first, facts, losses, status = 0, [], [], "finished"
    if resume is not None:
        job.take_over(partial(restore, resume, model, optimizers, loss_of, device, ranks.rank))
        first, facts, losses = resume["step"], resume["facts"], resume["losses"]
        job.log(f"resuming at seed {position + 1}, step {first}")
    pending: list[Tensor] = []  # losses of the latest steps, still on the device
    tell = Progress(job.log, spec["seeds"], steps)

    for step in range(first, steps + 1):
        # check: bring the losses back, all at once
        wish = ranks.highest(job.wish)  # asked once a step: a signal may arrive between two looks
        if pending and (step in measured or len(pending) >= CHECK_EVERY or wish):
            losses += torch.stack(pending).tolist()
            broken = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
            if broken is not None:
                status = f"diverged at step {step - len(losses) + broken}"
                break
            pending = []
            tell(position, step, losses[-1])

        # save: before measuring, which a resumed run does again
        if wish:
            current = {"step": step, "facts": facts, "losses": losses, "random": ranks.all_of(random_state(device))}
            job.save(current | state_of(model, optimizers, loss_of), stop=wish == Wish.STOP)

        # measure
        if step in measured:
            with job.clock("probes"):
                if losses:
                    facts.append((seed, step, "train", None, None, "loss", sum(losses) / len(losses)))
                rows = measure(spec, model, loss_of, data, initial, autocast, step) if job.first else []
                facts += [(seed, step, *row) for row in rows]
                losses = []
        if step == steps:
            if not all(math.isfinite(value) for *_, metric, value in rows if metric == "loss"):
                status = f"diverged at step {steps}"  # by the last update, which no training loss has seen
            break

        # schedule
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor(step, steps)

        # step: in parts, where there are other ranks or the batch is too large for the device; their gradients add up
        x, y = batches(step)
        signs = probes.GradientSigns(model, terms(y)) if gradients and step in measured else None
        total = torch.zeros((), device=device)
        count = ranks.size * math.ceil(len(x) / ranks.size / (training["microbatch"] or len(x)))
        parts = list(zip(x.tensor_split(count), y.tensor_split(count), strict=True))
        with signs or nullcontext():
            for inputs, targets in ranks.share(parts):
                with autocast():
                    outputs = model(inputs).float()
                loss = loss_of(outputs, targets) * (len(inputs) / len(x))
                loss.backward()
                total += loss.detach()
        ranks.add([total, *(p.grad for p in model.parameters() if p.grad is not None)])
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        pending.append(total)
        if signs:
            facts += [(seed, step, *row) for row in signs.rows(ranks)]

    job.keep(seed, {"spec": spec, "seed": seed, "status": status, **state_of(model, optimizers, loss_of)})
    return {"facts": facts, "status": status}


def state_of(model: nn.Module, optimizers: list[torch.optim.Optimizer], loss_of: nn.Module) -> Spec:
    states = [optimizer.state_dict() for optimizer in optimizers]
    return {"model": model.state_dict(), "optimizers": states, "loss": loss_of.state_dict()}


def restore(
    state: Spec,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss_of: nn.Module,
    device: torch.device,
    rank: int,
) -> None:
    """What `state_of` and `random_state` gave. Where that fails, with an error of some kind, a part may be restored."""
    checkpoint.restore_module(model, state["model"])
    for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
        checkpoint.restore_optimizer(optimizer, kept)
    checkpoint.restore_module(loss_of, state["loss"])
    set_random_state(device, state["random"][rank])


def terms(targets: Tensor) -> int:
    """Over how many terms a loss is a mean: labels or tokens, where targets are such, else examples."""
    return len(targets) if targets.is_floating_point() else targets.numel()


def pick_device(name: str) -> torch.device:
    """The device of a study's setting: cpu, cuda or mps, or auto for the best that is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


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
    """Train every seed of a run and write its trace to `output`; lines of progress go to standard output.

    spec, code: canonical JSON of the run table. data: file of the data stage. threads: of all its processes. started:
    when the job began (time.time()), for the account of seconds. every_seconds: between checkpoints, 0 for one at every
    step. keep: whether the final state of each seed stays, at checkpoints/<run>/<digest>/seed-<seed>.pt:

        state = checkpoint.load(path)
        model = build(state["spec"], data.layouts.load(data_file), state["seed"])
        model.load_state_dict(state["model"])

    Nothing resumes from that: a finished run that is made to train again starts afresh.

    Raises checkpoint.Interrupted once a requested stop has saved. TraceError where the trace cannot be written.
    """
    training, device = json.loads(spec)["training"], pick_device(json.loads(spec)["device"])
    arguments: Spec = {"run": run, "spec": spec, "code": code, "data": str(data), "output": str(output)}
    arguments |= {"threads": threads, "started": started or time.time()}
    arguments |= {"every_seconds": float(every_seconds), "keep": keep}
    if training["processes"] > 1:
        parallel.launch(training["processes"], device, arguments)
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
    ranks: parallel.Ranks = parallel.ALONE,
) -> None:
    """train_run in this process: the whole run, or one rank of it."""
    importlib.import_module("torch._dynamo")  # as the first optimizer would; here it counts as what it is, an import
    gc.enable()  # off in a job until all is imported
    torch.set_num_threads(threads)
    plan = json.loads(spec)
    identity = hashlib.sha256(f"{spec}\n{code}".encode()).hexdigest()
    path = Path(output).parent.parent / "checkpoints" / run / identity[:16] / "state.pt"
    job = Job(path, identity, lambda text: print(f"{run}  {text}", flush=True), every_seconds, keep, ranks)
    job.environments = [environment(device, threads)]
    seconds = job.seconds
    seconds["import"] = time.time() - started
    with job.stop.listening():
        # train
        with job.clock("data"):
            dataset = load(data)
        if (size := plan["training"]["batch_size"]) > dataset.examples:  # prepared for another study
            raise DataError(f"{data}: {dataset.examples} training examples; batch_size is {size}")
        current = job.resume(plan)
        with job.clock("seeds"):
            while (position := len(job.done)) < len(plan["seeds"]):
                try:
                    job.done.append(train_seed(plan, position, dataset, device, job, current))
                    job.log(f"seed {plan['seeds'][position]}: {job.done[-1]['status']}")
                except checkpoint.UnfitError as error:
                    job.start_afresh(error)
                current = None
        seconds["training"] = seconds.pop("seeds") - sum(seconds[part] for part in ("probes", "saving"))
        if not job.first:
            return

        # write
        seconds |= {"wall": time.time() - started, "cpu": time.process_time()}
        status = {str(seed): done["status"] for seed, done in zip(plan["seeds"], job.done, strict=True)}
        about = {"run": run, "spec": spec, "code": json.loads(code), "status": status, "seconds": seconds}
        about |= {**job.environments[-1], "environments": job.environments}
        labels = {key: plan[key]["name"] for key in ("architecture", "activation", "loss", "normalization")}
        labels |= {"run": run, "data": plan["data"]["axis"]}
        facts = [traces.Fact(*fact) for done in job.done for fact in done["facts"]]
        try:
            traces.write(output, labels, facts, about)
        except OSError as error:
            raise traces.TraceError(f"{output}: trace not written ({error}); the next attempt resumes") from error
    checkpoint.remove(path)


def environment(device: torch.device, threads: int) -> Spec:
    """What, besides spec and code, decides the last bits of a run's numbers.

    instruction_set: what torch's own kernels use, and the settings that restrict those of the libraries below it.
    """
    limits = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    level = [
        torch.backends.cpu.get_cpu_capability(),
        *(f"{key}={os.environ[key]}" for key in limits if key in os.environ),
    ]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": traces.processor(),
        "instruction_set": " ".join(level),
        "threads": threads,
        "versions": traces.versions(),
    }

"""Train one run. `train_seed` holds the loop; `train_run` is the job around it: one trace for a block of seeds."""

import gc
import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsity_cliff import checkpoint, probes, registry, traces
from sparsity_cliff.activations import Site
from sparsity_cliff.data import Dataset, load, randomized
from sparsity_cliff.seeds import derive, generator

Spec = dict[str, Any]
CHECK_EVERY = 50  # steps between looks at the losses, each of which waits for the device
EVALUATION_BATCH = 1000  # examples


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


class Batches:
    """The training batch of each step, a pure function of (seed, step): a new order each epoch, its rest dropped."""

    def __init__(self, data: Dataset, size: int, seed: int):
        self._data, self._size, self._seed = data, size, seed
        self._per_epoch = max(1, len(data.y_train) // size)
        self._epoch = -1

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(step, self._per_epoch)
        if epoch != self._epoch:
            order = torch.randperm(len(self._data.y_train), generator=generator(self._seed, f"order/{epoch}"))
            self._epoch, self._order = epoch, order.to(self._data.y_train.device)
        index = self._order[position * self._size : (position + 1) * self._size]
        return self._data.x_train[index], self._data.y_train[index]


# ------------------------------------------------------------------------------------------------- measuring


def measure(
    spec: Spec, model: nn.Module, loss_of: Any, data: Dataset, initial: Any, autocast: Any, last: bool
) -> list[probes.Row]:
    """The rows of one measurement: loss and accuracy on the held-out data, and the study's groups of probes.

    last: whether this is the last step (or the first): of all held-out examples, with FLOPs and histograms. In between,
    of the first `examples` of them.
    """
    groups = spec["probes"]["measure"]
    examples = None if last else spec["probes"]["examples"]
    x_test, y_test = data.x_test[:examples], data.y_test[:examples]
    batches = list(torch.split(x_test, EVALUATION_BATCH))
    outputs: list[Tensor] = []

    def forward(x: Tensor) -> None:
        with autocast():
            outputs.append(model(x).float())

    model.eval()
    with torch.no_grad():
        rows: list[probes.Row] = []
        if "activations" in groups:
            rows += probes.activations(model, forward, batches)
            if last:
                rows += probes.flops(model, forward, x_test[:1], rows)
        else:
            for x in batches:
                forward(x)
        logits = torch.cat(outputs[: len(batches)])
        correct = (logits.argmax(dim=1) == y_test).float().mean()
        loss, accuracy = torch.stack([loss_of(logits, y_test), correct]).tolist()
        rows += [("test", None, None, "loss", loss), ("test", None, None, "accuracy", accuracy)]
        if "weights" in groups:
            rows += probes.weights(model, initial)
        if "histograms" in groups and last:
            rows += probes.histograms(model, initial)
    model.train()
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


class Job:
    """What the loop needs of its surroundings: a place for its state, a log, a clock, and word that it should stop."""

    def __init__(
        self,
        checkpoint_path: Path,
        identity: str,
        log: Callable[[str], None] = print,
        save_every: float = 60.0,  # seconds
    ):
        self.log, self.stop = log, checkpoint.StopRequest()
        self.seconds: dict[str, float] = defaultdict(float)
        self.done: list[Spec] = []  # finished seeds
        self._path, self._identity, self._save_every = checkpoint_path, identity, save_every
        self._saved = time.monotonic()

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    @property
    def save_is_due(self) -> bool:
        return bool(self.stop) or time.monotonic() - self._saved >= self._save_every

    def save(self, current: Spec) -> None:
        with self.clock("saving"):
            checkpoint.save(self._path, self._identity, {"done": self.done, "current": current})
            self._saved = time.monotonic()
        if self.stop:
            self.log(f"asked to stop: state saved in {self._path}")
            raise checkpoint.Interrupted

    def resume(self) -> Spec | None:
        """The state of the seed that was under way, if any; `done` then holds the seeds before it."""
        try:
            state = checkpoint.load(self._path, self._identity)
        except checkpoint.CheckpointError as error:
            self.log(f"{error}: not used, starting afresh")
            return None
        if state is None:
            return None
        self.done = state["done"]
        self.log(f"resuming at seed {len(self.done) + 1}, step {state['current']['step']}")
        return state["current"]  # type: ignore[no-any-return]


def train_seed(spec: Spec, position: int, data: Dataset, device: torch.device, job: Job, resume: Spec | None) -> Spec:
    """Train the seed at `position` of the run's block. Returns {facts, status}.

    status: "finished", or "diverged at step N", N being the first step whose loss was not finite.
    """
    seed, training, steps = spec["seeds"][position], spec["training"], spec["training"]["steps"]
    measured = set(probes.schedule(steps, spec["probes"]["every"]))
    gradients = "gradients" in spec["probes"]["measure"]
    bfloat16 = training["precision"] == "bfloat16"
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if bfloat16 else nullcontext

    # build
    with job.clock("build"):
        if spec["data"]["axis"] == "random":
            data = randomized(data, generator(seed, "data"))
        data = data.to(device)
        batches = Batches(data, training["batch_size"], seed)
        model = build(spec, data, seed).to(device)
        initial = probes.InitialWeights.of(model)
        loss_of, factor = make("loss", spec["loss"]), make("schedule", training["schedule"])
        optimizers = make("optimizer", training["optimizer"], model)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["initial_lr"] = group["lr"]
        torch.manual_seed(derive(seed, "noise"))
        gc.enable()  # off in a job until here; the first optimizer imports much of torch

    # resume
    first, facts, losses, status = 0, [], [], "finished"
    if resume is not None:
        first, facts, losses = resume["step"], resume["facts"], resume["losses"]
        model.load_state_dict(resume["model"])
        for optimizer, state in zip(optimizers, resume["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        torch.set_rng_state(resume["rng"])
        initial = probes.InitialWeights(*resume["initial"])
    pending: list[Tensor] = []  # losses of the latest steps, still on the device
    tell = Progress(job.log, spec["seeds"], steps)

    for step in range(first, steps + 1):
        # check: bring the losses back, all at once
        save = job.save_is_due  # asked once a step: a signal may arrive between two looks
        if pending and (step in measured or len(pending) >= CHECK_EVERY or save):
            losses += torch.stack(pending).tolist()
            broken = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
            if broken is not None:
                status = f"diverged at step {step - len(losses) + broken}"
                break
            pending = []
            tell(position, step, losses[-1])

        # save: before measuring, which a resumed run does again
        if save:
            current = {"step": step, "facts": facts, "losses": losses, "model": model.state_dict()}
            current |= {"optimizers": [optimizer.state_dict() for optimizer in optimizers]}
            current |= {"rng": torch.get_rng_state(), "initial": [initial.mean, initial.std]}
            job.save(current)

        # measure
        if step in measured:
            with job.clock("probes"):
                if losses:
                    facts.append((seed, step, "train", None, None, "loss", sum(losses) / len(losses)))
                rows = measure(spec, model, loss_of, data, initial, autocast, last=step in (0, steps))
                facts += [(seed, step, *row) for row in rows]
                losses = []
        if step == steps:
            break

        # schedule
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor(step, steps)

        # step
        x, y = batches(step)
        signs = probes.GradientSigns(model, len(y)) if gradients and step in measured else None
        with signs or nullcontext(), autocast():
            loss = loss_of(model(x).float(), y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        pending.append(loss.detach())
        if signs:
            facts += [(seed, step, *row) for row in signs.rows()]

    return {"facts": facts, "status": status}


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
) -> None:
    """Train every seed of a run and write its trace to `output`; lines of progress go to standard output.

    spec, code: canonical JSON of the run table. data: file of the data stage. started: when the process began
    (time.time()), for the account of seconds. Raises checkpoint.Interrupted once a requested stop has saved.
    """
    job_began = time.time()
    torch.set_num_threads(threads)
    output, plan = Path(output), json.loads(spec)
    device = pick_device(plan["device"])
    identity = hashlib.sha256(f"{spec}\n{code}".encode()).hexdigest()
    folder = output.parent.parent / "checkpoints" / run / identity[:16]
    job = Job(folder / "state.pt", identity, log=lambda text: print(f"{run}  {text}", flush=True))
    seconds = job.seconds
    seconds["import"] = job_began - (started or job_began)
    with job.stop.listening():
        # train
        with job.clock("data"):
            dataset = load(data)
        current = job.resume()
        with job.clock("seeds"):
            for position in range(len(job.done), len(plan["seeds"])):
                job.done.append(train_seed(plan, position, dataset, device, job, current))
                job.log(f"seed {plan['seeds'][position]}: {job.done[-1]['status']}")
                current = None
        seconds["training"] = seconds.pop("seeds") - sum(seconds[part] for part in ("build", "probes", "saving"))

        # write
        seconds |= {"wall": time.time() - (started or job_began), "cpu": time.process_time()}
        status = {str(seed): done["status"] for seed, done in zip(plan["seeds"], job.done, strict=True)}
        about = {"run": run, "spec": spec, "code": json.loads(code), "status": status, "seconds": seconds}
        about |= {"device": describe(device), "threads": threads, "versions": traces.versions()}
        labels = {key: plan[key]["name"] for key in ("architecture", "activation", "loss", "normalization")}
        labels |= {"run": run, "data": plan["data"]["axis"]}
        facts = [traces.Fact(*fact) for done in job.done for fact in done["facts"]]
        traces.write(output, labels, facts, about)
    checkpoint.remove(folder)


def describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

"""The training loop. Only this file and the code that it reaches compute a run's numbers and make a run stale."""

import math
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from sparsity_cliff.data.layouts.base import Dataset
from sparsity_cliff.data.seeds import derive
from sparsity_cliff.probes.gradients import GradientSigns, terms
from sparsity_cliff.probes.measurement import measure
from sparsity_cliff.probes.rows import schedule
from sparsity_cliff.probes.weights import InitialWeights
from sparsity_cliff.study.registry import make
from sparsity_cliff.study.spec import Spec
from sparsity_cliff.training.batches import Batches
from sparsity_cliff.training.build import build_parts
from sparsity_cliff.training.ranks import check
from sparsity_cliff.training.surroundings import Fact, State, Surroundings, Wish

CHECK_EVERY = 50  # steps between transfers of the losses, each of which waits for the device


def train_seed(
    spec: Spec, position: int, data: Dataset, device: torch.device, job: Surroundings, resume: State | None
) -> State:
    """Train the seed at `position` of the run's block. Returns {facts, status}.

    status: "finished", or "diverged at step N", where N is the first step with a loss that is not finite. facts: those
    of rank 0, the only rank that measures. resume: a saved state of this seed. Raises UnfitError, on every rank and
    before the first step, if it does not fit.
    """
    ranks, seed, training, steps = job.ranks, spec.seeds[position], spec.training, spec.training.steps
    measured = set(schedule(steps, spec.probes.every))
    bfloat16 = training.precision == "bfloat16"
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if bfloat16 else nullcontext

    # build
    data = (data.randomized(seed) if spec.data.axis == "random" else data).to(device)
    batches = Batches(data, training.batch_size, seed)
    parts = build_parts(spec, data, seed, device)
    model, loss_of, optimizers = parts.model, parts.loss, parts.optimizers
    weights = list(model.parameters())  # once, because walking through the modules takes a tenth of a small step
    initial, factor = InitialWeights.of(model), make("schedule", training.schedule)
    torch.manual_seed(derive(seed, f"noise/{ranks.rank}" if ranks.rank else "noise"))
    check(ranks, min(training.batch_size, data.examples), model, loss_of)

    # resume
    facts: list[Fact] = []
    start, losses, status = 0, [], "finished"  # losses: since the last measurement
    if resume is not None:
        job.restore(resume, parts)
        start, facts, losses = resume["step"], resume["facts"], resume["losses"]
    pending: list[Tensor] = []  # losses of the latest steps, still on the device

    for step in range(start, steps + 1):
        # check: transfer all pending losses at once
        wish = ranks.highest(job.wish)  # once per step, because a signal may arrive at any time
        if pending and (step in measured or len(pending) >= CHECK_EVERY or wish):
            losses += torch.stack(pending).tolist()
            broken = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
            if broken is not None:
                status = f"diverged at step {step - len(losses) + broken}"
                break
            pending = []
            job.tell(position, step, losses[-1])

        # save: before measuring, because a resumed run measures again
        if wish:
            job.save(parts, {"step": step, "facts": facts, "losses": losses}, stop=wish == Wish.STOP)

        # measure
        if step in measured:
            with job.clock("probes"):
                if losses:
                    facts.append((seed, step, "train", None, None, "loss", sum(losses) / len(losses)))
                rows, scores = measure(spec, model, loss_of, data, initial, autocast, step) if job.first else ([], [])
                facts += [(seed, step, *row) for row in rows]
                facts += [(seed, step, *row) for row in scores]
                losses = []
        if step == steps:
            if not all(math.isfinite(value) for *_, metric, value in rows if metric == "loss"):
                status = f"diverged at step {steps}"  # after the last update, which no training loss covers
            break

        # schedule
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = group["initial_lr"] * factor(step, steps)

        # step: ranks and microbatches each take a part of the batch, and their gradients add up
        x, y = batches(step)
        watched = "gradients" in spec.probes.measure and step in measured
        signs = GradientSigns(model, terms(y)) if watched else None
        total = torch.zeros((), device=device)
        count = ranks.size * math.ceil(len(x) / ranks.size / (training.microbatch or len(x)))
        shares = list(zip(x.tensor_split(count), y.tensor_split(count), strict=True))
        with signs or nullcontext():
            for inputs, targets in ranks.share(shares):
                with autocast():
                    outputs = model(inputs).float()
                loss = loss_of(outputs, targets) * (len(inputs) / len(x))
                loss.backward()
                total += loss.detach()
        ranks.add([total, *(p.grad for p in weights if p.grad is not None)])
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        pending.append(total)
        if signs:
            facts += [(seed, step, *row) for row in signs.rows(ranks.add)]

    job.keep(parts, seed, status)
    return {"facts": facts, "status": status}

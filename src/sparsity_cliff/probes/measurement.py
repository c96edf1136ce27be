"""One measurement of a network during training: loss and scores on held-out data, and the study's groups of probes."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from sparsity_cliff.data.layouts.base import Batch, Dataset
from sparsity_cliff.probes.activation_stats import activation_stats
from sparsity_cliff.probes.flops import flops
from sparsity_cliff.probes.rows import ExampleRow, Row
from sparsity_cliff.probes.weights import InitialWeights, histograms, weights
from sparsity_cliff.study.spec import Spec


def measure(
    spec: Spec,
    model: nn.Module,
    loss_of: nn.Module,
    data: Dataset,
    initial: InitialWeights,
    autocast: Callable[[], AbstractContextManager[object]],
    step: int,
) -> tuple[list[Row], list[ExampleRow]]:
    """The rows of one measurement, and at the last step, the scores of each held-out example.

    The last step measures all held-out examples; earlier steps measure the first `examples` of them. FLOPs and
    histograms are measured at the first and the last step. A loss with `in_nats` is a negative log-likelihood.
    """
    groups, last = spec.probes.measure, step == spec.training.steps
    batches = data.held_out(None if last else spec.probes.examples)
    losses: list[Tensor] = []  # means over the examples of a batch
    judged: list[dict[str, Tensor]] = []  # scores per example, per batch

    def forward(batch: Batch) -> None:
        x, y = batch
        with autocast():
            outputs = model(x).float()
        if len(judged) < len(batches):  # probes may pass each batch twice
            losses.append(loss_of(outputs, y))
            judged.append(data.scores(outputs, y, last))

    model.eval()
    loss_of.eval()
    with torch.no_grad():
        rows: list[Row] = []
        if "activations" in groups:
            rows += activation_stats(model, forward, batches, data.delimiters)
            if last or step == 0:
                x, y = batches[0]
                rows += flops(model, forward, (x[:1], y[:1]), rows)
        else:
            for batch in batches:
                forward(batch)
        scores = {name: torch.cat([part[name] for part in judged]).cpu().double().numpy() for name in judged[0]}
        means = {"loss": float(np.average(torch.stack(losses).cpu().double(), weights=[len(x) for x, _ in batches]))}
        means |= {name: float(np.nanmean(values)) for name, values in scores.items() if not np.isnan(values).all()}
        means |= data.summary(means, getattr(loss_of, "in_nats", False))
        rows += [("test", None, None, name, value) for name, value in means.items()]
        if "weights" in groups:
            rows += weights(model, initial)
        if "histograms" in groups and (last or step == 0):
            rows += histograms(model, initial)
    model.train()
    loss_of.train()
    examples: list[ExampleRow] = []
    if last:
        for name, values in scores.items():
            defined = [(i, value) for i, value in enumerate(values.tolist()) if not math.isnan(value)]
            examples += [("test", None, None, name, value, i) for i, value in defined]
    return rows, examples

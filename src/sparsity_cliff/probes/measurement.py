"""One measurement of a network during training: loss and scores on held-out data, and the study's groups of probes."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sparsity_cliff.data.layouts.base import Batch, Dataset
from sparsity_cliff.probes.activation_stats import activation_stats
from sparsity_cliff.probes.flops import flops
from sparsity_cliff.probes.rows import Row
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
) -> list[Row]:
    """The rows of one measurement.

    The last step measures all held-out examples; earlier steps measure the first `examples` of them. FLOPs and
    histograms are measured at the first and the last step. A loss with `in_nats` is a negative log-likelihood.
    """
    groups, last = spec.probes.measure, step == spec.training.steps
    batches = data.held_out(None if last else spec.probes.examples)
    judged: list[dict[str, Tensor | float]] = []  # per batch

    def forward(batch: Batch) -> None:
        x, y = batch
        with autocast():
            outputs = model(x).float()
        if len(judged) < len(batches):  # probes may pass each batch twice
            judged.append({"loss": loss_of(outputs, y), **data.scores(outputs, y, last)})

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
        means = _means([len(x) for x, _ in batches], judged)
        means |= data.summary(means, getattr(loss_of, "in_nats", False))
        rows += [("test", None, None, name, value) for name, value in means.items()]
        if "weights" in groups:
            rows += weights(model, initial)
        if "histograms" in groups and (last or step == 0):
            rows += histograms(model, initial)
    model.train()
    loss_of.train()
    return rows


def _means(examples: list[int], judged: list[dict[str, Tensor | float]]) -> dict[str, float]:
    """Means of the batches' scores over examples, each over the batches that have the score."""
    means = {}
    for name in dict.fromkeys(name for scores in judged for name in scores):
        found = [(n, scores[name]) for n, scores in zip(examples, judged, strict=True) if name in scores]
        values = torch.stack([torch.as_tensor(value, dtype=torch.float32) for _, value in found]).tolist()
        total = sum(n * value for (n, _), value in zip(found, values, strict=True))
        means[name] = total / sum(n for n, _ in found)
    return means

"""Losses: factories of an nn.Module that maps (outputs, targets) to a scalar, the mean over the batch.

Classifiers have logits (N, K) and labels int64 (N,). Language models have logits (N, T, K) and labels int64 (N, T).
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """Mean over the batch of -log softmax at the label, in nats."""

    in_nats = True

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


class OneHotMSE(nn.Module):
    """Mean over batch and classes of (output - one-hot)², as in F.mse_loss, which is 2/K of ½‖f - y‖² per example."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(logits, F.one_hot(labels, logits.shape[-1]).to(logits.dtype))


LOSSES: dict[str, Callable[..., nn.Module] | str] = {
    "cross_entropy": CrossEntropy,
    "mse": OneHotMSE,
    "mpsenet": "sparsity_cliff.networks.losses.mpsenet:MPSENetLoss",
}

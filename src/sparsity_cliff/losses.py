"""Losses: factories -> callable (logits (N, K), labels (N,) int64) -> scalar mean over the batch."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy() -> Loss:
    return F.cross_entropy


def mse() -> Loss:
    """Mean over batch and classes of (output - one-hot)², as F.mse_loss averages it (2/K of ½‖f - y‖² per example)."""

    def one_hot_mse(logits: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(logits, F.one_hot(labels, logits.shape[-1]).to(logits.dtype))

    return one_hot_mse


LOSSES: dict[str, Callable[[], Loss]] = {"cross_entropy": cross_entropy, "mse": mse}

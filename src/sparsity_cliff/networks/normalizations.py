"""Normalizations: factories (features, spatial) -> `nn.Module` that keeps the shape of its input.

`features` is the size of the feature axis. `spatial` is the number of axes after it: 0 for vectors and tokens (features
last), 1 for signals (N, C, L), 2 for images (N, C, H, W).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsity_cliff.networks.activations import quantile
from sparsity_cliff.study.registry import Momentum, Positive, Share


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm of (..., features), in which every token of every example is a sample."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


class QuantileBatchNorm(nn.Module):
    """Batch norm around the q-quantile of each feature over batch and positions, instead of its mean.

        weight · (x - Q_q) / √(S + eps) + bias

    In training, a share q of a feature's values is below 0 before the affine part, within 1/n for continuous x. S is
    the mean square of x - Q_q or, with `around_mean`, the variance. Running estimates follow torch's batch norm,
    (1 - momentum) · old + momentum · new, with unbiased variances. Eval mode uses them instead of batch statistics, so
    examples are independent. Raises ValueError in training if a feature has a single value.
    """

    running_quantile: Tensor
    running_square: Tensor

    def __init__(self, features: int, spatial: int, q: float, eps: float, momentum: float, around_mean: bool):
        super().__init__()
        self.dim = -1 if spatial == 0 else 1
        self.q = q
        self.eps = eps
        self.momentum = momentum
        self.around_mean = around_mean
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_quantile", torch.zeros(features))
        self.register_buffer("running_square", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 is too coarse for statistics
        if self.training:
            rows = wide.movedim(self.dim, 0).flatten(1)  # (features, values)
            n = rows.shape[1]
            if n == 1:
                raise ValueError("quantile batch norm: 1 value per feature in a batch; valid: 2 or more")
            center = quantile(rows, self.q, 1).squeeze(1)
            variance, mean = torch.var_mean(rows, 1, correction=0)
            square = variance if self.around_mean else variance + (mean - center).square()
            with torch.no_grad():
                self.running_quantile.lerp_(center.to(self.running_quantile.dtype), self.momentum)
                unbiased = square + variance / (n - 1)
                self.running_square.lerp_(unbiased.to(self.running_square.dtype), self.momentum)
        else:
            center, square = self.running_quantile, self.running_square
        shape = [-1 if axis == self.dim % x.ndim else 1 for axis in range(x.ndim)]
        y = (wide - center.view(shape)) * (self.weight / (square + self.eps).sqrt()).view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, q={self.q}, eps={self.eps}, momentum={self.momentum}"


class QuantileLayerNorm(nn.Module):
    """Layer norm around the q-quantile, instead of the mean.

        weight · (x - Q_q) / √(mean((x - Q_q)²) + eps) + bias

    Statistics are over the features of each token; for channels-first data, over the channels and positions of each
    example. A share q of these values is below 0 before the affine part, within 1/n for continuous x.
    """

    def __init__(self, features: int, spatial: int, q: float, eps: float):
        super().__init__()
        self.spatial = spatial
        self.q = q
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rows = wide.flatten(1) if self.spatial else wide  # (examples, channels · positions) or (..., features)
        centered = rows - quantile(rows, self.q, -1)
        y = (centered / (centered.square().mean(-1, keepdim=True) + self.eps).sqrt()).view_as(x)
        shape = (-1,) + (1,) * self.spatial  # broadcasts over (..., features, *positions)
        return (y * self.weight.view(shape) + self.bias.view(shape)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, q={self.q}, eps={self.eps}"


def none(features: int, spatial: int) -> nn.Module:
    """No normalization."""
    return nn.Identity()


def batch_norm(features: int, spatial: int, *, eps: Positive = 1e-5) -> nn.Module:
    """Batch norm per feature, over batch and positions (Ioffe & Szegedy, arXiv 1502.03167)."""
    return {0: TokenBatchNorm, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[spatial](features, eps=eps)


def layer_norm(features: int, spatial: int, *, eps: Positive = 1e-5) -> nn.Module:
    """Layer norm per token over features; for channels-first data, per example over channels and positions."""
    return nn.LayerNorm(features, eps=eps) if spatial == 0 else nn.GroupNorm(1, features, eps=eps)


def quantile_batch_norm(
    features: int, spatial: int, *, q: Share, eps: Positive = 1e-5, momentum: Momentum = 0.1
) -> nn.Module:
    """Batch norm around the q-quantile, scaled by the root mean square around it (see QuantileBatchNorm)."""
    return QuantileBatchNorm(features, spatial, q, eps, momentum, around_mean=False)


def quantile_mean_batch_norm(
    features: int, spatial: int, *, q: Share, eps: Positive = 1e-5, momentum: Momentum = 0.1
) -> nn.Module:
    """Batch norm centered at the q-quantile and scaled by the ordinary variance around the mean.

    This is our reading of "quantile-mean", which no text available to us explains. The published code also divides by
    this variance.
    """
    return QuantileBatchNorm(features, spatial, q, eps, momentum, around_mean=True)


def quantile_layer_norm(features: int, spatial: int, *, q: Share, eps: Positive = 1e-5) -> nn.Module:
    """Layer norm around the q-quantile (see QuantileLayerNorm)."""
    return QuantileLayerNorm(features, spatial, q, eps)


#: Normalizations with batch statistics, which processes that share a batch cannot use. Study validation reads this.
OVER_BATCH = ("batch_norm", "quantile_batch_norm", "quantile_mean_batch_norm")
NORMALIZATIONS: dict[str, Callable[..., nn.Module]] = {
    "none": none,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "quantile_batch_norm": quantile_batch_norm,
    "quantile_mean_batch_norm": quantile_mean_batch_norm,
    "quantile_layer_norm": quantile_layer_norm,
}

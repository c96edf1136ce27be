"""Normalizations: factories (features, spatial) -> `nn.Module`.

`features` is the size of the feature axis. `spatial` counts the axes behind it: 0 for vectors and tokens (features
last), 1 for signals (N, C, L), 2 for images (N, C, H, W).
"""

from collections.abc import Callable

from torch import Tensor, nn

from sparsity_cliff.registry import Positive


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm of (..., features): every token of every example is one sample."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


def none(features: int, spatial: int) -> nn.Module:
    return nn.Identity()


def batch_norm(features: int, spatial: int, *, eps: Positive = 1e-5) -> nn.Module:
    return {0: TokenBatchNorm, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[spatial](features, eps=eps)


def layer_norm(features: int, spatial: int, *, eps: Positive = 1e-5) -> nn.Module:
    """Per token over features; per example over channels and positions where the data is channels-first."""
    return nn.LayerNorm(features, eps=eps) if spatial == 0 else nn.GroupNorm(1, features, eps=eps)


NORMALIZATIONS: dict[str, Callable[..., nn.Module]] = {
    "none": none,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
}

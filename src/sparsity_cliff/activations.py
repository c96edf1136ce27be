"""Activations and sparsity controls, and the site that holds one.

Every entry of `ACTIVATIONS` is a factory: keyword-only options -> `nn.Module` that maps pre-activations z to
activations of the same shape. To add one: write the factory here, add its line to the dict.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from sparsity_cliff.registry import ActivationName, NonNegative, Positive, Share


class Site(nn.Module):
    """One activation site: pre-activation in, activation out. Probes find sites by this class.

    `dim` is the feature axis of the tensors that pass (1 for channels-first images and signals, -1 for vectors and
    tokens). It is what "per token over features" means for Top-K, and what a unit is for dead units.
    """

    def __init__(self, function: nn.Module, dim: int = -1):
        super().__init__()
        self.function = function
        self.dim = dim
        for module in function.modules():
            if hasattr(module, "feature_dim"):
                module.feature_dim = dim  # type: ignore[assignment]

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.function(z)
        return out

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Squared(nn.Module):
    """base(z)², optionally clipped: min(base(z)², clip), with zero gradient where clipped.

    With base ReLU: ReLU² of Primer (So et al., arXiv 2109.08668), gradient 2·relu(z).
    """

    def __init__(self, base: nn.Module, clip: float | None):
        super().__init__()
        self.base = base
        self.clip = clip

    def forward(self, z: Tensor) -> Tensor:
        a: Tensor = self.base(z).square()
        return a if self.clip is None else a.clamp(max=self.clip)


class TopK(nn.Module):
    """Keep the largest (1 - sparsity) share of base(z), set the others to 0.

    over: "features" ranks each token's (pixel's, position's) features by themselves; "example" ranks all activations of
    an example together, so that a convolution may keep whole regions. Of n, n - round(sparsity·n) are kept, at least
    one. by: what "largest" means, the value or the magnitude. Survivors that are 0 themselves (ReLU below its
    threshold) still count as zeros, so the measured sparsity can exceed the setting.
    """

    def __init__(self, base: nn.Module, sparsity: float, by: str, over: str):
        super().__init__()
        self.base = base
        self.sparsity = sparsity
        self.by = by
        self.over = over
        self.feature_dim = -1

    def forward(self, z: Tensor) -> Tensor:
        a: Tensor = self.base(z)
        ranked, dim = (a.flatten(1), 1) if self.over == "example" else (a, self.feature_dim)
        kept = max(1, ranked.shape[dim] - round(self.sparsity * ranked.shape[dim]))
        score = ranked.abs() if self.by == "magnitude" else ranked
        index = score.topk(kept, dim=dim, sorted=False).indices
        return torch.zeros_like(ranked).scatter(dim, index, ranked.gather(dim, index)).view_as(a)


class QuantileReLU(nn.Module):
    """relu(z - Q_q(z)); unshifted: z where z > Q_q(z), else 0.

    Q_q is over each token's features or over the whole example, as for Top-K. The measured zeros are q by construction
    for continuous z, within 1/n. The gradient flows through the quantile of the shifted form as through any order
    statistic.
    """

    def __init__(self, q: float, shifted: bool, over: str):
        super().__init__()
        self.q = q
        self.shifted = shifted
        self.over = over
        self.feature_dim = -1

    def forward(self, z: Tensor) -> Tensor:
        ranked, dim = (z.flatten(1), 1) if self.over == "example" else (z, self.feature_dim)
        # not torch.quantile: it refuses bfloat16, and before torch 2.15 more than 2^24 elements
        place = self.q * (ranked.shape[dim] - 1)  # of the quantile, in ascending order
        above = ranked.shape[dim] - int(place)
        largest = ranked.topk(above, dim=dim).values
        low, high = (largest.narrow(dim, i, 1) for i in (above - 1, max(above - 2, 0)))
        threshold = torch.lerp(low, high, place - int(place))
        a = torch.relu(ranked - threshold) if self.shifted else torch.where(ranked > threshold, ranked, 0.0)
        return a.view_as(z)


def relu() -> nn.Module:
    return nn.ReLU()


def gelu(*, approximate: Literal["none", "tanh"] = "none") -> nn.Module:
    return nn.GELU(approximate=approximate)


def silu() -> nn.Module:
    return nn.SiLU()


def tanh() -> nn.Module:
    return nn.Tanh()


def identity() -> nn.Module:
    return nn.Identity()


def leaky_relu(*, negative_slope: NonNegative = 0.01) -> nn.Module:
    return nn.LeakyReLU(negative_slope)


def elu(*, alpha: Positive = 1.0) -> nn.Module:
    return nn.ELU(alpha)


def relu2(*, clip: Positive | None = None) -> nn.Module:
    return Squared(nn.ReLU(), clip)


def gelu2(*, clip: Positive | None = None) -> nn.Module:
    return Squared(nn.GELU(), clip)


def topk(
    *,
    sparsity: Share,
    base: ActivationName = "relu",
    by: Literal["value", "magnitude"] = "value",
    over: Literal["features", "example"] = "features",
) -> nn.Module:
    return TopK(ACTIVATIONS[base](), sparsity, by, over)


def quantile_relu(*, q: Share, shifted: bool = True, over: Literal["features", "example"] = "features") -> nn.Module:
    return QuantileReLU(q, shifted, over)


ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": relu,
    "gelu": gelu,
    "silu": silu,
    "tanh": tanh,
    "identity": identity,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "relu2": relu2,
    "gelu2": gelu2,
    "topk": topk,
    "quantile_relu": quantile_relu,
}

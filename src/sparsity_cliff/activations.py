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
    """Keep the largest (1 - sparsity) share of base(z) per token over its features, set the others to 0.

    Of n features, n - round(sparsity·n) are kept, at least one. `by` says what "largest" means: value or magnitude.
    Of equal values, torch.topk decides which are kept, so exactly that many positions survive; survivors that are
    themselves 0 (ReLU below its threshold) still count as zeros, so the measured sparsity can exceed the setting.
    """

    def __init__(self, base: nn.Module, sparsity: float, by: str):
        super().__init__()
        self.base = base
        self.sparsity = sparsity
        self.by = by
        self.feature_dim = -1

    def forward(self, z: Tensor) -> Tensor:
        a: Tensor = self.base(z)
        features = a.shape[self.feature_dim]
        kept = max(1, features - round(self.sparsity * features))
        score = a.abs() if self.by == "magnitude" else a
        index = score.topk(kept, dim=self.feature_dim, sorted=False).indices
        return torch.zeros_like(a).scatter(self.feature_dim, index, a.gather(self.feature_dim, index))


class QuantileReLU(nn.Module):
    """relu(z - Q_q(z)) per token over its features; unshifted: z where z > Q_q(z), else 0.

    The measured zeros are q by construction for continuous z, within 1/features. The gradient flows
    through the quantile of the shifted form as through any order statistic.
    """

    def __init__(self, q: float, shifted: bool):
        super().__init__()
        self.q = q
        self.shifted = shifted
        self.feature_dim = -1

    def forward(self, z: Tensor) -> Tensor:
        # torch.quantile takes float32 and float64 only; under autocast z may be bfloat16
        wide = z if z.dtype in (torch.float32, torch.float64) else z.float()
        threshold = torch.quantile(wide, self.q, dim=self.feature_dim, keepdim=True).to(z.dtype)
        return torch.relu(z - threshold) if self.shifted else torch.where(z > threshold, z, 0.0)


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


def topk(*, sparsity: Share, base: ActivationName = "relu", by: Literal["value", "magnitude"] = "value") -> nn.Module:
    return TopK(ACTIVATIONS[base](), sparsity, by)


def quantile_relu(*, q: Share, shifted: bool = True) -> nn.Module:
    return QuantileReLU(q, shifted)


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

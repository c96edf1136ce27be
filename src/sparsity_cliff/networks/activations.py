"""Activations and sparsity controls, and the site that holds one.

Every entry of `ACTIVATIONS` is a factory: keyword-only options -> `nn.Module` that maps pre-activations z to
activations of the same shape. To add one: write the factory here, add its line to the dict.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_cliff.study.registry import ActivationName, NonNegative, Positive, Share


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


class BSiLU(nn.Module):
    """(z + α)·σ(z) - α/2 (Horuz et al., arXiv 2505.22074, eq. 7): 0 at 0 with slope ½ + α/4, -α/2 far below.

    Its derivative, the surrogate gradient of SUGAR, is σ(z)·(1 + (z + α)·(1 - σ(z))).
    """

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, z: Tensor) -> Tensor:
        # the same function, without the difference of near numbers that bfloat16 would lose around 0
        return F.silu(z) + self.alpha / 2 * torch.tanh(z / 2)


class _ReLUWithSlopeOfBSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.alpha = alpha
        return torch.relu(z)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        z = z.to(torch.promote_types(z.dtype, torch.float32))  # 1 - σ(z) has few bits in bfloat16
        gate = torch.sigmoid(z)
        return gradient * (gate * (1 + (z + ctx.alpha) * (1 - gate))).to(gradient.dtype), None


class SugarBSiLU(nn.Module):
    """SUGAR (Horuz et al., arXiv 2505.22074, section 3): ReLU forward, bit for bit; backward the derivative of B-SiLU.

    So units below 0 still learn, and the measured zeros are ReLU's.
    """

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = _ReLUWithSlopeOfBSiLU.apply(z, self.alpha)
        return out


class NoisyReLU(nn.Module):
    """ReLU with learned noise where it saturates (Gülçehre et al., arXiv 1603.00391, eqs. 8-19).

        φ(z) = α·h(z) + (1 - α)·u(z) + d(z)·s(z)·ε        s(z) = c·(σ(p·Δ(z)) - ½)²        Δ(z) = h(z) - u(z)

    h is the hard nonlinearity, u its linearization, d(z) = -sgn(z)·sgn(1 - α) the direction of the noise, and p is
    learned. ε is |N(0, 1)| (`half_normal`) or N(0, 1) (`normal`); in eval mode it is its mean, √(2/π) or 0, so that
    what is measured is the expectation. Noise comes from torch's global generator.

    The formulas are made for hard sigmoid and hard tanh. For ReLU this is our reading: h = relu and u(z) = z, so that Δ
    is relu(-z): above 0 nothing changes, bit for bit, and below 0 φ is (1 - α)·z + d·s·ε. At α = 1 the formula's
    sgn(1 - α) would switch the noise off; we take +1 there, the noise pointing up into the linear part, as for α < 1.
    One p for each site, 1 at the start: at 0 it would have no gradient, and drawing it would change the initial
    weights that runs of one seed share.

    Half-normal noise has a positive mean, so that in eval mode nothing below 0 is exactly 0 and the activation
    sparsity is next to none; with normal noise and α = 1 eval mode is ReLU.
    """

    def __init__(self, alpha: float, c: float, noise: str):
        super().__init__()
        self.alpha = alpha
        self.c = c
        self.noise = noise
        self.p = nn.Parameter(torch.tensor(1.0))  # no axis, so that z keeps its dtype under autocast

    def forward(self, z: Tensor) -> Tensor:
        gap = torch.relu(-z)
        scale = self.c / 4 * torch.tanh(self.p * gap / 2).square()  # σ(x) - ½ = ½ tanh(x/2)
        noise: Tensor | float = math.sqrt(2 / math.pi) if self.noise == "half_normal" else 0.0
        if self.training:
            noise = torch.randn_like(z)
            noise = noise.abs() if self.noise == "half_normal" else noise
        direction = 1 if self.alpha <= 1 else -1
        return torch.relu(z) + (self.alpha - 1) * gap + direction * scale * noise

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, c={self.c}, noise={self.noise}"


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


class TopKGELUReference(nn.Module):
    """GELU, then the published code's Top-K, whose count is inverted: it zeros about 1 - sparsity of an example.

    Its threshold is the int((1 - sparsity)·n)-th *smallest* of an example's n activations, and what lies below that
    becomes 0: 50 of 512, which is 9.8 %, at a nominal 90 %. It ranks by value, so that what it zeros are the troughs
    of GELU, and not the small magnitudes.
    """

    def __init__(self, sparsity: float):
        super().__init__()
        self.sparsity = sparsity

    def forward(self, z: Tensor) -> Tensor:
        a = F.gelu(z)
        ranked = a.flatten(1)
        smallest = max(1, int((1 - self.sparsity) * ranked.shape[1]))
        threshold = ranked.topk(smallest, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
        return torch.where(ranked < threshold, 0.0, ranked).view_as(a)


def quantile(z: Tensor, q: float, dim: int) -> Tensor:
    """The q-quantile of z along `dim`, which stays as an axis of size 1: linear between order statistics, as numpy's.

    The gradient flows to the one or two elements that it lies between.
    """
    # not torch.quantile: it refuses bfloat16, and before torch 2.15 more than 2^24 elements; nor a sort: the selection
    # of the upper part and of its two smallest takes a third of the time or less
    place = q * (z.shape[dim] - 1)  # of the quantile, in ascending order
    above = z.shape[dim] - int(place)
    upper = z.topk(above, dim=dim, sorted=False).values
    lowest = upper.topk(min(2, above), dim=dim, largest=False).values
    return torch.lerp(lowest.narrow(dim, 0, 1), lowest.narrow(dim, -1, 1), place - int(place))


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
        threshold = quantile(ranked, self.q, dim)
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


def bsilu(*, alpha: Positive = 1.67) -> nn.Module:
    return BSiLU(alpha)


def sugar_bsilu(*, alpha: Positive = 1.67) -> nn.Module:
    return SugarBSiLU(alpha)


def sugar_bsilu_reference() -> nn.Module:
    """What the published code's SUGAR-BSiLU computes: ReLU, forward and backward.

    Its surrogate gradient stands in a module's method named `backward`, which autograd never calls.
    """
    return nn.ReLU()


def noisy_relu(
    *, alpha: Positive = 1.0, c: Positive = 1.0, noise: Literal["half_normal", "normal"] = "half_normal"
) -> nn.Module:
    return NoisyReLU(alpha, c, noise)


def noisy_relu_reference() -> nn.Module:
    """What the published code's NoisyReLU computes: ReLU, forward and backward, in training and in eval mode.

    Its noise is multiplied by 0 below 0, where it belongs, and has scale 0 above; its p never gets a gradient.
    """
    return nn.ReLU()


def topk_gelu_reference(*, sparsity: Share) -> nn.Module:
    return TopKGELUReference(sparsity)


def topk(
    *,
    sparsity: Share,
    base: ActivationName = "relu",
    by: Literal["value", "magnitude"] = "value",
    over: Literal["features", "example"] = "features",
) -> nn.Module:
    """ValueError where the base has an option without a default, for which there is no place here (Top-K itself)."""
    bases = {
        name: factory
        for name, factory in ACTIVATIONS.items()
        if all(o.default is not o.empty for o in inspect.signature(factory).parameters.values())
    }
    if base not in bases:
        raise ValueError(f"topk: base {base!r} is not valid; valid: {', '.join(bases)}")
    return TopK(bases[base](), sparsity, by, over)


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
    "bsilu": bsilu,
    "sugar_bsilu": sugar_bsilu,
    "sugar_bsilu_reference": sugar_bsilu_reference,
    "noisy_relu": noisy_relu,
    "noisy_relu_reference": noisy_relu_reference,
    "topk": topk,
    "topk_gelu_reference": topk_gelu_reference,
    "quantile_relu": quantile_relu,
}

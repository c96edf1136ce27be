"""Activations and sparsity controls, and the site that holds one.

Every entry of `ACTIVATIONS` is a factory that takes keyword-only options and returns an `nn.Module`, which maps
pre-activations z to activations of the same shape. To add one, write the factory here and add its line to the dict.
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
    """An activation site, which maps a pre-activation to an activation of the same shape. Probes find this class.

    `dim` is the feature axis of the input: 1 for channels-first images and signals, -1 for vectors and tokens. Top-K
    ranks along this axis, and dead units are counted along it.
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
    """base(z)², or min(base(z)², clip), whose gradient is zero where it is clipped.

    With ReLU as base, this is ReLU² of Primer (So et al., arXiv 2109.08668), with gradient 2·relu(z).
    """

    def __init__(self, base: nn.Module, clip: float | None):
        super().__init__()
        self.base = base
        self.clip = clip

    def forward(self, z: Tensor) -> Tensor:
        a: Tensor = self.base(z).square()
        return a if self.clip is None else a.clamp(max=self.clip)


class BSiLU(nn.Module):
    """(z + α)·σ(z) - α/2 (Horuz et al., arXiv 2505.22074, eq. 7). It is 0 at 0, with slope ½ + α/4, and tends to -α/2.

    Its derivative, the surrogate gradient of SUGAR, is σ(z)·(1 + (z + α)·(1 - σ(z))).
    """

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, z: Tensor) -> Tensor:
        # the same function, without a difference of close numbers, which loses bits of bfloat16 near 0
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
        z = z.to(torch.promote_types(z.dtype, torch.float32))  # bfloat16 has too few bits for 1 - σ(z)
        gate = torch.sigmoid(z)
        return gradient * (gate * (1 + (z + ctx.alpha) * (1 - gate))).to(gradient.dtype), None


class SugarBSiLU(nn.Module):
    """SUGAR (Horuz et al., arXiv 2505.22074, section 3): ReLU in the forward pass, the derivative of B-SiLU backward.

    Units below 0 still learn, and the measured zeros are those of ReLU, to the bit.
    """

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = _ReLUWithSlopeOfBSiLU.apply(z, self.alpha)
        return out


class NoisyReLU(nn.Module):
    """ReLU with learned noise in its saturated part (Gülçehre et al., arXiv 1603.00391, eqs. 8-19).

        φ(z) = α·h(z) + (1 - α)·u(z) + d(z)·s(z)·ε        s(z) = c·(σ(p·Δ(z)) - ½)²        Δ(z) = h(z) - u(z)

    Here, h is the hard nonlinearity, u is its linearization, d(z) = -sgn(z)·sgn(1 - α) is the direction of the noise,
    and p is learned. ε is |N(0, 1)| (`half_normal`) or N(0, 1) (`normal`). In eval mode, ε is its mean, √(2/π) or 0, so
    that measurements see the expectation. The noise comes from torch's global generator.

    The paper defines the formulas for hard sigmoid and hard tanh. For ReLU, we read them as h = relu and u(z) = z, so
    that Δ(z) = relu(-z). Above 0, φ equals ReLU to the bit; below 0, φ is (1 - α)·z + d·s·ε. At α = 1, sgn(1 - α) would
    disable the noise, so we use +1 there: as for α < 1, the noise points up into the linear part. Each site has one p,
    which starts at 1. At 0, p would have no gradient, and a random start would change the initial weights that runs of
    one seed share.

    Half-normal noise has a positive mean, so in eval mode, hardly any output is exactly 0, and the activation sparsity
    is close to 0. With normal noise and α = 1, eval mode is ReLU.
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
    """Keep the largest share 1 - sparsity of base(z), and set all other elements to 0.

    over: "features" ranks the features of each token (pixel, position) separately; "example" ranks all activations of
    an example together, so that a convolution may keep whole regions. Of n elements, n - round(sparsity·n) are kept,
    but at least one. by: whether the value or the magnitude is ranked. Kept elements that are 0 themselves (ReLU below
    its threshold) still count as zeros, so the measured sparsity can exceed the setting.
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
    """GELU, followed by the Top-K of the published code, whose count is inverted: it zeros a share of 1 - sparsity.

    Its threshold is the int((1 - sparsity)·n)-th *smallest* of an example's n activations, and it zeros smaller values:
    50 of 512, which is 9.8 %, at a nominal 90 %. It ranks by value, so it zeros the troughs of GELU and not the small
    magnitudes.
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
    """The q-quantile of z along `dim`, which stays as an axis of size 1. Linear between order statistics, as in numpy.

    The gradient flows to the one or two elements next to the quantile.
    """
    # torch.quantile rejects bfloat16 and, before torch 2.15, more than 2^24 elements; a sort takes three times as long
    # as this selection of the upper part and its two smallest elements
    place = q * (z.shape[dim] - 1)  # position of the quantile in ascending order
    above = z.shape[dim] - int(place)
    upper = z.topk(above, dim=dim, sorted=False).values
    lowest = upper.topk(min(2, above), dim=dim, largest=False).values
    return torch.lerp(lowest.narrow(dim, 0, 1), lowest.narrow(dim, -1, 1), place - int(place))


class QuantileReLU(nn.Module):
    """relu(z - Q_q(z)); not shifted: z where z > Q_q(z), else 0.

    Q_q is the quantile over each token's features or over the whole example, as for Top-K. For continuous z, the share
    of zeros is q by construction, within 1/n. In the shifted form, the gradient also flows through the quantile.
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
    """ReLU: max(z, 0)."""
    return nn.ReLU()


def gelu(*, approximate: Literal["none", "tanh"] = "none") -> nn.Module:
    """GELU: z·Φ(z) (Hendrycks & Gimpel, arXiv 1606.08415), or its tanh approximation."""
    return nn.GELU(approximate=approximate)


def silu() -> nn.Module:
    """SiLU: z·σ(z)."""
    return nn.SiLU()


def tanh() -> nn.Module:
    """The hyperbolic tangent."""
    return nn.Tanh()


def identity() -> nn.Module:
    """The identity, z."""
    return nn.Identity()


def leaky_relu(*, negative_slope: NonNegative = 0.01) -> nn.Module:
    """Leaky ReLU: z above 0, negative_slope·z below."""
    return nn.LeakyReLU(negative_slope)


def elu(*, alpha: Positive = 1.0) -> nn.Module:
    """ELU: z above 0, α·(exp(z) - 1) below (Clevert et al., arXiv 1511.07289)."""
    return nn.ELU(alpha)


def relu2(*, clip: Positive | None = None) -> nn.Module:
    """ReLU², optionally clipped (see Squared)."""
    return Squared(nn.ReLU(), clip)


def gelu2(*, clip: Positive | None = None) -> nn.Module:
    """GELU², optionally clipped (see Squared)."""
    return Squared(nn.GELU(), clip)


def bsilu(*, alpha: Positive = 1.67) -> nn.Module:
    """B-SiLU (see BSiLU)."""
    return BSiLU(alpha)


def sugar_bsilu(*, alpha: Positive = 1.67) -> nn.Module:
    """ReLU with the gradient of B-SiLU (see SugarBSiLU)."""
    return SugarBSiLU(alpha)


def sugar_bsilu_reference() -> nn.Module:
    """ReLU, which is what SUGAR-BSiLU of the published code computes, forward and backward.

    Its surrogate gradient is in a module's method named `backward`, which autograd never calls.
    """
    return nn.ReLU()


def noisy_relu(
    *, alpha: Positive = 1.0, c: Positive = 1.0, noise: Literal["half_normal", "normal"] = "half_normal"
) -> nn.Module:
    """ReLU with learned noise below 0 (see NoisyReLU)."""
    return NoisyReLU(alpha, c, noise)


def noisy_relu_reference() -> nn.Module:
    """ReLU, which is what NoisyReLU of the published code computes, forward and backward, in training and eval mode.

    Below 0, where the noise belongs, it is multiplied by 0; above 0, its scale is 0. Its p never gets a gradient.
    """
    return nn.ReLU()


def topk_gelu_reference(*, sparsity: Share) -> nn.Module:
    """GELU with the Top-K of the published code (see TopKGELUReference)."""
    return TopKGELUReference(sparsity)


def topk(
    *,
    sparsity: Share,
    base: ActivationName = "relu",
    by: Literal["value", "magnitude"] = "value",
    over: Literal["features", "example"] = "features",
) -> nn.Module:
    """Top-K of another activation (see TopK). Raises ValueError for a base with a required option, such as Top-K."""
    bases = {
        name: factory
        for name, factory in ACTIVATIONS.items()
        if all(o.default is not o.empty for o in inspect.signature(factory).parameters.values())
    }
    if base not in bases:
        raise ValueError(f"topk: base {base!r} is not valid; valid: {', '.join(bases)}")
    return TopK(bases[base](), sparsity, by, over)


def quantile_relu(*, q: Share, shifted: bool = True, over: Literal["features", "example"] = "features") -> nn.Module:
    """ReLU with its threshold at the q-quantile (see QuantileReLU)."""
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

"""GPT-nano of the paper (arXiv 2605.17659): a causal transformer without biases, with rotary positions and RMSNorm."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_cliff.networks.models import NewNorm, NewSite
from sparsity_cliff.study.registry import Count

ACCEPTS = ("tokens",)
LOSSES = ("cross_entropy", "mse")
REQUIRES = (
    "over != 'example' and activation != 'topk_gelu_reference'",  # ranking over all tokens would leak later tokens
    "normalization not in ('batch_norm', 'quantile_batch_norm', 'quantile_mean_batch_norm')",  # these leak in training
    "width % heads == 0",
    "(width // heads) % 2 == 0",  # rotary positions rotate pairs of features
    "loss != 'mse' or vocabulary <= 1024",  # a one-hot target has an entry for each token and each word
)
ROTARY_BASE = 10_000


def _rms_norm(features: int, spatial: int) -> nn.Module:
    return nn.RMSNorm(features, eps=1e-6)


class Rotary(nn.Module):
    """Rotary positions (Su et al., arXiv 2104.09864, eq. 34) for tensors (..., T, dim), with T at most `block`.

    Features i and i + dim/2 form a complex number, which is rotated at position m by the angle m · base^(-2i/dim). The
    product of a query and a key therefore depends on their positions only through the distance.
    """

    cos: Tensor  # (block, dim/2)
    sin: Tensor

    def __init__(self, dim: int, block: int):
        super().__init__()
        # in double precision, because angles reach `block`, where float32 keeps only three decimals
        frequencies = ROTARY_BASE ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = torch.outer(torch.arange(block, dtype=torch.float64), frequencies)  # (block, dim/2)
        precision = torch.get_default_dtype()
        self.register_buffer("cos", angles.cos().to(precision), persistent=False)
        self.register_buffer("sin", angles.sin().to(precision), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]  # (T, dim/2)
        real, imaginary = x.chunk(2, dim=-1)
        return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1).type_as(x)


class Attention(nn.Module):
    """Multi-head self-attention of each token over itself and earlier tokens: (N, T, width) -> (N, T, width).

    Query, key, and value are separate matrices, because Muon makes each matrix orthogonal by itself.
    """

    def __init__(self, width: int, heads: int, block: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.rotary = Rotary(width // heads, block)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape  # examples, tokens, width
        parts = (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.view(n, t, self.heads, d // self.heads).transpose(1, 2) for part in parts)  # (N, heads, T, d_h)
        y = F.scaled_dot_product_attention(self.rotary(q), self.rotary(k), v, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(n, t, d))
        return out


class Block(nn.Module):
    """x + scale · attention(norm(x)), then x + MLP(norm(x)), for x (N, T, width). The activation site is in the MLP."""

    def __init__(
        self, width: int, heads: int, hidden: int, block: int, scale: float, activation: NewSite, norm: NewNorm
    ):
        super().__init__()
        norm = norm or _rms_norm
        self.scale = scale
        self.norm1 = norm(width, 0)
        self.attention = Attention(width, heads, block)
        self.norm2 = norm(width, 0)
        self.linear1 = nn.Linear(width, hidden, bias=False)
        self.act = activation(-1)
        self.linear2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * self.attention(self.norm1(x))
        out: Tensor = x + self.linear2(self.act(self.linear1(self.norm2(x))))
        return out


class GPT(nn.Module):
    """Maps tokens int64 (N, T) to logits (N, T, classes) of each next token, with T at most the block of the data.

    heads: a divisor of `width` such that width / heads is even. mlp_ratio: hidden units of a block's MLP per unit of
    width. With GPT-2's vocabulary of 50,257, the defaults give the paper's 123,551,232 parameters. Attention branches
    are scaled by 1/sqrt(2 · depth). Embedding and head share one matrix. As a parameter, its name is `stem.weight`, so
    it is optimized, measured, and counted once; a state_dict has it under both names, in one storage.

    Weights start like those of torch's linear layers, uniform within ±1/sqrt(inputs), as in the paper's code and in
    modded-nanogpt of October 2024, which it resembles. The shared matrix starts like the head's. With 768 inputs, the
    standard deviation is 0.0208, close to GPT-2's 0.02, but it depends on the width.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        activation: NewSite,
        normalization: NewNorm,
        *,
        depth: Count = 12,
        heads: Count = 12,
        width: Count = 768,
        mlp_ratio: Count = 4,
    ):
        super().__init__()
        (block,) = shape
        scale = 1 / math.sqrt(2 * depth)
        self.stem = nn.Embedding(classes, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp_ratio * width, block, scale, activation, normalization) for _ in range(depth))
        )
        self.norm = (normalization or _rms_norm)(width, 0)
        self.head = nn.Linear(width, classes, bias=False)
        self.stem.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.stem(x))))
        return out

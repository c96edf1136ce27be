"""Vision transformer (Dosovitskiy et al., arXiv 2010.11929): pre-norm encoder with a class token."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_cliff.networks.models import NewNorm, NewSite
from sparsity_cliff.study.registry import Count

ACCEPTS = ("image",)
LOSSES = ("cross_entropy", "mse")
REQUIRES = ("width % heads == 0", "height % patch == 0", "length % patch == 0")


def _layer_norm(features: int, spatial: int) -> nn.Module:
    return nn.LayerNorm(features, eps=1e-6)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        # three matrices, because Muon makes each matrix orthogonal by itself; they start as in nn.MultiheadAttention
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(0.5))  # as if the three were one matrix
        for layer in (self.query, self.key, self.value, self.proj):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape  # examples, tokens, width
        parts = (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.view(n, t, self.heads, d // self.heads).transpose(1, 2) for part in parts)  # (N, heads, T, d_h)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(n, t, d))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), for x of (N, T, width). The activation site is in the MLP."""

    def __init__(self, width: int, heads: int, hidden: int, activation: NewSite, normalization: NewNorm):
        super().__init__()
        norm = normalization or _layer_norm
        self.norm1 = norm(width, 0)
        self.attention = Attention(width, heads)
        self.norm2 = norm(width, 0)
        self.linear1 = nn.Linear(width, hidden)
        self.act = activation(-1)
        self.linear2 = nn.Linear(hidden, width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.linear2(self.act(self.linear1(self.norm2(x))))
        return out


class Stem(nn.Module):
    """Images (N, C, H, W) -> tokens (N, T, width): a strided convolution, a leading class token, learned positions."""

    def __init__(self, shape: tuple[int, ...], patch: int, width: int):
        super().__init__()
        channels, height, length = shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = (height // patch) * (length // patch) + 1
        self.position = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))
        nn.init.trunc_normal_(self.patches.weight, std=math.sqrt(1 / (channels * patch * patch)))
        nn.init.zeros_(self.patches.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (N, patches, width)
        return torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position


class VisionTransformer(nn.Module):
    """Patch tokens, `depth` encoder blocks, a final norm, and a linear head on the class token.

    Maps images (N, C, H, W) to logits (N, classes). patch: side of a patch in pixels, a divisor of the image size.
    heads: a divisor of `width`. mlp_ratio: hidden units of a block's MLP per unit of width. Weights start like
    torchvision's, except for the head: it starts at N(0, 0.02²) and not at 0. With a zero head, no gradient would reach
    any activation at initialization, where the paper's first claim is measured.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        activation: NewSite,
        normalization: NewNorm,
        *,
        patch: Count = 4,
        width: Count = 192,
        depth: Count = 6,
        heads: Count = 3,
        mlp_ratio: Count = 4,
    ):
        super().__init__()
        self.stem = Stem(shape, patch, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp_ratio * width, activation, normalization) for _ in range(depth))
        )
        self.norm = (normalization or _layer_norm)(width, 0)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x)))  # (N, T, width)
        out: Tensor = self.head(x[:, 0])
        return out

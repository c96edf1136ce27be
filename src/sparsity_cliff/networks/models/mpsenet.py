"""MP-SENet (Lu et al., arXiv 2305.13686), the version with conformers: speech enhancement in magnitude and phase.

The published code calls nn.MultiheadAttention without `batch_first`, so the attention runs along the first axis. In the
"time" conformer, on (N F, T, C), it runs over the N F frequencies of all examples of the batch, separately for each
time. In the "frequency" conformer, on (N T, F, C), it runs over the N T times, separately for each frequency. The two
attentions have thus exchanged their axes, and each example sees the others of its batch, while the convolutions run
along the named axis. Here, attention and convolution both run along the named axis, within one example. Otherwise,
structure, initialization, and number of parameters (2,048,849) are the published ones. docs/parity.md lists the
differences in training.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsity_cliff.data.spectrogram import analyze
from sparsity_cliff.networks.models import NewNorm, NewSite
from sparsity_cliff.networks.normalizations import TokenBatchNorm
from sparsity_cliff.study.registry import Count, Share

ACCEPTS = ("speech",)
LOSSES = ("mpsenet",)
REQUIRES = (
    "channels % heads == 0",
    "kernel % 2 == 1",
    "n_fft % 4 == 0",  # otherwise the decoders' frequencies differ from the input's
    "n_fft % hop == 0",
    "n_fft >= 2 * hop",
    "segment >= 4 * n_fft",
    "processes == 1",  # its batch norms, which no option replaces, would see only a part of the batch
)

NewPReLU = Callable[[int], nn.Module]  # channels -> activation of the convolutions
LOUDEST = 2.0  # maximum of the mask, which can also raise a magnitude


def _layer_norm(features: int, spatial: int) -> nn.Module:
    return nn.LayerNorm(features)


# ------------------------------------------------------------------------------------------------- conformers
# Tokens are (N, S, L, C): C channels, in a sequence of length L for each of S frequencies or times.


class FeedForward(nn.Module):
    """Norm, linear layer to 4C units, activation, and linear layer back to C. Keeps the shape (N, S, L, C)."""

    def __init__(self, channels: int, dropout: float, activation: NewSite, norm: Callable[[int, int], nn.Module]):
        super().__init__()
        self.norm = norm(channels, 0)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.act = activation(-1)
        self.drop1 = nn.Dropout(dropout)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop2(self.linear2(self.drop1(self.act(self.linear1(self.norm(x))))))
        return out


class Attention(nn.Module):
    """Multi-head self-attention along L, which keeps the shape. Weights start as in nn.MultiheadAttention.

    Query, key, and value are separate matrices, because Muon makes each matrix orthogonal by itself.
    """

    def __init__(self, channels: int, heads: int, dropout: float, norm: Callable[[int, int], nn.Module]):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = norm(channels, 0)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(0.5))  # as if the three were one matrix
        for layer in (self.query, self.key, self.value, self.proj):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, sequences, length, channels = x.shape
        x = self.norm(x)
        shape = (n * sequences, length, self.heads, channels // self.heads)
        parts = (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.view(shape).transpose(1, 2) for part in parts)  # (N S, heads, L, C / heads)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(x.shape))
        return out


class Convolution(nn.Module):
    """Gated linear unit, depthwise convolution along L, batch norm, activation, and linear layer. Keeps the shape.

    Pointwise layers are linear layers on tokens, so that the site's units are the last axis and Muon finds the weights.
    """

    def __init__(self, channels: int, kernel: int, activation: NewSite, norm: Callable[[int, int], nn.Module]):
        super().__init__()
        inner = 2 * channels
        self.norm1 = norm(channels, 0)
        self.linear1 = nn.Linear(channels, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, kernel, padding=kernel // 2, groups=inner)
        self.norm2 = TokenBatchNorm(inner)
        self.act = activation(-1)
        self.linear2 = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        gated = F.glu(self.linear1(self.norm1(x)), dim=-1)  # (N, S, L, 2C)
        y = self.conv(gated.flatten(0, 1).transpose(1, 2))  # (N S, 2C, L)
        y = y.transpose(1, 2).reshape(gated.shape)
        out: Tensor = self.linear2(self.act(self.norm2(y)))
        return out


class Conformer(nn.Module):
    """Half-step feed-forward, attention, convolution, half-step feed-forward, norm (arXiv 2005.08100)."""

    def __init__(
        self, channels: int, heads: int, kernel: int, dropout: float, activation: NewSite, normalization: NewNorm
    ):
        super().__init__()
        norm = normalization or _layer_norm
        self.feed1 = FeedForward(channels, dropout, activation, norm)
        self.attention = Attention(channels, heads, dropout, norm)
        self.convolution = Convolution(channels, kernel, activation, norm)
        self.feed2 = FeedForward(channels, dropout, activation, norm)
        self.norm = norm(channels, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed1(x)
        x = x + self.attention(x)
        x = x + self.convolution(x)
        out: Tensor = self.norm(x + 0.5 * self.feed2(x))
        return out


class Block(nn.Module):
    """A conformer along time, then one along frequency, each with a shortcut. Keeps the shape (N, T, F, C)."""

    def __init__(
        self, channels: int, heads: int, kernel: int, dropout: float, activation: NewSite, normalization: NewNorm
    ):
        super().__init__()
        self.time = Conformer(channels, heads, kernel, dropout, activation, normalization)
        self.frequency = Conformer(channels, heads, kernel, dropout, activation, normalization)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)  # (N, F, T, C)
        x = (x + self.time(x)).transpose(1, 2)
        out: Tensor = x + self.frequency(x)
        return out


# ------------------------------------------------------------------------------------------------- convolutions
# Images are (N, C, T, F).


class Layer(nn.Sequential):
    """Convolution, instance norm, and PReLU."""

    def __init__(self, conv: nn.Module, channels: int, prelu: NewPReLU):
        super().__init__()
        self.conv = conv
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        self.act = prelu(channels)


class Dense(nn.Module):
    """Four 3×3 layers with dilations 1, 2, 4, 8 in time, each on the block's input and all earlier layers' outputs."""

    def __init__(self, channels: int, prelu: NewPReLU):
        super().__init__()
        self.layers = nn.ModuleList()
        for i, dilation in enumerate((1, 2, 4, 8)):
            conv = nn.Conv2d((i + 1) * channels, channels, 3, padding=(dilation, 1), dilation=(dilation, 1))
            self.layers.append(Layer(conv, channels, prelu))

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for layer in self.layers:
            x = layer(seen)
            seen = torch.cat([x, seen], dim=1)
        return x


class Stem(nn.Sequential):
    """Encoder: (N, 2, T, F) -> (N, C, T, F') with F' = (F - 1) / 2."""

    def __init__(self, channels: int, prelu: NewPReLU):
        super().__init__()
        self.pointwise = Layer(nn.Conv2d(2, channels, 1), channels, prelu)
        self.dense = Dense(channels, prelu)
        self.down = Layer(nn.Conv2d(channels, channels, (1, 3), stride=(1, 2)), channels, prelu)


class Mask(nn.Module):
    """Magnitude decoder, (N, C, T, F') -> mask (N, T, F): LOUDEST times a sigmoid with one slope per frequency."""

    def __init__(self, channels: int, frequencies: int, prelu: NewPReLU):
        super().__init__()
        self.dense = Dense(channels, prelu)
        self.up = nn.ConvTranspose2d(channels, channels, (1, 3), stride=(1, 2))
        self.layer = Layer(nn.Conv2d(channels, 1, 1), 1, prelu)
        self.out = nn.Conv2d(1, 1, 1)
        self.slope = nn.Parameter(torch.ones(frequencies))

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(self.layer(self.up(self.dense(x)))).squeeze(1)  # (N, T, F)
        return LOUDEST * torch.sigmoid(self.slope * x.to(self.slope.dtype))


class Phase(nn.Module):
    """Phase decoder, (N, C, T, F') -> phase (N, T, F): the angle of a real and an imaginary part."""

    def __init__(self, channels: int, prelu: NewPReLU):
        super().__init__()
        self.dense = Dense(channels, prelu)
        self.up = Layer(nn.ConvTranspose2d(channels, channels, (1, 3), stride=(1, 2)), channels, prelu)
        self.real = nn.Conv2d(channels, 1, 1)
        self.imaginary = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.dense(x))
        wide = self.real.weight.dtype  # an angle needs all bits, even under autocast
        return torch.atan2(self.imaginary(x).to(wide), self.real(x).to(wide)).squeeze(1)  # (N, T, F)


class Head(nn.Module):
    """Both decoders: (N, C, T, F') -> mask and phase, each (N, T, F)."""

    def __init__(self, channels: int, frequencies: int, prelu: NewPReLU):
        super().__init__()
        self.mask = Mask(channels, frequencies, prelu)
        self.phase = Phase(channels, prelu)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mask(x), self.phase(x)


# ------------------------------------------------------------------------------------------------- model


class MPSENet(nn.Module):
    """Maps noisy waveforms (N, samples) to spectra (N, 2, F, T) as in data/spectrogram.py.

    The magnitude is the noisy magnitude times a mask; the phase is predicted.

    channels, blocks: width and number of time-frequency blocks. heads: a divisor of `channels`. kernel: size of the
    conformers' convolutions, odd. n_fft, hop: in samples; the hop divides n_fft and is at most half of it. sites: with
    "conformer", the activation replaces the six SiLU of each block; with "all", also the 16 PReLU of encoder and
    decoders. One of these, in the mask, has a single channel, on which a ranking control such as Top-K has no effect.
    A normalization replaces the layer norms of the conformers, but not their batch norms and not the instance norms.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        activation: NewSite,
        normalization: NewNorm,
        *,
        channels: Count = 64,
        blocks: Count = 4,
        heads: Count = 4,
        kernel: Count = 31,
        dropout: Share = 0.2,
        n_fft: Count = 400,
        hop: Count = 100,
        sites: Literal["conformer", "all"] = "conformer",
    ):
        super().__init__()
        if shape[0] < 4 * n_fft:
            raise ValueError(f"mpsenet: segments of {shape[0]} samples with n_fft={n_fft}; valid: 4 n_fft or more")
        self.n_fft, self.hop = n_fft, hop
        prelu: NewPReLU = nn.PReLU if sites == "conformer" else lambda channels: activation(1)
        self.stem = Stem(channels, prelu)
        self.blocks = nn.Sequential(
            *(Block(channels, heads, kernel, dropout, activation, normalization) for _ in range(blocks))
        )
        self.head = Head(channels, n_fft // 2 + 1, prelu)

    def forward(self, signal: Tensor) -> Tensor:
        with torch.autocast(signal.device.type, enabled=False):
            noisy = analyze(signal, self.n_fft, self.hop)
        x = self.stem(noisy.transpose(2, 3))  # (N, C, T, F')
        x = self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # tokens are (N, T, F', C)
        mask, phase = self.head(x)
        return torch.stack([noisy[:, 0] * mask.transpose(1, 2), phase.transpose(1, 2)], dim=1)

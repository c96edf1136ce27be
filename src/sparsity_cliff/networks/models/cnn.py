"""A small one-dimensional convolutional network, the baseline of MNIST-1D (Greydanus & Kobak, arXiv 2011.14439)."""

import torch
from torch import Tensor, nn

from sparsity_cliff.networks.models import NewNorm, NewSite
from sparsity_cliff.networks.normalizations import none
from sparsity_cliff.study.registry import Count

ACCEPTS = ("signal",)
LOSSES = ("cross_entropy", "mse")
REQUIRES = ("optimizer != 'muon'",)  # no 2-D weights in the blocks


class Layer(nn.Module):
    """Convolution with stride 2, normalization, and activation: (N, C, L) -> (N, channels, about L/2)."""

    def __init__(self, inputs: int, channels: int, kernel: int, activation: NewSite, normalization: NewNorm):
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, kernel, stride=2, padding=1)
        self.norm = (normalization or none)(channels, 1)
        self.act = activation(1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class CNN(nn.Module):
    """Three strided convolutions (kernels 5, 3, 3) with `channels` channels, then a linear head on all positions.

    Maps signals (N, L) to logits (N, classes).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        activation: NewSite,
        normalization: NewNorm,
        *,
        channels: Count = 25,
    ):
        super().__init__()
        self.stem = Layer(1, channels, 5, activation, normalization)
        self.blocks = nn.Sequential(*(Layer(channels, channels, 3, activation, normalization) for _ in range(2)))
        length = shape[0]
        for kernel in (5, 3, 3):
            length = (length + 2 - kernel) // 2 + 1
        self.head = nn.Linear(channels * length, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x.unsqueeze(1)))  # (N, C, L/8)
        out: Tensor = self.head(torch.flatten(x, 1))
        return out

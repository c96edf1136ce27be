"""Residual network with basic blocks (He et al., arXiv 1512.03385): ResNet-18, ResNet-34, and smaller relatives."""

from typing import Literal

from torch import Tensor, nn

from sparsity_cliff.networks.models import NewNorm, NewSite
from sparsity_cliff.networks.normalizations import batch_norm
from sparsity_cliff.study.registry import Count

ACCEPTS = ("image",)
LOSSES = ("cross_entropy", "mse")
REQUIRES = (
    "optimizer != 'muon'",  # no 2-D weights in the blocks
    "processes == 1 or normalization is not None",  # its own batch norm would see only a part of the batch
)


def _conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, which has a 1×1 projection if the shape changes.

    Maps (N, inputs, H, W) to (N, outputs, H/stride, W/stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: NewSite, normalization: NewNorm):
        super().__init__()
        norm = normalization or batch_norm
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.norm1 = norm(outputs, 2)
        self.act1 = activation(1)
        self.conv2 = _conv3x3(outputs, outputs, 1)
        self.norm2 = norm(outputs, 2)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(outputs, 2))
        self.act2 = activation(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        out: Tensor = self.act2(y + self.shortcut(x))
        return out


class Stem(nn.Module):
    """First layer: (N, inputs, H, W) -> (N, width, H', W').

    kind "cifar": a 3×3 convolution at full resolution. kind "imagenet": a 7×7 convolution and a max-pool, both with
    stride 2.
    """

    def __init__(self, inputs: int, width: int, kind: str, activation: NewSite, normalization: NewNorm):
        super().__init__()
        large = kind == "imagenet"
        self.conv = nn.Conv2d(inputs, width, 7, 2, 3, bias=False) if large else _conv3x3(inputs, width, 1)
        self.norm = (normalization or batch_norm)(width, 2)
        self.act = activation(1)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(self.act(self.norm(self.conv(x))))
        return out


class ResNet(nn.Module):
    """Stem, stages of basic blocks, mean over positions, and linear head: (N, C, H, W) -> logits (N, classes).

    blocks: number of blocks per stage. Each stage after the first halves the resolution and doubles the channels, which
    start at `width`. (2, 2, 2, 2) with width 64 is ResNet-18. Convolutions start like torchvision's, N(0, 2/fan_out).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        activation: NewSite,
        normalization: NewNorm,
        *,
        blocks: list[Count] = (2, 2, 2, 2),  # type: ignore[assignment]
        width: Count = 64,
        stem: Literal["cifar", "imagenet"] = "cifar",
    ):
        super().__init__()
        self.stem = Stem(shape[0], width, stem, activation, normalization)
        layers, channels = [], width
        for stage, depth in enumerate(blocks):
            for i in range(depth):
                outputs, stride = width * 2**stage, 2 if stage > 0 and i == 0 else 1
                layers.append(BasicBlock(channels, outputs, stride, activation, normalization))
                channels = outputs
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))  # (N, C, H, W)
        out: Tensor = self.head(x.mean(dim=(2, 3)))
        return out

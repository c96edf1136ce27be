"""Multi-layer perceptron (MLP)."""

import math
from typing import Literal

from torch import Tensor, nn

from sparsity_cliff.networks.models import NewNorm, NewSite
from sparsity_cliff.networks.normalizations import none
from sparsity_cliff.study.registry import Count

ACCEPTS = ("signal", "image")
LOSSES = ("cross_entropy", "mse")
REQUIRES = ("optimizer != 'muon' or depth > 1",)


class Layer(nn.Module):
    """Linear layer, normalization, and activation: (N, inputs) -> (N, width)."""

    def __init__(self, inputs: int, width: int, activation: NewSite, normalization: NewNorm, bias: bool):
        super().__init__()
        self.linear = nn.Linear(inputs, width, bias=bias)
        self.norm = (normalization or none)(width, 0)
        self.act = activation(-1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.linear(x)))
        return out


class MLP(nn.Module):
    """`depth` hidden layers of `width` units between the flattened input and a linear head.

    Maps examples (N, *shape) to logits (N, classes).

    init: "kaiming_normal" (He et al. 2015: N(0, 2/fan_in), biases 0) or "torch" (the default of nn.Linear).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        activation: NewSite,
        normalization: NewNorm,
        *,
        width: Count = 256,
        depth: Count = 2,
        bias: bool = True,
        init: Literal["kaiming_normal", "torch"] = "kaiming_normal",
    ):
        super().__init__()
        self.stem = Layer(math.prod(shape), width, activation, normalization, bias)
        self.blocks = nn.Sequential(*(Layer(width, width, activation, normalization, bias) for _ in range(depth - 1)))
        self.head = nn.Linear(width, classes, bias=bias)
        if init == "kaiming_normal":
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.kaiming_normal_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x.flatten(1))))
        return out

"""Build the model, the loss, and the optimizers of a spec."""

from dataclasses import dataclass

import torch
from torch import nn

from sparsity_cliff.data.layouts.base import Dataset
from sparsity_cliff.data.seeds import derive
from sparsity_cliff.networks.activations import Site
from sparsity_cliff.study.registry import make
from sparsity_cliff.study.spec import Spec


@dataclass(frozen=True)
class Parts:
    """Everything that has a state in training."""

    model: nn.Module
    loss: nn.Module
    optimizers: list[torch.optim.Optimizer]
    device: torch.device


def build(spec: Spec, data: Dataset, seed: int) -> nn.Module:
    """The model of a spec on the CPU, with the initial weights of a seed."""

    def site(dim: int) -> Site:
        return Site(make("activation", spec.activation), dim)

    def norm(features: int, spatial: int) -> nn.Module:
        module: nn.Module = make("normalization", spec.normalization, features, spatial)
        return module

    own = spec.normalization.function is None  # the architecture's own
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        model: nn.Module = make("model", spec.model, data.shape, data.classes, site, None if own else norm)
    return model


def build_loss(spec: Spec, seed: int) -> nn.Module:
    """The loss of a spec. A loss that learns (a discriminator) has the initial weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "loss"))
        loss: nn.Module = make("loss", spec.loss)
    return loss


def build_parts(spec: Spec, data: Dataset, seed: int, device: torch.device) -> Parts:
    """Model, loss, and optimizers on a device. Each group of parameters stores its peak rate as `initial_lr`."""
    model = build(spec, data, seed).to(device)
    loss = build_loss(spec, seed).to(device)
    optimizers = make("optimizer", spec.training.optimizer, model)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return Parts(model, loss, optimizers, device)

"""Optimizers: factories (model, keyword-only options) -> list of torch optimizers that hold every parameter."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparsity_cliff.registry import Momentum, NonNegative, Positive

Optimizers = list[torch.optim.Optimizer]


def sgd(model: nn.Module, *, lr: Positive, momentum: Momentum = 0.0, weight_decay: NonNegative = 0.0) -> Optimizers:
    return [torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)]


def _adaptive(kind: Any, model: nn.Module, **options: Any) -> Optimizers:
    # the fused CPU kernel takes half the time of the default for small models; CUDA and MPS have one too
    return [kind(model.parameters(), fused=True, **options)]


def adam(
    model: nn.Module,
    *,
    lr: Positive,
    beta1: Momentum = 0.9,
    beta2: Momentum = 0.999,
    weight_decay: NonNegative = 0.0,
) -> Optimizers:
    return _adaptive(torch.optim.Adam, model, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def adamw(
    model: nn.Module,
    *,
    lr: Positive,
    beta1: Momentum = 0.9,
    beta2: Momentum = 0.999,
    weight_decay: NonNegative = 0.01,
) -> Optimizers:
    return _adaptive(torch.optim.AdamW, model, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def muon(
    model: nn.Module,
    *,
    lr: Positive,
    momentum: Momentum = 0.95,
    weight_decay: NonNegative = 0.0,
    adamw_lr: Positive,
    beta1: Momentum = 0.9,
    beta2: Momentum = 0.95,
) -> Optimizers:
    """Muon (Jordan et al. 2024, torch.optim.Muon) on the matrices of `model.blocks`, AdamW on everything else."""
    blocks = {id(p) for p in model.get_submodule("blocks").parameters() if p.ndim == 2}
    hidden = [p for p in model.parameters() if id(p) in blocks]
    rest = [p for p in model.parameters() if id(p) not in blocks]
    if not hidden:
        raise ValueError("muon needs 2-D weights in model.blocks, and this model has none there")
    return [
        torch.optim.Muon(hidden, lr=lr, momentum=momentum, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=adamw_lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True),
    ]


OPTIMIZERS: dict[str, Callable[..., Optimizers]] = {"sgd": sgd, "adam": adam, "adamw": adamw, "muon": muon}

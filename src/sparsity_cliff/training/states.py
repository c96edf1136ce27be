"""Restore the saved state of a module or an optimizer, or reject a state that does not fit."""

import copy
from typing import Any

import torch
from torch import nn


def restore_module(module: nn.Module, state: Any) -> None:
    """load_state_dict with a ValueError where torch would silently convert a dtype."""
    for key, own in module.state_dict().items():
        other = state.get(key)
        if isinstance(own, torch.Tensor) and isinstance(other, torch.Tensor) and own.dtype != other.dtype:
            raise ValueError(f"{key} is {other.dtype} and not {own.dtype}")
    for name, part in module.named_modules():  # such as a discriminator
        if isinstance(optimizer := getattr(part, "optimizer", None), torch.optim.Optimizer):
            check_optimizer(optimizer, state[f"{name}._extra_state" if name else "_extra_state"])
    module.load_state_dict(state)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """load_state_dict with a ValueError for a state that would make the next step fail."""
    check_optimizer(optimizer, state)
    optimizer.load_state_dict(state)


def check_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Raise ValueError for a state that would make the optimizer's next step fail, which torch does not check.

    The state of each parameter is compared with the state that a copy of the optimizer has after a step.
    """
    twin = copy.deepcopy(optimizer)
    for parameter in (parameter for group in twin.param_groups for parameter in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    twin.step()
    right = twin.state_dict()
    theirs, own = ([(group.keys(), group["params"]) for group in s["param_groups"]] for s in (state, right))
    if theirs != own:
        raise ValueError("the optimizer has other groups of parameters")
    for index, kept in state["state"].items():  # a parameter without a gradient has no state
        for key, value in right["state"][index].items():
            if _form(kept[key]) != _form(value):
                raise ValueError(f"{key} of parameter {index} is {_form(kept[key])} and not {_form(value)}")


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__

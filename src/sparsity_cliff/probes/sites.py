"""Activation sites, weight matrices, and hooks on the sites.

Probes only read. They change no weight, buffer, gradient, or state of a random generator, so the choice of probes
changes no other number. Sums stay on the device, and each measurement transfers them at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsity_cliff.networks.activations import Site


def sites(model: nn.Module) -> list[tuple[str, Site]]:
    """(name, site) of all activation sites, in the order of their definition, which starts at the input."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Site)]


def matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of all weight matrices: weights with two or more axes, including convolution kernels."""
    return [(name, p) for name, p in model.named_parameters() if name.endswith("weight") and p.ndim >= 2]


@contextmanager
def hooked(model: nn.Module, hook: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """Within the context, call hook(index of site, pre-activation, activation) at every pass through a site."""

    def register(index: int, site: Site) -> torch.utils.hooks.RemovableHandle:
        return site.register_forward_hook(lambda _, inputs, output: hook(index, inputs[0], output))

    handles = [register(index, site) for index, (_, site) in enumerate(sites(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def wide(device: torch.device) -> torch.dtype:
    """The type of sums: float64 if the device has it, else float32."""
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64

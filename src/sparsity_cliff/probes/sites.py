"""Where a network is watched: activation sites, weight matrices, and hooks on the sites.

Every probe reads: none changes a weight, a buffer, a gradient or the state of a random generator, so that probing more
or less changes no other number. Sums stay on the device; each measurement brings them back in one transfer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparsity_cliff.networks.activations import Site


def sites(model: nn.Module) -> list[tuple[str, Site]]:
    """Activation sites by name, in the order of their definition, which is the order from the input."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Site)]


def matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Weight matrices by name: every parameter with two axes or more of a layer, convolution kernels included."""
    return [(name, p) for name, p in model.named_parameters() if name.endswith("weight") and p.ndim >= 2]


@contextmanager
def hooked(model: nn.Module, hook: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """Within: hook(index of site, pre-activation, activation) at every pass through a site."""

    def register(index: int, site: Site) -> torch.utils.hooks.RemovableHandle:
        return site.register_forward_hook(lambda _, inputs, output: hook(index, inputs[0], output))

    handles = [register(index, site) for index, (_, site) in enumerate(sites(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def wide(device: torch.device) -> torch.dtype:
    """The type that sums are taken in: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64

"""The sign of the gradient at pre-activations (claim C1)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsity_cliff.probes.rows import Rows
from sparsity_cliff.probes.sites import hooked, sites, wide


def terms(targets: Tensor) -> int:
    """Over how many terms a loss is a mean: labels or tokens, where targets are such, else examples."""
    return len(targets) if targets.is_floating_point() else targets.numel()


class GradientSigns:
    """∂L/∂z at every site over one training step, L summed over the batch: means over z > 0, z <= 0 and all z.

    Use as a context around the forward passes of the step, call backward, then `rows()`. Multiplying by `terms`, the
    number of examples or tokens, undoes the loss's mean, so that the numbers are per example, as in the closed forms.
    Where ranks share the batch, each watches its part, and the rows, which all ranks must ask for, are of the whole.
    """

    def __init__(self, model: nn.Module, terms: int):
        self._named = sites(model)
        self._terms = terms
        self._sums: list[Tensor | None] = [None] * len(self._named)
        self._hooks = hooked(model, self._watch)

    def _watch(self, i: int, z: Tensor, a: Tensor) -> None:
        positive = (z.detach() > 0).to(z.dtype)

        def accumulate(gradient: Tensor) -> None:
            exact = wide(gradient.device)
            count = positive.sum(dtype=exact)
            up, total = (gradient * positive).sum(dtype=exact), gradient.sum(dtype=exact)
            # not z.numel(): a hook on z that holds z is a cycle, and keeps the step's whole graph from being freed
            sums = torch.stack([up, total - up, count, gradient.numel() - count])
            before = self._sums[i]
            self._sums[i] = sums if before is None else before + sums

        z.register_hook(accumulate)  # type: ignore[no-untyped-call]

    def __enter__(self) -> "GradientSigns":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(None, None, None)

    def rows(self, add: Callable[[list[Tensor]], None] = lambda tensors: None) -> Rows:
        """The means per site. add: sums tensors over ranks, in place."""
        found = [
            (depth, name, sums)
            for depth, ((name, _), sums) in enumerate(zip(self._named, self._sums, strict=True))
            if sums is not None
        ]
        if not found:
            return
        sums_of_all = torch.stack([sums for _, _, sums in found])
        add([sums_of_all])
        values = sums_of_all.cpu().double().tolist()
        for (depth, name, _), (up, down, n_up, n_down) in zip(found, values, strict=True):
            scale = float(self._terms)
            if n_up:
                yield "train", name, depth, "gradient_positive", scale * up / n_up
            if n_down:
                yield "train", name, depth, "gradient_nonpositive", scale * down / n_down
            yield "train", name, depth, "gradient_all", scale * (up + down) / (n_up + n_down)

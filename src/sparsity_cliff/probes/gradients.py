"""The sign of the gradient at pre-activations (claim C1)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsity_cliff.probes.rows import Rows
from sparsity_cliff.probes.sites import hooked, sites, wide


def terms(targets: Tensor) -> int:
    """Number of terms whose mean is the loss: labels or tokens for integer targets, otherwise examples."""
    return len(targets) if targets.is_floating_point() else targets.numel()


class GradientSigns:
    """Means of ∂L/∂z at every site over z > 0, over z <= 0, and over all z, in one training step.

    Use it as a context around the forward passes of the step, call backward, then `rows()`. The means are multiplied by
    `terms`, the number of examples or tokens, which undoes the mean of the loss: L is summed over the batch, as in the
    closed forms. If ranks share the batch, each rank watches its part. All ranks must then call `rows()`, which covers
    the whole batch.
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
            # not z.numel(): a hook on z that refers to z is a cycle, which keeps the graph of the step in memory
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
        """The rows of each site's means. add: sums tensors over ranks, in place."""
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

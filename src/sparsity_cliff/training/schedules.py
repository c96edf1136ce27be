"""Learning-rate schedules: factories of pure functions (step, steps) -> factor of the peak learning rate.

Steps count from 0. Warm-up rises linearly and reaches 1 at step `warmup`. Falling schedules reach `final` only after
the last step, so no training step has a factor of 0.
"""

import math
from collections.abc import Callable

from sparsity_cliff.study.registry import Share, Size

Schedule = Callable[[int, int], float]


def _warm(step: int, warmup: int) -> float:
    return (step + 1) / (warmup + 1) if step < warmup else 1.0


def constant(*, warmup: Size = 0) -> Schedule:
    """1 after the warm-up."""
    return lambda step, steps: _warm(step, warmup)


def cosine(*, warmup: Size = 0, final: Share = 0.0) -> Schedule:
    """Half a cosine from 1 to `final` (Loshchilov & Hutter, arXiv 1608.03983)."""

    def factor(step: int, steps: int) -> float:
        progress = max(0, step - warmup) / max(1, steps - warmup)
        return _warm(step, warmup) * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))

    return factor


def linear(*, warmup: Size = 0, warmdown: Share = 0.5, final: Share = 0.0) -> Schedule:
    """Constant, then a linear warm-down to `final` over the last `warmdown` share of the steps."""

    def factor(step: int, steps: int) -> float:
        left = (steps - step) / max(1.0, warmdown * steps)
        return _warm(step, warmup) * (final + (1 - final) * min(1.0, left))

    return factor


SCHEDULES: dict[str, Callable[..., Schedule]] = {"constant": constant, "cosine": cosine, "linear": linear}

"""Optimizers: factories (model, keyword-only options) -> list of torch optimizers that cover every parameter."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsity_cliff.study.registry import Momentum, NonNegative, Positive

Optimizers = list[torch.optim.Optimizer]

# torch keeps its compiler away from these methods, and imports it for that, which takes seconds of every job. Nothing
# here is compiled, so the methods can be the plain ones. AdamW has Adam's step.
for _name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
    setattr(torch.optim.Optimizer, _name, inspect.unwrap(getattr(torch.optim.Optimizer, _name)))
for _kind in (torch.optim.SGD, torch.optim.Adam):
    setattr(_kind, "step", torch.no_grad()(inspect.unwrap(_kind.step)))  # noqa: B010 (mypy: a method)


def sgd(model: nn.Module, *, lr: Positive, momentum: Momentum = 0.0, weight_decay: NonNegative = 0.0) -> Optimizers:
    """Stochastic gradient descent with momentum."""
    return [torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)]


def _adaptive(kind: Any, model: nn.Module, **options: Any) -> Optimizers:
    # the fused CPU kernel halves the time for small models; CUDA and MPS have one, too
    return [kind(model.parameters(), fused=True, **options)]


def adam(
    model: nn.Module,
    *,
    lr: Positive,
    beta1: Momentum = 0.9,
    beta2: Momentum = 0.999,
    weight_decay: NonNegative = 0.0,
) -> Optimizers:
    """Adam (Kingma & Ba, arXiv 1412.6980). weight_decay: added to the gradient (L2)."""
    return _adaptive(torch.optim.Adam, model, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def adamw(
    model: nn.Module,
    *,
    lr: Positive,
    beta1: Momentum = 0.9,
    beta2: Momentum = 0.999,
    weight_decay: NonNegative = 0.01,
) -> Optimizers:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101), with decoupled weight decay."""
    return _adaptive(torch.optim.AdamW, model, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


class Muon(torch.optim.Muon):
    """torch.optim.Muon in AdamW's unit, with all matrices of one shape orthogonalized at once.

    torch makes one matrix orthogonal after the other, in bfloat16. On a CPU without bfloat16 units, this takes four
    fifths of a GPT-nano step, so here the iterations are in float32 on a CPU.
    """

    def __init__(self, params: list[nn.Parameter], *, lr: float, momentum: float, weight_decay: float):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient. Closures are not supported."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            wide: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = {}  # shape -> updates, rows <= columns
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                update = p.grad.lerp(buffer, momentum)  # Nesterov
                update = update.T if p.shape[0] > p.shape[1] else update
                wide.setdefault(tuple(update.shape), []).append((p, update))
            for (_, columns), members in wide.items():
                stack = orthogonalized(torch.stack([update for _, update in members]))
                for (p, _), update in zip(members, stack, strict=True):
                    p.mul_(1 - lr * group["weight_decay"])
                    p.add_(update.T if p.shape[0] > p.shape[1] else update, alpha=-lr * 0.2 * math.sqrt(columns))


def orthogonalized(matrices: Tensor) -> Tensor:
    """Each matrix (n, rows, columns), rows <= columns, with its singular values moved to about 1 (0.7 to 1.2).

    Five Newton-Schulz iterations with the coefficients of Jordan et al. 2024, as in torch.optim.Muon.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


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
    """Muon (Jordan et al. 2024) on the matrices of `model.blocks`, AdamW on everything else.

    lr: in AdamW's unit (Liu et al., arXiv 2502.16982). A step is lr · 0.2 · √max(rows, cols) · O, where O is the
    orthogonalized momentum. Its root mean square is about 0.2 lr for a matrix of any shape, which is typical of AdamW,
    so a learning rate tuned for AdamW is a good first guess. To convert a published rate in another unit:

    - step lr · √max(rows, cols) · O, as in the paper's code: multiply by 5;
    - step lr · √max(1, rows / cols) · O, torch's default: multiply by 5 / √cols.

    Each matrix is orthogonalized by itself, so query, key, and value should be separate matrices, as in our
    architectures. weight_decay: for both optimizers; a step subtracts lr · weight_decay of a weight. adamw_lr: learning
    rate of AdamW. Raises ValueError if the blocks have no 2-D weights.
    """
    blocks = {id(p) for p in model.get_submodule("blocks").parameters() if p.ndim == 2}
    hidden = [p for p in model.parameters() if id(p) in blocks]
    rest = [p for p in model.parameters() if id(p) not in blocks]
    if not hidden:
        raise ValueError("muon needs 2-D weights in model.blocks, but this model has none")
    return [
        Muon(hidden, lr=lr, momentum=momentum, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=adamw_lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True),
    ]


OPTIMIZERS: dict[str, Callable[..., Optimizers]] = {"sgd": sgd, "adam": adam, "adamw": adamw, "muon": muon}

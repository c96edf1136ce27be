"""Why weights drift: the expected gradient at pre-activations, in closed form and by Monte Carlo with autograd.

A two-layer network has pre-activations z, activations φ(z), and outputs f = A φ(z). The K x units entries of A are
independent normal variables with standard deviation s. L is the loss of one example, averaged over outputs like the
study's losses. The expectation is over A, at fixed z. Then E[∂L/∂z] has the sign of φ φ' for each unit:

- mean squared error, exact for any s: 2 s² φ(z) φ'(z). (For ½‖f - y‖², it is K s² φ φ', and this loss is 2/K of that.)
- cross-entropy, to first order in s²: (K - 1)/K s² φ(z) φ'(z). (The softmax is expanded at f = 0.)
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from sparsity_cliff.data.seeds import generator
from sparsity_cliff.study.registry import make
from sparsity_cliff.study.spec import Entry

OUTPUTS = 5  # K
UNITS = 16  # with quantiles of N(0, 1) as pre-activations, which are symmetric, as in an untrained network
DRAWS = 10_000  # of A, each paired with -A
ERRORS = 4  # tolerance in standard errors; chance exceeds it in 1 of 16,000 cases

#: Function of a loss -> (closed form in units of s², given φ φ'; s of the Monte Carlo). For cross-entropy, s is small,
#: so that the neglected terms, of relative order s², are far below the standard error.
CLOSED_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "mse": (lambda product: 2 * product, 1.0),
    "cross_entropy": (lambda product: (OUTPUTS - 1) / OUTPUTS * product, 0.01),
}
#: Region -> mask of z. The names match the metrics gradient_positive, gradient_nonpositive, and gradient_all.
REGIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "positive": lambda z: z > 0,
    "nonpositive": lambda z: z <= 0,
    "all": lambda z: torch.ones_like(z, dtype=torch.bool),
}
SCHEMA = pa.schema(
    [
        ("activation", pa.string()),
        ("loss", pa.string()),
        ("region", pa.string()),  # key of REGIONS
        ("closed_form", pa.float64()),  # mean of E[∂L/∂z] over the region ÷ s²
        ("mean", pa.float64()),  # its Monte Carlo estimate
        ("standard_error", pa.float64()),
        ("n", pa.int64()),  # draws
        ("within", pa.bool_()),  # whether both agree within `tolerance`
        ("tolerance", pa.float64()),  # standard errors
        ("s", pa.float64()),
        ("left_out", pa.string()),  # why there are no numbers; "" if there are
    ]
)


def preactivations() -> Tensor:
    """The quantiles of N(0, 1) at (i + ½)/UNITS, float64 (UNITS,)."""
    out: Tensor = torch.special.ndtri((torch.arange(UNITS, dtype=torch.float64) + 0.5) / UNITS)
    return out


def value_times_slope(function: nn.Module, z: Tensor) -> Tensor:
    """φ(z) φ'(z) in the shape of z, with the slope of autograd, which may be a surrogate."""
    z = z.clone().requires_grad_()
    a = function(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    out: Tensor = (a * slope).detach()
    return out


def gradients(function: nn.Module, loss: nn.Module, z: Tensor, s: float, draws: int, random: torch.Generator) -> Tensor:
    """∂L/∂z (draws, units), each row the mean over a draw of A and -A, with the label 0.

    The pairs sample the same expectation without the terms that are odd in A, whose expectation is 0.
    """
    half = s * torch.randn(draws, OUTPUTS, len(z), generator=random, dtype=torch.float64)
    every = z.expand(2 * draws, -1).clone().requires_grad_()
    outputs = torch.einsum("dku,du->dk", torch.cat([half, -half]), function(every))
    labels = torch.zeros(2 * draws, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(2 * draws * loss(outputs, labels), every)  # undoes the mean over examples
    out: Tensor = gradient.view(2, draws, -1).mean(dim=0)
    return out


def obstacle(function: nn.Module) -> str:
    """Why the closed forms do not apply to an activation: "random" or "mixes units"; "" if they apply.

    They need a deterministic function of one number. The same input must give the same output twice, and each of many
    pre-activations must give the output that it gives alone, within rounding. A positive set is tested, too, because
    ReLU and Top-K at 50 % both keep half of a symmetric set.
    """
    symmetric = torch.linspace(-6, 6, 200, dtype=torch.float64)
    for z in (symmetric, symmetric.abs()):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                together, again = function(z[None]), function(z[None])
                alone = torch.cat([function(unit.view(1, 1)) for unit in z], dim=1)
        except (RuntimeError, ValueError, IndexError):  # a single unit is rejected
            return "mixes units"
        if not torch.equal(together, again):
            return "random"
        if together.shape != alone.shape or not torch.allclose(together, alone):
            return "mixes units"
    return ""


def cells(activation: str, function: nn.Module, loss: str, name: str, criterion: nn.Module | None) -> list[Any]:
    """The rows of an activation and a loss. name: function of the loss. criterion: None if no closed form is known."""
    blank = {"activation": activation, "loss": loss, "left_out": ""}
    reason = obstacle(function) if criterion else "no closed form for this loss"
    if reason or criterion is None:
        return [blank | {"region": region, "left_out": reason} for region in REGIONS]
    z, (closed_form, s) = preactivations(), CLOSED_FORMS[name]
    random = generator(0, f"theory/{activation}/{loss}")  # a stream per pair, so that new activations change no others
    sample, expected = gradients(function, criterion, z, s, DRAWS, random) / s**2, value_times_slope(function, z)
    rows = []
    for region, chosen in REGIONS.items():
        means, exact = sample[:, chosen(z)].mean(dim=1), closed_form(expected)[chosen(z)].mean().item()
        mean, error = means.mean().item(), means.std().item() / DRAWS**0.5
        within = abs(mean - exact) <= ERRORS * error + 1e-12
        row = {"region": region, "closed_form": exact, "mean": mean, "standard_error": error}
        rows.append({**blank, **row, "n": DRAWS, "within": within, "tolerance": ERRORS, "s": s})
    return rows


def table(activations: Mapping[str, Any], losses: Mapping[str, Any]) -> pa.Table:
    """The table `theory`: a row per activation, loss, and region.

    activations, losses: name -> entry {name, function, **options} of a run's spec.
    """
    known = {name: Entry.of(entry) for name, entry in losses.items() if entry["function"] in CLOSED_FORMS}
    criteria = {name: make("loss", entry) for name, entry in known.items()}
    rows = []
    for activation, entry in activations.items():
        function = make("activation", Entry.of(entry)).double()
        for loss, other in losses.items():
            rows += cells(activation, function, loss, other["function"], criteria.get(loss))
    return pa.Table.from_pylist(rows, SCHEMA)

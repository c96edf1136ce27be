"""Activations: values and gradients against independent formulas, and sparsity controls against their settings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from small import make, names
from torch import Tensor

from sparsity_cliff.activations import Site

VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in names("activation")] + [
    ("gelu", {"approximate": "tanh"}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("elu", {"alpha": 0.5}),
    ("relu2", {"clip": 1.0}),
    ("gelu2", {"clip": 0.5}),
    ("topk", {"base": "identity", "by": "magnitude"}),
    ("topk", {"base": "gelu", "over": "example"}),
    ("quantile_relu", {"shifted": False}),
    ("quantile_relu", {"q": 0.8, "over": "example"}),
]
IDS = [name + "".join(f" {k}={v}" for k, v in options.items()) for name, options in VARIANTS]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
@pytest.mark.parametrize("shape", [(3, 8), (2, 6, 4), (2, 4, 3, 3)])
def test_gradient_is_the_derivative(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    z = normal(*shape).requires_grad_()  # no draw lies within a finite difference of a kink
    site = Site(make("activation", name, **options), dim=1)
    assert site(z).shape == z.shape
    assert torch.autograd.gradcheck(site, (z,))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def gelu(z: np.ndarray) -> np.ndarray:
    return z * norm.cdf(z)


def gelu_slope(z: np.ndarray) -> np.ndarray:
    return norm.cdf(z) + z * norm.pdf(z)


#: name -> (value, derivative), in numpy and scipy
FORMULAS: dict[str, tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: z > 0),
    "gelu": (gelu, gelu_slope),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * (1 - sigmoid(z)))),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "identity": (lambda z: z, np.ones_like),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(z)), lambda z: np.where(z > 0, 1, np.exp(z))),
    "relu2": (lambda z: np.maximum(z, 0) ** 2, lambda z: 2 * np.maximum(z, 0)),
    "gelu2": (lambda z: gelu(z) ** 2, lambda z: 2 * gelu(z) * gelu_slope(z)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradient_are_those_of_the_formula(name: str) -> None:
    z = torch.linspace(-6, 6, 242, dtype=torch.float64).requires_grad_()
    a = make("activation", name)(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    value, derivative = FORMULAS[name]
    np.testing.assert_allclose(a.detach(), value(z.detach().numpy()), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, derivative(z.detach().numpy()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh", "leaky_relu", "elu"])
def test_bit_equal_to_torch(name: str) -> None:
    z = normal(1000, dtype=torch.float32)
    assert torch.equal(make("activation", name)(z), getattr(F, name, torch.tanh)(z))


@pytest.mark.parametrize(("name", "clip"), [("relu2", 50.0), ("relu2", 0.3), ("gelu2", 50.0), ("gelu2", 0.3)])
def test_clip_caps_the_value_and_stops_the_gradient(name: str, clip: float) -> None:
    z = (10 * normal(1000)).requires_grad_()
    free, clipped = make("activation", name)(z), make("activation", name, clip=clip)(z)
    (free_slope,) = torch.autograd.grad(free.sum(), z)
    (slope,) = torch.autograd.grad(clipped.sum(), z)
    above = free > clip
    assert 0 < above.sum() < 1000
    assert torch.equal(clipped, torch.where(above, clip, free))
    assert torch.equal(slope, torch.where(above, 0.0, free_slope))


def test_relu2_reaches_the_papers_clip_at_the_square_root_of_50() -> None:
    z = torch.tensor([7.07, 7.08], dtype=torch.float64)
    assert make("activation", "relu2", clip=50.0)(z).tolist() == [pytest.approx(7.07**2), 50.0]


# ------------------------------------------------------------------------------------------ sparsity controls


def rank(z: Tensor, dim: int, over: str) -> np.ndarray:
    """Rows of what is ranked together."""
    return (z.flatten(1) if over == "example" else z.movedim(dim, -1).flatten(0, -2)).numpy()


@pytest.mark.parametrize("over", ["features", "example"])
@pytest.mark.parametrize("by", ["value", "magnitude"])
@pytest.mark.parametrize(("shape", "dim"), [((5, 40), -1), ((3, 7, 20), -1), ((3, 20, 7), 1), ((2, 10, 3, 4), 1)])
@pytest.mark.parametrize("sparsity", [0.0, 0.45, 0.9, 0.97])
def test_topk_keeps_the_largest(sparsity: float, shape: tuple[int, ...], dim: int, by: str, over: str) -> None:
    z = normal(*shape)
    a = Site(make("activation", "topk", base="identity", sparsity=sparsity, by=by, over=over), dim)(z)
    for row, kept in zip(rank(z, dim, over), rank(a, dim, over), strict=True):
        n = len(row)
        zeros = min(round(sparsity * n), n - 1)
        score = np.abs(row) if by == "magnitude" else row
        expected = np.where(score >= np.sort(score)[zeros], row, 0)
        np.testing.assert_array_equal(kept, expected)
        assert abs((kept == 0).mean() - sparsity) <= 1 / n


@given(
    sparsity=st.floats(0, 1, exclude_max=True), features=st.integers(1, 60), base=st.sampled_from(["identity", "relu"])
)
def test_topk_zeros_are_nominal_or_more(sparsity: float, features: int, base: str) -> None:
    a = Site(make("activation", "topk", base=base, sparsity=sparsity))(normal(4, features))
    share = (a == 0).double().mean(dim=1)
    assert (share >= sparsity - 1 / features - 1e-9).all()
    if base == "identity":
        assert (share <= sparsity + 1 / features).all()
        assert (share < 1).all()  # at least one is kept


def test_topk_on_relu_counts_survivors_that_are_zero() -> None:
    z = torch.tensor([[-3.0, -2.0, -1.0, 4.0]])
    a = Site(make("activation", "topk", sparsity=0.25))(z)
    assert a.tolist() == [[0, 0, 0, 4]]  # three kept, two of them zeros of ReLU


def test_topk_passes_gradient_through_what_it_keeps_only() -> None:
    z = normal(6, 30).requires_grad_()
    a = Site(make("activation", "topk", base="identity", sparsity=0.7, by="magnitude"))(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    assert torch.equal(slope, (a != 0).to(slope.dtype))


@pytest.mark.parametrize("over", ["features", "example"])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(("shape", "dim"), [((5, 40), -1), ((3, 7, 20), -1), ((3, 20, 7), 1), ((2, 10, 3, 4), 1)])
@pytest.mark.parametrize("q", [0.0, 0.3, 0.5, 0.9])
def test_quantile_relu_cuts_at_the_quantile(
    q: float, shape: tuple[int, ...], dim: int, shifted: bool, over: str
) -> None:
    z = normal(*shape)
    a = Site(make("activation", "quantile_relu", q=q, shifted=shifted, over=over), dim)(z)
    for row, cut in zip(rank(z, dim, over), rank(a, dim, over), strict=True):
        threshold = np.quantile(row, q)
        expected = np.where(row > threshold, row - threshold if shifted else row, 0)
        np.testing.assert_allclose(cut, expected, atol=1e-12)
        assert abs((cut == 0).mean() - q) <= 1 / len(row)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_works_under_bfloat16_autocast(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(20, 100)
    site = Site(make("activation", name, **options))
    x = normal(8, 20, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        z = linear(x)
        a = site(z)
    assert a.dtype == torch.bfloat16
    a.sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.isfinite().all()
    wide = Site(make("activation", name, **options))(z.detach().double())
    # eight bits of mantissa: relative error 2^-8 of what is added and squared; ties may move the cut by a few ranks
    agree = torch.isclose(a.detach().double(), wide, rtol=0.02, atol=0.02)
    assert agree.double().mean() >= 0.97


@pytest.mark.parametrize("dim", [1, -1])
def test_a_site_tells_its_function_the_feature_axis(dim: int) -> None:
    z = normal(2, 4, 6)
    a = Site(make("activation", "topk", base="identity", sparsity=0.5), dim)(z)
    assert ((a == 0).sum(dim=dim) == z.shape[dim] // 2).all()
    assert f"dim={dim}" in repr(Site(make("activation", "relu"), dim))

"""Activations: values and gradients against independent formulas, and sparsity controls against their settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import halfnorm, norm
from small import data_of, entry, make, make_model, names
from torch import Tensor, nn

from sparsity_cliff.networks.activations import Site, quantile
from sparsity_cliff.study.options import options_of

VARIANTS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in names("activation")] + [
    ("gelu", {"approximate": "tanh"}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("elu", {"alpha": 0.5}),
    ("relu2", {"clip": 1.0}),
    ("gelu2", {"clip": 0.5}),
    ("bsilu", {"alpha": 0.5}),
    ("noisy_relu", {"alpha": 1.15, "c": 4.0, "noise": "normal"}),
    ("noisy_relu", {"alpha": 0.8, "c": 4.0}),
    ("topk", {"base": "identity", "by": "magnitude"}),
    ("topk", {"base": "sugar_bsilu"}),
    ("topk", {"base": "noisy_relu", "over": "example"}),
    ("topk", {"base": "gelu", "over": "example"}),
    ("quantile_relu", {"shifted": False}),
    ("quantile_relu", {"q": 0.8, "over": "example"}),
]
#: Whose gradient is another function's by design, and so no derivative of what they compute.
SURROGATES = ["sugar_bsilu", "topk base=sugar_bsilu"]
IDS = [name + "".join(f" {k}={v}" for k, v in options.items()) for name, options in VARIANTS]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)


def seeded(site: nn.Module, z: Tensor) -> Tensor:
    """The activation with the same noise at every call."""
    torch.manual_seed(0)
    out: Tensor = site(z)
    return out


def slope_of(function: nn.Module, z: Tensor) -> Tensor:
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(seeded(function, z).sum(), z)
    return slope


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (2, 4, 3, 2)])
@pytest.mark.parametrize(
    ("name", "options"), [pair for pair, words in zip(VARIANTS, IDS, strict=True) if words not in SURROGATES]
)
def test_gradient_is_the_derivative(name: str, options: dict[str, Any], shape: tuple[int, ...], training: bool) -> None:
    z = normal(*shape).requires_grad_()  # no draw lies within a finite difference of a kink
    site = Site(make("activation", name, **options), dim=1).train(training)
    assert site(z).shape == z.shape
    assert torch.autograd.gradcheck(lambda z: seeded(site, z), (z,))


@every_variant
@pytest.mark.parametrize(("shape", "dim"), [((4, 30), -1), ((4, 5, 30), -1), ((4, 6, 5, 3), 1)])
def test_an_example_does_not_see_the_others_in_eval_mode(
    name: str, options: dict[str, Any], shape: tuple[int, ...], dim: int
) -> None:
    site = Site(make("activation", name, **options), dim).eval()
    z = normal(*shape, dtype=torch.float32)
    others = torch.cat([z[:1], 100 * z[1:].flip(0)])
    assert torch.equal(site(z)[0], site(others)[0])
    assert torch.equal(site(z), site(z))


@every_variant
def test_compiles_without_a_break_to_the_same_numbers(name: str, options: dict[str, Any]) -> None:
    torch.compiler.reset()
    site = Site(make("activation", name, **options))
    z = normal(5, 20, dtype=torch.float32).requires_grad_()
    own = seeded(site, z)  # first, because code whose coverage is measured cannot be compiled before it has run
    slope = torch.autograd.grad(own.sum(), z)
    theirs = seeded(torch.compile(site, backend="aot_eager", fullgraph=True), z)
    torch.testing.assert_close(theirs, own)
    torch.testing.assert_close(torch.autograd.grad(theirs.sum(), z), slope)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def gelu(z: np.ndarray) -> np.ndarray:
    return z * norm.cdf(z)


def gelu_slope(z: np.ndarray) -> np.ndarray:
    return norm.cdf(z) + z * norm.pdf(z)


def bsilu_slope(z: np.ndarray, alpha: float = 1.67) -> np.ndarray:
    return sigmoid(z) + (z + alpha) * sigmoid(z) * (1 - sigmoid(z))


#: name -> (value, derivative), in numpy and scipy
FORMULAS: dict[str, tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: z > 0),
    "gelu": (gelu, gelu_slope),
    "silu": (lambda z: z * sigmoid(z), lambda z: sigmoid(z) * (1 + z * (1 - sigmoid(z)))),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "identity": (lambda z: z, np.ones_like),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(z)), lambda z: np.where(z > 0, 1, np.exp(z))),
    "bsilu": (lambda z: (z + 1.67) * sigmoid(z) - 1.67 / 2, lambda z: bsilu_slope(z)),
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


# ------------------------------------------------------------------------------------------ surrogate gradient


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.67, 0.5])
def test_sugar_is_relu_forward_and_bsilu_backward(alpha: float, dtype: torch.dtype) -> None:
    z = torch.cat([3 * normal(1000, dtype=dtype), torch.zeros(1, dtype=dtype)])
    sugar, smooth = make("activation", "sugar_bsilu", alpha=alpha), make("activation", "bsilu", alpha=alpha)
    assert torch.equal(sugar(z), torch.relu(z))
    slope, exact = slope_of(sugar, z), bsilu_slope(z.double().numpy(), alpha)
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(slope.double(), exact, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(slope, slope_of(smooth, z), rtol=tolerance, atol=tolerance)
    assert (slope[z < 0] != 0).all()  # where relu's is 0
    assert abs(float(slope[-1]) - (0.5 + alpha / 4)) < tolerance  # at 0, by hand


def test_sugar_multiplies_the_gradient_from_above() -> None:
    z, above = normal(100).requires_grad_(), normal(100, seed=1)
    make("activation", "sugar_bsilu")(z).backward(above)
    np.testing.assert_allclose(z.grad, above.numpy() * bsilu_slope(z.detach().numpy()), rtol=1e-12)


# ------------------------------------------------------------------------------------------ noise

NOISES = [(1.0, "half_normal"), (1.0, "normal"), (1.15, "half_normal"), (0.8, "half_normal"), (0.8, "normal")]


def noisy_formula(z: np.ndarray, alpha: float, c: float, noise: str, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by the paper's formula with h = relu and u = z."""
    h, u = np.maximum(z, 0), z
    scale = c * (sigmoid(p * (h - u)) - 0.5) ** 2
    direction = -np.sign(z) * np.sign(1 - alpha if alpha != 1 else 1)
    law = halfnorm if noise == "half_normal" else norm
    return alpha * h + (1 - alpha) * u + direction * scale * law.mean(), scale * law.std()


@pytest.mark.parametrize("p", [1.0, -0.7, 3.0])
@pytest.mark.parametrize(("alpha", "noise"), NOISES)
def test_noise_has_the_moments_of_the_formula(alpha: float, noise: str, p: float) -> None:
    z, draws = torch.linspace(-4, 4, 16, dtype=torch.float64), 20_000
    module = make("activation", "noisy_relu", alpha=alpha, c=2.0, noise=noise)
    nn.init.constant_(module.p, p)
    with torch.no_grad():
        a = seeded(module, z.expand(draws, -1)).numpy()
        expectation = module.eval()(z)
    mean, std = noisy_formula(z.numpy(), alpha, 2.0, noise, module.p.item())
    law = halfnorm if noise == "half_normal" else norm
    kurtosis = float(law.stats(moments="k"))  # excess
    assert (abs(a.mean(0) - mean) <= 4 * std / draws**0.5 + 1e-12).all()
    assert (abs(a.var(0) - std**2) <= 4 * std**2 * ((2 + kurtosis) / draws) ** 0.5 + 1e-12).all()
    np.testing.assert_allclose(expectation, mean, rtol=1e-6, atol=1e-9)  # p is float32


@pytest.mark.parametrize(("alpha", "noise"), NOISES)
def test_noise_is_only_where_relu_saturates(alpha: float, noise: str) -> None:
    z = normal(1000, dtype=torch.float32)
    a = seeded(make("activation", "noisy_relu", alpha=alpha, noise=noise), z)
    assert torch.equal(a[z >= 0], z[z >= 0])
    moved = (a - (1 - alpha) * z)[z < 0]
    assert (moved != 0).double().mean() > 0.99  # tiny noise may round to nothing
    if noise == "half_normal":  # against the leak: up where it leads down, and at 1
        assert ((moved >= -1e-7) if alpha <= 1 else (moved <= 1e-7)).all()


def test_noise_is_drawn_in_training_only_and_from_the_global_generator() -> None:
    module, z = make("activation", "noisy_relu"), normal(100)
    assert torch.equal(seeded(module, z), seeded(module, z))
    assert not torch.equal(module(z), module(z))
    state = torch.get_rng_state()
    module.eval()(z)
    assert torch.equal(torch.get_rng_state(), state)


def test_normal_noise_leaves_relu_in_eval_mode() -> None:
    z = normal(1000, dtype=torch.float32)
    assert torch.equal(make("activation", "noisy_relu", noise="normal").eval()(z), torch.relu(z))
    assert (make("activation", "noisy_relu").eval()(z) > 0).all()  # half-normal: no zeros at all


def test_the_scale_of_the_noise_has_a_gradient() -> None:
    module, z = make("activation", "noisy_relu", alpha=1.15).double(), normal(50)

    def of(p: Tensor) -> Tensor:
        torch.manual_seed(0)
        out: Tensor = torch.func.functional_call(module, {"p": p}, (z,))
        return out

    assert torch.autograd.gradcheck(of, (torch.tensor(0.7, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("optimizer", names("optimizer"))
def test_the_scale_of_the_noise_learns_with_every_optimizer(optimizer: str) -> None:
    model, data = make_model("mlp", activation=entry("activation", "noisy_relu")), data_of("mlp")
    learned = {name: p for name, p in model.named_parameters() if name.endswith(".p")}
    assert len(learned) == 3  # one for each site
    optimizers = make("optimizer", optimizer, model)
    make("loss", "cross_entropy")(model(data.x_train), data.y_train).backward()
    for one in optimizers:
        one.step()
    assert all(p != 1 for p in learned.values())


def test_noise_starts_from_the_weights_that_relu_starts_from() -> None:
    noisy = make_model("mlp", activation=entry("activation", "noisy_relu")).state_dict()
    for key, weight in make_model("mlp").state_dict().items():
        assert torch.equal(noisy[key], weight)


# ------------------------------------------------------------------------------------------ the published code


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["noisy_relu_reference", "sugar_bsilu_reference"])
def test_the_published_code_is_relu_bit_for_bit(name: str, training: bool) -> None:
    module, z = make("activation", name).train(training), normal(1000, dtype=torch.float32)
    assert torch.equal(module(z), torch.relu(z))
    assert torch.equal(slope_of(module, z), (z > 0).float())


@pytest.mark.parametrize("shape", [(3, 512), (2, 16, 32), (2, 8, 8, 8), (4, 5)])
@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.75, 0.9])
def test_the_published_topk_zeros_the_other_share(sparsity: float, shape: tuple[int, ...]) -> None:
    z = normal(*shape)
    a = make("activation", "topk_gelu_reference", sparsity=sparsity)(z)
    for row, kept in zip(gelu(z.flatten(1).numpy()), a.flatten(1).numpy(), strict=True):
        smallest = int((1 - sparsity) * len(row))
        expected = np.where(row < np.sort(row)[max(smallest, 1) - 1], 0, row)
        np.testing.assert_allclose(kept, expected, rtol=1e-12, atol=1e-14)
        assert (kept == 0).sum() == max(smallest - 1, 0)


def test_the_published_topk_90_has_the_zeros_that_were_measured() -> None:
    z = normal(8, 512)
    share = (make("activation", "topk_gelu_reference", sparsity=0.9)(z) == 0).double().mean()
    assert round(100 * float(share), 1) == 9.8
    own = (make("activation", "topk", base="gelu", sparsity=0.9, over="example")(z) == 0).double().mean()
    assert round(100 * float(own)) == 90


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


OPTIONS = {name: options_of("activation", name).values() for name in names("activation")}
REQUIRING = [name for name, options in OPTIONS.items() if any(o.required for o in options)]
BASES = [name for name in OPTIONS if name not in REQUIRING]


@pytest.mark.parametrize("base", BASES)
def test_topk_takes_every_base(base: str) -> None:
    z = normal(6, 30)
    a = Site(make("activation", "topk", base=base, sparsity=0.7)).eval()(z)
    dense = make("activation", base).eval()(z)
    assert torch.equal(a, torch.where(dense >= dense.sort(dim=1).values[:, 21:22], dense, 0.0))


@pytest.mark.parametrize("base", [*REQUIRING, "swish"])
def test_topk_refuses_a_base_whose_options_it_cannot_give(base: str) -> None:
    assert {"topk", "quantile_relu"} <= set(REQUIRING)
    with pytest.raises(ValueError, match=r"^topk: base ") as caught:
        make("activation", "topk", base=base)
    assert str(caught.value) == f"topk: base {base!r} is not valid; valid: {', '.join(BASES)}"


def test_topk_on_relu_counts_survivors_that_are_zero() -> None:
    z = torch.tensor([[-3.0, -2.0, -1.0, 4.0]])
    a = Site(make("activation", "topk", sparsity=0.25))(z)
    assert a.tolist() == [[0, 0, 0, 4]]  # three kept, two of them zeros of ReLU


def test_topk_passes_gradient_through_what_it_keeps_only() -> None:
    z = normal(6, 30).requires_grad_()
    a = Site(make("activation", "topk", base="identity", sparsity=0.7, by="magnitude"))(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    assert torch.equal(slope, (a != 0).to(slope.dtype))


@given(q=st.floats(0, 1, exclude_max=True), n=st.integers(1, 60), dim=st.integers(-3, 2), seed=st.integers(0, 9))
def test_quantile_is_numpys(q: float, n: int, dim: int, seed: int) -> None:
    z = normal(3, n, 4, seed=seed).movedim(1, dim)
    np.testing.assert_allclose(quantile(z, q, dim), np.quantile(z, q, axis=dim, keepdims=True), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("q", [0.0, 0.33, 0.5, 0.97])
def test_quantile_passes_gradient_to_what_it_lies_between(q: float) -> None:
    assert torch.autograd.gradcheck(lambda z: quantile(z, q, 1), (normal(3, 8, 2).requires_grad_(),))


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


@every_variant
def test_works_under_bfloat16_autocast(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(20, 100)
    site = Site(make("activation", name, **options))
    x = normal(8, 20, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        z = linear(x)
        a = site(z)
    assert a.dtype == torch.bfloat16
    a.sum().backward()
    for p in (*linear.parameters(), *site.parameters()):
        assert p.grad is not None
        assert p.grad.isfinite().all()
    site.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        narrow = site(z)
    wide = site(z.detach().double())
    # eight bits of mantissa: relative error 2^-8 of what is added and squared; ties may move the cut by a few ranks
    agree = torch.isclose(narrow.double(), wide, rtol=0.02, atol=0.02)
    assert agree.double().mean() >= 0.97


@pytest.mark.parametrize("dim", [1, -1])
def test_a_site_tells_its_function_the_feature_axis(dim: int) -> None:
    z = normal(2, 4, 6)
    a = Site(make("activation", "topk", base="identity", sparsity=0.5), dim)(z)
    assert ((a == 0).sum(dim=dim) == z.shape[dim] // 2).all()
    assert f"dim={dim}" in repr(Site(make("activation", "relu"), dim))


def test_every_activation_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "activations.md").read_text()
    assert [name for name in names("activation") if f"`{name}`" not in page] == []

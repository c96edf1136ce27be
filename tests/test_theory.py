"""Why weights drift: the closed forms against autograd, by Monte Carlo over initializations.

A two-layer network: pre-activations z, activations φ(z), outputs f = A φ(z), with the entries of A independent normal
draws of deviation s. The expectation is over A, at fixed z.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from small import dataset, make, make_model
from torch import Tensor

from sparsity_cliff import probes

K = 5  # outputs
Z = torch.tensor([-3.0, -1.5, -0.7, -0.2, 0.1, 0.6, 1.3, 2.5], dtype=torch.float64)
ELEMENTWISE = ["relu", "gelu", "silu", "tanh", "identity", "leaky_relu", "elu", "relu2", "gelu2"]


def gradients(activation: str, loss: str, s: float, draws: int, seed: int = 0) -> Tensor:
    """∂L/∂z for every draw of A, or rather the mean over A and -A: (draws, units).

    The pairs are as good a sample of the expectation, and rid it of the terms that are odd in A and cancel anyway.
    L is summed over examples, each draw having the label 0.
    """
    g = torch.Generator().manual_seed(seed)
    half = s * torch.randn(draws, K, len(Z), generator=g, dtype=torch.float64)
    z = Z.expand(2 * draws, -1).clone().requires_grad_()
    hidden = make("activation", activation)(z)
    outputs = torch.einsum("dku,du->dk", torch.cat([half, -half]), hidden)
    labels = torch.zeros(2 * draws, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(2 * draws * make("loss", loss)(outputs, labels), z)
    return gradient.view(2, draws, -1).mean(dim=0)


def mean_and_error(sample: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return sample.mean(dim=0).numpy(), (sample.std(dim=0) / len(sample) ** 0.5).numpy()


def value_times_slope(activation: str, z: Tensor = Z) -> np.ndarray:
    z = z.clone().requires_grad_()
    a = make("activation", activation)(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    product: np.ndarray = (a * slope).detach().numpy()
    return product


def mse(s: float, product: np.ndarray) -> np.ndarray:
    """K s² φ φ' for ½‖f - y‖², exact at any s; ours is the mean over outputs, 2/K times that."""
    return 2 / K * K * s**2 * product


def cross_entropy(s: float, product: np.ndarray) -> np.ndarray:
    """(K - 1)/K s² φ φ', to first order in s²."""
    return (K - 1) / K * s**2 * product


@pytest.mark.parametrize(
    ("loss", "theory", "s"), [("mse", mse, 0.1), ("mse", mse, 1.0), ("cross_entropy", cross_entropy, 0.01)]
)
@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_expected_gradient_is_the_closed_form(
    activation: str, loss: str, theory: Callable[[float, np.ndarray], np.ndarray], s: float
) -> None:
    mean, error = mean_and_error(gradients(activation, loss, s, 20_000))
    expected = theory(s, value_times_slope(activation))
    assert (np.abs(mean - expected) <= 4 * error + 1e-12).all()
    assert (error < 0.05 * np.abs(expected).max()).all()  # a mean that says something


@pytest.mark.parametrize("s", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_cross_entropys_expected_gradient_has_the_closed_forms_sign_at_any_scale(activation: str, s: float) -> None:
    """p_k rises with f_k, so every order of the expansion has the sign of the first."""
    mean, error = mean_and_error(gradients(activation, "cross_entropy", s, 20_000))
    product = value_times_slope(activation)
    large = np.abs(product) > 0.01  # elsewhere the sample cannot tell the sign
    assert (np.sign(mean[large]) == np.sign(product[large])).all()
    assert (np.abs(mean[large]) > 4 * error[large]).all()


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_claim_c1_the_expected_gradient_of_positive_preactivations_is_not_negative(activation: str, loss: str) -> None:
    mean, error = mean_and_error(gradients(activation, loss, 1.0, 20_000))
    assert (mean[Z > 0] >= -4 * error[Z > 0]).all()
    assert mean[-1] > 4 * error[-1]


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "identity"])
def test_only_the_mean_over_all_preactivations_tells_odd_activations_apart(activation: str, loss: str) -> None:
    """Gradients at z > 0 are positive for tanh and the identity too: there, those at z < 0 balance them."""
    mean, error = mean_and_error(gradients(activation, loss, 0.5, 20_000))
    assert mean[-1] > 4 * error[-1]
    balance = value_times_slope(activation, Z) + value_times_slope(activation, -Z)  # equally likely at initialization
    if activation in ("tanh", "identity"):
        assert balance == pytest.approx(0, abs=1e-15)
    else:
        assert balance.mean() > 0.1


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_gradient_probe_measures_the_closed_form_on_a_network(loss: str) -> None:
    """The probe on a real network at initialization, over seeds: 2/K K s² E[φ φ'] for MSE, and its sign for both."""
    data, rows = dataset(train=200), []
    model_options = {"model": {"function": "mlp", "width": 64, "depth": 1, "bias": False}}
    for seed in range(200):
        model = make_model("mlp", seed=seed, **model_options)
        with probes.GradientSigns(model, 200) as signs:
            value = make("loss", loss)(model(data.x_train), data.y_train)
        value.backward()
        rows.append({metric: found for *_, metric, found in signs.rows()})
    sample = torch.tensor([[row[f"gradient_{k}"] for k in ("positive", "nonpositive", "all")] for row in rows])
    (positive, below, everywhere), error = mean_and_error(sample)
    assert below == 0  # ReLU passes nothing back
    assert positive > 4 * error[0]
    assert everywhere > 4 * error[2]
    if loss == "mse":
        # z ~ N(0, 2 |x|²/40), head entries of variance 2/64, three classes
        x = data.x_train
        z_scale = (2 * x.square().sum(dim=1) / 40).sqrt().mean().item()
        expected = 2 / 3 * 3 * (2 / 64) * z_scale * (2 / np.pi) ** 0.5  # E[z | z > 0] of a half-normal
        assert abs(positive - expected) < 4 * error[0]

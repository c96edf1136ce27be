"""Why weights drift: the closed forms against autograd, by Monte Carlo over initializations.

A two-layer network: pre-activations z, activations φ(z), outputs f = A φ(z), with the entries of A independent normal
draws of deviation s. The expectation is over A, at fixed z.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats
from small import dataset, entry, make, make_model, names
from torch import Tensor, nn

from sparsity_cliff.analysis import theory
from sparsity_cliff.probes import gradients
from sparsity_cliff.study import digests
from sparsity_cliff.traces import origin

Z = torch.tensor([-3.0, -1.5, -0.7, -0.2, 0.1, 0.6, 1.3, 2.5], dtype=torch.float64)
#: φ and φ', by hand.
FORMULAS: dict[str, tuple[Any, Any]] = {
    "relu": (lambda z: z * (z > 0), lambda z: z > 0),
    "gelu": (lambda z: z * stats.norm.cdf(z), lambda z: stats.norm.cdf(z) + z * stats.norm.pdf(z)),
    "silu": (lambda z: z * special.expit(z), lambda z: special.expit(z) * (1 + z * special.expit(-z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "identity": (lambda z: z, lambda z: z**0),
    "leaky_relu": (lambda z: z * np.where(z > 0, 1, 0.01), lambda z: np.where(z > 0, 1, 0.01)),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(z)), lambda z: np.where(z > 0, 1, np.exp(z))),
    "relu2": (lambda z: z**2 * (z > 0), lambda z: 2 * z * (z > 0)),
    "gelu2": (
        lambda z: (z * stats.norm.cdf(z)) ** 2,
        lambda z: 2 * z * stats.norm.cdf(z) * (stats.norm.cdf(z) + z * stats.norm.pdf(z)),
    ),
}
ODD = ("tanh", "identity")
OVER = ("features", "example")
K = theory.OUTPUTS


def product_of(activation: str, z: Tensor = Z) -> np.ndarray:
    """φ φ', by hand."""
    function, slope = FORMULAS[activation]
    return np.asarray(function(z.numpy()) * slope(z.numpy()))


def expected(loss: str, product: np.ndarray) -> np.ndarray:
    """In units of s². K s² φ φ' for ½‖f - y‖², exact at any s; ours is the mean over outputs, 2/K times that.
    (K - 1)/K s² φ φ' for cross-entropy, to first order in s²."""
    return 2 / K * K * product if loss == "mse" else (K - 1) / K * product


def sample(activation: str, loss: str, s: float, draws: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Mean over A of ∂L/∂z, and its standard error, in units of s²."""
    random = torch.Generator().manual_seed(0)
    found = theory.gradients(make("activation", activation), make("loss", loss), Z, s, draws, random) / s**2
    return found.mean(dim=0).numpy(), (found.std(dim=0) / draws**0.5).numpy()


# ------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("activation", FORMULAS)
def test_value_times_slope_is_that_of_the_formula(activation: str) -> None:
    found = theory.value_times_slope(make("activation", activation), Z)
    assert found.numpy() == pytest.approx(product_of(activation), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("loss", "s"), [("mse", 0.1), ("mse", 1.0), ("cross_entropy", 0.01)])
@pytest.mark.parametrize("activation", FORMULAS)
def test_expected_gradient_is_the_closed_form(activation: str, loss: str, s: float) -> None:
    mean, error = sample(activation, loss, s)
    closed = expected(loss, product_of(activation))
    assert (np.abs(mean - closed) <= 4 * error + 1e-12).all()
    assert (error < 0.05 * np.abs(closed).max()).all()  # a mean that says something
    form, _ = theory.CLOSED_FORMS[loss]
    assert form(torch.from_numpy(product_of(activation))).numpy() == pytest.approx(closed)


def test_first_order_of_cross_entropy_by_integration() -> None:
    """One unit and two outputs: the difference of the two weights is N(0, 2 s²), so the expectation is one integral."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = 1.3  # φ = z and φ' = 1 for ReLU
    for s in (0.01, 0.1):
        d = 2**0.5 * s * nodes  # a_0 - a_1; label 0: ∂L/∂z = -(1 - p_0)(a_0 - a_1) = -expit(-d z) d
        exact = (weights * -special.expit(-d * z) * d).sum() / weights.sum()
        assert exact / s**2 == pytest.approx((2 - 1) / 2 * z, rel=2 * s**2 * z**2)


@pytest.mark.parametrize("s", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("activation", FORMULAS)
def test_cross_entropys_expected_gradient_has_the_closed_forms_sign_at_any_scale(activation: str, s: float) -> None:
    """p_k rises with f_k, so every order of the expansion has the sign of the first."""
    mean, error = sample(activation, "cross_entropy", s)
    product = product_of(activation)
    large = np.abs(product) > 0.01  # elsewhere the sample cannot tell the sign
    assert (np.sign(mean[large]) == np.sign(product[large])).all()
    assert (np.abs(mean[large]) > 4 * error[large]).all()


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("activation", FORMULAS)
def test_claim_c1_the_expected_gradient_of_positive_preactivations_is_not_negative(activation: str, loss: str) -> None:
    mean, error = sample(activation, loss, 1.0)
    above = Z.numpy() > 0
    assert (mean[above] >= -4 * error[above]).all()
    assert mean[-1] > 4 * error[-1]


# ------------------------------------------------------------------------------------------ the table


def written(folder: Path, activations: dict[str, Any], losses: dict[str, Any]) -> pd.DataFrame:
    origin.write_table(theory.table(activations, losses), folder / "theory.parquet", "f" * 64)
    return pd.read_parquet(folder / "theory.parquet")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    losses = {name: entry("loss", name) for name in ("mse", "cross_entropy")}
    activations = {name: entry("activation", name) for name in FORMULAS}
    return written(tmp_path_factory.mktemp("theory"), activations, losses)


def test_every_cell_agrees_to_four_standard_errors(table: pd.DataFrame) -> None:
    assert len(table) == 9 * 2 * 3  # activations x losses x regions
    assert table["within"].all()
    assert (table["left_out"] == "").all()
    assert ((table["mean"] - table["closed_form"]).abs() <= 4 * table["standard_error"] + 1e-12).all()
    spread = (table["mean"] - table["closed_form"]) / table["standard_error"].where(table["standard_error"] > 0)
    assert 0.6 < spread.std() < 1.5  # the errors are neither too small nor so large that they hide a difference


def test_the_tables_closed_forms_are_means_over_normal_quantiles(table: pd.DataFrame) -> None:
    z = stats.norm.ppf((np.arange(16) + 0.5) / 16)
    regions = {"positive": z > 0, "nonpositive": z <= 0, "all": z < np.inf}
    for row in table.itertuples():
        closed = expected(str(row.loss), product_of(str(row.activation), torch.from_numpy(z)))
        assert row.closed_form == pytest.approx(closed[regions[str(row.region)]].mean(), rel=1e-9, abs=1e-12)


def test_only_the_mean_over_all_preactivations_tells_odd_activations_apart(table: pd.DataFrame) -> None:
    """Gradients at z > 0 are positive for tanh and the identity too: there, those at z <= 0 balance them."""
    positive, everywhere = (table[table["region"] == region] for region in ("positive", "all"))
    assert (positive["mean"] > 4 * positive["standard_error"]).all()
    odd = everywhere["activation"].isin(ODD)
    assert odd.sum() == 2 * 2
    assert everywhere.loc[odd, "closed_form"].tolist() == pytest.approx([0] * 4, abs=1e-12)
    assert (everywhere.loc[odd, "mean"].abs() < 4 * everywhere.loc[odd, "standard_error"]).all()
    assert (everywhere.loc[~odd, "mean"] > 20 * everywhere.loc[~odd, "standard_error"]).all()


class Gated(nn.Module):
    """Not elementwise: the mean over units decides."""

    def forward(self, z: Tensor) -> Tensor:
        return z * (z.mean(dim=-1, keepdim=True) > 0)


class Refusing(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        if z.shape[-1] == 1:  # as a normalization does
            raise ValueError
        return z


class Surrogate(torch.autograd.Function):
    """Forward ReLU, backward the identity's slope."""

    @staticmethod
    def forward(context: Any, z: Tensor) -> Tensor:
        return z.relu()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class StraightThrough(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = Surrogate.apply(z)  # type: ignore[no-untyped-call]
        return out


@pytest.mark.parametrize(
    ("module", "obstacle"),
    [
        *((name, "") for name in FORMULAS),
        *((make("activation", "topk", sparsity=s, over=o), "mixes units") for s in (0.02, 0.5) for o in OVER),
        ("quantile_relu", "mixes units"),
        (Gated(), "mixes units"),
        (Refusing(), "mixes units"),
        (nn.Softmax(dim=-1), "mixes units"),
        (nn.GLU(), "mixes units"),
        (nn.RReLU(), "random"),
        (nn.Dropout(), "random"),
        (nn.PReLU().double(), ""),
        (StraightThrough(), ""),
    ],
    ids=str,
)
def test_what_is_no_function_of_one_number_is_left_out(module: Any, obstacle: str) -> None:
    module = make("activation", module) if isinstance(module, str) else module
    before = torch.get_rng_state()
    assert theory.obstacle(module) == obstacle
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("activation", names("activation"))
def test_every_activation_agrees_or_is_left_out(activation: str, tmp_path: Path) -> None:
    losses = {name: entry("loss", name) for name in ("mse", "cross_entropy")}
    found = written(tmp_path, {activation: entry("activation", activation)}, losses)
    assert len(found) == 2 * 3
    assert (found["within"].fillna(False).astype(bool) | (found["left_out"] != "")).all()


def test_a_surrogate_slope_has_its_own_closed_form(tmp_path: Path) -> None:
    """φ is ReLU's and φ' is 1: as for ReLU above 0, and 0 below, where φ is 0."""
    straight = {"straight": {"function": "test_theory:StraightThrough"}, "relu": {"function": "relu"}}
    found = written(tmp_path, straight, {"mse": {"function": "mse"}}).set_index(["activation", "region"])
    assert found["within"].all()
    assert found.loc[("straight", "all"), "closed_form"] == pytest.approx(found.loc[("relu", "all"), "closed_form"])
    below = found.loc[("straight", "nonpositive")]
    assert below["closed_form"] == 0
    assert below["standard_error"] > 0  # unlike ReLU's, it is noise around 0


def test_left_out_rows_have_no_numbers(tmp_path: Path) -> None:
    activations = {"relu": {"function": "relu"}, "half": {"function": "topk", "sparsity": 0.5}}
    losses = {"mse": {"function": "mse"}, "speech": {"function": "no_such_loss_is_built"}}
    found = written(tmp_path, activations, losses)
    assert len(found) == 2 * 2 * 3
    reasons = found.groupby(["activation", "loss"])["left_out"].unique().map(list).to_dict()
    assert reasons == {
        ("relu", "mse"): [""],
        ("half", "mse"): ["mixes units"],
        ("relu", "speech"): ["no closed form for this loss"],
        ("half", "speech"): ["no closed form for this loss"],
    }
    blank = found[found["left_out"] != ""]
    assert blank[["closed_form", "mean", "standard_error", "n", "within", "s"]].isna().all(axis=None)


def test_another_activation_changes_no_number(tmp_path: Path) -> None:
    one = written(tmp_path, {"relu": {"function": "relu"}}, {"mse": {"function": "mse"}})
    two = written(tmp_path, {"gelu": {"function": "gelu"}, "relu": {"function": "relu"}}, {"mse": {"function": "mse"}})
    pd.testing.assert_frame_equal(one, two[two["activation"] == "relu"].reset_index(drop=True))


def test_code_that_the_table_depends_on_is_in_its_digest() -> None:
    """registry.load imports by name, which reading imports cannot see: hence the names in the rule."""
    chosen = frozenset({("activation", "relu"), ("loss", "mse")})
    found = digests.code("sparsity_cliff.analysis.theory", chosen).keys()
    assert {"sparsity_cliff.networks.activations", "sparsity_cliff.networks.losses"} <= found
    assert "sparsity_cliff.training.loop" not in found


# ------------------------------------------------------------------------------------------ on a network


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_gradient_probe_measures_the_closed_form_on_a_network(loss: str) -> None:
    """The probe on a real network at initialization, over seeds: 2/K K s² E[φ φ'] for MSE, and its sign for both."""
    data, rows = dataset(train=200), []
    model_options = {"model": {"function": "mlp", "width": 64, "depth": 1, "bias": False}}
    for seed in range(200):
        model = make_model("mlp", seed=seed, **model_options)
        with gradients.GradientSigns(model, 200) as signs:
            value = make("loss", loss)(model(data.x_train), data.y_train)
        value.backward()
        rows.append({metric: found for *_, metric, found in signs.rows()})
    found = np.array([[row[f"gradient_{k}"] for k in ("positive", "nonpositive", "all")] for row in rows])
    (positive, below, everywhere), error = found.mean(axis=0), stats.sem(found)
    assert below == 0  # ReLU passes nothing back
    assert positive > 4 * error[0]
    assert everywhere > 4 * error[2]
    if loss == "mse":
        # z ~ N(0, 2 |x|²/40), head entries of variance 2/64, three classes
        x = data.x_train
        z_scale = (2 * x.square().sum(dim=1) / 40).sqrt().mean().item()
        closed = 2 / 3 * 3 * (2 / 64) * z_scale * (2 / np.pi) ** 0.5  # E[z | z > 0] of a half-normal
        assert abs(positive - closed) < 4 * error[0]

"""Probes: every definition against a computation over the whole evaluation set at once; and they only read."""

import copy
import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm
from small import (
    SMALL,
    batch_of,
    constant,
    data_of,
    entry,
    make,
    make_model,
    make_spec,
    names,
    planned,
    rounding,
    train,
    value,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparsity_cliff.networks.activations import Site
from sparsity_cliff.probes import activation_stats, flops, rows, sites, weights
from sparsity_cliff.probes.gradients import GradientSigns, terms
from sparsity_cliff.probes.measurement import measure

MODELS = names("model")
Table = dict[tuple[str | None, str], float]  # (layer, metric) -> value


def table(rows: Any) -> Table:
    rows = list(rows)
    found = {(layer, metric): value for _, layer, _, metric, value in rows}
    assert len(found) == len(rows)  # one row per fact
    return found


def read(model: nn.Module, x: Tensor, *sizes: int) -> Table:
    """The activation rows, the evaluation set being split into batches of these sizes."""
    model.eval()
    with torch.no_grad():
        return table(activation_stats.activation_stats(model, model, list(x.split(list(sizes)))))


def loss_module(name: str) -> nn.Module:
    """The loss, without what it would learn itself."""
    module: nn.Module = make("loss", name)
    return module


def alone(function: str, dim: int = -1, **options: Any) -> nn.Module:
    """A model that is one activation site, so that its pre-activations are the inputs."""
    return nn.Sequential(Site(make("activation", function, **options), dim))


# ------------------------------------------------------------------------------------------ activations


Bounds = dict[tuple[str | None, str], tuple[float, float]]


def by_hand(model: nn.Module, x: Tensor, forward: float = 0.0) -> Bounds:
    """The definitions of docs/definitions.md, in numpy, from all pre-activations and activations of `x`.

    Each as the lowest and highest value it may have. forward: by what share of a site's largest number a pass may err.
    An element that close to a threshold may count or not, and so may one where the float32 RMS decides.
    """
    seen: list[tuple[str, int, np.ndarray, np.ndarray]] = []
    handles = []
    for name, site in sites.sites(model):

        def keep(site: Any, inputs: Any, output: Tensor, name: str = name) -> None:
            seen.append((name, site.dim, inputs[0].double().numpy(), output.double().numpy()))

        handles.append(site.register_forward_hook(keep))
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()

    found: Bounds = {}
    counted: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # per share and site: what counts, what may count
    for name, dim, z, a in seen:
        rms, top, size, err = np.sqrt(np.mean(a**2)), np.abs(a).max(), np.abs(a), forward * np.abs(a).max()
        relative = forward + rounding(a[0].size)  # the RMS is a float32 sum over an example
        unsure = (np.abs(z) <= forward * np.abs(z).max()) & (forward > 0)
        shares = {
            "activation_sparsity": ((a == 0) & ~unsure, (a == 0) | unsure),
            "near_zero_share": (size <= 1e-3 * rms * (1 - relative) - err, size <= 1e-3 * rms * (1 + relative) + err),
            "preactivation_negative_share": ((z < 0) & ~unsure, (z < 0) | unsure),
        }
        for metric, (low, high) in shares.items():
            counted.setdefault(metric, []).append((low, high))
            found[name, metric] = float(np.mean(low)), float(np.mean(high))
        units = [np.moveaxis(zero, dim, 0).reshape(a.shape[dim], -1) for zero in shares["activation_sparsity"]]
        found[name, "dead_unit_share"] = float(np.mean(units[0].all(axis=1))), float(np.mean(units[1].all(axis=1)))
        for metric, number in (("activation_rms", rms), ("spike", top), ("spike_ratio", top / rms)):
            found[name, metric] = number * (1 - relative), number * (1 + relative)
        mean, std = z.mean(), z.std()
        slack = forward * np.abs(z).max() + rounding(z[0].size) * np.sqrt(np.mean(z**2))  # of a float32 mean
        found[name, "preactivation_mean"] = mean - slack, mean + slack
        found[name, "preactivation_std"] = std - slack, std + slack
    for metric, parts in counted.items():
        low, high = (float(np.mean(np.concatenate([part[i].ravel() for part in parts]))) for i in (0, 1))
        found[None, metric] = low, high
    found[None, "spike"] = tuple(max(found[name, "spike"][i] for name, *_ in seen) for i in (0, 1))  # type: ignore[assignment]
    return found


def assert_within(found: Table, bounds: Bounds) -> None:
    assert found.keys() == bounds.keys()
    ulp = 1e-12
    outside = {
        key: (found[key], low, high) for key, (low, high) in bounds.items() if not low - ulp <= found[key] <= high + ulp
    }
    assert not outside
    scale = {
        key: bounds.get((key[0], "preactivation_std"), (0, 0))[1] * (key[1] == "preactivation_mean") for key in bounds
    }
    wide = {key: (low, high) for key, (low, high) in bounds.items() if high - low > 1e-3 * max(1.0, high, scale[key])}
    assert not wide  # or the test would say nothing


#: Every pair, of which MP-SENet's take the longest: two of these stand for all at other processors' levels.
PAIRS = [
    pytest.param(m, a, marks=[] if m == "mpsenet" and a not in ("relu", "gelu2") else [pytest.mark.numerical])
    for m in MODELS
    for a in names("activation")
]


@pytest.mark.parametrize(("model", "activation"), PAIRS)
def test_activation_rows_are_those_computed_by_hand(model: str, activation: str) -> None:
    network, x = make_model(model, activation=entry("activation", activation)), batch_of(model, 30)[0]
    assert_within(read(network, x, 30), by_hand(network, x))


@pytest.mark.parametrize("sizes", [(1,) * 30, (29, 1), (7, 7, 7, 9)])
@pytest.mark.parametrize("model", MODELS)
def test_activation_rows_do_not_depend_on_the_batches(model: str, sizes: tuple[int, ...]) -> None:
    network, x = make_model(model), batch_of(model, 30)[0]
    assert_within(read(network, x, *sizes), by_hand(network, x, forward=rounding(1000)))


def test_batches_of_unlike_scale_share_one_rms() -> None:
    """The near-zero share is measured against the RMS of the whole set, not of each batch."""
    x = torch.cat([torch.full((10, 1), 1e-4), torch.full((10, 1), 1.0)])
    assert read(alone("identity"), x, 10, 10)["0", "near_zero_share"] == 0.5


def test_the_deviation_of_preactivations_far_from_zero_keeps_its_digits() -> None:
    """A difference of sums of squares in float32 would lose all of them."""
    x = 1e3 + torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    rows = read(alone("relu"), x, 32, 32)
    assert rows["0", "preactivation_mean"] == pytest.approx(x.double().mean().item(), rel=1e-7)
    assert rows["0", "preactivation_std"] == pytest.approx(x.double().std(correction=0).item(), rel=1e-4)


def test_a_model_without_sites_has_no_activation_rows() -> None:
    model = nn.Linear(3, 2)
    assert list(activation_stats.activation_stats(model, model, [torch.zeros(1, 3)])) == []


def test_half_of_zero_mean_preactivations_are_zeros_of_relu() -> None:
    """Without biases, inputs x and -x have opposite pre-activations: exactly 50 % of the first site's are zeros."""
    options = {"model": {"function": "mlp", "width": 64, "depth": 3, "bias": False}}
    model, x = make_model("mlp", **options), data_of("mlp").x_train
    rows = read(model, torch.cat([x, -x]), 120)
    assert rows["stem.act", "activation_sparsity"] == rows["stem.act", "preactivation_negative_share"] == 0.5


def test_half_zeros_at_initialization_at_every_depth() -> None:
    """Deeper pre-activations are zero-mean over initializations: 50 % within four standard errors over seeds."""
    options = {"model": {"function": "mlp", "width": 64, "depth": 4, "bias": False}}
    shares = [
        read(make_model("mlp", seed=seed, **options), data_of("mlp").x_test, 30)["blocks.2.act", "activation_sparsity"]
        for seed in range(20)
    ]
    assert abs(np.mean(shares) - 0.5) < 4 * np.std(shares, ddof=1) / 20**0.5


def test_dead_units_are_zero_for_every_example_and_position() -> None:
    x = torch.ones(6, 4, 3)  # examples, units, positions
    x[:, 0] = -1  # dead
    x[:, 1] = -1
    x[5, 1, 2] = 1  # alive once
    x[0, 2] = 0  # dead in one example only
    assert read(alone("relu", dim=1), x, 2, 4)[("0", "dead_unit_share")] == 1 / 4


def test_near_zero_share_of_gelu_on_normal_preactivations() -> None:
    def gelu(z: float) -> float:
        return float(z * norm.cdf(z))

    rms = quad(lambda z: gelu(z) ** 2 * norm.pdf(z), -np.inf, np.inf)[0] ** 0.5
    around = [
        brentq(lambda z, sign=sign: gelu(z) - sign * 1e-3 * rms, *ends) for sign, ends in ((-1, (-0.5, 0)), (1, (0, 1)))
    ]
    tail = brentq(lambda z: gelu(z) + 1e-3 * rms, -10, -1)
    share = norm.cdf(around[1]) - norm.cdf(around[0]) + norm.cdf(tail)
    n = 2_000_000
    z = torch.randn(2000, 1000, generator=torch.Generator().manual_seed(0))
    rows = read(alone("gelu"), z, 1000, 1000)
    assert abs(rows["0", "near_zero_share"] - share) < 4 * (share / n) ** 0.5
    assert rows["0", "activation_rms"] == pytest.approx(rms, rel=0.01)
    assert rows["0", "activation_sparsity"] == 0


def test_spike_ratio_of_one_large_activation() -> None:
    x = torch.zeros(10, 10)
    x[3, 4] = -50.0
    rows = read(alone("identity"), x, 5, 5)
    assert (rows["0", "spike"], rows["0", "spike_ratio"]) == (50, pytest.approx(10))  # RMS is 50 / sqrt(100)


def test_a_site_that_is_zero_everywhere_has_no_spike_ratio() -> None:
    rows = read(alone("relu"), -torch.ones(4, 4), 4)
    assert np.isnan(rows["0", "spike_ratio"])
    assert (rows["0", "activation_sparsity"], rows["0", "dead_unit_share"], rows["0", "near_zero_share"]) == (1, 1, 1)


def test_depth_counts_from_the_input() -> None:
    rows = list(activation_stats.activation_stats(model := make_model("mlp"), model, [data_of("mlp").x_test]))
    depths = {layer: depth for _, layer, depth, _, _ in rows}
    assert depths == {"stem.act": 0, "blocks.0.act": 1, "blocks.1.act": 2, None: None}


# ------------------------------------------------------------------------------------------ flops


def cost(model: nn.Module, x: Tensor) -> tuple[Table, Table]:
    model.eval()
    with torch.no_grad():
        activations = list(activation_stats.activation_stats(model, model, [x]))
        return table(activations), table(flops.flops(model, model, x[:1], activations))


EVERYWHERE = {"function": "mpsenet", **SMALL["mpsenet"], "sites": "all"}
#: What the activations of its conformers feed: two feed-forward layers and a convolution module each
CONFORMERS = {
    f"blocks.0.{axis}.{part}.linear2.weight"
    for axis in ("time", "frequency")
    for part in ("feed1", "feed2", "convolution")
}


@pytest.mark.parametrize("activation", ["relu", "identity"])  # the identity returns its very input
@pytest.mark.parametrize(
    ("model", "dense"),
    [
        # width 12, depth 3, three classes
        ("mlp", {"stem.act": 2 * 12 * 12, "blocks.0.act": 2 * 12 * 12, "blocks.1.act": 2 * 12 * 3}),
        # length 40 -> 19 -> 10 -> 5, six channels, kernel 3
        ("cnn", {"stem.act": 2 * 6 * 6 * 3 * 10, "blocks.0.act": 2 * 6 * 6 * 3 * 5, "blocks.1.act": 2 * 6 * 5 * 3}),
        (
            "resnet",
            {
                "stem.act": 2 * 4 * 4 * 9 * 64,
                "blocks.0.act1": 2 * 4 * 4 * 9 * 64,
                "blocks.0.act2": 2 * (4 * 8 * 9 + 4 * 8) * 16,  # convolution and projection shortcut
                "blocks.1.act1": 2 * 8 * 8 * 9 * 16,
                "blocks.1.act2": 0,  # feeds the mean over positions
            },
        ),
        # width 8, hidden 32, 2 × 2 patches and the class token
        ("vit", {"blocks.0.act": 2 * 32 * 8 * 5, "blocks.1.act": 2 * 32 * 8 * 5}),
        # width 8, hidden 16, 12 tokens
        ("gpt", {"blocks.0.act": 2 * 16 * 8 * 12, "blocks.1.act": 2 * 16 * 8 * 12}),
    ],
)
def test_flops_of_the_fed_layers(model: str, dense: dict[str, float], activation: str) -> None:
    network = make_model(model, activation=entry("activation", activation))
    activations, flops = cost(network, batch_of(model, 30)[0])
    assert {layer: v for (layer, metric), v in flops.items() if metric == "dense_flops" and layer} == dense
    for layer in dense:
        sparsity = activations[layer, "activation_sparsity"]
        assert flops[layer, "potential_flops"] == pytest.approx(dense[layer] * (1 - sparsity))
    assert flops[None, "dense_flops"] == sum(dense.values())
    assert flops[None, "potential_flops"] == pytest.approx(sum(flops[layer, "potential_flops"] for layer in dense))


@pytest.mark.parametrize(
    ("model", "fed"),
    [
        ("mlp", {"blocks.0.linear.weight", "blocks.1.linear.weight", "head.weight"}),
        ("cnn", {"blocks.0.conv.weight", "blocks.1.conv.weight", "head.weight"}),
        (
            "resnet",
            {f"blocks.{i}.conv{j}.weight" for i in (0, 1) for j in (1, 2)} | {"blocks.1.shortcut.0.weight"},
        ),
        ("vit", {f"blocks.{i}.linear2.weight" for i in (0, 1)}),
        ("gpt", {f"blocks.{i}.linear2.weight" for i in (0, 1)}),
        ("mpsenet", CONFORMERS),
        (
            "mpsenet-all-sites",
            CONFORMERS
            | {f"stem.{layer}.conv.weight" for layer in ("dense.layers.0", "down")}
            | {f"head.{layer}.weight" for layer in ("mask.up", "mask.out", "phase.up.conv")}
            | {f"head.phase.{part}.weight" for part in ("real", "imaginary")},
        ),
    ],
)
def test_matrices_fed_by_an_activation_are_marked(model: str, fed: set[str]) -> None:
    name, _, everywhere = model.partition("-")
    network = make_model(name, model=EVERYWHERE) if everywhere else make_model(name)
    _, flops = cost(network, batch_of(name, 2)[0])
    assert {layer for layer, metric in flops if metric == "fed_by_activation"} == fed


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in MODELS), pytest.param("mpsenet", {"model": EVERYWHERE}, id="mpsenet-all-sites")],
)
def test_flops_are_those_of_torchs_counter(name: str, options: dict[str, Any]) -> None:
    model, x = make_model(name, **options).eval(), batch_of(name, 1)[0]
    _, found = cost(model, x)
    given: list[Tensor] = []  # what the sites give; whatever module takes one of these is fed
    fed = set()

    def take(layer: str, inputs: tuple[Tensor, ...]) -> None:
        if any(inputs[0].data_ptr() == tensor.data_ptr() for tensor in given):
            fed.add(layer)

    for _, site in sites.sites(model):
        site.register_forward_hook(lambda _, inputs, output: given.append(output))
    for layer, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, inputs, layer=layer: take(layer, inputs))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    counted = {layer.partition(".")[2]: sum(n.values()) for layer, n in counter.get_flop_counts().items()}
    leaves = {layer for layer, module in model.named_modules() if not list(module.children())}
    fed = {layer for layer in fed & leaves if counted.get(layer)}
    assert {layer for layer, metric in found if metric == "fed_by_activation"} == {f"{layer}.weight" for layer in fed}
    assert found[None, "dense_flops"] == sum(counted[layer] for layer in fed) > 0


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (6,)),
        (nn.Linear(6, 5), (7, 6)),
        (nn.Conv1d(6, 4, 3, stride=2, groups=2), (6, 11)),
        (nn.Conv2d(6, 4, (3, 2), padding=1, dilation=2), (6, 9, 8)),
        (nn.Conv3d(2, 4, 2), (2, 4, 3, 5)),
        (nn.ConvTranspose1d(6, 4, 3, stride=2, groups=2), (6, 11)),
        (nn.ConvTranspose2d(6, 4, (1, 3), stride=(1, 2), padding=(0, 1), output_padding=(0, 1)), (6, 9, 8)),
        (nn.ConvTranspose3d(2, 4, 2, stride=3), (2, 4, 3, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_flops_of_every_kind_of_layer_are_those_of_torchs_counter(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model, x = nn.Sequential(Site(nn.ReLU(), -1), layer), torch.randn(1, *shape)
    activations, found = cost(model, x)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert found["0", "dense_flops"] == counter.get_total_flops()
    sparsity = activations["0", "activation_sparsity"]
    assert found["0", "potential_flops"] == pytest.approx(counter.get_total_flops() * (1 - sparsity))
    assert found["1.weight", "fed_by_activation"] == 1


def test_a_pool_between_site_and_layer_feeds_nothing() -> None:
    options = {"model": {"function": "resnet", "blocks": [1], "width": 4, "stem": "imagenet"}}
    _, flops = cost(make_model("resnet", **options), torch.randn(2, 1, 16, 16))
    assert flops["stem.act", "dense_flops"] == 0


# ------------------------------------------------------------------------------------------ weights


@pytest.mark.parametrize("model", MODELS)
def test_weight_rows_are_those_computed_by_hand(model: str) -> None:
    network = make_model(model)
    initial = weights.InitialWeights.of(network)
    start = {name: p.detach().double().numpy().copy() for name, p in network.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) - 0.05)
    rows = table(weights.weights(network, initial))
    layers = {layer for layer, _ in rows}
    assert layers == {name for name in start if name.endswith("weight")}  # all but learned tokens and positions
    for name in layers:
        before, now = start[name], network.get_parameter(name).detach().double().numpy()
        assert rows[name, "weight_mean"] == pytest.approx(now.mean())
        assert rows[name, "weight_std"] == pytest.approx(now.std())
        assert rows[name, "weight_negative_share"] == np.mean(now < 0)
        if before.std() == 0:  # a weight that starts constant, such as PReLU's or a norm's
            assert (name, "drift_z") not in rows
            continue
        z = (now.mean() - before.mean()) / (before.std() / now.size**0.5)
        assert rows[name, "drift_z"] == pytest.approx(z)


def test_drift_is_zero_at_first_and_a_shift_by_a_standard_error_is_one() -> None:
    model = make_model("mlp")
    initial = weights.InitialWeights.of(model)
    assert {v for (_, metric), v in table(weights.weights(model, initial)).items() if metric == "drift_z"} == {0.0}
    weight = model.get_parameter("head.weight")
    with torch.no_grad():
        weight.sub_(weight.std(correction=0) / weight.numel() ** 0.5)
    assert table(weights.weights(model, initial))["head.weight", "drift_z"] == pytest.approx(-1, rel=1e-4)


def test_a_constant_matrix_has_no_drift_and_no_histogram() -> None:
    model = nn.Linear(4, 4)
    nn.init.zeros_(model.weight)
    initial = weights.InitialWeights.of(model)
    rows = table(weights.weights(model, initial))
    assert {metric for _, metric in rows} == {"weight_mean", "weight_std", "weight_negative_share"}
    assert list(weights.histograms(model, initial)) == []


@pytest.mark.parametrize("model", MODELS)
def test_histogram_shares_sum_to_one_and_count_every_weight(model: str) -> None:
    network = make_model(model)
    initial = weights.InitialWeights.of(network)
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(3)  # so that the open bins get some
    rows = table(weights.histograms(network, initial))
    for name in {layer for layer, _ in rows}:
        assert name is not None
        shares = [value for (layer, _), value in sorted(rows.items()) if layer == name]
        weight = network.get_parameter(name).detach().double().numpy() / initial.std[name]
        expected, _ = np.histogram(weight, [-np.inf, *np.arange(-6, 6.25, 0.25), np.inf])
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx(expected / weight.size, abs=1.5 / weight.size)  # float32 may cross an edge


# ------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize(("model", "loss"), [(m, loss) for m in MODELS for loss in constant(m, "LOSSES")])
def test_gradient_rows_are_those_of_autograd(model: str, loss: str) -> None:
    network, loss_of = make_model(model).double(), loss_module(loss)
    x, y = (t.double() if t.is_floating_point() else t for t in batch_of(model, 16))
    count = terms(y)

    kept: dict[str, Tensor] = {}
    handles = []
    for name, site in sites.sites(network):

        def keep(_: Any, inputs: Any, name: str = name) -> None:
            kept[name] = inputs[0]

        handles.append(site.register_forward_pre_hook(keep))
    total = count * loss_of(network(x), y)  # summed over examples or tokens
    gradients = torch.autograd.grad(total, list(kept.values()))
    for handle in handles:
        handle.remove()
    expected: Table = {}
    for (name, z), gradient in zip(kept.items(), gradients, strict=True):
        expected[name, "gradient_positive"] = gradient[z > 0].mean().item()
        expected[name, "gradient_nonpositive"] = gradient[z <= 0].mean().item()
        expected[name, "gradient_all"] = gradient.mean().item()

    network = make_model(model).double()  # a second one, for batch norm's running statistics
    with GradientSigns(network, count) as signs:
        value = loss_of(network(x), y)
    value.backward()
    assert table(signs.rows()) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_gradient_rows_leave_out_a_sign_that_did_not_occur() -> None:
    model = alone("relu")
    z = torch.ones(2, 3, requires_grad=True)
    with GradientSigns(model, 2) as signs:
        loss = (model(z) * torch.arange(6.0).view(2, 3)).mean()
    loss.backward()
    mean = pytest.approx(2 * 2.5 / 6)
    assert table(signs.rows()) == {("0", "gradient_positive"): mean, ("0", "gradient_all"): mean}
    assert list(GradientSigns(model, 2).rows()) == []  # nothing went through


# ------------------------------------------------------------------------------------------ reading only


@pytest.mark.parametrize("norm", ["none", "batch_norm"])
@pytest.mark.parametrize("model", MODELS)
def test_probes_change_nothing(model: str, norm: str) -> None:
    spec = make_spec(model, normalization=entry("normalization", norm))
    network, data = make_model(model, normalization=entry("normalization", norm)), data_of(model)
    initial, loss_of = weights.InitialWeights.of(network), loss_module(spec["loss"]["function"])
    x, y = batch_of(model)
    loss_of(network(x), y).backward()

    def state() -> list[Tensor]:
        tensors = [*network.state_dict().values(), *(p.grad for p in network.parameters())]
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
        training = [m.training for m in network.modules()]
        return [*copy.deepcopy(tensors), torch.get_rng_state(), torch.tensor([hooks, *training])]

    before = state()
    measure(planned(spec), network, loss_of, data, initial, nullcontext, step=0)
    assert all(torch.equal(old, new) for old, new in zip(before, state(), strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_watching_gradients_changes_none(model: str) -> None:
    (x, y), loss_of, gradients = batch_of(model), loss_module(constant(model, "LOSSES")[0]), []
    for watched in (False, True):
        network = make_model(model)
        rng = torch.get_rng_state()
        with GradientSigns(network, 60) if watched else nullcontext():
            loss = loss_of(network(x), y)
        loss.backward()
        assert torch.equal(torch.get_rng_state(), rng)
        assert not any(m._forward_hooks for m in network.modules())
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_gradient_signs_free_the_graph_of_the_step_without_a_garbage_collection() -> None:
    model, data = make_model("mlp"), data_of("mlp")
    kept: list[weakref.ref[Tensor]] = []
    watch = model.get_submodule(sites.sites(model)[0][0]).register_forward_hook(
        lambda _, inputs, output: kept.append(weakref.ref(inputs[0]))
    )
    gc.disable()
    try:
        with GradientSigns(model, 60) as signs:
            loss = make("loss", "cross_entropy")(model(data.x_train), data.y_train)
        loss.backward()
        watch.remove()
        del loss
        assert list(signs.rows())
        assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()


def test_hooks_are_gone_after_an_error() -> None:
    model = make_model("mlp")

    def fail(x: Tensor) -> None:
        model(x)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(activation_stats.activation_stats(model, fail, [data_of("mlp").x_test]))
    with pytest.raises(ZeroDivisionError):
        list(flops.flops(model, fail, data_of("mlp").x_test[:1], []))
    assert not any(m._forward_hooks for m in model.modules())


# ------------------------------------------------------------------------------------------ when to measure


@given(steps=st.integers(1, 5000), every=st.integers(1, 1000))
def test_the_schedule_has_both_ends_the_powers_and_the_multiples(steps: int, every: int) -> None:
    found = rows.schedule(steps, every)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (0, steps)
    for step in found[1:-1]:
        assert step % every == 0 or (step < every and step & (step - 1) == 0)
    assert set(range(0, steps, every)) <= set(found)
    assert {2**k for k in range(13) if 2**k < min(every, steps)} <= set(found)


def test_the_schedule_of_a_thousand_steps() -> None:
    assert rows.schedule(1000, 300) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 600, 900, 1000]


# ------------------------------------------------------------------------------------------ measuring


def test_measure_evaluates_the_whole_held_out_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsity_cliff.data.layouts.labeled.EVALUATION_BATCH", 7)
    spec, network, data = make_spec(), make_model("mlp"), data_of("mlp")
    loss_of, initial = make("loss", "cross_entropy"), weights.InitialWeights.of(network)
    with torch.no_grad():
        logits = network(data.x_test)
    expected = {"loss": loss_of(logits, data.y_test).item()}
    expected["accuracy"] = (logits.argmax(1) == data.y_test).double().mean().item()
    for groups in ([], ["activations"]):
        spec["probes"]["measure"] = groups
        last = spec["training"]["steps"]
        found, examples = measure(planned(spec), network, loss_of, data, initial, nullcontext, step=last)
        rows = table(found)
        assert {key: rows[None, key] for key in expected} == pytest.approx(expected)
        assert ((None, "spike") in rows) == (groups != [])
        right = (logits.argmax(1) == data.y_test).double().tolist()
        assert examples == [("test", None, None, "accuracy", value, i) for i, value in enumerate(right)]


def test_only_the_last_measurement_has_the_scores_of_examples() -> None:
    facts = train(make_spec(steps=8, every=4), data_of("mlp"))["facts"]
    single = [fact for fact in facts if len(fact) == 8]
    assert {fact[1] for fact in single} == {8}
    assert np.mean([fact[6] for fact in single]) == pytest.approx(value(facts, "accuracy", step=8))


def test_measurements_take_the_first_examples_and_the_last_takes_all() -> None:
    spec, data = make_spec(steps=8, every=4), data_of("mlp")
    few = replace(data, x_test=data.x_test[:5], y_test=data.y_test[:5])
    some = train({**spec, "probes": {**spec["probes"], "examples": 5}}, data)["facts"]
    whole, part = train(spec, data)["facts"], train(spec, few)["facts"]
    for metric in ("loss@test", "accuracy", "activation_sparsity", "near_zero_share", "spike"):
        assert value(some, metric, step=0) == value(part, metric, step=0)
        assert value(some, metric, step=4) == value(part, metric, step=4)
        assert value(some, metric, step=8) == value(whole, metric, step=8)
    assert value(whole, "loss@test", step=4) != value(part, "loss@test", step=4)

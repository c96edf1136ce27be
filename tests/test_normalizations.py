"""Normalizations against torch's, for vectors, tokens, signals and images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import make, names
from torch import Tensor, nn

from sparsity_cliff.networks.normalizations import TokenBatchNorm, batch_norm, layer_norm, none

F = 6
#: spatial -> shapes with the features where that kind of data has them
SHAPES = {0: [(8, F), (8, 5, F)], 1: [(8, F, 5)], 2: [(8, F, 4, 3)]}
CASES = [(spatial, shape) for spatial, shapes in SHAPES.items() for shape in shapes]
NAMES = names("normalization")
QUANTILE = [name for name in NAMES if name.startswith("quantile")]
BATCH = [name for name in NAMES if name.endswith("batch_norm")]

every_case = pytest.mark.parametrize(("spatial", "shape"), CASES)
every_level = pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.75, 0.9, 0.99])


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return 2 + 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def new(name: str, spatial: int, **options: Any) -> nn.Module:
    module: nn.Module = make("normalization", name, F, spatial, **options)
    return module


def groups(x: Tensor, spatial: int, name: str) -> np.ndarray:
    """Rows of what is normalized together."""
    if name.endswith("batch_norm"):
        return x.movedim(-1 if spatial == 0 else 1, 0).flatten(1).detach().numpy()
    return (x.flatten(0, -2) if spatial == 0 else x.flatten(1)).detach().numpy()


# ------------------------------------------------------------------------------------------ every normalization


@pytest.mark.parametrize("name", NAMES)
@every_case
def test_every_normalization_keeps_the_shape_and_passes_gradients(
    name: str, spatial: int, shape: tuple[int, ...]
) -> None:
    module = new(name, spatial)
    x = inputs(*shape).requires_grad_()
    y = module(x)
    assert y.shape == x.shape
    (y * inputs(*shape)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.shape == (F,) for p in module.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
@every_case
def test_gradient_is_the_derivative(name: str, spatial: int, shape: tuple[int, ...], training: bool) -> None:
    module = new(name, spatial).double()
    for p in module.parameters():
        nn.init.uniform_(p, 0.5, 1.5)
    module(inputs(*shape, seed=1).double())  # fill running statistics
    module.train(training)
    assert torch.autograd.gradcheck(module, (inputs(*shape).double().requires_grad_(),))


@pytest.mark.parametrize("name", NAMES)
@every_case
def test_an_example_does_not_see_the_others_in_eval_mode(name: str, spatial: int, shape: tuple[int, ...]) -> None:
    module, x = new(name, spatial), inputs(*shape)
    module(x)
    module.eval()
    state = {key: buffer.clone() for key, buffer in module.named_buffers()}
    assert torch.equal(module(x)[0], module(torch.cat([x[:1], 100 * x[1:].flip(0)]))[0])
    assert all(torch.equal(buffer, state[key]) for key, buffer in module.named_buffers())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
@every_case
def test_works_under_bfloat16_autocast(name: str, spatial: int, shape: tuple[int, ...], training: bool) -> None:
    narrow, wide = new(name, spatial).train(training), new(name, spatial).train(training)
    x = (100 + inputs(*shape)).bfloat16().requires_grad_()  # a mean that bfloat16 cannot subtract without loss
    with torch.autocast("cpu", torch.bfloat16):
        y = narrow(x)
    assert y.isfinite().all()
    assert y.dtype == torch.bfloat16 or name == "layer_norm"  # torch's gives float32 in some versions
    torch.testing.assert_close(y.float(), wide(x.float()), rtol=2**-8, atol=2**-7)
    y.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(buffer.dtype in (torch.float32, torch.int64) for buffer in narrow.buffers())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", QUANTILE)
@pytest.mark.parametrize(("spatial", "shape"), CASES[1:])
def test_compiles_without_a_break_to_the_same_numbers(
    name: str, spatial: int, shape: tuple[int, ...], training: bool
) -> None:
    torch.compiler.reset()
    plain, other = new(name, spatial).train(training), new(name, spatial).train(training)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    x = inputs(*shape).requires_grad_()
    own, theirs = plain(x), compiled(x)
    torch.testing.assert_close(theirs, own)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (theirs, own)))
    for key, buffer in plain.named_buffers():
        torch.testing.assert_close(other.get_buffer(key), buffer)


# ------------------------------------------------------------------------------------------ torch's own


def test_none_changes_nothing() -> None:
    x = inputs(8, F)
    assert none(F, 0)(x) is x


@pytest.mark.numerical
@pytest.mark.parametrize(("spatial", "torchs"), [(1, nn.BatchNorm1d), (2, nn.BatchNorm2d)])
def test_batch_norm_of_signals_and_images_is_torchs(spatial: int, torchs: type[nn.Module]) -> None:
    module = batch_norm(F, spatial)
    assert type(module) is torchs
    x = inputs(*SHAPES[spatial][0])
    axes = [0, *range(2, x.ndim)]
    y = module(x)
    torch.testing.assert_close(y.mean(axes), torch.zeros(F), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(axes, correction=0), torch.ones(F), atol=1e-4, rtol=0)


@pytest.mark.numerical
@pytest.mark.parametrize("shape", [(8, F), (8, 5, F), (2, 3, 4, F)])
def test_token_batch_norm_is_torchs_over_all_tokens(shape: tuple[int, ...]) -> None:
    ours, torchs = batch_norm(F, 0), nn.BatchNorm1d(F)
    assert isinstance(ours, TokenBatchNorm)
    for batch in (inputs(*shape), inputs(*shape) - 1):
        torch.testing.assert_close(ours(batch), torchs(batch.reshape(-1, F)).reshape(shape))
    for name, buffer in torchs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)
    ours.eval(), torchs.eval()
    x = inputs(*shape)
    torch.testing.assert_close(ours(x), torchs(x.reshape(-1, F)).reshape(shape))


@pytest.mark.numerical
@pytest.mark.parametrize("shape", SHAPES[0])
def test_layer_norm_of_tokens_is_torchs_over_features(shape: tuple[int, ...]) -> None:
    x = inputs(*shape)
    torch.testing.assert_close(layer_norm(F, 0)(x), nn.functional.layer_norm(x, [F]))


@pytest.mark.parametrize("spatial", [1, 2])
def test_layer_norm_of_channels_first_data_is_over_channels_and_positions(spatial: int) -> None:
    x = inputs(*SHAPES[spatial][0])
    torch.testing.assert_close(layer_norm(F, spatial)(x), nn.functional.layer_norm(x, x.shape[1:]))


@every_case
@pytest.mark.parametrize("name", ["batch_norm", "layer_norm"])
def test_eps_is_the_one_that_was_asked_for(name: str, spatial: int, shape: tuple[int, ...]) -> None:
    x = 1e-3 * inputs(*shape)
    axes = {"batch_norm": [0, *range(1, x.ndim - 1)] if spatial == 0 else [0, *range(2, x.ndim)]}
    axes["layer_norm"] = [-1] if spatial == 0 else list(range(1, x.ndim))
    mean, variance = x.mean(axes[name], keepdim=True), x.var(axes[name], correction=0, keepdim=True)
    expected = (x - mean) / (variance + 0.1).sqrt()
    torch.testing.assert_close(new(name, spatial, eps=0.1)(x), expected)


# ------------------------------------------------------------------------------------------ quantile levels


@pytest.mark.parametrize("name", QUANTILE)
@every_case
@every_level
def test_the_share_below_zero_is_the_level(name: str, spatial: int, shape: tuple[int, ...], q: float) -> None:
    for row in groups(new(name, spatial, q=q)(inputs(*shape)), spatial, name):
        assert abs((row < 0).mean() - q) <= 1 / len(row)


@pytest.mark.parametrize("name", QUANTILE)
@every_case
@every_level
def test_values_are_those_of_the_formula(name: str, spatial: int, shape: tuple[int, ...], q: float) -> None:
    x = inputs(*shape).double()
    y = new(name, spatial, q=q, eps=0.1).double()(x)
    for row, normalized in zip(groups(x, spatial, name), groups(y, spatial, name), strict=True):
        centered = row - np.quantile(row, q)
        square = row.var() if name == "quantile_mean_batch_norm" else np.mean(centered**2)
        np.testing.assert_allclose(normalized, centered / np.sqrt(square + 0.1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", QUANTILE)
@every_case
def test_weight_and_bias_are_the_features(name: str, spatial: int, shape: tuple[int, ...]) -> None:
    module, x = new(name, spatial), inputs(*shape)
    plain = module(x).movedim(-1 if spatial == 0 else 1, -1)
    with torch.no_grad():
        module.weight.copy_(torch.arange(F))
        module.bias.copy_(-torch.arange(F))
    scaled = module(x).movedim(-1 if spatial == 0 else 1, -1)
    torch.testing.assert_close(scaled, torch.arange(F) * plain - torch.arange(F))


def mirrored(spatial: int, name: str) -> Tensor:
    """Inputs whose median is their mean in whatever is normalized together: each value with its mirror image."""
    axis = 0 if name.endswith("batch_norm") else -1 if spatial == 0 else 1
    half = inputs(*SHAPES[spatial][0]).double().chunk(2, axis)[0]
    return 2 + torch.cat([half, -half], axis)


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize("name", QUANTILE)
def test_around_the_median_of_mirrored_data_it_is_the_ordinary_one(name: str, spatial: int) -> None:
    ordinary = new("batch_norm" if name.endswith("batch_norm") else "layer_norm", spatial).double()
    module, x = new(name, spatial, q=0.5).double(), mirrored(spatial, name)
    for batch in (x, 3 * x):
        torch.testing.assert_close(module(batch), ordinary(batch))
    module.eval(), ordinary.eval()
    torch.testing.assert_close(module(1 + 2 * x), ordinary(1 + 2 * x))  # the running estimates are torch's


@pytest.mark.parametrize("name", [name for name in BATCH if name in QUANTILE])
@every_case
def test_running_estimates_average_the_batches(name: str, spatial: int, shape: tuple[int, ...]) -> None:
    module = new(name, spatial, q=0.8, momentum=0.3).double()
    center, square = np.zeros(F), np.ones(F)
    for seed in range(3):
        x = inputs(*shape, seed=seed).double()
        module(x)
        rows = groups(x, spatial, name)
        levels = np.quantile(rows, 0.8, axis=1)
        unbiased = rows.var(axis=1, ddof=1) + (name == "quantile_batch_norm") * (rows.mean(axis=1) - levels) ** 2
        center, square = 0.7 * center + 0.3 * levels, 0.7 * square + 0.3 * unbiased
    module.eval()
    x = inputs(*shape, seed=3).double()
    for feature, (row, y) in enumerate(zip(groups(x, spatial, name), groups(module(x), spatial, name), strict=True)):
        expected = (row - center[feature]) / np.sqrt(square[feature] + 1e-5)
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in BATCH if name in QUANTILE])
@pytest.mark.parametrize(("spatial", "shape"), [(0, (1, F)), (1, (1, F, 1)), (2, (1, F, 1, 1))])
def test_a_single_value_per_feature_is_refused_in_training_only(
    name: str, spatial: int, shape: tuple[int, ...]
) -> None:
    module = new(name, spatial)
    with pytest.raises(ValueError, match=r"^quantile batch norm: 1 value per feature in a batch; valid: 2 or more$"):
        module(inputs(*shape))
    assert module.eval()(inputs(*shape)).isfinite().all()


def test_every_normalization_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "activations.md").read_text()
    assert [name for name in NAMES if f"| `{name}` |" not in page] == []

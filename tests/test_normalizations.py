"""Normalizations against torch's, for vectors, tokens, signals and images."""

import pytest
import torch
from torch import Tensor, nn

from sparsity_cliff.normalizations import NORMALIZATIONS, TokenBatchNorm, batch_norm, layer_norm, none

F = 6
#: spatial -> shapes with the features where that kind of data has them
SHAPES = {0: [(8, F), (8, 5, F)], 1: [(8, F, 5)], 2: [(8, F, 4, 3)]}
CASES = [(spatial, shape) for spatial, shapes in SHAPES.items() for shape in shapes]


def inputs(*shape: int) -> Tensor:
    return 2 + 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize(("spatial", "shape"), CASES)
def test_every_normalization_keeps_the_shape_and_passes_gradients(
    name: str, spatial: int, shape: tuple[int, ...]
) -> None:
    module = NORMALIZATIONS[name](F, spatial)
    x = inputs(*shape).requires_grad_()
    y = module(x)
    assert y.shape == x.shape
    (y * inputs(*shape)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.shape == (F,) for p in module.parameters())


def test_none_changes_nothing() -> None:
    x = inputs(8, F)
    assert none(F, 0)(x) is x


@pytest.mark.parametrize(("spatial", "torchs"), [(1, nn.BatchNorm1d), (2, nn.BatchNorm2d)])
def test_batch_norm_of_signals_and_images_is_torchs(spatial: int, torchs: type[nn.Module]) -> None:
    module = batch_norm(F, spatial)
    assert type(module) is torchs
    x = inputs(*SHAPES[spatial][0])
    axes = [0, *range(2, x.ndim)]
    y = module(x)
    torch.testing.assert_close(y.mean(axes), torch.zeros(F), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(axes, correction=0), torch.ones(F), atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("shape", SHAPES[0])
def test_layer_norm_of_tokens_is_torchs_over_features(shape: tuple[int, ...]) -> None:
    x = inputs(*shape)
    torch.testing.assert_close(layer_norm(F, 0)(x), nn.functional.layer_norm(x, [F]))


@pytest.mark.parametrize("spatial", [1, 2])
def test_layer_norm_of_channels_first_data_is_over_channels_and_positions(spatial: int) -> None:
    x = inputs(*SHAPES[spatial][0])
    torch.testing.assert_close(layer_norm(F, spatial)(x), nn.functional.layer_norm(x, x.shape[1:]))


@pytest.mark.parametrize(("spatial", "shape"), CASES)
@pytest.mark.parametrize("name", ["batch_norm", "layer_norm"])
def test_eps_is_the_one_that_was_asked_for(name: str, spatial: int, shape: tuple[int, ...]) -> None:
    x = 1e-3 * inputs(*shape)
    axes = {"batch_norm": [0, *range(1, x.ndim - 1)] if spatial == 0 else [0, *range(2, x.ndim)]}
    axes["layer_norm"] = [-1] if spatial == 0 else list(range(1, x.ndim))
    mean, variance = x.mean(axes[name], keepdim=True), x.var(axes[name], correction=0, keepdim=True)
    expected = (x - mean) / (variance + 0.1).sqrt()
    torch.testing.assert_close(NORMALIZATIONS[name](F, spatial, eps=0.1)(x), expected)

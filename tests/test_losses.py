"""Losses against torch's, and against their definitions."""

import pytest
import torch
from torch import nn

from sparsity_cliff.networks.losses import CrossEntropy, OneHotMSE

N, K = 7, 5
OF_LOGITS = {"cross_entropy": CrossEntropy, "mse": OneHotMSE}


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(N, K, generator=random, dtype=torch.float64, requires_grad=True)
    return logits, torch.randint(K, (N,), generator=random)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_every_loss_is_a_scalar_mean_over_the_batch(name: str, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    loss = OF_LOGITS[name]()
    assert loss(logits, labels).shape == ()
    each = torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(loss(logits, labels), each.mean())


@pytest.mark.parametrize("name", OF_LOGITS)
def test_every_loss_has_a_gradient_in_the_logits_own_type(name: str) -> None:
    logits = torch.zeros(N, K, requires_grad=True)
    loss = OF_LOGITS[name]()(logits, torch.zeros(N, dtype=torch.int64))
    assert loss.dtype == torch.float32
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, 0] < 0).all()  # toward the label


@pytest.mark.numerical
def test_cross_entropy_is_torchs_with_one_hot_targets(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    one_hot = torch.eye(K, dtype=torch.float64)[labels]
    torch.testing.assert_close(CrossEntropy()(logits, labels), nn.CrossEntropyLoss()(logits, one_hot))
    torch.testing.assert_close(
        CrossEntropy()(logits, labels), -logits.log_softmax(dim=1)[torch.arange(N), labels].mean()
    )


@pytest.mark.numerical
def test_mse_is_torchs_with_one_hot_targets(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    one_hot = torch.eye(K, dtype=torch.float64)[labels]
    torch.testing.assert_close(OneHotMSE()(logits, labels), nn.MSELoss()(logits, one_hot))
    halves = 0.5 * (logits - one_hot).square().sum(dim=1)
    torch.testing.assert_close(OneHotMSE()(logits, labels), 2 / K * halves.mean())


def test_mse_knows_classes_that_the_batch_lacks() -> None:
    assert OneHotMSE()(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0])) == 0

"""The change of weight matrices since initialization."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsity_cliff.probes.rows import Rows
from sparsity_cliff.probes.sites import matrices, wide
from sparsity_cliff.traces.metrics import HISTOGRAM_EDGES


@dataclass(frozen=True)
class InitialWeights:
    """Mean and standard deviation of every weight matrix at initialization, the reference for drift."""

    mean: dict[str, float]
    std: dict[str, float]

    @staticmethod
    def of(model: nn.Module) -> "InitialWeights":
        """The statistics of a model that was just initialized."""
        named = matrices(model)
        stats = _mean_std_negative(named)
        return InitialWeights(
            {name: mean for (name, _), (mean, _, _) in zip(named, stats, strict=True)},
            {name: std for (name, _), (_, std, _) in zip(named, stats, strict=True)},
        )


def _mean_std_negative(named: list[tuple[str, nn.Parameter]]) -> list[list[float]]:
    def stats(weight: Tensor) -> Tensor:
        exact = weight.detach().to(wide(weight.device))
        return torch.stack([exact.mean(), exact.std(correction=0), (exact < 0).to(exact.dtype).mean()])

    values: list[list[float]] = torch.stack([stats(p) for _, p in named]).cpu().double().tolist()
    return values


def weights(model: nn.Module, initial: InitialWeights) -> Rows:
    """Mean, standard deviation, negative share, and drift z of each weight matrix.

    Drift z is (mean W_t - mean W_0) / (std W_0 / sqrt n) for a matrix of n weights.
    """
    named = matrices(model)
    for depth, ((name, p), (mean, std, negative)) in enumerate(zip(named, _mean_std_negative(named), strict=True)):
        yield None, name, depth, "weight_mean", mean
        yield None, name, depth, "weight_std", std
        yield None, name, depth, "weight_negative_share", negative
        if initial.std[name] > 0:
            drift = (mean - initial.mean[name]) / (initial.std[name] / p.numel() ** 0.5)
            yield None, name, depth, "drift_z", drift


def histograms(model: nn.Module, initial: InitialWeights) -> Rows:
    """Share of weights in each bin of HISTOGRAM_EDGES, per weight matrix, in units of the initial standard deviation.

    Row `weight_histogram.i` is the bin between edges i - 1 and i. The first and the last bin are open.
    """
    for depth, (name, p) in enumerate(matrices(model)):
        if initial.std[name] > 0:
            edges = torch.tensor(HISTOGRAM_EDGES, device=p.device)
            bins = torch.bucketize(p.detach().float().flatten() / initial.std[name], edges)
            shares = torch.bincount(bins, minlength=len(HISTOGRAM_EDGES) + 1).cpu().double() / p.numel()
            for i, share in enumerate(shares.tolist()):
                yield None, name, depth, f"weight_histogram.{i:02d}", share

"""The loss of MP-SENet (arXiv 2305.13686, section 2.3), with the metric discriminator of CMGAN (arXiv 2203.15149)."""

import importlib.util
import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sparsity_cliff.data import quality
from sparsity_cliff.data.spectrogram import analyze, settings, synthesize
from sparsity_cliff.study.registry import Count, NonNegative, Positive

#: Class -> option that makes it learn from the batch itself when the option is not 0.
LEARNS_FROM_BATCH = {"MPSENetLoss": "metric"}


def anti_wrapping(difference: Tensor) -> Tensor:
    """Distance of two phases on the circle, from 0 to π, given their difference (eq. 3)."""
    return (difference - 2 * math.pi * torch.round(difference / (2 * math.pi))).abs()


def phase_losses(phase: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of the anti-wrapped errors of instantaneous phase, group delay, and instantaneous angular frequency.

    Phases are (N, F, T). The derivatives are differences along F and T, whose first row is the phase itself, as in the
    published code.
    """
    error = phase - clean  # differences are linear, so they can be taken of the error
    delay = torch.diff(error, dim=1, prepend=torch.zeros_like(error[:, :1]))
    frequency = torch.diff(error, dim=2, prepend=torch.zeros_like(error[:, :, :1]))
    return anti_wrapping(error).mean(), anti_wrapping(delay).mean(), anti_wrapping(frequency).mean()


class Discriminator(nn.Module):
    """A differentiable estimate of PESQ for a magnitude, given the clean magnitude.

    Maps two magnitudes (N, F, T), with F and T at least 16, to (N,) from 0 to 1. It has its own optimizer, AdamW with
    betas 0.8 and 0.99, whose state is part of this module's state.
    """

    def __init__(self, width: int, lr: float):
        super().__init__()
        layers: list[nn.Module] = []
        widths = (2, width, 2 * width, 4 * width, 8 * width)
        for inputs, outputs in pairwise(widths):
            conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
            layers += [spectral_norm(conv), nn.InstanceNorm2d(outputs, affine=True), nn.PReLU(outputs)]
        layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), spectral_norm(nn.Linear(8 * width, 4 * width))]
        layers += [nn.Dropout(0.3), nn.PReLU(4 * width), spectral_norm(nn.Linear(4 * width, 1))]
        self.layers = nn.Sequential(*layers)
        self.slope = nn.Parameter(torch.ones(1))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=lr, betas=(0.8, 0.99))

    def forward(self, clean: Tensor, other: Tensor) -> Tensor:
        return torch.sigmoid(self.slope * self.layers(torch.stack([clean, other], dim=1))).squeeze(1)

    def learn(self, clean: Tensor, enhanced: Tensor, targets: Tensor) -> None:
        """Take a step toward `targets` (N,) for the enhanced magnitudes (N, F, T), and toward 1 for the clean ones."""
        same, against = self(clean, clean), self(clean, enhanced)
        loss = F.mse_loss(same, torch.ones_like(same)) + F.mse_loss(against, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_extra_state(self) -> dict[str, Any]:
        """The state of the optimizer."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state of the optimizer."""
        self.optimizer.load_state_dict(state)


class MPSENetLoss(nn.Module):
    """Weighted sum of losses of enhanced spectra (N, 2, F, T) against clean waveforms (N, samples), as a scalar mean.

    The options are the weights of these terms. metric: (1 - discriminator)²; 0 for no discriminator. magnitude: mean
    squared error of compressed magnitudes. phase: sum of the three anti-wrapped errors. complex: mean squared distance
    of compressed spectra. time: mean absolute error of waveforms. consistency: mean squared distance between the
    spectrum and that of its waveform (0 in the first version of the paper, 0.1 in the later one, arXiv 2308.08926).

    In the forward pass of a training batch (or microbatch), the discriminator first takes a step toward
    (PESQ - 1) / 3.5 of the enhanced signals, and then judges the batch. It skips the step if a PESQ is undefined.
    width: channels of the discriminator, 16 as published. discriminator_lr: its learning rate. Raises
    ModuleNotFoundError if metric > 0 and the package `pesq` is missing.
    """

    def __init__(
        self,
        *,
        metric: NonNegative = 0.05,
        magnitude: NonNegative = 0.9,
        phase: NonNegative = 0.3,
        complex: NonNegative = 0.1,
        time: NonNegative = 0.2,
        consistency: NonNegative = 0.0,
        width: Count = 16,
        discriminator_lr: Positive = 5e-4,
    ):
        super().__init__()
        self.metric, self.magnitude, self.phase = metric, magnitude, phase
        self.complex, self.time, self.consistency = complex, time, consistency
        self.discriminator: Discriminator | None = None
        if metric:
            if importlib.util.find_spec("pesq") is None:
                raise ModuleNotFoundError(f"loss mpsenet: metric={metric} needs the package pesq; valid without it: 0")
            self.discriminator = Discriminator(width, discriminator_lr)

    def forward(self, outputs: Tensor, clean: Tensor) -> Tensor:
        n_fft, hop = settings(outputs, clean.shape[-1])
        target = analyze(clean, n_fft, hop)
        enhanced = synthesize(outputs, clean.shape[-1])
        loss = self.magnitude * F.mse_loss(outputs[:, 0], target[:, 0])
        loss = loss + self.phase * sum(phase_losses(outputs[:, 1], target[:, 1]))
        loss = loss + self.time * F.l1_loss(enhanced, clean)
        spectrum = _cartesian(outputs)
        loss = loss + self.complex * (spectrum - _cartesian(target)).square().sum(dim=1).mean()
        if self.consistency or self.discriminator:
            heard = analyze(enhanced, n_fft, hop)  # not every spectrum belongs to a waveform
        if self.consistency:
            loss = loss + self.consistency * (spectrum - _cartesian(heard)).square().sum(dim=1).mean()
        if self.discriminator:
            loss = loss + self.metric * self._judged(self.discriminator, heard[:, 0], target[:, 0], enhanced, clean)
        return loss

    def _judged(
        self, discriminator: Discriminator, heard: Tensor, target: Tensor, enhanced: Tensor, clean: Tensor
    ) -> Tensor:
        """Mean of (1 - discriminator)² of the enhanced magnitudes, in training after the discriminator's step."""
        if self.training and heard.requires_grad:
            found = [quality.pesq(a, b) for a, b in zip(enhanced.detach(), clean, strict=True)]
            if not any(map(math.isnan, found)):  # a score is undefined
                discriminator.learn(target, heard.detach(), (target.new_tensor(found) - 1) / 3.5)
        # the loss's gradient is for the model, not for the discriminator
        discriminator.requires_grad_(False)
        judged: Tensor = discriminator(target, heard)
        discriminator.requires_grad_(True)
        return (1 - judged).square().mean()


def _cartesian(spectrum: Tensor) -> Tensor:
    """Real and imaginary part (N, 2, F, T) of a spectrum (N, 2, F, T) of magnitude and phase."""
    magnitude, phase = spectrum.unbind(dim=1)
    return torch.stack([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)

"""Compressed spectrograms of waveforms, and their inverse, as in MP-SENet (arXiv 2305.13686, sections 2.1 and 3.1).

A spectrum is one tensor (N, 2, F, T): magnitude to the power 0.3, and phase in radians. It has F = n_fft / 2 + 1
frequencies and T centered frames of n_fft samples, `hop` samples apart, under a Hann window. The last hop is padded
with zeros. Use float32 or wider: some devices lack a Fourier transform in half precision, which also has too few bits
for a phase.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

COMPRESSION = 0.3
FLOOR = 1e-9  # added to the power, so that the compressed magnitude of silence has a gradient


def analyze(signal: Tensor, n_fft: int, hop: int) -> Tensor:
    """The spectrum (N, 2, F, T) of signals (N, samples), with samples > n_fft / 2 and T = ceil(samples / hop) + 1."""
    padded = F.pad(signal, (0, -signal.shape[-1] % hop))
    window = torch.hann_window(n_fft, dtype=signal.dtype, device=signal.device)
    spectrum = torch.stft(padded, n_fft, hop, window=window, pad_mode="reflect", return_complex=True)
    real, imaginary = spectrum.real, spectrum.imag
    magnitude = (real.square() + imaginary.square() + FLOOR) ** (COMPRESSION / 2)
    # the published offsets, with which the phase of silence is 0 and does not depend on the sign of a zero
    return torch.stack([magnitude, torch.atan2(imaginary + 1e-10, real + 1e-5)], dim=1)


def synthesize(spectrum: Tensor, samples: int) -> Tensor:
    """The signals (N, samples) of a spectrum (N, 2, F, T) with magnitudes >= 0."""
    magnitude, phase = spectrum.unbind(dim=1)
    n_fft, hop = settings(spectrum, samples)
    polar = torch.polar(magnitude ** (1 / COMPRESSION), phase)
    window = torch.hann_window(n_fft, dtype=phase.dtype, device=phase.device)
    return torch.istft(polar, n_fft, hop, window=window, length=-(-samples // hop) * hop)[:, :samples]


def settings(spectrum: Tensor, samples: int) -> tuple[int, int]:
    """(n_fft, hop) of a spectrum (N, 2, F, T), for samples > 2 n_fft and a hop that divides n_fft."""
    n_fft = 2 * (spectrum.shape[2] - 1)
    return n_fft, n_fft // max(1, round((spectrum.shape[3] - 1) * n_fft / samples))

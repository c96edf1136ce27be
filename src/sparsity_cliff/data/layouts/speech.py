"""Pairs of noisy and clean recordings: speech enhancement."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sparsity_cliff.data import quality
from sparsity_cliff.data.layouts.base import Batch, Dataset, require
from sparsity_cliff.data.seeds import generator
from sparsity_cliff.data.spectrogram import synthesize


@dataclass(frozen=True)
class Speech(Dataset):
    """Pairs of a noisy and a clean recording at 16 kHz.

    The recordings are int16 (samples,), with all utterances concatenated; `ends` int64 (n,) has the end of each. A
    training example is a random crop of `segment` samples, zero-padded if the utterance is shorter. A held-out example
    is a whole utterance. Both signals are divided by the root mean square of the whole noisy utterance, as in MP-SENet
    (arXiv 2305.13686). Scores: wide-band PESQ (ITU-T P.862.2) and STOI (Taal et al. 2011).
    """

    noisy_train: Tensor
    clean_train: Tensor
    ends_train: Tensor
    noisy_test: Tensor
    clean_test: Tensor
    ends_test: Tensor
    segment: int
    classes: int = 0

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """From noisy and clean int16 (samples,) and ends int64 (n,) of both parts. Raises ValueError or KeyError."""
        names = [f"{name}_{part}" for part in ("train", "test") for name in ("noisy", "clean", "ends")]
        for part in ("train", "test"):
            noisy, clean, ends = (arrays[f"{name}_{part}"] for name in ("noisy", "clean", "ends"))
            require(noisy.dtype == clean.dtype == np.int16, f"noisy_{part} or clean_{part} is not int16")
            require(noisy.shape == clean.shape and noisy.ndim == 1, f"noisy_{part} and clean_{part} differ in length")
            require(
                ends.dtype == np.int64 and len(ends) > 0 and ends[-1] == len(noisy),
                f"ends_{part} does not end at the last sample",
            )
            require(bool((np.diff(ends, prepend=0) > 0).all()), f"ends_{part} does not increase")
        tensors = (torch.from_numpy(arrays[name]) for name in names)
        return cls(*tensors, int(arrays["segment"]))  # type: ignore[arg-type, call-arg]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """(segment,), the shape of a training example."""
        return (self.segment,)

    @property
    def examples(self) -> int:  # type: ignore[override]
        """Number of training utterances."""
        return len(self.ends_train)

    def batch(self, index: Tensor, draw: Tensor) -> Batch:
        """Noisy and clean crops, each (N, segment)."""
        rows = []
        for number, share in zip(index.tolist(), draw.tolist(), strict=True):
            whole = slice(int(self.ends_train[number - 1]) if number else 0, int(self.ends_train[number]))
            pair = _scaled(torch.stack([self.noisy_train[whole], self.clean_train[whole]]).float())
            first = int(share * max(1, pair.shape[-1] - self.segment + 1))
            cut = pair[:, first : first + self.segment]
            rows.append(torch.nn.functional.pad(cut, (0, self.segment - cut.shape[-1])))
        noisy, clean = torch.stack(rows).unbind(dim=1)
        return noisy, clean

    def held_out(self, limit: int | None) -> list[Batch]:
        """Batches of one utterance, noisy and clean, each (1, samples)."""
        firsts = [0, *self.ends_test.tolist()]
        cuts = list(pairwise(firsts))[:limit]
        pairs = (torch.stack([self.noisy_test[a:b], self.clean_test[a:b]]).float() for a, b in cuts)
        return [(noisy[None], clean[None]) for noisy, clean in map(_scaled, pairs)]

    def randomized(self, seed: int) -> "Speech":
        """Two independent white noises at -20 dB of full scale as noisy and clean signal."""
        stream = generator(seed, "data")

        def noise(like: Tensor) -> Tensor:
            return (3277 * torch.randn(like.shape, generator=stream)).round().clamp(-32768, 32767).to(torch.int16)

        names = ("noisy_train", "clean_train", "noisy_test", "clean_test")
        return replace(self, **{name: noise(getattr(self, name)) for name in names})  # type: ignore[arg-type]

    def scores(self, outputs: Tensor, targets: Tensor, last: bool = True) -> dict[str, Tensor]:
        """PESQ and STOI of spectra (N, 2, F, T) against waveforms (N, samples), at the last step only."""
        if not last:
            return {}
        return quality.scores(synthesize(outputs, targets.shape[-1]), targets)


def _scaled(pair: Tensor) -> Tensor:
    """Divide a pair (2, samples), noisy and clean, by the root mean square of the noisy signal."""
    scaled: Tensor = pair / pair[0].square().mean().sqrt().clamp(min=1.0)  # at least one step of int16
    return scaled

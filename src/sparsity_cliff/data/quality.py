"""Quality of enhanced speech at 16 kHz: wide-band PESQ (ITU-T P.862.2) and STOI (Taal et al. 2011).

A score is undefined if a signal is not finite, too short, or without speech. PESQ needs the package `pesq`, which is
built from source. Without this package, PESQ is left out.
"""

import importlib.util
import warnings
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the data stage needs RATE without the time to import torch
    from torch import Tensor

RATE = 16_000  # Hz


def scores(enhanced: "Tensor", clean: "Tensor") -> "dict[str, Tensor | float]":
    """Means of "stoi" and "pesq" over a batch of signals (N, samples).

    Each mean is over the pairs for which the score is defined. A score without such a pair is left out.
    """
    measures = {"stoi": stoi} | ({"pesq": pesq} if importlib.util.find_spec("pesq") else {})
    result: dict[str, Tensor | float] = {}
    for name, measure in measures.items():
        found = [measure(a, b) for a, b in zip(enhanced, clean, strict=True)]
        defined = [value for value in found if value is not None]
        if defined:
            result[name] = mean(defined)
    return result


def pesq(enhanced: "Tensor", clean: "Tensor") -> float | None:
    """Wide-band PESQ of one signal (samples,), from 1.0 to 4.64; None if it is undefined."""
    import pesq as package

    if not enhanced.isfinite().all():
        return None
    pair = (signal.detach().float().cpu().numpy() for signal in (clean, enhanced))
    try:
        return float(package.pesq(RATE, *pair, "wb"))
    except (package.PesqError, ValueError):  # ValueError: the enhanced signal is silent
        return None


def stoi(enhanced: "Tensor", clean: "Tensor") -> float | None:
    """STOI of one signal (samples,), at most 1; None if it is undefined."""
    import pystoi

    if not enhanced.isfinite().all() or not clean.any():
        return None
    pair = (signal.detach().double().cpu().numpy() for signal in (clean, enhanced))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames")  # pystoi would return 1e-5
        try:
            return float(pystoi.stoi(*pair, RATE))
        except RuntimeWarning:
            return None

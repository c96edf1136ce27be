"""How good enhanced speech is: wide-band PESQ (ITU-T P.862.2) and STOI (Taal et al. 2011), at 16 kHz.

A score is undefined where a signal is not finite, too short or without speech. PESQ needs the package `pesq`, which is
built from source: where it is missing, there is no PESQ.
"""

import importlib.util
import warnings
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the data stage wants RATE, and not to wait for torch
    from torch import Tensor

RATE = 16_000  # Hz


def scores(enhanced: "Tensor", clean: "Tensor") -> "dict[str, Tensor | float]":
    """Means over a batch of signals (N, samples) of "stoi" and "pesq": each over the pairs for which it is defined, and
    left out where there is none."""
    measures = {"stoi": stoi} | ({"pesq": pesq} if importlib.util.find_spec("pesq") else {})
    result: dict[str, Tensor | float] = {}
    for name, measure in measures.items():
        found = [measure(a, b) for a, b in zip(enhanced, clean, strict=True)]
        defined = [value for value in found if value is not None]
        if defined:
            result[name] = mean(defined)
    return result


def pesq(enhanced: "Tensor", clean: "Tensor") -> float | None:
    """Wide-band PESQ of one signal (samples,), from 1.0 to 4.64, or None where it is undefined."""
    import pesq as package

    if not enhanced.isfinite().all():
        return None
    pair = (signal.detach().float().cpu().numpy() for signal in (clean, enhanced))
    try:
        return float(package.pesq(RATE, *pair, "wb"))
    except (package.PesqError, ValueError):  # a ValueError where the enhanced signal is silent
        return None


def stoi(enhanced: "Tensor", clean: "Tensor") -> float | None:
    """STOI of one signal (samples,), at most 1, or None where it is undefined."""
    import pystoi

    if not enhanced.isfinite().all() or not clean.any():
        return None
    pair = (signal.detach().double().cpu().numpy() for signal in (clean, enhanced))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames")  # it returns 1e-5 then
        try:
            return float(pystoi.stoi(*pair, RATE))
        except RuntimeWarning:
            return None

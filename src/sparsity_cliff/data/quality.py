"""Quality of enhanced speech at 16 kHz: wide-band PESQ (ITU-T P.862.2) and STOI (Taal et al. 2011).

A score is undefined if a signal is not finite, too short, or without speech. PESQ needs the package `pesq`, which is
built from source. Without this package, PESQ is left out.
"""

import importlib.util
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the data stage needs RATE without the time to import torch
    from torch import Tensor

RATE = 16_000  # Hz
NAN = float("nan")


def scores(enhanced: "Tensor", clean: "Tensor") -> "dict[str, Tensor]":
    """The scores "stoi" and "pesq" of a batch of signals (N, samples).

    Returns name -> float64 (N,) on the CPU, nan where a score is undefined.
    """
    import torch

    measures = {"stoi": stoi} | ({"pesq": pesq} if importlib.util.find_spec("pesq") else {})
    pairs = list(zip(enhanced, clean, strict=True))
    found = {name: [measure(*pair) for pair in pairs] for name, measure in measures.items()}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def pesq(enhanced: "Tensor", clean: "Tensor") -> float:
    """Wide-band PESQ of one signal (samples,), from 1.0 to 4.64; nan if it is undefined."""
    import pesq as package

    if not enhanced.isfinite().all():
        return NAN
    pair = (signal.detach().float().cpu().numpy() for signal in (clean, enhanced))
    try:
        return float(package.pesq(RATE, *pair, "wb"))
    except (package.PesqError, ValueError):  # ValueError: the enhanced signal is silent
        return NAN


def stoi(enhanced: "Tensor", clean: "Tensor") -> float:
    """STOI of one signal (samples,), at most 1; nan if it is undefined."""
    import pystoi

    if not enhanced.isfinite().all() or not clean.any():
        return NAN
    pair = (signal.detach().double().cpu().numpy() for signal in (clean, enhanced))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames")  # pystoi would return 1e-5
        try:
            return float(pystoi.stoi(*pair, RATE))
        except RuntimeWarning:
            return NAN

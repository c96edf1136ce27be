"""Measures how often the bracket of critical sparsity holds the truth, on synthetic runs whose truth is known.

`python benchmarks/critical_coverage.py [--datasets N]` writes the tables between the markers of docs/critical.md. The
same N gives the same tables.

Each run is judged on a sample of held-out examples, as a real one is. Example i of a run with seed s is right with
probability Φ(a + b_s + θ_i), where θ is the difficulty of the example, which all runs share, b the effect of the seed,
of which all levels may share a part, and a is such that the expected score is that of the true curve.
"""

import argparse
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pages import publish
from scipy import optimize, stats

from sparsity_cliff.analysis import critical
from sparsity_cliff.analysis.curves import Level, fit

PAGE = Path(__file__).parents[1] / "docs" / "critical.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
DIFFICULTY = 1.5  # standard deviation of θ
START = 0.5  # sparsity of the reference, as of a ReLU network


class Noise(NamedTuple):
    seeds: float  # standard deviation of b
    rising: float  # increase of it from the sparsity of the reference to 1
    examples: int  # held-out
    shared: float = 0.0  # share of the variance of b that is the same at all levels


NOISES = {
    "low": Noise(0.02, 0.0, 4000),
    "middle": Noise(0.05, 0.0, 1000),
    "high": Noise(0.10, 0.0, 1000),
    "rising with sparsity": Noise(0.03, 0.12, 1000),
    "few examples": Noise(0.03, 0.0, 360),
    "half shared": Noise(0.10, 0.0, 1000, shared=0.5),
    "all but shared": Noise(0.30, 0.0, 1000, shared=0.98),
}
#: Score relative to the reference, as a function of sparsity.
TRUTHS: dict[str, Callable[[float, float], float]] = {
    "flat": lambda x, at: 1.0,
    "line": lambda x, at: 1 - 0.4 * (x - START),
    "power 8": lambda x, at: 1 - 0.5 * (x**8 - START**8),
    "hinge": lambda x, at: 1 - 1.5 * max(x - at, 0),
    "steep hinge": lambda x, at: 1 - 4 * max(x - at, 0),
    "logistic, width 0.07": lambda x, at: 1 - 0.5 / (1 + np.exp(-(x - at) / 0.07)),
    "logistic, width 0.02": lambda x, at: 1 - 0.5 / (1 + np.exp(-(x - at) / 0.02)),
    "step of 20 points": lambda x, at: 1.0 if x <= at else 0.8,
}
DESIGNS = {  # levels, seeds of a level, seeds of the reference
    "8 x 3, 9": (np.linspace(0.55, 0.98, 8), 3, 9),
    "11 x 4, 12": (np.linspace(0.55, 0.98, 11), 4, 12),
    "20 x 3, 9": (np.linspace(0.55, 0.98, 20), 3, 9),
}
SCORES = (0.7, 0.95)  # of the reference


def generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def level(
    x: float, score: float, common: np.ndarray, noise: Noise, difficulty: np.ndarray, rng: np.random.Generator
) -> Level:
    """The runs at sparsity x with the expected score `score`. common: a standard normal effect of each seed."""
    spread = noise.seeds + noise.rising * (x - START) / (1 - START)
    a = stats.norm.ppf(score) * np.sqrt(1 + DIFFICULTY**2 + spread**2)
    effects = np.sqrt(noise.shared) * common + np.sqrt(1 - noise.shared) * rng.normal(size=len(common))
    right = rng.random((len(common), len(difficulty))) < stats.norm.cdf((a + spread * effects)[:, None] + difficulty)
    return Level(x, right.mean(axis=1), right.mean(axis=0), seeds=np.arange(len(common), dtype=float))


def true_critical(truth: Callable[[float, float], float], at: float, tolerance: float) -> float:
    """The largest sparsity at which at most the tolerance is lost; 1 if it is never lost."""
    least = (1 - tolerance) * truth(START, at)
    if truth(1.0, at) >= least:
        return 1.0
    return float(optimize.bisect(lambda x: 1.0 if truth(x, at) >= least else -1.0, START, 1.0))


def study(datasets: int) -> pd.DataFrame:
    rows = []
    for name, truth in TRUTHS.items():
        for noise_name, noise in NOISES.items():
            for design, (sparsities, seeds, reference_seeds) in DESIGNS.items():
                for i in range(datasets):
                    rng = generator(name, noise_name, design, i)
                    at, score = rng.uniform(0.6, 0.92), SCORES[i % 2]
                    x = np.sort(sparsities + rng.normal(0, 0.003, len(sparsities)))
                    difficulty = rng.normal(0, DIFFICULTY, noise.examples)
                    plateau = truth(START, at)
                    common = rng.normal(size=reference_seeds)
                    reference = level(START, score, common, noise, difficulty, rng)
                    few = common[:seeds]
                    levels = [level(s, score * truth(s, at) / plateau, few, noise, difficulty, rng) for s in x]
                    fitted = fit(levels, reference)
                    for tolerance in critical.TOLERANCES:
                        found, estimate, low, high, _ = critical.locate(fitted, tolerance)
                        true = true_critical(truth, at, tolerance)
                        rows.append(
                            {
                                "truth": name,
                                "noise": noise_name,
                                "design": design,
                                "tolerance": tolerance,
                                "verdict": found,
                                "true": true,
                                "low": low,
                                "high": high,
                                "estimate": estimate,
                                "covered": not (low > true) and not (high < true),
                                "too high": low > true,
                                "too low": high < true,
                            }
                        )
    return pd.DataFrame(rows)


def table(results: pd.DataFrame, by: list[str]) -> str:
    """A Markdown table with a row per group."""
    lines = [
        f"| {' | '.join(by)} | coverage | lower end too high | upper end too low | decided | half-width |",
        f"| {' | '.join(['---'] * len(by))} | --: | --: | --: | --: | --: |",
    ]
    for key, part in results.groupby(by, sort=False):
        brackets = part[part["verdict"] == "bracket"]
        half = f"{50 * (brackets['high'] - brackets['low']).median():.1f}" if len(brackets) else "–"
        shares = [
            f"{100 * share:.1f} %"
            for share in (part["covered"].mean(), part["too high"].mean(), part["too low"].mean())
        ]
        names = [f"{100 * part:g} %" if isinstance(part, float) else str(part) for part in key]
        lines.append(f"| {' | '.join([*names, *shares])} | {100 * len(brackets) / len(part):.0f} % | {half} |")
    return "\n".join(lines)


def datasets_asked(description: str | None) -> int:
    """The option --datasets of the command line. Its default is that of the tables in docs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--datasets", type=int, default=100, help="synthetic studies per cell")
    return int(parser.parse_args().datasets)


def main() -> None:
    datasets = datasets_asked(__doc__)
    results = study(datasets)
    cells = results.groupby(["truth", "noise", "design", "tolerance"])["covered"].mean()
    text = [
        f"{len(results):,} intervals, from {datasets} studies for each truth, noise, and design. The lowest coverage "
        f"of\nthe {len(cells)} cells of truth, noise, design, and tolerance is {100 * cells.min():.1f} %.",
        table(results, ["truth"]),
        table(results, ["noise"]),
        table(results, ["design", "tolerance"]),
    ]
    publish(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()

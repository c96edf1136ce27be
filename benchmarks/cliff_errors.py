"""Measures how often the verdict on a fall is right, on synthetic runs whose stretch is known.

`python benchmarks/cliff_errors.py [--datasets N]` writes the tables between the markers of docs/cliff.md. The same N
gives the same tables. Runs are made as in critical_coverage.py.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from critical_coverage import (
    BEGIN,
    DIFFICULTY,
    END,
    NOISES,
    SCORES,
    START,
    datasets_asked,
    generator,
    level,
    publish,
    true_critical,
)

from sparsity_cliff.analysis import cliff
from sparsity_cliff.analysis.curves import fit

PAGE = Path(__file__).parents[1] / "docs" / "cliff.md"
Truth = Callable[[float, float], float]

#: Score relative to the plateau, as a function of sparsity and of the place of the fall.
TRUTHS: dict[str, Truth] = {
    "flat": lambda x, at: 1.0,
    "line, 40 % lost per 100 points": lambda x, at: 1 - 0.4 * (x - START),
    "power 8": lambda x, at: 1 - 0.5 * (x**8 - START**8),
    "logistic, width 0.12": lambda x, at: 1 - 0.5 / (1 + np.exp(-(x - at) / 0.12)),
    "logistic, width 0.06": lambda x, at: 1 - 0.5 / (1 + np.exp(-(x - at) / 0.06)),
    "logistic, width 0.03": lambda x, at: 1 - 0.5 / (1 + np.exp(-(x - at) / 0.03)),
    "break, slope 0.6": lambda x, at: 1 - 0.6 * max(x - at, 0),
    "break, slope 1.5": lambda x, at: 1 - 1.5 * max(x - at, 0),
    "break, slope 4": lambda x, at: 1 - 4 * max(x - at, 0),
    "break, then quadratic": lambda x, at: 1 - 8 * max(x - at, 0) ** 2,
    "two breaks": lambda x, at: 1 - 0.2 * max(x - at + 0.15, 0) - 1.5 * max(x - at, 0),
    "fall to a floor": lambda x, at: max(1 - 4 * max(x - at, 0), 0.5),
    "step of 20 points": lambda x, at: 1.0 if x <= at else 0.8,
}
DESIGNS = {  # levels, seeds of a level, seeds of the reference
    "8 x 3, 9": (np.linspace(0.55, 0.98, 8), 3, 9),
    "11 x 4, 12": (np.linspace(0.55, 0.98, 11), 4, 12),
    "20 x 4, 16": (np.linspace(0.55, 0.98, 20), 4, 16),
}
OUTLIER = "step of 20 points, one level 10 points low"


def study(datasets: int) -> pd.DataFrame:
    rows = []
    for name, truth in {**TRUTHS, OUTLIER: TRUTHS["step of 20 points"]}.items():
        for noise_name in ("low", "middle", "high"):
            noise = NOISES[noise_name]
            for design, (sparsities, seeds, reference_seeds) in DESIGNS.items():
                for i in range(datasets):
                    rng = generator("cliff", name, noise_name, design, i)
                    at, score = rng.uniform(0.6, 0.88), SCORES[i % 2]
                    x = np.sort(sparsities + rng.normal(0, 0.003, len(sparsities)))
                    difficulty = rng.normal(0, DIFFICULTY, noise.examples)
                    plateau = truth(START, at)
                    heights = [truth(s, at) / plateau for s in x]
                    if name == OUTLIER:
                        heights[rng.integers(len(x))] -= 0.1
                    common = rng.normal(size=reference_seeds)
                    reference = level(START, score, common, noise, difficulty, rng)
                    levels = [
                        level(s, score * h, common[:seeds], noise, difficulty, rng)
                        for s, h in zip(x, heights, strict=True)
                    ]
                    fitted = fit(levels, reference)
                    for start in cliff.STARTS:
                        found = cliff.fall(fitted, start)
                        row = {"truth": name, "noise": noise_name, "design": design, "start": start}
                        rows.append(row | judged(truth, at, start, found))
    return pd.DataFrame(rows)


def judged(truth: Truth, at: float, start: float, found: cliff.Found) -> dict[str, object]:
    """The verdict, whether it is wrong, and whether the interval holds the true stretch.

    A score that never falls to 90 % has a stretch of at least the rest of the axis.
    """
    first, last = true_critical(truth, at, start), true_critical(truth, at, cliff.END)
    true = last - first
    never = truth(1.0, at) >= (1 - cliff.END) * truth(START, at)
    abrupt = not never and true <= cliff.ABRUPT
    wrong = (found.verdict == "cliff" and not abrupt) or (found.verdict == "gradual decline" and abrupt)
    covered = found.low <= true + 1e-9 and not found.high < true - 1e-9
    return {"verdict": found.verdict, "wrong": wrong, "covered": covered, "true": np.nan if never else true}


VERDICTS = ["cliff", "gradual decline", "no fall in the range measured", "underpowered"]


def table(results: pd.DataFrame, by: list[str]) -> str:
    """A Markdown table with a row per group: shares of verdicts, wrong verdicts, and intervals that hold the truth."""
    names = ["true stretch", *VERDICTS, "wrong", "interval holds it"]
    lines = [f"| {' | '.join([*by, *names])} |", f"| {' | '.join(['---'] * len(by) + ['--:'] * len(names))} |"]
    for key, part in results.groupby(by, sort=False):
        shares = [(part["verdict"] == verdict).mean() for verdict in VERDICTS]
        true = part["true"]
        points = (
            "none"
            if true.isna().all()
            else "–".join(dict.fromkeys(f"{100 * end:.0f}" for end in (true.min(), true.max())))
        )
        cells = [f"{100 * share:.0f} %" for share in shares]
        cells += [f"{100 * part['wrong'].mean():.1f} %", f"{100 * part['covered'].mean():.1f} %"]
        words = [f"{100 * part:g} %" if isinstance(part, float) else str(part) for part in key]
        lines.append(f"| {' | '.join([*words, points, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    datasets = datasets_asked(__doc__)
    results = study(datasets)
    cells = results.groupby(["truth", "noise", "design", "start"])[["wrong", "covered"]].mean()
    headline = results[results["start"] == 0.02]
    text = [
        f"{len(results):,} verdicts, from {datasets} studies for each truth, noise, and design. Over the {len(cells)} "
        f"cells of truth, noise, design,\nand start, at most {100 * cells['wrong'].max():.1f} % of the verdicts are "
        f"wrong, and at least {100 * cells['covered'].min():.1f} % of the intervals hold\nthe truth.",
        "From 98 to 90 % of the score:",
        table(headline, ["truth"]),
        table(headline, ["noise", "design"]),
        "By the start of the stretch:",
        table(results[results["truth"].isin(["step of 20 points", "break, slope 1.5", "power 8"])], ["truth", "start"]),
    ]
    publish(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()

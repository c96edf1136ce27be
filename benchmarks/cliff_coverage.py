"""Measures how often the cliff estimator is right on synthetic curves whose truth is known.

`python benchmarks/cliff_coverage.py [--datasets N]` writes the tables between the two markers of docs/cliff-tables.md.
docs/cliff.md quotes five of the numbers. The default N takes about ten minutes on one core. The same N gives the same
tables.
"""

import argparse
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sparsity_cliff.analysis import cliff

PAGE = Path(__file__).parents[1] / "docs" / "cliff-tables.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
RESAMPLES = 399
DENSE, KINK = 0.65, 0.6  # accuracy without sparsity; change of slope at the break, per unit of sparsity


class Noise(NamedTuple):
    """Standard deviations of accuracy."""

    run: float
    configuration: float  # distance of a configuration from the curve, shared by its seeds
    rising: float = 0.0  # increase for a run, per unit of sparsity beyond 0.5


NOISES = {
    "low": Noise(0.005, 0.0),
    "between configurations": Noise(0.01, 0.01),
    "rising with sparsity": Noise(0.004, 0.005, 0.04),
    "high": Noise(0.03, 0.02),
}
SEED_EFFECT = 0.005  # standard deviation of a seed's effect, shared by all configurations
DROPPED = 0.05  # share of runs that diverged
SIZES = (8, 12, 20, 40)
BREAKS = (0.3, 0.5, 0.7, 0.8, 0.9)
DESIGNS = ("even", "clustered", "random")


def generator(*key: object) -> np.random.Generator:
    """A generator that depends only on the key."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def design(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Sparsities of n configurations. clustered: some at 0, some near that of ReLU, and the rest from 0.6 to 0.98."""
    if kind == "even":
        return np.linspace(0, 0.98, n)
    if kind == "random":
        return np.sort(np.append(rng.uniform(0, 0.98, n - 1), 0))
    cluster = max(1, n // 6)
    return np.concatenate([np.zeros(cluster), rng.uniform(0.45, 0.5, cluster), np.linspace(0.6, 0.98, n - 2 * cluster)])


def truth(kind: str, x: np.ndarray, at: float) -> np.ndarray:
    """Accuracy at sparsity x. at: the parameter of the kind: a break, slope, exponent, or width."""
    match kind:
        case "break":
            return DENSE - 0.02 * x - KINK * np.maximum(x - at, 0)
        case "flat":
            return np.full_like(x, DENSE)
        case "line":
            return DENSE - at * x
        case "power":
            return DENSE - 0.2 * x**at
        case "logistic":
            return DENSE - 0.3 / (1 + np.exp(-(x - 0.8) / at))
        case "floor":
            return DENSE - 0.5 * np.clip((x - at) / 0.1, 0, 1)
    raise ValueError(kind)


def runs(kind: str, at: float, layout: str, n: int, seeds: int, noise: Noise, rng: np.random.Generator) -> pd.DataFrame:
    """The runs of one architecture."""
    x = design(layout, n, rng)
    measured = x[:, None] + (x > 0)[:, None] * rng.normal(0, 0.003, (n, seeds))
    measured = np.clip(measured, 0, 1)
    effect = rng.normal(0, SEED_EFFECT, (1, seeds))
    accuracy = (
        truth(kind, measured, at)
        + rng.normal(0, 1, (n, 1)) * noise.configuration
        + rng.normal(0, 1, (n, seeds)) * (noise.run + noise.rising * np.maximum(measured - 0.5, 0))
        + effect
        - effect.mean()  # the truth is the curve of exactly these seeds
    )
    index = pd.MultiIndex.from_product([[f"c{i:02d}" for i in range(n)], range(seeds)], names=["configuration", "seed"])
    frame = pd.DataFrame({"sparsity": measured.ravel(), "score": accuracy.ravel()}, index=index).reset_index()
    kept = rng.random(len(frame)) >= DROPPED
    kept[::seeds] = True  # every configuration keeps a run
    return frame[kept].assign(architecture="a")


def judge(frame: pd.DataFrame, at: float, value: str = "score") -> dict[str, object]:
    """The verdict on a data set, compared with the true break `at`."""
    found = cliff.locate(frame, value=value, resamples=RESAMPLES)
    return {
        "called": found.verdict == "cliff",
        "verdict": found.verdict,
        "covered": found.low <= at <= found.high,
        "locatable": found.search_min < at < found.search_max,
        "width": found.high - found.low,
        "error": abs(found.break_at - at),
        "found": found,
    }


# --------------------------------------------------------------------------------- studies


def known_breaks(datasets: int) -> pd.DataFrame:
    """Verdicts on curves with a break."""
    rows = []
    for at in BREAKS:
        for n in SIZES:
            for name, noise in NOISES.items():
                for i in range(datasets):
                    rng = generator("break", at, n, name, i)
                    exact = at + rng.uniform(-0.02, 0.02)  # off the grid of candidates
                    layout = DESIGNS[i % len(DESIGNS)]
                    frame = runs("break", exact, layout, n, int(rng.integers(3, 7)), noise, rng)
                    row = judge(frame, exact)
                    found = row.pop("found")
                    if row["called"] and i % 10 < len(DESIGNS):
                        drawn = cliff.curve(frame, found, resamples=RESAMPLES)
                        true = truth("break", drawn["sparsity"].to_numpy(), exact)
                        row["band"] = drawn["low"].le(true).mul(drawn["high"].ge(true)).mean()
                    rows.append({"break": at, "n": n, "noise": name, "design": layout, **row})
    return pd.DataFrame(rows)


STRAIGHT = {"flat": ("flat", 0.0), "line, falls by 0.2": ("line", 0.2)}
NO_BREAKS = {
    **STRAIGHT,
    "quadratic": ("power", 2.0),
    "power 4": ("power", 4.0),
    "power 8": ("power", 8.0),
    "logistic, width 0.15": ("logistic", 0.15),
    "logistic, width 0.10": ("logistic", 0.10),
    "logistic, width 0.07": ("logistic", 0.07),
    "logistic, width 0.03": ("logistic", 0.03),
    "falls by 0.5 in 0.70 to 0.80, then flat": ("floor", 0.7),
}


def no_breaks(datasets: int) -> pd.DataFrame:
    """Verdicts on curves without a break."""
    rows = []
    for label, (kind, at) in NO_BREAKS.items():
        for n in SIZES:
            for name, noise in NOISES.items():
                for i in range(datasets if label in STRAIGHT else datasets // 4):
                    rng = generator(label, n, name, i)
                    frame = runs(kind, at, DESIGNS[i % len(DESIGNS)], n, int(rng.integers(3, 7)), noise, rng)
                    row = judge(frame, at)
                    rows.append({"truth": label, "n": n, "noise": name, **row})
    return pd.DataFrame(rows)


def pooled(datasets: int) -> pd.DataFrame:
    """Verdicts on several architectures of 16 configurations, each with its own level, kink, and break.

    The truth is the mean break.
    """
    rows = []
    for label, kind, spread in (
        ("one break, 0.7", "break", 0.0),
        ("breaks spread around 0.7, sd 0.03", "break", 0.03),
        ("breaks spread around 0.7, sd 0.08", "break", 0.08),
        ("lines of different slope", "line", 0.0),
        ("lines of different slope and range", "range", 0.0),
    ):
        for architectures in (2, 3, 5):
            for name, noise in NOISES.items():
                for i in range(datasets):
                    rng = generator(label, architectures, name, i)
                    row = judge(pool(kind, spread, architectures, noise, rng), 0.7, "relative_score")
                    rows.append({"truth": label, "architectures": architectures, "noise": name, **row})
    return pd.DataFrame(rows)


def pool(kind: str, spread: float, architectures: int, noise: Noise, rng: np.random.Generator) -> pd.DataFrame:
    """Runs of several architectures, with their relative score."""
    parts = []
    for a in range(architectures):
        dense, kink = rng.uniform(0.5, 0.95), 0.9 * np.exp(0.4 * rng.standard_normal())
        at = np.clip(0.7 + spread * rng.standard_normal(), 0.2, 0.97)
        part = runs("flat", 0, str(rng.choice(DESIGNS)), 16, 3, noise, rng).assign(architecture=f"a{a}")
        if kind == "range":
            part["sparsity"] *= rng.uniform(0.5, 1)
        x = part["sparsity"]
        fall = 0.02 * x + kink * np.maximum(x - at, 0) if kind == "break" else rng.uniform(0, 0.5) * x
        part["score"] += dense * (1 - fall) - DENSE
        parts.append(part)
    return cliff.relative_score(pd.concat(parts), "c00")


def schemes(datasets: int) -> pd.DataFrame:
    """Coverage of four intervals for the same break, whatever the verdict."""
    rows = []
    for n in (12, 40):
        for name, noise in NOISES.items():
            for i in range(datasets):
                rng = generator("schemes", n, name, i)
                at = 0.7 + rng.uniform(-0.02, 0.02)
                frame = runs("break", at, DESIGNS[i % len(DESIGNS)], n, 3, noise, rng)
                found = cliff.locate(frame, resamples=RESAMPLES)
                if not found.search_min < at < found.search_max:
                    continue
                for scheme, (low, high) in intervals(frame, found, rng).items():
                    rows.append(
                        {"n": n, "noise": name, "scheme": scheme, "covered": low <= at <= high, "width": high - low}
                    )
    return pd.DataFrame(rows)


def intervals(frame: pd.DataFrame, found: cliff.Cliff, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """The interval of the estimator, and three other 95 % intervals."""
    means = frame.groupby("configuration")[["sparsity", "score"]].mean()
    x, y = means["sparsity"].to_numpy(), means["score"].to_numpy()
    n = len(x)
    model = cliff._broken(found.search_min, found.search_max)
    basis, columns = cliff._project(model, x)

    def breaks(values: np.ndarray) -> np.ndarray:
        left = values - basis @ (basis.T @ values)
        return model.shapes[np.argmax((columns.T @ left) ** 2, axis=0), 0]

    def percentile(values: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    fit = cliff._fit(model, x, y)
    column = cliff._project(model._replace(shapes=fit.shape), x)[1][:, 0]
    residual = (y - fit.fitted) / np.sqrt(1 - (basis**2).sum(axis=1) - column**2)
    wild = fit.fitted[:, None] + cliff._signs(n, RESAMPLES, 0) * residual[:, None]

    left = y - basis @ (basis.T @ y)
    rss = (left**2).sum() - (columns.T @ left) ** 2
    likely = model.shapes[(rss - rss.min()) / (rss.min() / (n - 4)) <= stats.f.ppf(0.95, 1, n - 4), 0]

    groups = [group.to_numpy() for _, group in frame.groupby("configuration")[["sparsity", "score"]]]
    resampled = []
    for _ in range(RESAMPLES):
        drawn = [groups[k] for k in rng.integers(n, size=n)]
        drawn = np.array([runs[rng.integers(len(runs), size=len(runs))].mean(axis=0) for runs in drawn])
        level, lines = cliff._project(model, drawn[:, 0])
        left = drawn[:, 1] - level @ (level.T @ drawn[:, 1])
        resampled.append(model.shapes[np.argmax((lines.T @ left) ** 2), 0])
    return {
        "wild, test inversion (chosen)": (found.low, found.high),
        "wild, percentile": percentile(breaks(wild)),
        "hierarchical (configurations, then seeds), percentile": percentile(np.array(resampled)),
        "profile F, constant variance": (float(likely.min()), float(likely.max())),
    }


# --------------------------------------------------------------------------------- tables


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def share(hits: float, of: float) -> str:
    return f"{percent(hits / of)} ({hits:.0f} of {of:.0f})" if of else "none"


def cell(rows: pd.DataFrame) -> str:
    """Share of called data sets, and the coverage of these, in bold below 90 %."""
    called = rows[rows["called"]]
    if called.empty:
        return "0 %"
    coverage = called["covered"].mean()
    text = f"{percent(rows['called'].mean())} / {percent(coverage)}"
    return f"**{text}**" if coverage < 0.9 else text


def table(frame: pd.DataFrame, by: list[str], across: str) -> str:
    """A Markdown table of `cell`, with `by` in the rows and `across` in the columns, in order of appearance."""
    heads = list(frame[across].unique())
    lines = [f"| {' | '.join(by)} | {' | '.join(f'{across} {head}' for head in heads)} |"]
    lines.append(f"| {' | '.join('---' for _ in by)} | {' | '.join('--:' for _ in heads)} |")
    for key, part in frame.groupby(by, sort=False):
        cells = [cell(part[part[across] == head]) for head in heads]
        lines.append(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(broken: pd.DataFrame, unbroken: pd.DataFrame) -> str:
    broken = broken.assign(wrong=broken["called"] & ~broken["covered"])
    called, inside = broken[broken["called"]], broken[broken["locatable"]]
    clear = inside[(inside["noise"] != "high") & (inside["n"] >= 12)]
    keys = ["break", "n", "noise"]
    cells = called.groupby(keys)["covered"].agg(["mean", "sum", "count"])
    often = cells["count"] >= 0.1 * len(broken) / broken.groupby(keys).ngroups
    below = stats.binom.cdf(cells["sum"], cells["count"], 0.9) < 0.05
    rare = cells[~often]
    lowest = cells[often].sort_values(["mean", "count"]).iloc[0]
    false = unbroken[unbroken["truth"].isin(list(STRAIGHT))].groupby(["truth", "n", "noise"])["called"].mean()
    rows = {
        "coverage of the intervals of called cliffs, all cells": percent(called["covered"].mean()),
        "the lowest in a cell where 10 % or more of the data sets are called": share(lowest["sum"], lowest["count"]),
        "cells of that kind below 90 %": f"{(cells[often]['mean'] < 0.9).sum()} of {often.sum()}",
        "cells where fewer are called, taken together": share(rare["sum"].sum(), rare["count"].sum()),
        "cells significantly below 90 % (binomial, one-sided 5 %)": f"{below.sum()} of {len(cells)}",
        "called with an interval that misses, share of a cell's data sets, the most": percent(
            broken.groupby(keys)["wrong"].mean().max()
        ),
        "coverage whatever the verdict, where the break can be located": percent(inside["covered"].mean()),
        "pointwise coverage of the band of `curve`, called cliffs": percent(called["band"].mean()),
        "called, of all curves with a break (`SELECTED`)": percent(broken["called"].mean()),
        "power: a break that can be located is called": percent(inside["called"].mean()),
        "the same without high noise, from 12 configurations": percent(clear["called"].mean()),
        "false cliffs on flat and straight curves, all cells": percent(false.mean()),
        "the most in a cell": percent(false.max()),
    }
    return "\n".join(["| | |", "| --- | --: |", *(f"| {name} | {number} |" for name, number in rows.items())])


def no_break_table(frame: pd.DataFrame) -> str:
    lines = ["| truth | " + " | ".join(f"n {n}" for n in SIZES) + " | smooth decline | no cliff |"]
    lines.append("| --- | " + " | ".join("--:" for _ in range(len(SIZES) + 2)) + " |")
    for label, part in frame.groupby("truth", sort=False):
        shares = [percent(part[part["n"] == n]["called"].mean()) for n in SIZES]
        other = [percent((part["verdict"] == v).mean()) for v in ("smooth decline", "no cliff in the range measured")]
        lines.append(f"| {label} | {' | '.join([*shares, *other])} |")
    return "\n".join(lines)


def scheme_table(frame: pd.DataFrame) -> str:
    noises = list(NOISES)
    lines = ["| interval | " + " | ".join(f"n {n}, {noise}" for n in (12, 40) for noise in noises) + " |"]
    lines.append("| --- | " + " | ".join("--:" for _ in range(2 * len(noises))) + " |")
    for scheme, part in frame.groupby("scheme", sort=False):
        cells = []
        for n in (12, 40):
            for noise in noises:
                here = part[(part["n"] == n) & (part["noise"] == noise)]
                cells.append(f"{percent(here['covered'].mean())} ({here['width'].median():.2f})")
        lines.append(f"| {scheme} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=int, default=120, help="data sets per cell with a break or a straight line")
    datasets = parser.parse_args().datasets
    start = time.perf_counter()
    studies = []
    for study, count in ((known_breaks, 1), (no_breaks, 1), (pooled, 4), (schemes, 2)):
        studies.append(study(datasets // count))
        print(f"{study.__name__}: {len(studies[-1])} rows, {time.perf_counter() - start:.0f} s", flush=True)
    broken, unbroken, together, compared = studies
    text = f"""
## Summary

`python benchmarks/cliff_coverage.py --datasets {datasets}` generates this section and the next four, with {RESAMPLES}
resamples and a nominal level of 95 %. A cell is one combination of truth, number of configurations n, and noise. It has
{datasets} data sets for a break or a straight line, and {datasets // 4} for a smooth truth, over even, clustered, and
random designs and 3 to 6 seeds. In a cell where all data sets are called, a coverage of 95 % is measured to
± {196 * (0.95 * 0.05 / datasets) ** 0.5:.0f} points. Where fewer are called, it is less precise.

{summary(broken, unbroken)}

## Known breaks

Each entry shows the share of data sets that are called a cliff and, among those, the coverage of the interval (bold:
below 90 %). Rows are the number of configurations n and the noise.

{table(broken, ["n", "noise"], "break")}

The same results by design. A clustered design has one level below 0.45, so a break at 0.3 cannot be located there.

{table(broken, ["design", "n"], "break")}

## No break

The columns n 8 to n 40 show the share of data sets that are falsely called a cliff, over all noises. The last two
columns show the shares of the other verdicts.

{no_break_table(unbroken)}

## Pooled curves

Each architecture has 16 configurations. Each entry shows the share called, over all noises, and the coverage of the
mean break. It covers {datasets // 4} data sets per noise. The last two truths have no break, so every call there is
false.

{table(together, ["truth"], "architectures")}

## Choice of interval

Each entry shows the coverage and, in parentheses, the median width of the interval of a break near 0.7 that can be
located, whatever the verdict, with 3 seeds and up to {datasets // 2} data sets.

{scheme_table(compared)}
"""
    page = PAGE.read_text()
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


if __name__ == "__main__":
    main()

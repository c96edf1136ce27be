"""Measures how often the claims ledger is wrong, on synthetic studies whose truth is known.

`python benchmarks/claims_errors.py [--studies N]` writes the tables between the markers of docs/claims.md. The same N
gives the same tables.

A study has three architectures, the third of which is a language model. Each seed's effect is normal around the planted
one, and its facts are those that a trace would have. The whole way from facts to verdicts is therefore tested.
"""

import argparse
import itertools
import math
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pages import publish

from sparsity_cliff.analysis import critical, curves
from sparsity_cliff.analysis.claims import CLAIMS, TOLERANCE, Claim, Measure
from sparsity_cliff.analysis.effects import INF, Effect, Tables
from sparsity_cliff.analysis.ledger import Row, judge, of_effects

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"
BEGIN, END = "<!-- error rates: begin -->", "<!-- error rates: end -->"
NAMES = ("mlp", "vit", "gpt")
SEEDS = (4, 8, 15)
LEVEL = 0.95
VERDICTS = ("supported", "contradicted", "inconclusive")
SD = 0.01  # between seeds, where a margin of 0 sets no scale
#: What is planted. FALSE: the claim does not hold in the architectures that are counted.
FALSE = ("one on the margin", "all on the margin", "no effect", "opposite")
TRUE, OPEN = "true", "undecidable"

# ------------------------------------------------------------------------------------------ facts


class Fact(NamedTuple):
    """A row of facts for each seed. value: (seeds,), or the same for all."""

    step: int
    split: str | None
    layer: str | None
    metric: str
    value: Any


def drifting(value: np.ndarray) -> list[Fact]:
    """A hidden matrix whose mean has moved by `value` standard deviations at a tenth of the steps."""
    start = [Fact(0, None, "w", "fed_by_activation", 1.0), Fact(0, None, "w", "weight_std", 0.5)]
    means = [Fact(0, None, "w", "weight_mean", 0.1), Fact(10, None, "w", "weight_mean", 0.1 + 0.5 * value)]
    return [*start, *means]


def rising(metric: str, value: np.ndarray) -> list[Fact]:
    return [Fact(0, "test", None, metric, 0.3), Fact(100, "test", None, metric, 0.3 + value)]


def spiking(metric: str, value: Any) -> list[Fact]:
    """Three sites, and the model, with spikes of e^value in the middle one and in the model."""
    values = {"a": 1.0, "b": np.exp(value), "c": 1.0, None: np.exp(value)}
    return [Fact(100, "test", layer, metric, spike) for layer, spike in values.items()]


def ending(metric: str, value: Any) -> list[Fact]:
    return [Fact(100, "test", None, metric, value)]


FUNCTIONS = {"clipped": ("relu2", '{"clip":50}')}  # activation -> function and options, where they are not its name
#: Claim -> its parts (activations; for C9, statistics), each with the number of its measure.
PARTS: dict[str, dict[str, int]] = {
    "C1": {"relu": 0, "gelu": 0, "silu": 0},
    "C2": {"relu": 0, "gelu": 0, "silu": 0},
    "C3": {"relu": 0, "gelu": 0, "silu": 0},
    "C4": {"tanh": 0, "identity": 0},
    "C5a": {"relu": 0},
    "C5b": {"gelu": 0, "silu": 0},
    "C5c": {"relu": 0},
    "C7": {"relu2": 0},
    "C8a": {"relu2": 0},
    "C8b": {"relu2": 0},
    "C9": {"spike": 0, "loss": 1},
    "C10": {"relu": 0, "relu2": 0, "silu": 0},
}


def runs_of(claim: str, drawn: dict[str, np.ndarray], noise: np.ndarray) -> dict[str, list[Fact]]:
    """Activation -> facts of its run. drawn: part -> effects (seeds,). noise: (seeds,), of a run without a part."""
    nothing = np.zeros(len(noise))
    match claim:
        case "C1":
            return {part: [Fact(0, "train", "a", "gradient_positive", value)] for part, value in drawn.items()}
        case "C2" | "C3" | "C4":
            relu = {} if "relu" in drawn else {"relu": drifting(noise - 0.2)}  # far beyond the controls
            return {part: drifting(value) for part, value in drawn.items()} | relu
        case "C5a" | "C5b":
            metric = "activation_sparsity" if claim == "C5a" else "near_zero_share"
            return {part: rising(metric, value) for part, value in drawn.items()}
        case "C5c":
            return {"relu": ending("activation_sparsity", drawn["relu"])}
        case "C7":
            zeros = ending("activation_sparsity", 0.6)
            losses = {"relu": 3 + nothing, "relu2": 3 + drawn["relu2"]}
            return {name: [*zeros, *ending("loss", loss)] for name, loss in losses.items()}
        case "C8a" | "C8b":
            metric = "spike_ratio" if claim == "C8a" else "spike"
            return {"relu": spiking(metric, 1.0), "relu2": spiking(metric, 1 + drawn["relu2"])}
        case "C9":
            clipped = [*spiking("spike", 1 + drawn["spike"]), *ending("loss", 3 + drawn["loss"])]
            return {"relu2": [*spiking("spike", 1.0), *ending("loss", 3 + nothing)], "clipped": clipped}
        case _:
            return {"gelu2": ending("loss", 3 + noise)} | {
                part: ending("loss", 3 - value) for part, value in drawn.items()
            }


def tables(claim: str, drawn: dict[str, dict[str, np.ndarray]], random: np.random.Generator, sd: float) -> Tables:
    """The collected tables. drawn: architecture -> part -> effects."""
    columns: dict[str, list[Any]] = {name: [] for name in ("run", "architecture", "activation", "seed", *Fact._fields)}
    runs = []
    for name, parts in drawn.items():
        n = len(next(iter(parts.values())))
        for activation, found in runs_of(claim, parts, random.normal(0, sd, n)).items():
            labels = {"run": f"{name}.{activation}", "architecture": name, "activation": activation}
            function, options = FUNCTIONS.get(activation, (activation, "{}"))
            runs += [labels | {"function": function, "options": options, "seed": seed} for seed in range(n)]
            tokens = [Fact(100, "test", None, "perplexity", 20.0)] if name.endswith("gpt") else []
            for fact in [*found, *tokens]:
                for key, value in {**labels, **fact._asdict()}.items():
                    columns[key] += np.broadcast_to(value, n).tolist() if key == "value" else [value] * n
                columns["seed"] += range(n)
    same = {"loss": "cross_entropy", "normalization": "default", "data": "random" if claim == "C3" else "real"}
    facts = pd.DataFrame(columns).assign(**same)
    facts["depth"] = facts["layer"].map({"a": 0, "b": 1, "c": 2})
    about = pd.DataFrame(runs).assign(**same, mechanism=None, steps=100, status="finished")
    cell = {"activation": "relu", "loss": "cross_entropy", "region": "positive", "closed_form": 1.0, "mean": 1.0}
    return Tables.of(facts, about, pd.DataFrame([cell | {"standard_error": 0.01, "n": 10_000}]))


# ------------------------------------------------------------------------------------------ planted truths


def scale(measure: Measure) -> float:
    """Standard deviation between seeds: half the margin, where there is one."""
    return measure.rule.margin / 2 or SD


def planted(measure: Measure, truth: str) -> float:
    """The effect that all parts of a measure have.

    true: two standard deviations within the region of support. undecidable: a fifth of one. opposite: two beyond the
    farther of the other regions' ends. no effect: 0; for a rule about a value, twice its margin away.
    """
    low, high = measure.rule.supported
    sd, up = scale(measure), 1 if high == INF else -1
    if low > -INF and high < INF:
        center, margin = (low + high) / 2, measure.rule.margin
        away = {TRUE: 0.0, OPEN: 0.9 * margin, "no effect": 2 * margin, "opposite": -2 * margin}
        return center + away[truth]
    inner = low if high == INF else high
    ends = [end for region in measure.rule.contradicted for end in region if math.isfinite(end)]
    outer = min(ends) if up > 0 else max(ends)
    away = {TRUE: inner + 2 * up * sd, OPEN: inner + 0.2 * up * sd, "no effect": (inner + outer) / 2}
    return away.get(truth, outer - 2 * up * sd)


def on_the_margin(measure: Measure) -> float:
    """The end of the region of support, where a wrong verdict is most likely."""
    low, high = measure.rule.supported
    return high if high < INF else low


def draw(claim: Claim, truth: str, n: int, random: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Architecture -> part -> effects. On the margin, it is the first part; the others are certainly true."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name in NAMES:
        found[name] = {}
        for i, (part, number) in enumerate(PARTS[claim.id].items()):
            measure = claim.measures[number]
            mean, sd = planted(measure, TRUE if "margin" in truth else truth), scale(measure)
            if "margin" in truth:
                there = i == 0 and (truth.startswith("all") or name == counted(claim))
                mean, sd = (on_the_margin(measure), sd) if there else (mean, sd / 10)
            found[name][part] = random.normal(mean, sd, n)
    return found


def counted(claim: Claim) -> str:
    """The architecture whose verdict is counted where one is on the margin."""
    return "gpt" if claim.tokens else "mlp"


# ------------------------------------------------------------------------------------------ critical sparsity

AT = {TRUE: 0.705, OPEN: 0.705, "one on the margin": 0.806, "all on the margin": 0.806, "opposite": 0.53}
LEVELS = np.arange(0.50, 0.96, 0.05)  # the first is the reference


def brackets(truth: str, n: int, random: np.random.Generator) -> pd.DataFrame:
    """The table of critical sparsity. The score falls 1.5 times as fast as sparsity rises, up to a loss of a half."""
    rows = []
    for name in NAMES:
        margin = truth == "one on the margin" and name != "mlp"
        at = AT[TRUE] if margin else AT.get(truth, INF)
        sd = 0.05 if truth == OPEN else 0.01
        for x in LEVELS:
            score = 0.8 * (1 - np.clip(1.5 * (x - at) + 0.05, 0, 0.5)) if at < INF else 0.8
            configuration = "relu" if x == LEVELS[0] else f"topk_{x:.2f}"
            for seed, value in enumerate(random.normal(score, 0.8 * sd, n)):
                rows.append(
                    (name, configuration, None if x == LEVELS[0] else "topk", seed, x, value, f"{name}.{x:.2f}")
                )
    columns = ["architecture", "configuration", "mechanism", "seed", "sparsity", "score", "run"]
    return pd.DataFrame(rows, columns=columns)


# ------------------------------------------------------------------------------------------ studies


def judged(claim: Claim, truth: str, n: int, studies: int) -> list[list[Row]]:
    """The rows of each of the studies. All studies are in one set of tables, as further architectures."""
    random = np.random.default_rng(zlib.crc32(repr((claim.id, truth, n)).encode()))
    if claim.id == "C6":
        same = tables("C5a", {name: {"relu": np.zeros(1)} for name in NAMES}, random, SD)
        return [bracketed(claim, same, truth, n, random) for _ in range(studies)]
    drawn = {
        f"{study}/{name}": parts for study in range(studies) for name, parts in draw(claim, truth, n, random).items()
    }
    found = tables(claim.id, drawn, random, scale(claim.measures[0]))
    effects: dict[str, list[tuple[Measure, Effect]]] = {}
    for measure in claim.measures:
        for effect in measure.effects(found) if measure.effects else []:
            effects.setdefault(effect.architecture.partition("/")[0], []).append((measure, effect))
    names = [name for name in NAMES if name == "gpt" or not claim.tokens]
    return [
        of_effects(claim, [f"{study}/{name}" for name in names], effects[str(study)], LEVEL) for study in range(studies)
    ]


def bracketed(claim: Claim, same: Tables, truth: str, n: int, random: np.random.Generator) -> list[Row]:
    """The rows of a study of critical sparsity."""
    points = brackets(truth, n, random)
    found = critical.criticals(curves.curves(points, None, "relu"), tolerances=[TOLERANCE], level=LEVEL)
    return judge(claim, same, points, found, baseline="relu", level=LEVEL)


def study(studies: int) -> pd.DataFrame:
    """A row per claim, truth, number of seeds, and study, with the shares of its architectures with each verdict."""
    results = []
    for claim, truth, n in itertools.product(CLAIMS, (TRUE, OPEN, *FALSE), SEEDS):
        measures = [claim.measures[number] for number in PARTS.get(claim.id, {}).values()]
        if truth == "no effect" and measures and all(planted(m, truth) == on_the_margin(m) for m in measures):
            continue  # the rule has a single margin
        for rows in judged(claim, truth, n, studies):
            if truth == "one on the margin":
                rows = [row for row in rows if row.architecture.endswith(counted(claim))]
            verdicts = [row.verdict for row in rows]
            shares = {verdict: verdicts.count(verdict) / len(rows) for verdict in VERDICTS}
            any_of = {f"any {verdict}": verdict in verdicts for verdict in VERDICTS}
            results.append({"claim": claim.id, "truth": truth, "n": n, **shares, **any_of})
    return pd.DataFrame(results)


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def errors(results: pd.DataFrame) -> str:
    """Shares of studies with a wrong verdict in any architecture, in percent; of the numbers of seeds, the worst."""
    columns = [(truth, "supported") for truth in FALSE] + [(FALSE[1], "contradicted"), (TRUE, "contradicted")]
    head = " | ".join(f"{truth}: {verdict}" for truth, verdict in columns)
    lines = [f"| claim | {head} |", f"| --- |{' --: |' * len(columns)}"]
    for claim, part in results.groupby("claim", sort=False):
        rates = part.groupby(["truth", "n"])[["any supported", "any contradicted"]].mean().groupby("truth").max()
        cells = [percent(rates[f"any {verdict}"].get(truth)) for truth, verdict in columns]
        lines.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(lines)


def power(results: pd.DataFrame) -> str:
    """Shares of architectures, in percent, for the numbers of seeds."""
    columns = ((TRUE, "supported"), ("opposite", "contradicted"), (OPEN, "inconclusive"))
    head = " | ".join(f"{truth}: {verdict}, n = {' / '.join(map(str, SEEDS))}" for truth, verdict in columns)
    lines = [f"| claim | {head} |", f"| --- |{' --: |' * len(columns)}"]
    for claim, part in results.groupby("claim", sort=False):
        rates = part.groupby(["truth", "n"])[list(VERDICTS)].mean()
        cells = [" / ".join(f"{100 * rates[verdict][(truth, n)]:.0f}" for n in SEEDS) for truth, verdict in columns]
        lines.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200, help="synthetic studies per cell")
    studies = parser.parse_args().studies
    results = study(studies)
    false = results[results["truth"].isin(FALSE)]
    cells = false.groupby(["claim", "truth", "n"])["any supported"].mean()
    text = [
        f"{len(results):,} studies, {studies} for each claim, truth, and number of seeds. Of the {len(cells)} cells in "
        f"which the\nclaim is false, {percent(cells.mean())} % of the studies support it; in the worst, "
        f"{percent(cells.max())} %.",
        errors(results),
        power(results),
    ]
    publish(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()

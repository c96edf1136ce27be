"""The claims ledger: what a study shows of each claim of analysis/claims.py, per architecture and over all.

Within a claim, architectures are corrected for their number (Holm 1979, Scand. J. Statist. 6, 65), for each of the two
verdicts. analysis/verdicts.py has the tests. docs/claims.md explains the ledger and shows how often it is wrong.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from sparsity_cliff.analysis.claims import CLAIMS, TOLERANCE, Claim, Measure, Region
from sparsity_cliff.analysis.effects import CLOSED_FORM, INF, MIN_SEEDS, Effect, Tables
from sparsity_cliff.analysis.verdicts import (
    Part,
    holm,
    interval,
    judged,
    lies,
    p_of_one,
    p_within,
    why_open,
    words,
    would_decide,
)

Verdict = Literal["supported", "contradicted", "inconclusive", "not tested in this study"]

NAN = float("nan")
ALL = "all"  # the architecture of a claim's summary
UNTESTED: Verdict = "not tested in this study"
WHOLE_PERCENT = 0.005  # brackets are compared in whole percent, because a level of 80 % can measure 80.1 %


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the ledger. Numbers are those of the `part` that decides, in the unit of its statistic.

    margin: smallest effect of interest. supported_low, supported_high: the ends of the region that supports the claim,
    infinite where it has none. p_*: of all parts together, after Holm's correction; missing for C6, whose bracket has
    none. n: seeds; for C6, of the reference; for the closed form of C1, draws. diverged: seeds of the runs that did not
    finish, and are in no number.
    """

    claim: str
    architecture: str
    statement: str
    statistic: str
    unit: str
    margin: float
    supported_if: str
    supported_low: float
    supported_high: float
    contradicted_if: str
    verdict: Verdict
    part: str = ""
    estimate: float = NAN
    low: float = NAN
    high: float = NAN
    level: float
    n: int = 0
    diverged: int = 0
    p_supported: float = NAN
    p_contradicted: float = NAN
    reason: str
    would_decide: str = ""  # of an inconclusive row
    parts: str = ""  # all parts, with their intervals
    runs: str = ""  # their ids


def ledger(
    facts: pd.DataFrame,
    runs: pd.DataFrame,
    points: pd.DataFrame,
    critical: pd.DataFrame,
    theory: pd.DataFrame,
    *,
    baseline: str,
    level: float = 0.95,
    claims: Sequence[Claim] = CLAIMS,
) -> pd.DataFrame:
    """The table of `Row`: for each claim, a row per architecture that it is about, and one for "all".

    facts, runs: of analysis/collect.py; runs with the activation's `function` and `options` (JSON text). points,
    critical, theory: of the modules of these names. baseline: the configuration of the reference of critical sparsity.
    level: of the intervals. For each claim, the chance that an architecture is wrongly "supported" is at most
    (1 - level) / 2, whatever the number of architectures. For "contradicted" it is the same, or 1 - level where both
    sides of a value contradict.
    """
    tables, rows = Tables.of(facts, runs, theory), []
    failed = runs[runs["status"] != "finished"].groupby("run").size()
    for claim in claims:
        found = judge(claim, tables, points, critical, baseline=baseline, level=level)
        found = [dataclasses.replace(row, diverged=int(failed.reindex(row.runs.split()).sum())) for row in found]
        rows += [*found, _summary(claim, found, level)]
    return pd.DataFrame([dataclasses.asdict(row) for row in rows])


def judge(
    claim: Claim, tables: Tables, points: pd.DataFrame, critical: pd.DataFrame, *, baseline: str, level: float
) -> list[Row]:
    """The rows of the architectures that a claim is about, in the order of the runs. Arguments: as of `ledger`."""
    names = [name for name in tables.architectures if name in tables.tokens or not claim.tokens]
    if any(measure.effects is None for measure in claim.measures):
        return [_of_bracket(claim, name, points, critical, baseline, level) for name in names]
    found = [(measure, effect) for measure in claim.measures if measure.effects for effect in measure.effects(tables)]
    closed = [CLOSED_FORM] if any(effect.architecture == CLOSED_FORM for _, effect in found) else []
    return of_effects(claim, [*names, *closed], found, level)


def of_effects(claim: Claim, names: Sequence[str], found: Sequence[tuple[Measure, Effect]], level: float) -> list[Row]:
    """The rows of these architectures for a claim whose measures are effects over seeds."""
    groups = {name: [judged(m, e) for m, e in found if e.architecture == name] for name in names}
    lacking = {
        name: [m.needs for m in claim.measures if not any(part.measure is m for part in parts)]
        for name, parts in groups.items()
    }
    tested = [name for name in groups if not lacking[name]]
    # an architecture that cannot decide, by its number of seeds, takes no share of the error
    able = [name for name in tested if all(part.decides for part in groups[name])]
    partly = [name for name in tested if any(part.decides for part in groups[name])]
    supported = dict(zip(able, holm([max(p.p_supported for p in groups[name]) for name in able]), strict=True))
    contradicted = dict(zip(partly, holm([p_of_one(groups[name]) for name in partly]), strict=True))
    rows = []
    for name, parts in groups.items():
        if lacking[name]:
            rows.append(_row(claim, name, UNTESTED, f"no finished runs with {lacking[name][0]}", level))
            continue
        p = supported.get(name, 1.0), contradicted.get(name, 1.0)
        rows.append(_of_parts(claim, name, parts, p, (1 - level) / 2, max(len(able), 1), level))
    return rows


def _of_parts(
    claim: Claim, name: str, parts: list[Part], p: tuple[float, float], alpha: float, family: int, level: float
) -> Row:
    """The row of an architecture. p: of both verdicts, corrected for the `family` of architectures."""
    verdict: Verdict = "inconclusive"
    part = max(parts, key=lambda part: (part.p_supported, -part.effect.n))  # the one that supports least
    reason = why_open(part, alpha, family)
    if p[0] <= alpha:
        verdict = "supported"
        reason = lies(part, part.measure.rule.supported)
        reason += f", and of {len(parts)} parts the closest to a margin" if len(parts) > 1 else ""
    elif p[1] <= alpha:
        verdict, part = "contradicted", min(parts, key=lambda part: part.p_contradicted)
        reason = lies(part, min(part.measure.rule.contradicted, key=lambda region: p_within(part.effect, region)))
    estimate, low, high = part.numbers(level)
    decide = would_decide(parts, alpha / family) if verdict == "inconclusive" else ""
    every = "; ".join(f"{part.effect.part}: {interval(part, level)}" for part in parts)
    return dataclasses.replace(
        _row(claim, name, verdict, reason, level, part.measure),
        part=part.effect.part,
        estimate=estimate,
        low=low,
        high=high,
        n=part.effect.n,
        p_supported=p[0],
        p_contradicted=p[1],
        would_decide=decide,
        parts=every,
        runs=" ".join(sorted({run for part in parts for run in part.effect.runs})),
    )


def _row(claim: Claim, name: str, verdict: Verdict, reason: str, level: float, measure: Measure | None = None) -> Row:
    """A row without numbers. measure: by default, the first of the claim."""
    measure = measure or claim.measures[0]
    low, high = (math.exp(end) if measure.ratio else end for end in measure.rule.supported)
    return Row(
        claim=claim.id,
        architecture=name,
        statement=claim.statement,
        statistic=measure.statistic,
        unit=measure.unit,
        margin=math.exp(measure.rule.margin) if measure.ratio else measure.rule.margin,
        supported_if=words(measure, measure.rule.supported),
        supported_low=low,
        supported_high=high,
        contradicted_if=" or ".join(words(measure, region) for region in measure.rule.contradicted),
        verdict=verdict,
        level=level,
        reason=reason,
    )


def _of_bracket(
    claim: Claim, name: str, points: pd.DataFrame, critical: pd.DataFrame, baseline: str, level: float
) -> Row:
    """The row of an architecture in C6.

    The mechanism with the most levels decides, which does not depend on any score. Architectures are not corrected for
    each other, because far fewer of the brackets are wrong than their level allows (docs/critical.md).
    """
    (measure,) = claim.measures
    rows = critical[(critical["architecture"].astype(str) == name) & (critical["mechanism"].astype(str) != "none")]
    rows = rows[np.isclose(rows["tolerance"].astype(float), TOLERANCE)]
    if rows.empty:
        return _row(claim, name, UNTESTED, f"no finished runs with {measure.needs}", level)
    row = rows.sort_values("n_levels", ascending=False, kind="stable").iloc[0]
    low = -INF if np.isnan(row["low"]) else float(row["low"])
    high = INF if np.isnan(row["high"]) else float(row["high"])
    rule, enough = measure.rule, row["n_reference"] >= MIN_SEEDS
    verdict: Verdict = "inconclusive"
    if enough and _holds(low, high, rule.supported, WHOLE_PERCENT):
        verdict = "supported"
    elif enough and any(_holds(low, high, region, -WHOLE_PERCENT) for region in rule.contradicted):
        verdict = "contradicted"
    own = points[points["architecture"].astype(str) == name]
    own = own[(own["mechanism"] == row["mechanism"]) | (own["configuration"].astype(str) == baseline)]
    decide = ""
    if verdict == "inconclusive":
        decide = _levels_needed(low, high, rule.supported) if enough else f"at least {MIN_SEEDS} seeds of {baseline}"
    return dataclasses.replace(
        _row(claim, name, verdict, f"{row['mechanism']}: {row['reason']}", level),
        part=str(row["mechanism"]),
        estimate=float(row["sparsity"]),
        low=float(row["low"]),
        high=float(row["high"]),
        n=int(row["n_reference"]),
        would_decide=decide,
        parts="; ".join(f"{r.mechanism}: {r.sparsity:.3g} [{r.low:.3g}, {r.high:.3g}]" for r in rows.itertuples()),
        runs=" ".join(sorted(set(own["run"].astype(str)))),
    )


def _holds(low: float, high: float, region: Region, slack: float) -> bool:
    return low >= region[0] - slack and high <= region[1] + slack


def _levels_needed(low: float, high: float, region: Region) -> str:
    """The levels that would place a bracket inside or outside the region."""
    ends = [f"{100 * end:.0f} %" for end in region if low < end < high]
    return f"levels close to {' and '.join(ends)} of zeros, with more seeds"


def _summary(claim: Claim, rows: Sequence[Row], level: float) -> Row:
    """The row "all". A claim about all architectures is supported if it is in each that tests it."""
    tested = [row for row in rows if row.verdict != UNTESTED]
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.verdict, []).append(row.architecture)
    text = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in groups.items())
    if not tested:
        needs = "a language model" if claim.tokens and not rows else claim.measures[0].needs
        return _row(claim, ALL, UNTESTED, f"no finished runs with {needs}", level)
    verdict: Verdict = "inconclusive"
    if "contradicted" in groups:
        verdict = "contradicted"
    elif all(row.verdict == "supported" for row in tested):
        verdict = "supported"
    return dataclasses.replace(
        _row(claim, ALL, verdict, text, level),
        n=min(row.n for row in tested),
        diverged=sum(row.diverged for row in tested),
        would_decide="; ".join(f"{row.architecture}: {row.would_decide}" for row in tested if row.would_decide),
        runs=" ".join(sorted({run for row in tested for run in row.runs.split()})),
    )


def markdown(ledger: pd.DataFrame, lacking: str = "") -> str:
    """The ledger for people: a sentence for each claim, and a table of what was measured.

    lacking: what the study lacks (traces/unfinished.py), which comes first.
    """
    lines = [lacking, ""] if lacking else []
    lines += [
        f"- **{row.claim}, {row.verdict}.** {row.statement} ({row.reason}.)"
        for row in ledger[ledger["architecture"] == ALL].itertuples()
    ]
    lines += ["", "| claim | architecture | verdict | of | estimate | n | supported if | what would decide |"]
    lines += ["| --- | --- | --- | --- | --: | --: | --- | --- |"]
    for row in ledger[(ledger["architecture"] != ALL) & (ledger["verdict"] != UNTESTED)].itertuples():
        estimate = f"{row.estimate:.3g} [{row.low:.3g}, {row.high:.3g}]".replace("nan", "–")  # an open end
        cells = [row.claim, row.architecture, row.verdict, row.part, estimate, row.n, row.supported_if]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in [*cells, row.would_decide]) + " |")
    return "\n".join(lines) + "\n"

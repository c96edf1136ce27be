"""Verdicts on the parts of a claim: their tests, corrections for many, and what would decide an open one.

The tests are one-sided t tests at (1 - level) / 2 against the ends of a rule's regions, so that without a correction
the verdict is read off the interval. A claim about several activations or losses says something of each. It is
supported if every part is: an intersection-union test, whose p is the largest of the parts (Berger 1982, Technometrics
24, 295). It is contradicted if one part is: the smallest p times the number of parts.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from sparsity_cliff.analysis.claims import Measure, Region
from sparsity_cliff.analysis.effects import INF, MIN_SEEDS, Effect

MOST_SEEDS = 200  # where more would be needed, the effect is as good as on a margin


class Part(NamedTuple):
    """A measured effect, and the p with which it supports and contradicts its claim."""

    measure: Measure
    effect: Effect
    p_supported: float
    p_contradicted: float

    @property
    def decides(self) -> bool:
        """Whether it has enough seeds and no obstacle."""
        return self.effect.n >= MIN_SEEDS and not self.effect.obstacle

    def numbers(self, level: float) -> tuple[float, float, float]:
        """Estimate, low, and high in the unit of the statistic."""
        values = (self.effect.mean, *self.effect.interval(level))
        return tuple(math.exp(value) for value in values) if self.measure.ratio else values  # type: ignore[return-value]

    def region(self, point: float) -> Region | None:
        """The region of the rule that a value lies in."""
        rule = self.measure.rule
        return next((region for region in (rule.supported, *rule.contradicted) if region[0] < point < region[1]), None)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p."""
    order, factors = np.argsort(p), np.arange(len(p), 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(factors * np.asarray(p, np.float64)[order]), 1)
    return [float(adjusted[place]) for place in np.argsort(order)]


def judged(measure: Measure, effect: Effect) -> Part:
    """The effect with its p. Both are 1 if it has too few seeds, or an obstacle."""
    if effect.n < MIN_SEEDS or effect.obstacle:
        return Part(measure, effect, 1.0, 1.0)
    contradicted = min((p_within(effect, region) for region in measure.rule.contradicted), default=1.0)
    return Part(measure, effect, p_within(effect, measure.rule.supported), contradicted)


def p_within(effect: Effect, region: Region) -> float:
    """p of the two one-sided tests that show an effect within a region."""
    return max(effect.p_above(region[0]), effect.p_below(region[1]))


def p_of_one(parts: Sequence[Part]) -> float:
    """p of the test that one or more parts contradict the claim (Bonferroni)."""
    deciding = [part for part in parts if part.decides and part.measure.rule.contradicted]
    return min(1.0, len(deciding) * min((part.p_contradicted for part in deciding), default=1.0))


def words(measure: Measure, region: Region) -> str:
    """A region in words, in the unit of the statistic."""
    low, high = (math.exp(end) if measure.ratio else end for end in region)
    if region[0] == -INF:
        return f"below {high:.3g}"
    return f"above {low:.3g}" if region[1] == INF else f"between {low:.3g} and {high:.3g}"


def interval(part: Part, level: float) -> str:
    """Estimate, interval, and n in words."""
    estimate, low, high = part.numbers(level)
    return f"{estimate:.3g} [{low:.3g}, {high:.3g}], n = {part.effect.n}"


def lies(part: Part, region: Region) -> str:
    """The statement that a part lies in a region."""
    return f"{part.effect.part} is {words(part.measure, region)}"


def why_open(part: Part, alpha: float, family: int) -> str:
    """Why a part decides nothing."""
    effect = part.effect
    if effect.obstacle:
        return f"{effect.part}: {effect.obstacle}"
    if effect.n < MIN_SEEDS:
        return f"{effect.part} has {effect.n} of at least {MIN_SEEDS} seeds"
    if min(part.p_supported, part.p_contradicted) <= alpha:
        region = part.region(effect.mean) or part.measure.rule.supported
        return f"{lies(part, region)}, but not after the correction for {family} architectures and their parts"
    return f"the interval of {effect.part} is not within one region"


def seeds_needed(part: Part, alpha: float) -> int | None:
    """The number of seeds at which a one-sided test at alpha is expected to place the effect where its estimate is.

    There, the half-width of the interval is less than the distance from the estimate to the next margin. None if
    MOST_SEEDS are too few, the estimate is in no region, or one seed does not show how much seeds differ.
    """
    effect, region = part.effect, part.region(part.effect.mean)
    if region is None or effect.n < 2:
        return None
    distance = min(effect.mean - region[0], region[1] - effect.mean)
    n = np.arange(max(MIN_SEEDS, effect.n + 1), MOST_SEEDS + 1)
    freedom = effect.freedom * (n - 1) / (effect.n - 1)
    half = stats.t.ppf(1 - alpha, freedom) * effect.error * np.sqrt(effect.n / n)
    enough = n[half < distance]
    return int(enough[0]) if len(enough) else None


def would_decide(parts: Sequence[Part], alpha: float) -> str:
    """The runs that would decide an inconclusive row, if their numbers are as expected from the estimates."""
    blocked = [part.effect.remedy for part in parts if part.effect.obstacle]
    if blocked:
        return "; ".join(dict.fromkeys(blocked))
    single = [part for part in parts if part.effect.n < 2]
    if single:
        return f"at least {MIN_SEEDS} seeds of {_names(single)}"
    against = [part for part in parts if part.region(part.effect.mean) in part.measure.rule.contradicted]
    if against:  # one part is enough
        found = [(needed, part) for part in against if (needed := seeds_needed(part, alpha / len(parts)))]
        if found:
            needed, part = min(found, key=lambda pair: pair[0])
            return f"about {needed} seeds of {part.effect.part}"
        return f"more seeds alone would not decide: {_names(against)} is close to a margin"
    undecided = [part for part in parts if part.p_supported > alpha]
    nowhere = [part for part in undecided if part.region(part.effect.mean) is None]
    if nowhere:
        return f"more seeds alone would not decide: the estimate of {_names(nowhere)} is in no region"
    counts = {part.effect.part: seeds_needed(part, alpha) for part in undecided}
    close = [part for part in undecided if counts[part.effect.part] is None]
    if close:
        return f"more seeds alone would not decide: {_names(close)} is close to a margin"
    most = max((count for count in counts.values() if count), default=MIN_SEEDS)
    return f"about {most} seeds of {_names(undecided)}"


def _names(parts: Sequence[Part]) -> str:
    return " and of ".join(part.effect.part for part in parts)

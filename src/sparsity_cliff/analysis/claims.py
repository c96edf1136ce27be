"""The claims of arXiv 2605.17659, and what would support or contradict each: stated before any data are seen.

analysis/ledger.py judges a study by these rules. docs/claims.md explains them and shows how often they are wrong.
"""

import dataclasses
import math
from collections.abc import Callable

from sparsity_cliff.analysis import effects
from sparsity_cliff.analysis.effects import INF, Effect, Tables

Region = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Rule:
    """An interval within `supported` supports a claim, and one within another region contradicts it.

    margin: the smallest effect of interest. All numbers are in the unit of the effect; those of ratios are logarithms.
    """

    margin: float
    supported: Region
    contradicted: tuple[Region, ...]


def more(margin: float) -> Rule:
    """An effect above the margin. None (an equivalence test) and one below -margin contradict it."""
    none = ((-margin, margin),) if margin else ()
    return Rule(margin, (margin, INF), (*none, (-INF, 0.0 - margin)))


def less(margin: float) -> Rule:
    """An effect below -margin. None (an equivalence test) and one above the margin contradict it."""
    none = ((-margin, margin),) if margin else ()
    return Rule(margin, (-INF, 0.0 - margin), (*none, (margin, INF)))


def near(center: float, margin: float) -> Rule:
    """An effect that differs from the center by less than the margin, by an equivalence test."""
    return Rule(margin, (center - margin, center + margin), ((-INF, center - margin), (center + margin, INF)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """A statistic and its rule.

    needs: the runs that it takes. effects: computes it; None for the bracket of analysis/critical.py. ratio: the effect
    is the logarithm of a ratio.
    """

    statistic: str
    unit: str
    rule: Rule
    needs: str
    effects: Callable[[Tables], list[Effect]] | None
    ratio: bool = False


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, which holds if all its measures hold. tokens: it is about language models only."""

    id: str
    statement: str
    measures: tuple[Measure, ...]
    tokens: bool = False


SMOOTH = ("relu", "gelu", "silu")
ODD = ("tanh", "identity")
SQUARED, PLAIN = ("relu2", "topk of relu2"), ("relu", "topk of relu", "quantile_relu")
DRIFT, STD = "drift d of hidden weights at 10 % of the steps", "initial standard deviations"
TOLERANCE = 0.05  # share of the reference score that may be lost, in C6

CLAIMS = (
    Claim(
        "C1",
        "At initialization, the gradient of the loss with respect to positive pre-activations is positive.",
        (
            Measure(
                statistic="mean of ∂L/∂z over z > 0 at step 0",
                unit="loss ÷ pre-activation",
                rule=more(0.0),
                needs="ReLU, GELU, or SiLU with MSE or cross-entropy",
                effects=lambda tables: effects.positive_gradient(tables, SMOOTH),
            ),
        ),
    ),
    Claim(
        "C2",
        "With ReLU, GELU, and SiLU, the weights that an activation feeds drift negative in early training.",
        (
            Measure(
                statistic=DRIFT,
                unit=STD,
                rule=less(0.01),
                needs="ReLU, GELU, or SiLU",
                effects=lambda tables: effects.drift(tables, SMOOTH),
            ),
        ),
    ),
    Claim(
        "C3",
        "They drift negative on random inputs with random labels, too.",
        (
            Measure(
                statistic=f"{DRIFT}, random data",
                unit=STD,
                rule=less(0.01),
                needs="ReLU, GELU, or SiLU on random data",
                effects=lambda tables: effects.drift(tables, SMOOTH, "random"),
            ),
        ),
    ),
    Claim(
        "C4",
        "With tanh and the identity, weights do not drift, whereas they do with ReLU.",
        (
            Measure(
                statistic=DRIFT,
                unit=STD,
                rule=near(0.0, 0.01),
                needs="tanh or the identity",
                effects=lambda tables: effects.drift(tables, ODD),
            ),
            Measure(
                statistic=f"{DRIFT}, ReLU - control",
                unit=STD,
                # shows that the study can see drift; that there is none with ReLU would contradict C2, not this claim
                rule=Rule(0.01, (-INF, -0.01), ()),
                needs="ReLU, and tanh or the identity",
                effects=lambda tables: effects.drift_difference(tables, ["relu"], ODD),
            ),
        ),
    ),
    Claim(
        "C5a",
        "With ReLU, activation sparsity rises during training.",
        (
            Measure(
                statistic="activation sparsity at the end - at step 0",
                unit="share of zeros",
                rule=more(0.05),
                needs="ReLU",
                effects=lambda tables: effects.rise(tables, "activation_sparsity", ["relu"]),
            ),
        ),
    ),
    Claim(
        "C5b",
        "With GELU and SiLU, the share of values near zero rises during training.",
        (
            Measure(
                statistic="near-zero share at the end - at step 0",
                unit="share of values",
                rule=more(0.05),
                needs="GELU or SiLU",
                effects=lambda tables: effects.rise(tables, "near_zero_share", ["gelu", "silu"]),
            ),
        ),
    ),
    Claim(
        "C5c",
        "With ReLU, about 90 % of the activations of a language model end as zeros.",
        (
            Measure(
                statistic="activation sparsity at the end",
                unit="share of zeros",
                rule=Rule(0.05, (0.85, INF), ((-INF, 0.85),)),
                needs="ReLU",
                effects=lambda tables: effects.at_end(tables, "activation_sparsity", ["relu"]),
            ),
        ),
        tokens=True,
    ),
    Claim(
        "C6",
        "The score falls off a cliff above about 70 % activation sparsity.",
        (
            Measure(
                statistic=f"bracket of critical sparsity at a loss of {100 * TOLERANCE:g} % of the score",
                unit="share of zeros",
                rule=near(0.70, 0.10),
                needs="a control of sparsity, such as Top-K, and the baseline",
                effects=None,
            ),
        ),
    ),
    Claim(
        "C7",
        "At equal sparsity, the validation loss of ReLU² is not above that of ReLU.",
        (
            Measure(
                statistic="validation loss, ReLU² - ReLU, within 2 points of sparsity",
                unit="nats per token",
                rule=Rule(0.01, (-INF, 0.01), ((0.01, INF),)),
                needs="ReLU² and ReLU",
                effects=lambda tables: effects.loss_at_equal_sparsity(tables, SQUARED, PLAIN),
            ),
        ),
        tokens=True,
    ),
    Claim(
        "C8a",
        "ReLU² amplifies the spikes of intermediate layers.",
        (
            Measure(
                statistic="spike ratio (max |a| ÷ RMS) of ReLU² ÷ that of ReLU, middle blocks",
                unit="ratio",
                rule=more(math.log(2)),
                needs="ReLU² and ReLU with three or more blocks",
                effects=lambda tables: effects.spike_factor(tables, "spike_ratio", ["relu2"], ["relu"], middle=True),
                ratio=True,
            ),
        ),
        tokens=True,
    ),
    Claim(
        "C8b",
        "ReLU² makes the spikes of intermediate layers about 25 times as large.",
        (
            Measure(
                statistic="spike (max |a|) of ReLU² ÷ that of ReLU, middle blocks",
                unit="ratio",
                rule=near(math.log(25), math.log(2)),
                needs="ReLU² and ReLU with three or more blocks",
                effects=lambda tables: effects.spike_factor(tables, "spike", ["relu2"], ["relu"], middle=True),
                ratio=True,
            ),
        ),
        tokens=True,
    ),
    Claim(
        "C9",
        "Clipping ReLU² removes its spikes and lowers its validation loss.",
        (
            Measure(
                statistic="spike (max |a|) of clipped ReLU² ÷ that of ReLU²",
                unit="ratio",
                rule=less(math.log(2)),
                needs="ReLU² with and without a clip",
                effects=lambda tables: effects.spike_factor(tables, "spike", ["clipped relu2"], ["relu2"]),
                ratio=True,
            ),
            Measure(
                statistic="validation loss, clipped ReLU² - ReLU²",
                unit="nats per token",
                rule=less(0.0),
                needs="ReLU² with and without a clip",
                effects=lambda tables: effects.loss_difference(tables, ["clipped relu2"], ["relu2"]),
            ),
        ),
        tokens=True,
    ),
    Claim(
        "C10",
        "The validation loss of GELU² is below that of each other activation.",
        (
            Measure(
                statistic="validation loss, GELU² - another activation",
                unit="nats per token",
                rule=Rule(0.005, (-INF, 0.0), ((0.005, INF),)),  # within the margin, there is a tie
                needs="GELU² and another activation",
                effects=lambda tables: effects.lowest_loss(tables, ["gelu2"], ["clipped gelu2"]),
            ),
        ),
        tokens=True,
    ),
)

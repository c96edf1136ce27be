"""What a study can show: the expected width of critical sparsity and the power of its verdicts, before it is run.

`python benchmarks/power.py STUDY [--components TABLES] [--draws N] [--resample]` reads a study and prints a row per
architecture, mechanism, and tolerance. The components of variance are those of a finished study in the folder TABLES:

- the curve of relative score against sparsity (`levels`),
- the spread of scores between seeds (`points`), pooled over an architecture's controls and baseline,
- the scores of the held-out examples (`examples`), from which each draw takes as many with replacement.

A draw of the study has the study's levels and seeds. Scores of seeds are normal, or with --resample, drawn from the
finished study's own deviations.

`python benchmarks/power.py config.yaml --publish` puts both beside what the finished study has measured, and writes the
table between the markers of docs/scale.md.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pages import publish

from sparsity_cliff.analysis import cliff, critical
from sparsity_cliff.analysis.collect import mechanism
from sparsity_cliff.analysis.curves import Level, fit
from sparsity_cliff.study import table as studies

TABLES = Path(__file__).parents[1] / "reference" / "laptop"
START = 0.02  # of the stretch whose verdict is counted
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- power: begin -->", "<!-- power: end -->"
SHOWN = 0.05  # tolerance of the published table


class Design(NamedTuple):
    """What a study plans for one curve."""

    architecture: str
    mechanism: str
    targets: list[float]  # nominal sparsities of the levels
    seeds: list[int]  # of each
    reference: int  # seeds of the baseline


class Components(NamedTuple):
    """What a finished study has measured for one architecture and mechanism."""

    sparsities: np.ndarray  # of the reference and the levels, ascending
    scores: np.ndarray  # of the monotone curve, relative to the reference
    targets: np.ndarray  # nominal sparsities, in the order of `measured`
    measured: np.ndarray
    deviations: np.ndarray  # of relative scores from their level's mean
    examples: list[np.ndarray] | None  # for each of `sparsities`: scores of held-out examples, relative; None: unknown


def designs(study: studies.Study) -> list[Design]:
    """The curves that a study plans, as analysis/points.py selects them."""
    found: dict[tuple[str, str], dict[float, int]] = {}
    reference: dict[str, int] = {}
    real = [run for run in study.runs.values() if run.data == "real" and run.loss in study.cliff["losses"]]
    for run in real:
        own = {other.loss for other in real if other.architecture == run.architecture}
        if run.loss != min(own, key=study.cliff["losses"].index):
            continue
        spec = json.loads(run.spec)
        way = mechanism(spec)
        if way is not None:
            options = {**spec["activation"], **spec["normalization"]}
            levels = found.setdefault((run.architecture, way), {})
            target = float(options.get("sparsity", options.get("q")))
            levels[target] = levels.get(target, 0) + len(run.seeds)
        elif run.activation == study.cliff["baseline"] and run.normalization == "default":
            reference[run.architecture] = reference.get(run.architecture, 0) + len(run.seeds)
    return [
        Design(architecture, way, sorted(levels), [levels[x] for x in sorted(levels)], reference.get(architecture, 0))
        for (architecture, way), levels in found.items()
    ]


def components(tables: Path, design: Design) -> Components | None:
    """The measured components for a design; None if the finished study has no such curve."""
    points, levels, examples = (
        pd.read_parquet(tables / f"{name}.parquet") for name in ("points", "levels", "examples")
    )
    own = levels[(levels["architecture"] == design.architecture) & (levels["mechanism"] == design.mechanism)]
    if len(own) < 3:
        return None
    own = own.sort_values("sparsity")
    points = points[(points["architecture"] == design.architecture)]
    points = points[points["configuration"].isin(own["configuration"])]
    groups = points.groupby("configuration")["relative_score"]
    sizes = groups.transform("size")
    scaled = (points["relative_score"] - groups.transform("mean")) * np.sqrt(sizes / (sizes - 1))
    controls = points[points["mechanism"] == design.mechanism].groupby("target_sparsity")["sparsity"].mean()
    scores = points[["configuration", "run", "seed", "metric"]].merge(examples, on=["run", "seed", "metric"])
    by_level = {
        str(name): np.mean(np.stack(list(part["values"])), axis=0) for name, part in scores.groupby("configuration")
    }
    scale = points.loc[points["mechanism"].isna(), "score"].mean()
    known = all(name in by_level for name in own["configuration"])
    return Components(
        own["sparsity"].to_numpy(),
        own["fitted"].to_numpy(),
        controls.index.to_numpy(np.float64),
        controls.to_numpy(),
        scaled[sizes > 1].to_numpy(),
        [by_level[name] / scale for name in own["configuration"]] if known else None,
    )


def draw(design: Design, found: Components, resample: bool, random: np.random.Generator) -> tuple[list[Level], Level]:
    """The levels and the reference of one simulated study."""
    count = len(found.examples[0]) if found.examples else 0
    chosen = random.integers(count, size=count) if count else None

    def level(sparsity: float, seeds: int) -> Level:
        mean = float(np.interp(sparsity, found.sparsities, found.scores))
        if resample:
            scores = mean + random.choice(found.deviations, seeds)
        else:
            scores = random.normal(mean, found.deviations.std(), seeds)
        nearest = int(np.argmin(np.abs(found.sparsities - sparsity)))
        examples = found.examples[nearest][chosen] if found.examples and chosen is not None else None
        return Level(sparsity, scores, examples)

    x = np.interp(design.targets, found.targets, found.measured)
    levels = [level(float(sparsity), seeds) for sparsity, seeds in zip(x, design.seeds, strict=True) if seeds > 1]
    return levels, level(float(found.sparsities[0]), design.reference)


def power(study: studies.Study, tables: Path, draws: int, resample: bool) -> pd.DataFrame:
    """A row per curve and tolerance: how wide its bracket is, and how often there is one."""
    rows = []
    for design in designs(study):
        found = components(tables, design)
        row = {"architecture": design.architecture, "mechanism": design.mechanism, "levels": len(design.targets)}
        row |= {"seeds": min(design.seeds), "reference": design.reference}
        if found is None or design.reference < 2:
            rows.append(row)
            continue
        random = np.random.default_rng(0)
        drawn = [fit(*draw(design, found, resample, random)) for _ in range(draws)]
        falls = [cliff.fall(one, START).verdict for one in drawn]
        for tolerance in critical.TOLERANCES:
            some = [critical.locate(one, tolerance) for one in drawn]
            half = [(one.high - one.low) / 2 for one in some if one.verdict == "bracket"]
            beyond = sum(one.verdict == "beyond the range measured" for one in some)
            more = {"tolerance": tolerance, "bracket": len(half) / draws, "beyond the range": beyond / draws}
            more |= {"half-width": float(np.median(half)) if half else np.nan}
            verdicts = pd.Series(falls).value_counts(normalize=True)
            more |= {name: verdicts.get(name, 0.0) for name in ("cliff", "gradual decline")}
            rows.append(row | more)
    return pd.DataFrame(rows)


def compared(study: studies.Study, tables: Path, draws: int) -> str:
    """A table of the promised, the resampled, and the measured half-widths at a loss of SHOWN, in points."""
    measured = pd.read_parquet(tables / "critical.parquet").set_index(["architecture", "mechanism", "tolerance"])
    normal, resampled = (
        found[found["tolerance"] == SHOWN].set_index(["architecture", "mechanism"])
        for found in (power(study, tables, draws, resample) for resample in (False, True))
    )
    lines = [
        "| architecture | levels | seeds: reference, level | bracket: promised, resampled | half-width: promised | "
        "resampled | measured |",
        "| --- | --: | --: | --: | --: | --: | --- |",
    ]
    for key, row in normal.iterrows():
        other, found = resampled.loc[key], measured.loc[(*key, SHOWN)]
        half = (found["high"] - found["low"]) / 2
        widths = [f"{100 * one['half-width']:.1f}" if one["bracket"] else "–" for one in (row, other)]
        shown = f"{100 * half:.1f}" if found["verdict"] == "bracket" else found["verdict"]
        sizes = f"{row['levels']:.0f} | {row['reference']:.0f}, {row['seeds']:.0f}"
        brackets = f"{100 * row['bracket']:.0f} %, {100 * other['bracket']:.0f} %"
        lines.append(f"| {key[0]} | {sizes} | {brackets} | {' | '.join(widths)} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file")
    parser.add_argument("--components", type=Path, default=TABLES, help="folder with the tables of a finished study")
    parser.add_argument("--draws", type=int, default=200, help="simulated studies")
    parser.add_argument("--resample", action="store_true", help="draw deviations of seeds from the finished study")
    parser.add_argument("--publish", action="store_true", help="write the comparison into docs/scale.md")
    options = parser.parse_args()
    if options.publish:
        publish(PAGE, BEGIN, END, [compared(studies.open_file(options.study), options.components, options.draws)])
        return
    table = power(studies.open_file(options.study), options.components, options.draws, options.resample)
    for name in ("tolerance", "bracket", "beyond the range", "half-width", "cliff", "gradual decline"):
        if name in table:
            table[name] = (100 * table[name]).round(1)
    print(table.to_string(index=False, na_rep="–"))


if __name__ == "__main__":
    main()

"""Judge what has to be made, and why, by contents alone. The workflow and the command line both use this module.

Neither file times nor Snakemake's records of earlier jobs count. A trace is current if it is whole and was made with
the spec and the code of the current study. A table or figure is current if the digest that it carries (origin.py) is
that of its current settings, code, and inputs.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparsity_cliff.study.spec import Run
from sparsity_cliff.traces import origin

UP_TO_DATE = "up to date"


def why_run(run: Run, results: Path) -> str:
    """Why a run has to be trained, according to its trace under `results` (results/<study>); else UP_TO_DATE."""
    path = results / "traces" / f"{run.id}.parquet"
    if not path.exists():
        trained = (results / "logs" / "train" / f"{run.id}.log").exists()
        return "trace missing" if trained else "new"
    from sparsity_cliff.traces import reader  # imports pyarrow, which a study without traces does not need
    from sparsity_cliff.traces.schema import TraceError

    try:
        _, about = reader.read(path, run.id)
    except TraceError as error:
        return f"trace refused: {error}"
    if changes := reader.difference(about["spec"], run.spec):
        return f"spec: {changes}"
    if changed := reader.changed_modules(about["code"], json.loads(run.code)):
        return f"code of {', '.join(changed)} changed"
    return UP_TO_DATE


def why_run_again(run: Run, results: Path) -> str:
    """The answer of `why_run`. A trace that is still the file that this process read is not read a second time."""
    try:
        state = (results / "traces" / f"{run.id}.parquet").stat()
    except FileNotFoundError:
        return why_run(run, results)
    return _why_run(run, results, (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


@cache
def _why_run(run: Run, results: Path, state: tuple[int, ...]) -> str:
    return why_run(run, results)


def why_made(outputs: Iterable[str], inputs: Sequence[str], own: str) -> str:
    """Why tables or figures have to be made from `inputs` with settings and code `own`; else UP_TO_DATE."""
    try:
        expected = origin.digest(own, inputs)
    except origin.UnknownOrigin as error:
        return str(error)
    for output in outputs:
        if not Path(output).exists():
            return f"{output}: missing"
        if origin.of(output) != expected:
            return f"{output}: made with different settings, code, or inputs"
    return UP_TO_DATE


@dataclass(frozen=True)
class Step:
    """A job of the workflow. `why` returns the reason to run it, or UP_TO_DATE."""

    rule: str
    outputs: Sequence[str]
    inputs: Sequence[str]
    why: Callable[[], str]


def judge(steps: Iterable[Step], forced: Callable[[Step], bool] = lambda step: False) -> dict[str, str]:
    """Output -> why it has to be made, for all outputs that are not current. `steps` are in the order of the workflow.

    If an input has to be made, the outputs have to be made, too. forced: whether the user requests a step in any case.
    """
    found: dict[str, str] = {}
    for step in steps:
        first = next((path for path in step.inputs if path in found), None)
        why = "requested" if forced(step) else f"{first} is made again" if first else step.why()
        if why != UP_TO_DATE:
            found.update(dict.fromkeys(step.outputs, why))
    return found

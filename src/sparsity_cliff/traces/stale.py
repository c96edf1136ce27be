"""What has to be made, and why: judged by contents alone, for the workflow and for the command line alike.

Times of files do not count, nor does what Snakemake remembers of earlier jobs. A trace is current when it is whole and
says that it was made with the spec and the code that the study now asks for; a table or a figure is current when the
digest that it carries (origin.py) is that of its settings, its code and its inputs as they are now.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsity_cliff.study.spec import Run
from sparsity_cliff.traces import origin

UP_TO_DATE = "up to date"


def why_run(run: Run, results: Path) -> str:
    """Why a run has to be trained, by its trace under `results` (results/<study>); UP_TO_DATE where it need not."""
    from sparsity_cliff.traces import reader  # brings pyarrow, which not every command needs
    from sparsity_cliff.traces.schema import TraceError

    path = results / "traces" / f"{run.id}.parquet"
    if not path.exists():
        trained = (results / "logs" / "train" / f"{run.id}.log").exists()
        return "trace missing" if trained else "new"
    try:
        _, about = reader.read(path, run.id)
    except TraceError as error:
        return f"trace refused: {error}"
    if changes := reader.difference(about["spec"], run.spec):
        return f"spec: {changes}"
    if changed := reader.changed_modules(about["code"], json.loads(run.code)):
        return f"code of {', '.join(changed)} changed"
    return UP_TO_DATE


def why_made(outputs: Iterable[str], inputs: Sequence[str], own: str) -> str:
    """Why tables or figures have to be made, from `inputs` with the settings and code `own`; or UP_TO_DATE."""
    try:
        expected = origin.digest(own, inputs)
    except origin.UnknownOrigin as error:
        return str(error)
    for output in outputs:
        if not Path(output).exists():
            return f"{output}: missing"
        if origin.of(output) != expected:
            return f"{output}: made with other settings, code or inputs"
    return UP_TO_DATE


@dataclass(frozen=True)
class Step:
    """A job of the workflow: its rule, the files that it makes and reads, and what says why it has to run."""

    rule: str
    outputs: Sequence[str]
    inputs: Sequence[str]
    why: Callable[[], str]


def judge(steps: Iterable[Step], forced: Callable[[Step], bool] = lambda step: False) -> dict[str, str]:
    """Output -> why it has to be made, without what is current. The steps come in the order of the flow.

    What is made from something that has to be made has to be made, too. forced: whether the user wants it anyway.
    """
    found: dict[str, str] = {}
    for step in steps:
        first = next((path for path in step.inputs if path in found), None)
        why = "asked for" if forced(step) else f"{first} is made again" if first else step.why()
        if why != UP_TO_DATE:
            found.update(dict.fromkeys(step.outputs, why))
    return found

"""Command line of Sparsity Cliff.

`sparsity-cliff runs [STUDY]` prints the runs of a study and why each would train. `sparsity-cliff claims [STUDY]`
prints what a finished study shows of the paper's claims. `sparsity-cliff reference [STUDY]` compares a finished study
with the reference results in the folder `reference`.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from sparsity_cliff.study import table
from sparsity_cliff.study.reading import StudyError
from sparsity_cliff.study.spec import Study
from sparsity_cliff.traces import stale


def opened(path: str) -> Study:
    """The study of a file. Exits with one line if it is not valid."""
    try:
        return table.open_file(path)
    except StudyError as error:
        raise SystemExit(f"error: {error}") from error


def print_claims(path: str) -> None:
    """Print the claims ledger of a finished study."""
    file = Path("results") / opened(path).name / "tables" / "claims.md"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"error: {file}: cannot be read ({error.strerror}); run the sweep first") from error
    print(text.rpartition("<!--")[0].rstrip())


def compare_reference(path: str) -> None:
    """Compare a finished study with its reference results. Exits with a line per difference."""
    import pandas as pd

    from sparsity_cliff.analysis.reference import disagreements

    name = opened(path).name
    files = [Path("results") / name / "tables" / "points.parquet", Path("reference") / name / "points.parquet"]
    known = ", ".join(sorted(folder.parent.name for folder in Path("reference").glob("*/points.parquet"))) or "none"
    remedies = ["run the sweep first", f"studies with reference results: {known}"]
    tables = []
    for file, remedy in zip(files, remedies, strict=True):
        if not file.is_file():
            raise SystemExit(f"error: {file}: missing; {remedy}")
        try:
            tables.append(pd.read_parquet(file))
        except (OSError, ValueError) as error:  # pyarrow's errors are these
            raise SystemExit(f"error: {file}: cannot be read ({str(error).splitlines()[0]})") from error
    lines = disagreements(*tables)
    if lines:
        raise SystemExit("\n".join([f"error: {name}: {len(lines)} differences from {files[1].parent}", *lines]))
    count = len(tables[0][["architecture", "configuration"]].drop_duplicates())
    print(f"{name}: {count} configurations agree with {files[1].parent}, within the noise of their seeds")


def print_runs(path: str) -> None:
    """Print the run table: id, data set, seeds, steps, and the reason to train."""
    plan = opened(path)
    reasons = {run.id: stale.why_run(run, Path("results") / plan.name) for run in plan.runs.values()}
    width = max(map(len, plan.runs))
    print(f"{'run':{width}}  {'data set':10}  {'seeds':>5}  {'steps':>7}  why it would train")
    for run in plan.runs.values():
        steps = json.loads(run.spec)["training"]["steps"]
        print(f"{run.id:{width}}  {run.dataset:10}  {len(run.seeds):5}  {steps:7}  {reasons[run.id]}")
    trainings = sum(len(run.seeds) for run in plan.runs.values())
    count = sum(why != stale.UP_TO_DATE for why in reasons.values())
    print(f"{len(plan.runs)} runs, {trainings} trainings, {count} runs to train")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    sys.path.insert(0, os.getcwd())  # as in the workflow: a study may name objects in the working directory
    parser = argparse.ArgumentParser(prog="sparsity-cliff", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, call, words in (
        ("runs", print_runs, "print the run table and why each run would train"),
        ("claims", print_claims, "print what a finished study shows of the paper's claims"),
        ("reference", compare_reference, "compare a finished study with the reference results"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("study", nargs="?", default="config.yaml", help="study file (default: config.yaml)")
        command.set_defaults(call=call)
    options = parser.parse_args(arguments)
    try:
        options.call(options.study)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, wants no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its exit


if __name__ == "__main__":
    main(sys.argv[1:])

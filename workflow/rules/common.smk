# Validation and paths: the only place with functions.
import os
import sys
from pathlib import Path

# A study may name objects of the user's own: from the folder where Snakemake runs, or from PYTHONPATH.
SEARCH = [str(Path(workflow.basedir) / "src"), os.getcwd()]
sys.path[:0] = SEARCH
own = os.environ.get("PYTHONPATH")
os.environ.update(PYTHONPATH=os.pathsep.join([*SEARCH, own] if own else SEARCH))  # for jobs

from sparsity_cliff import source, study


def load_study():
    files = [os.path.relpath(path) for path in workflow.configfiles]
    try:
        for path in files:
            study.read(path)  # stricter than Snakemake's reader
        return study.load(config)
    except study.StudyError as error:
        named = str(error).startswith(tuple(files))
        sys.exit(f"error: {error}" if named else f"error: {', '.join(files) or '--config'}: {error}")


def code(module):
    return study.canonical(source.code(f"sparsity_cliff.{module}"))


STUDY = load_study()
RESULTS = f"results/{STUDY.name}"
TRACES = {run: f"{RESULTS}/traces/{run}.parquet" for run in STUDY.runs}


wildcard_constraints:
    run=r"[A-Za-z0-9_.-]+",

# Validation and paths: the only place with functions.
import os
import sys
from pathlib import Path

# A study may name objects of the user's own: from the folder where Snakemake runs, or from PYTHONPATH.
SEARCH = [str(Path(workflow.basedir) / "src"), os.getcwd()]
sys.path[:0] = SEARCH
own = os.environ.get("PYTHONPATH")
os.environ.update(PYTHONPATH=os.pathsep.join([*SEARCH, own] if own else SEARCH))  # for jobs

from sparsity_cliff import reading, source, study


def load_study():
    """The study of the file that was chosen, read by our own reader: Snakemake's would merge several."""
    try:
        file = reading.chosen(workflow.overwrite_configfiles, workflow.config_settings.config)
        found = study.open_file(file)
    except study.StudyError as error:
        sys.exit(f"error: {error}")
    if not workflow.configfiles:
        workflow.configfiles.append(file)  # for reports
    config.clear()
    config.update(found.config)  # for scripts
    return found


def code(module):
    return study.canonical(source.code(f"sparsity_cliff.{module}"))


STUDY = load_study()
RESULTS = f"results/{STUDY.name}"
TRACES = {run: f"{RESULTS}/traces/{run}.parquet" for run in STUDY.runs}


wildcard_constraints:
    run=r"[A-Za-z0-9_.-]+",

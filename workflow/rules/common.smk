# Validation, paths, and the decision about what has to be made. Functions are only in this file.
import os
import sys
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

# A study may name the user's own objects, in the folder where Snakemake runs or on PYTHONPATH.
SEARCH = [str(Path(workflow.basedir) / "src"), os.getcwd()]
sys.path[:0] = SEARCH
os.environ.update(PYTHONPATH=os.pathsep.join([*SEARCH, *filter(None, [os.environ.get("PYTHONPATH")])]))  # for jobs

from snakemake.settings.enums import RerunTrigger
from sparsity_cliff.study import digests, reading, source, spec, table
from sparsity_cliff.traces import stale, unfinished


def load_study():
    """The study of the chosen file, read by our own reader, because Snakemake's reader would merge several files."""
    try:
        file = reading.chosen(workflow.overwrite_configfiles, workflow.config_settings.config)
        found = table.open_file(file)
    except reading.StudyError as error:
        sys.exit(f"error: {error}")
    workflow.configfiles or workflow.configfiles.append(file)  # for reports
    config.clear()
    config.update(found.config)  # for scripts
    return found


STUDY = load_study()
RESULTS = f"results/{STUDY.name}"
TRACES = {run: f"{RESULTS}/traces/{run}.parquet" for run in sorted(STUDY.runs)}  # in alphabetical order
PARTIAL = bool(workflow.config_settings.config.get("partial"))  # --config partial=yes


wildcard_constraints:
    run=r"[A-Za-z0-9_.-]+",


STEPS = []  # in the order of the workflow; judged by contents (docs/design.md) at the start and the end of a sweep
CODE = {}  # arguments of digests.code -> its result while the rules were read


@cache
def to_make():
    """Output -> why it has to be made. Called once Snakemake knows its targets, before it judges files itself."""
    settings = workflow.dag_settings
    settings.rerun_triggers = frozenset([RerunTrigger.MTIME])  # always on, except for inputs that are `ancient`
    workflow.dag.ignore_incomplete = True
    names = [*settings.forcerun, *(settings.targets if settings.forcetargets else [])]
    asked = {os.path.relpath(name) if os.sep in name else name for name in names}
    return stale.judge(STEPS, lambda step: settings.forceall or not asked.isdisjoint([step.rule, *step.outputs]))


def wanted(*outputs):
    """Whether the job that makes `outputs` has to run, and then forces it. In a job's own process, it always runs."""
    if not workflow.is_main_process:
        return True
    found = to_make().keys() & set(outputs)
    workflow.dag.forcefiles.update(filter(os.path.exists, found))  # Snakemake itself detects missing files
    return bool(found)


def data_file(wildcards):
    """The input of a training job. Empty if its trace is current, so that missing data is made only if it is needed."""
    if not wanted(TRACES[wildcards.run]):
        return []
    path = f"results/data/{STUDY.datasets[STUDY.runs[wildcards.run].dataset].file}"
    if os.path.exists(path) and not zipfile.is_zipfile(path):  # torn
        workflow.dag.forcefiles.add(path)
    return path


def step(rule, inputs, outputs, settings=None, script=None, loads=(), selected=frozenset()):
    """A job whose tables or figures carry the digest of their origin. `own` holds its settings and all of its code.

    The code is the script, its imports, and what it looks up at run time: the modules `loads`, and `selected`."""
    key = ((Path(workflow.basedir) / f"workflow/scripts/{script or rule}.py", *loads), selected)
    CODE[key] = digests.code(*key)
    own = spec.canonical({"settings": settings, "code": CODE[key]})
    STEPS.append(stale.Step(rule, outputs, inputs, lambda: stale.why_made(outputs, inputs, own)))
    read = lambda wildcards: inputs if wanted(*outputs) else [ancient(path) for path in inputs]
    return SimpleNamespace(inputs=read, outputs=outputs, own=own)


def check_end():
    """Raise WorkflowError if a sweep has left anything stale, for example because of an edit while it ran."""
    digests.forget()
    try:
        now, code = load_study(), {key: digests.code(*key) for key in CODE}
    except (SystemExit, source.SourceError):  # an unfinished edit
        now, code = None, None
    if code != CODE or any(getattr(now, part) != getattr(STUDY, part) for part in ("name", "runs", "cliff", "drift")):
        raise WorkflowError("the study or its code changed while the sweep ran; run it again to update what is stale")
    made = {str(path) for job in workflow.dag.jobs for path in job.output}
    for path, why in stale.judge(STEPS).items():
        if path in made:
            raise WorkflowError(f"{path} is not current: {why}")

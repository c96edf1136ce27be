# Sparsity Cliff. The order of the workflow: study file -> run table -> training -> tables -> analysis -> figures.
from snakemake.utils import min_version

min_version("9.20")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/collect.smk"
include: "workflow/rules/analyze.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/figures.smk"


EVERYTHING = [*INCLUDED.values(), *TABLES, *FIGURE_FILES]

if not MISSING:

    rule all:
        default_target: True
        input:
            EVERYTHING,

else:  # always a job, so that no sweep that leaves out runs (train.smk) ends with status 0

    rule all:
        default_target: True
        input:
            EVERYTHING,
        run:
            raise WorkflowError(INCOMPLETE)


onsuccess:
    check_end()

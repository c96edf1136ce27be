# Traces of the study -> three tables. A trace that is not that of its run is an error that names the file. A run that is
# left out (train.smk) has rows in the table `runs` only.
COLLECT = step(
    "collect",
    inputs=list(INCLUDED.values()),
    outputs=[f"{RESULTS}/tables/{table}.parquet" for table in ("facts", "runs", "examples")],
    settings={run: STUDY.runs[run].spec for run in MISSING} or None,
)


rule collect:
    input:
        COLLECT.inputs,
    output:
        COLLECT.outputs,
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        specs={run: STUDY.runs[run].spec for run in TRACES},
        codes={run: STUDY.runs[run].code for run in TRACES},
        own=COLLECT.own,
    script:
        "../scripts/collect.py"

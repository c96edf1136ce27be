# All traces of the study -> two tables. A trace that is not the expected run's is refused by name.
rule collect:
    input:
        TRACES.values(),
    output:
        facts=f"{RESULTS}/tables/facts.parquet",
        runs=f"{RESULTS}/tables/runs.parquet",
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        specs={run: STUDY.runs[run].spec for run in STUDY.runs},
        code=code("collect"),
    script:
        "../scripts/collect.py"

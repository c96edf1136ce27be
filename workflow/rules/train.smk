# One job per run. Its trace records the spec and code that made it, which alone decide whether it is stale
# (docs/design.md). The script of the job, workflow/scripts/train.py, is not in the digest: no number depends on it.
STEPS += [
    stale.Step("train", [TRACES[name]], [], lambda run=run: stale.why_run(run, Path(RESULTS)))
    for name, run in STUDY.runs.items()
]


rule train:
    input:
        data_file,
    output:
        f"{RESULTS}/traces/{{run}}.parquet",
    log:
        f"{RESULTS}/logs/train/{{run}}.log",
    conda:
        "../../envs/train.yaml"
    threads: lambda wildcards: STUDY.runs[wildcards.run].processes
    resources:
        gpu=lambda wildcards: STUDY.runs[wildcards.run].gpus,  # for device auto: --set-resources train:gpu=1
    params:
        spec=lambda wildcards: STUDY.runs[wildcards.run].spec,
        code=lambda wildcards: STUDY.runs[wildcards.run].code,
    script:
        "../scripts/train.py"

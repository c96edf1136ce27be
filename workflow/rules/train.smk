# One job per run. Its two params, and nothing else, decide whether a trace is stale (docs/design.md).
rule train:
    input:
        # the file's name stands for its contents, so a newer copy of the same data re-trains nothing
        lambda wildcards: ancient(f"results/data/{STUDY.datasets[STUDY.runs[wildcards.run].dataset].file}"),
    output:
        f"{RESULTS}/traces/{{run}}.parquet",
    log:
        f"{RESULTS}/logs/train/{{run}}.log",
    conda:
        "../../envs/train.yaml"
    threads: lambda wildcards: STUDY.runs[wildcards.run].processes
    resources:
        gpu=lambda wildcards: STUDY.runs[wildcards.run].gpus,  # device auto: --set-resources train:gpu=1
    params:
        spec=lambda wildcards: STUDY.runs[wildcards.run].spec,
        code=lambda wildcards: STUDY.runs[wildcards.run].code,
    script:
        "../scripts/train.py"

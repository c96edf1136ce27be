# Collected tables -> the tables that figures show.
COLLECTED = {"facts": f"{RESULTS}/tables/facts.parquet", "runs": f"{RESULTS}/tables/runs.parquet"}


rule analyze_cliff:
    input:
        **COLLECTED,
    output:
        points=f"{RESULTS}/tables/points.parquet",
        cliff=f"{RESULTS}/tables/cliff.parquet",
        curves=f"{RESULTS}/tables/curves.parquet",
    log:
        f"{RESULTS}/logs/analyze_cliff.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        settings=study.canonical(STUDY.cliff),
        code=code("cliff") + code("analysis"),
    script:
        "../scripts/analyze_cliff.py"


rule analyze_drift:
    input:
        **COLLECTED,
    output:
        drift=f"{RESULTS}/tables/drift.parquet",
        contrasts=f"{RESULTS}/tables/drift_contrasts.parquet",
    log:
        f"{RESULTS}/logs/analyze_drift.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        settings=study.canonical(STUDY.drift),
        code=code("analysis"),
    script:
        "../scripts/analyze_drift.py"


rule analyze_layers:
    input:
        **COLLECTED,
    output:
        steps=f"{RESULTS}/tables/sparsity_over_steps.parquet",
        depth=f"{RESULTS}/tables/sparsity_by_depth.parquet",
        histograms=f"{RESULTS}/tables/weight_histograms.parquet",
    log:
        f"{RESULTS}/logs/analyze_layers.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        level=STUDY.drift["level"],
        code=code("analysis"),
    script:
        "../scripts/analyze_layers.py"


TABLES = [
    *COLLECTED.values(),
    *rules.analyze_cliff.output,
    *rules.analyze_drift.output,
    *rules.analyze_layers.output,
]

# Collected tables -> the tables that figures show. One of them, the theory, needs no runs, only their activations.
import json

COLLECTED = {"facts": f"{RESULTS}/tables/facts.parquet", "runs": f"{RESULTS}/tables/runs.parquet"}
SPECS = [json.loads(run.spec) for run in STUDY.runs.values()]
ENTRIES = {kind: {spec[kind]["name"]: spec[kind] for spec in SPECS} for kind in ("activation", "loss")}
NAMED = frozenset((kind, entry["function"]) for kind in ENTRIES for entry in ENTRIES[kind].values())


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
        signs=f"{RESULTS}/tables/gradient_signs.parquet",
        spikes=f"{RESULTS}/tables/spikes.parquet",
        histograms=f"{RESULTS}/tables/weight_histograms.parquet",
    log:
        f"{RESULTS}/logs/analyze_layers.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        level=STUDY.drift["level"],
        relu=next((name for name, entry in ENTRIES["activation"].items() if entry["function"] == "relu"), None),
        code=code("analysis"),
    script:
        "../scripts/analyze_layers.py"


rule analyze_theory:
    output:
        f"{RESULTS}/tables/theory.parquet",
    log:
        f"{RESULTS}/logs/analyze_theory.log",
    conda:
        "../../envs/train.yaml"
    params:
        entries=study.canonical(ENTRIES),
        code=study.canonical(source.code("sparsity_cliff.theory", NAMED)),
    script:
        "../scripts/analyze_theory.py"


TABLES = [
    *COLLECTED.values(),
    *rules.analyze_cliff.output,
    *rules.analyze_drift.output,
    *rules.analyze_layers.output,
    *rules.analyze_theory.output,
]

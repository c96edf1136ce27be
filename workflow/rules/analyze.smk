# Collected tables -> the tables that figures show. The table `theory` needs no runs, only their activations and losses.
import json

SPECS = [json.loads(STUDY.runs[run].spec) for run in TRACES]
ENTRIES = {kind: {spec[kind]["name"]: spec[kind] for spec in SPECS} for kind in ("activation", "loss")}
NAMED = frozenset((kind, entry["function"]) for kind in ENTRIES for entry in ENTRIES[kind].values())
RELU = next((name for name, entry in ENTRIES["activation"].items() if entry["function"] == "relu"), None)
FACTS_AND_RUNS = COLLECT.outputs[:2]
TABLE = lambda *names: [f"{RESULTS}/tables/{name}.parquet" for name in names]

CLIFF = step(
    "analyze_cliff",
    inputs=COLLECT.outputs,
    outputs=TABLE("points", "levels", "critical", "worst", "cliff", "flops"),
    settings=STUDY.cliff,
)
DRIFT = step(
    "analyze_drift",
    inputs=FACTS_AND_RUNS,
    outputs=TABLE("drift", "drift_contrasts"),
    settings=STUDY.drift,
)
LAYERS = step(
    "analyze_layers",
    inputs=FACTS_AND_RUNS,
    outputs=TABLE(
        *("sparsity_over_steps", "sparsity_by_depth", "gradient_signs", "spikes", "weight_histograms"),
        "loss_and_spikes",
    ),
    settings={"level": STUDY.drift["level"], "relu": RELU},
)
THEORY = step("analyze_theory", inputs=[], outputs=TABLE("theory"), settings=ENTRIES, selected=NAMED)


rule analyze_cliff:
    input:
        CLIFF.inputs,
    output:
        CLIFF.outputs,
    log:
        f"{RESULTS}/logs/analyze_cliff.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        own=CLIFF.own,
    script:
        "../scripts/analyze_cliff.py"


rule analyze_drift:
    input:
        DRIFT.inputs,
    output:
        DRIFT.outputs,
    log:
        f"{RESULTS}/logs/analyze_drift.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        own=DRIFT.own,
    script:
        "../scripts/analyze_drift.py"


rule analyze_layers:
    input:
        LAYERS.inputs,
    output:
        LAYERS.outputs,
    log:
        f"{RESULTS}/logs/analyze_layers.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        own=LAYERS.own,
    script:
        "../scripts/analyze_layers.py"


rule analyze_theory:
    input:
        THEORY.inputs,
    output:
        THEORY.outputs,
    log:
        f"{RESULTS}/logs/analyze_theory.log",
    conda:
        "../../envs/train.yaml"
    params:
        own=THEORY.own,
    script:
        "../scripts/analyze_theory.py"


TABLES = [path for made in (COLLECT, CLIFF, DRIFT, LAYERS, THEORY) for path in made.outputs]

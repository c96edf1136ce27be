# Tables -> the claims ledger: what the study shows of each claim of the paper.
CLAIMS = step(
    "analyze_claims",
    inputs=[*FACTS_AND_RUNS, *TABLE("points", "critical", "theory")],
    outputs=[f"{RESULTS}/tables/claims.{kind}" for kind in ("parquet", "csv", "md")],
    settings={key: STUDY.cliff[key] for key in ("baseline", "level")},
)
TABLES += CLAIMS.outputs


rule analyze_claims:
    input:
        CLAIMS.inputs,
    output:
        CLAIMS.outputs,
    log:
        f"{RESULTS}/logs/analyze_claims.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        own=CLAIMS.own,
    script:
        "../scripts/analyze_claims.py"

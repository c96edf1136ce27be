# One job per run. Its trace records the spec and code that made it, which alone decide whether it is stale
# (docs/design.md). The script of the job, workflow/scripts/train.py, is not in the digest: no number depends on it.
STEPS += [
    stale.Step("train", [TRACES[name]], [], lambda run=run: stale.why_run_again(run, Path(RESULTS)))
    for name, run in STUDY.runs.items()
]
# one value if it is the same for all runs, because Snakemake evaluates a function for each job
VALUES = {part: {getattr(run, part) for run in STUDY.runs.values()} for part in ("processes", "gpus")}
OF_RUN = lambda part: lambda wildcards: getattr(STUDY.runs[wildcards.run], part)
PROCESSES, GPUS = (min(values) if len(values) == 1 else OF_RUN(part) for part, values in VALUES.items())

# With `--config partial=yes`, nothing is trained. Tables and figures are of the runs that have a current trace, and name
# the others. The sweep then ends with an error, so that no status of 0 hides what is missing (Snakefile).
NOW = {
    name: stale.why_run_again(run, Path(RESULTS)) if PARTIAL else stale.UP_TO_DATE for name, run in STUDY.runs.items()
}
MISSING = sorted(name for name, why in NOW.items() if why != stale.UP_TO_DATE)
INCLUDED = {name: path for name, path in TRACES.items() if name not in MISSING}
INCOMPLETE = (
    f"{STUDY.name} is incomplete: {len(MISSING)} of {len(TRACES)} runs have no current trace: "
    f"{unfinished.named(MISSING)} (logs: {RESULTS}/logs/train)"
)
if not INCLUDED:
    sys.exit(f"error: {STUDY.name}: no run has a current trace, so there is nothing to show")


rule train:
    input:
        data_file,
    output:
        f"{RESULTS}/traces/{{run}}.parquet",
    log:
        f"{RESULTS}/logs/train/{{run}}.log",
    conda:
        "../../envs/train.yaml"
    threads: PROCESSES
    resources:
        gpu=GPUS,  # for device auto: --set-resources train:gpu=1
    params:
        spec=lambda wildcards: STUDY.runs[wildcards.run].spec,
        code=lambda wildcards: STUDY.runs[wildcards.run].code,
    script:
        "../scripts/train.py"

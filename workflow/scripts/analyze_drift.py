"""Drift over steps, and at the end against its controls."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import json

    import pandas as pd

    from sparsity_cliff import analysis

    facts, runs = pd.read_parquet(snakemake.input.facts), pd.read_parquet(snakemake.input.runs)
    settings = json.loads(snakemake.params.settings)
    controls, level = settings["controls"], settings["level"]
    analysis.drift(facts, runs, level).to_parquet(snakemake.output.drift, index=False)
    contrasts = analysis.drift_contrasts(facts, runs, controls, level)
    contrasts.to_parquet(snakemake.output.contrasts, index=False)

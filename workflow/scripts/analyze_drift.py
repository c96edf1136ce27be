"""Drift over steps, and at the end against its controls."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff import analysis, made

    origin = made.digest(snakemake.params.own, snakemake.input)
    facts, runs = map(made.read_table, snakemake.input)
    settings = json.loads(snakemake.params.own)["settings"]
    controls, level = settings["controls"], settings["level"]
    made.write_table(analysis.drift(facts, runs, level), snakemake.output.drift, origin)
    contrasts = analysis.drift_contrasts(facts, runs, controls, level)
    made.write_table(contrasts, snakemake.output.contrasts, origin)

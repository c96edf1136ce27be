"""Drift over steps, and at the end against its controls."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff import analysis, made

    origin = made.digest(snakemake.params.own, snakemake.input)
    facts, runs = map(made.read_table, snakemake.input)
    settings = json.loads(snakemake.params.own)["settings"]
    controls, level = settings["controls"], settings["level"]
    tables = analysis.drift(facts, runs, level), analysis.drift_contrasts(facts, runs, controls, level)
    for table, path in zip(tables, snakemake.output, strict=True):
        made.write_table(table, path, origin)

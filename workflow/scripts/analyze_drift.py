"""Compute drift over steps, and its differences from the controls at the last step."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff.analysis import facts
    from sparsity_cliff.analysis.drift import METRICS, drift, drift_contrasts
    from sparsity_cliff.traces.origin import digest, read_table, write_table

    origin = digest(snakemake.params.own, snakemake.input)
    weights, runs = facts.read(snakemake.input[0], METRICS), read_table(snakemake.input[1])
    settings = json.loads(snakemake.params.own)["settings"]
    controls, level = settings["controls"], settings["level"]
    tables = drift(weights, runs, level), drift_contrasts(weights, runs, controls, level)
    for table, path in zip(tables, snakemake.output, strict=True):
        write_table(table, path, origin)

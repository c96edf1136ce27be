"""Sparsity over steps and by depth, gradients at initialization, spikes, and the weights at start and end."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff import analysis, made

    origin = made.digest(snakemake.params.own, snakemake.input)
    facts, runs = map(made.read_table, snakemake.input)
    level, relu = (json.loads(snakemake.params.own)["settings"][key] for key in ("level", "relu"))
    tables = [make(facts, runs, level) for make in (analysis.sparsity_over_steps, analysis.sparsity_by_depth)]
    tables += [analysis.gradient_signs(facts, runs, level), analysis.spikes(facts, runs, relu, level)]
    tables += [analysis.histograms(facts, runs)]
    for table, path in zip(tables, snakemake.output, strict=True):
        made.write_table(table, path, origin)

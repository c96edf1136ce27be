"""Sparsity over steps and by depth, gradients at initialization, spikes, and the weights at start and end."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff import analysis, made

    origin = made.digest(snakemake.params.own, snakemake.input)
    facts, runs = map(made.read_table, snakemake.input)
    level, relu = (json.loads(snakemake.params.own)["settings"][key] for key in ("level", "relu"))
    output = snakemake.output
    made.write_table(analysis.sparsity_over_steps(facts, runs, level), output.steps, origin)
    made.write_table(analysis.sparsity_by_depth(facts, runs, level), output.depth, origin)
    made.write_table(analysis.gradient_signs(facts, runs, level), output.signs, origin)
    made.write_table(analysis.spikes(facts, runs, relu, level), output.spikes, origin)
    made.write_table(analysis.histograms(facts, runs), output.histograms, origin)

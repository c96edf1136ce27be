"""Compute sparsity over steps and by depth, gradients at initialization, spikes, and weights at start and end."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff.analysis import facts, gradients, sparsity, spikes, weights
    from sparsity_cliff.traces.origin import digest, read_table, write_table

    origin = digest(snakemake.params.own, snakemake.input)
    path, runs = snakemake.input[0], read_table(snakemake.input[1])
    level, relu = (json.loads(snakemake.params.own)["settings"][key] for key in ("level", "relu"))
    zeros, sizes = facts.read(path, sparsity.METRICS), facts.read(path, spikes.METRICS)
    tables = [make(zeros, runs, level) for make in (sparsity.sparsity_over_steps, sparsity.sparsity_by_depth)]
    tables += [gradients.gradient_signs(facts.read(path, gradients.METRICS), runs, level)]
    tables += [spikes.spikes(sizes, runs, relu, level), weights.histograms(facts.read(path, weights.METRICS), runs)]
    tables += [spikes.loss_and_spikes(sizes, runs, level)]
    for table, path in zip(tables, snakemake.output, strict=True):
        write_table(table, path, origin)

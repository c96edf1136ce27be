"""Compute sparsity over steps and by depth, gradients at initialization, spikes, and weights at start and end."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff.analysis import gradients, sparsity, spikes, weights
    from sparsity_cliff.traces.origin import digest, read_table, write_table

    origin = digest(snakemake.params.own, snakemake.input)
    facts, runs = map(read_table, snakemake.input)
    level, relu = (json.loads(snakemake.params.own)["settings"][key] for key in ("level", "relu"))
    tables = [make(facts, runs, level) for make in (sparsity.sparsity_over_steps, sparsity.sparsity_by_depth)]
    tables += [gradients.gradient_signs(facts, runs, level), spikes.spikes(facts, runs, relu, level)]
    tables += [weights.histograms(facts, runs), spikes.loss_and_spikes(facts, runs, level)]
    for table, path in zip(tables, snakemake.output, strict=True):
        write_table(table, path, origin)

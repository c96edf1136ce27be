"""Sparsity over steps and by depth, gradients at initialization, spikes, and the weights at start and end."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import pandas as pd

    from sparsity_cliff import analysis

    facts, runs = pd.read_parquet(snakemake.input.facts), pd.read_parquet(snakemake.input.runs)
    level, relu, output = snakemake.params.level, snakemake.params.relu, snakemake.output
    analysis.sparsity_over_steps(facts, runs, level).to_parquet(output.steps, index=False)
    analysis.sparsity_by_depth(facts, runs, level).to_parquet(output.depth, index=False)
    analysis.gradient_signs(facts, runs, level).to_parquet(output.signs, index=False)
    analysis.spikes(facts, runs, relu, level).to_parquet(output.spikes, index=False)
    analysis.histograms(facts, runs).to_parquet(output.histograms, index=False)

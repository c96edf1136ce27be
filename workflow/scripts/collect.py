"""Collect the traces of the study into two tables."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    from sparsity_cliff.collect import collect

    specs = snakemake.params.specs
    files = dict(zip(specs, snakemake.input, strict=True))
    collect(files, specs, snakemake.output.facts, snakemake.output.runs)

"""Collect the traces of the study into two tables."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    from sparsity_cliff import made
    from sparsity_cliff.collect import collect

    params = snakemake.params
    files = dict(zip(params.specs, snakemake.input, strict=True))
    collect(files, params.specs, params.codes, *snakemake.output, made.digest(params.own, snakemake.input))

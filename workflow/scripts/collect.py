"""Collect the traces of the study into three tables."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    from sparsity_cliff.analysis.collect import collect
    from sparsity_cliff.traces.origin import digest

    params = snakemake.params
    files = dict(zip(params.specs, snakemake.input, strict=True))
    collect(files, params.specs, params.codes, *snakemake.output, digest(params.own, snakemake.input))

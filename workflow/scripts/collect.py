"""Collect the traces of the study into three tables."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    from pathlib import Path

    from sparsity_cliff.analysis.collect import collect
    from sparsity_cliff.traces.origin import digest

    params = snakemake.params
    files = {Path(trace).stem: trace for trace in snakemake.input}
    collect(files, params.specs, params.codes, *snakemake.output, digest(params.own, snakemake.input))

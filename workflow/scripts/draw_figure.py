"""Draw one figure from its tables."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    from sparsity_cliff.figures import draw
    from sparsity_cliff.traces.origin import digest

    origin = digest(snakemake.params.own, snakemake.input)
    draw(snakemake.params.figure, snakemake.input, snakemake.output, origin)

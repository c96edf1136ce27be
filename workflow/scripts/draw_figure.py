"""Draw one figure from its tables."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    from sparsity_cliff import made
    from sparsity_cliff.figures import draw

    origin = made.digest(snakemake.params.own, snakemake.input)
    draw(snakemake.params.figure, snakemake.input, snakemake.output, origin)

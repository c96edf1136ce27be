"""Draw one figure from its tables."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    from sparsity_cliff.figures import draw

    draw(snakemake.params.figure, snakemake.input, snakemake.output)

"""Write the arrays of one data set to one .npz file."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    from sparsity_cliff.data.prepare import prepare

    name, architectures = snakemake.wildcards.file.rpartition("-")[0], snakemake.config["architectures"].items()
    batches = {key: section["batch_size"] for key, section in architectures if section["data"] == name}
    prepare(snakemake.params.spec, snakemake.output[0], root="results/data/raw", batches=batches)

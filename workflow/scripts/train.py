"""Train one run and write its trace."""

import os
import time

from sparsity_cliff.logs import logged

os.environ["OMP_NUM_THREADS"] = str(snakemake.threads)
started = time.time() - time.process_time()  # start of this process
with logged(snakemake.log[0]):
    if snakemake.resources.get("gpu", 0):
        from gpu_claims import claim

        claim(snakemake.resources.gpu, per_device=int(snakemake.config["study"].get("jobs_per_gpu", 1)))
    from sparsity_cliff.training.run import train_run

    run, params, files = snakemake.wildcards.run, snakemake.params, (snakemake.input[0], snakemake.output[0])
    how = {"threads": snakemake.threads, "started": started, **snakemake.config.get("checkpoints", {})}
    train_run(run, params.spec, params.code, *files, **how)
os._exit(0)  # everything is written; an orderly shutdown of torch would take another half second

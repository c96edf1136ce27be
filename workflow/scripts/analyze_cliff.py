"""Locate the cliff, per architecture and pooled."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import json

    import pandas as pd

    from sparsity_cliff import analysis, cliff

    facts, runs = pd.read_parquet(snakemake.input.facts), pd.read_parquet(snakemake.input.runs)
    settings = json.loads(snakemake.params.settings)
    points = analysis.points(facts, runs, settings.pop("losses"), settings.pop("exclude", []))
    verdicts, curves = cliff.cliffs(points[points["fitted"]], seed=0, **settings)
    points = cliff.relative_score(points, settings["baseline"])
    for table, path in zip((points, verdicts, curves), snakemake.output, strict=True):
        table.to_parquet(path, index=False)

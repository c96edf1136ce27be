"""Locate the cliff, per architecture and pooled."""

from sparsity_cliff.job import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff import analysis, cliff, made

    origin = made.digest(snakemake.params.own, snakemake.input)
    facts, runs = map(made.read_table, snakemake.input)
    settings = json.loads(snakemake.params.own)["settings"]
    points = analysis.points(facts, runs, settings.pop("losses"), settings.pop("exclude", []))
    verdicts, curves = cliff.cliffs(points[points["fitted"]], seed=0, **settings)
    points = cliff.relative_score(points, settings["baseline"])
    for table, path in zip((points, verdicts, curves), snakemake.output, strict=True):
        made.write_table(table, path, origin)

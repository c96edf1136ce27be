"""Locate the cliff and critical sparsity, per architecture."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff.analysis import cliff, critical
    from sparsity_cliff.analysis.points import points
    from sparsity_cliff.traces.origin import digest, read_table, write_table

    origin = digest(snakemake.params.own, snakemake.input)
    facts, runs = map(read_table, snakemake.input)
    settings = json.loads(snakemake.params.own)["settings"]
    found = points(facts, runs, settings.pop("losses"), settings.pop("exclude", []))
    verdicts, curves = cliff.cliffs(found[found["fitted"]], seed=0, **settings)
    found = cliff.relative_score(found, settings["baseline"])
    brackets = critical.criticals(found, baseline=settings["baseline"], level=settings["level"])
    for table, path in zip((found, verdicts, curves, brackets), snakemake.output, strict=True):
        write_table(table, path, origin)

"""Locate the cliff and critical sparsity, per architecture."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff.analysis import cliff, critical, curves, facts, flops
    from sparsity_cliff.analysis.points import METRICS, points
    from sparsity_cliff.traces.origin import digest, read_table, write_table

    origin = digest(snakemake.params.own, snakemake.input)
    (runs, examples), scores = map(read_table, snakemake.input[1:]), facts.read(snakemake.input[0], METRICS)
    baseline, level, losses = map(json.loads(snakemake.params.own)["settings"].get, ("baseline", "level", "losses"))
    found = points(scores, runs, losses, baseline)
    controls, others = (make(found, examples, baseline) for make in (curves.curves, curves.others))
    brackets = critical.criticals(controls, level=level)
    levels = curves.levels([*controls, *others], level)
    tables = [found, levels, brackets, critical.worst(brackets), cliff.cliffs(controls, level=level)]
    tables.append(flops.flops(facts.read(snakemake.input[0], flops.METRICS), found, levels, level))
    for table, path in zip(tables, snakemake.output, strict=True):
        write_table(table, path, origin)

"""Judge every claim of the paper: the claims ledger as a table, as CSV, and as text for people."""

from sparsity_cliff.logs import logged

with logged(snakemake.log[0]):
    import json

    from sparsity_cliff.analysis import facts
    from sparsity_cliff.analysis.effects import METRICS
    from sparsity_cliff.analysis.ledger import ledger, markdown
    from sparsity_cliff.traces.origin import digest, read_table, write_table, write_text
    from sparsity_cliff.traces.unfinished import unfinished

    origin = digest(snakemake.params.own, snakemake.input)
    settings = json.loads(snakemake.params.own)["settings"]
    tables = [facts.read(snakemake.input[0], METRICS), *map(read_table, snakemake.input[1:])]
    found = ledger(*tables, **settings)
    table, csv, text = snakemake.output
    write_table(found, table, origin)
    write_text(found.to_csv(index=False), csv, origin)
    write_text(markdown(found, unfinished(tables[1])), text, origin)

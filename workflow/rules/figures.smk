# Tables -> figures. A figure reads only its own tables, and only its own code re-renders it.
from sparsity_cliff.figures import FIGURES

FIGURE_FILES = expand(f"{RESULTS}/figures/{{figure}}.{{kind}}", figure=FIGURES, kind=["pdf", "png"])


# a rule per figure and not a wildcard, because a caption's path takes none
for figure, entry in FIGURES.items():

    rule:
        name:
            f"draw_{figure}"
        input:
            [f"{RESULTS}/tables/{table}.parquet" for table in entry.tables],
        output:
            f"{RESULTS}/figures/{figure}.pdf",
            report(
                f"{RESULTS}/figures/{figure}.png",
                caption=f"../report/{figure}.rst",
                category="Figures",
                labels={"figure": figure.replace("_", " ")},
            ),
        log:
            f"{RESULTS}/logs/figures/{figure}.log",
        conda:
            "../../envs/analysis.yaml"
        params:
            figure=figure,
            code=code(entry.module),
        script:
            "../scripts/draw_figure.py"

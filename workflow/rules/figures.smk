# Tables -> figures. A figure depends only on its own tables and its own code.
from sparsity_cliff.figures import FIGURES

KINDS = ("pdf", "png", "csv", "column.pdf")  # the last is for one column of a paper
DRAWN = {
    figure: step(
        f"draw_{figure}",
        inputs=TABLE(*entry.tables, "runs"),
        outputs=[f"{RESULTS}/figures/{figure}.{kind}" for kind in KINDS],
        loads=[f"sparsity_cliff.{entry.module}"],
        settings=figure,
        script="draw_figure",
    )
    for figure, entry in FIGURES.items()
}
FIGURE_FILES = [path for made in DRAWN.values() for path in made.outputs]


# one rule per figure, because the path of a caption cannot have a wildcard
for figure in FIGURES:

    rule:
        name:
            f"draw_{figure}"
        input:
            DRAWN[figure].inputs,
        output:
            DRAWN[figure].outputs[0],
            report(
                DRAWN[figure].outputs[1],
                caption=f"../report/{figure}.rst",
                category="Figures",
                labels={"figure": figure.replace("_", " ")},
            ),
            DRAWN[figure].outputs[2:],
        log:
            f"{RESULTS}/logs/figures/{figure}.log",
        conda:
            "../../envs/analysis.yaml"
        params:
            figure=figure,
            own=DRAWN[figure].own,
        script:
            "../scripts/draw_figure.py"

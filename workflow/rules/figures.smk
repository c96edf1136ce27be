# Tables -> figures. A figure reads only its own tables, and only its own code re-renders it.
from sparsity_cliff.figures import FIGURES

FIGURE_FILES = expand(f"{RESULTS}/figures/{{figure}}.{{kind}}", figure=FIGURES, kind=["pdf", "png"])


rule draw_figure:
    input:
        lambda wildcards: [f"{RESULTS}/tables/{table}.parquet" for table in FIGURES[wildcards.figure].tables],
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=report(
            f"{RESULTS}/figures/{{figure}}.png",
            caption="../report/{figure}.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RESULTS}/logs/figures/{{figure}}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        code=lambda wildcards: code(FIGURES[wildcards.figure].module),
    script:
        "../scripts/draw_figure.py"

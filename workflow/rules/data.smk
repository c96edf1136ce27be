# Data sets, prepared once and shared by all studies. The name of a file depends on its contents.
DATASETS = {dataset.file: dataset for dataset in STUDY.datasets.values()}


rule prepare_data:
    output:
        "results/data/{file}.npz",
    log:
        "results/data/logs/{file}.log",
    conda:
        "../../envs/train.yaml"
    params:
        spec=lambda wildcards: DATASETS[f"{wildcards.file}.npz"].spec,
    script:
        "../scripts/prepare_data.py"

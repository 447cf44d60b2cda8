"""The questions of each category.

Needs: the question and scene graph files of the study's data set; no picture.
Makes: results/{study}/questions/{category}.csv, and rejections.csv with the count of each reason.
"""


rule questions:
    """Choose the questions by their programs, before any answer is known."""
    input:
        QUESTION_FILES,
        sources=sources("questions"),
    output:
        expand(f"{RESULTS}/questions/{{category}}.csv", category=STUDY.categories),
        f"{RESULTS}/questions/rejections.csv",
    log:
        f"{LOGS}/questions.log",
    conda:
        CPU_ENV
    params:
        root=lambda wildcards: DATASET,
        split=parameters.dataset_split(config, STUDY.dataset),
        categories=STUDY.categories,
        number=STUDY.number,
        seed=STUDY.seed,
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow questions"
        " --root {params.root:q} --split {params.split:q} --categories {params.categories:q}"
        " --number {params.number} --seed {params.seed} --output-folder {params.folder:q} 2>&1 | tee {log:q}"

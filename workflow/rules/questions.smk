"""The questions of each category.

Needs: the question and scene graph files of the study's data set; no picture.
Makes: results/{study}/questions/{category}.csv, and {category}.rejections.csv with the count of each reason.
"""


rule questions:
    """Choose the questions of one category by their programs, before any answer is known."""
    input:
        lambda wildcards: QUESTION_FILES[wildcards.category],
        sources=sources("questions"),
    output:
        chosen=f"{RESULTS}/questions/{{category}}.csv",
        rejections=f"{RESULTS}/questions/{{category}}.rejections.csv",
    log:
        f"{LOGS}/questions/{{category}}.log",
    conda:
        CPU_ENV
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        root=lambda wildcards: DATASET,
        split=parameters.dataset_split(config, STUDY.dataset),
        number=STUDY.number,
        seed=STUDY.seed,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow questions"
        " --root {params.root:q} --split {params.split:q} --category {wildcards.category}"
        " --number {params.number} --seed {params.seed}"
        " --output {output.chosen:q} --rejections {output.rejections:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"

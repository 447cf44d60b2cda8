"""The questions of each category.

Needs: the question and scene graph files of the study's data set, or the published question sets; no picture.
Makes: results/{study}/questions/{category}.csv, and {category}.rejections.csv with the count of each reason;
       results/{study}/published/overlap.csv and differences.csv, only when asked for: `snakemake published_overlap` in a
       study on GQA, which compares the choice made here with the published sets.
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
        source=lambda wildcards: chosen_from(wildcards.category),
        number=STUDY.number,
        seed=STUDY.seed,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow questions"
        " {params.source:q} --category {wildcards.category}"
        " --number {params.number} --seed {params.seed}"
        " --output {output.chosen:q} --rejections {output.rejections:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"


if config["datasets"][STUDY.dataset]["kind"] == "gqa":

    rule published_overlap:
        """Compare the questions that the filter finds in the split with the published sets."""
        input:
            parameters.gqa_files(config, STUDY.dataset),
            published=[parameters.published_file(category) for category in PUBLISHED_CATEGORIES],
            sources=sources("overlap"),
        output:
            overlap=f"{RESULTS}/published/overlap.csv",
            differences=f"{RESULTS}/published/differences.csv",
        log:
            f"{LOGS}/published_overlap.log",
        conda:
            CPU_ENV
        params:
            root=lambda wildcards: DATASET,
            split=parameters.dataset_split(config, STUDY.dataset),
        shell:
            "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow overlap"
            " --root {params.root:q} --split {params.split:q} --published {input.published:q}"
            " --output {output.overlap:q} --differences {output.differences:q} 2>&1 | tee {log:q}"

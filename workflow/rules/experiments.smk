"""The experiments: every job runs one model over the questions of one category.

A killed job leaves its finished questions in {category}.journal.jsonl beside its table, and the next run resumes there.

Needs: the chosen questions, the images, a model; for knockouts and logit lens, also the answers.
Makes: results/{study}/answers/{model}/{category}.parquet, and .skipped.csv with the questions that are broken;
       results/{study}/knockout/{model}/w{window}/{category}.parquet;
       results/{study}/lens/{model}/{category}.parquet, unless the study says `lens: false`.
"""


rule answers:
    """Answer the questions of one category, with the image and with the image removed."""
    input:
        lambda wildcards: IMAGE_FILES[wildcards.category],
        lambda wildcards: MODEL_FILES[wildcards.model],
        questions=f"{RESULTS}/questions/{{category}}.csv",
    output:
        table=f"{RESULTS}/answers/{{model}}/{{category}}.parquet",
        skipped=f"{RESULTS}/answers/{{model}}/{{category}}.skipped.csv",
    log:
        f"{LOGS}/answers/{{model}}/{{category}}.log",
    benchmark:
        f"{LOGS}/answers/{{model}}/{{category}}.benchmark.tsv"
    conda:
        GPU_ENV
    threads: device_threads()
    resources:
        gpu=1,
    params:
        code=code("experiments.answers"),
        record=record,
        images=IMAGES,
        model=model_options(inputs.ANSWER_SETTINGS),
        baselines=["--baselines", *STUDY.baselines, "--seed", STUDY.seed] if STUDY.baselines else [],
    message:
        "answers: {wildcards.model}, {wildcards.category}"
    shell:
        crossflow(
            "answers --questions {input.questions:q} {params.images:q} {params.model:q} {params.baselines}"
            " --output {output.table:q} --skipped {output.skipped:q}"
        )


rule knockout:
    """Knock out every flow at every centre layer of one model, in windows {wildcards.window}."""
    input:
        lambda wildcards: IMAGE_FILES[wildcards.category],
        lambda wildcards: MODEL_FILES[wildcards.model],
        questions=f"{RESULTS}/questions/{{category}}.csv",
        answers=f"{RESULTS}/answers/{{model}}/{{category}}.parquet",
    output:
        f"{RESULTS}/knockout/{{model}}/w{{window}}/{{category}}.parquet",
    log:
        f"{LOGS}/knockout/{{model}}/w{{window}}/{{category}}.log",
    benchmark:
        f"{LOGS}/knockout/{{model}}/w{{window}}/{{category}}.benchmark.tsv"
    conda:
        GPU_ENV
    threads: device_threads()
    resources:
        gpu=1,
    params:
        code=code("experiments.knockouts"),
        record=record,
        images=IMAGES,
        model=model_options(inputs.KNOCKOUT_SETTINGS),
        flows=STUDY.flows,
        controls=["--controls", *STUDY.controls, "--stride", STUDY.stride] if STUDY.controls else [],
        whole=["--whole-answer"] if STUDY.whole_answer else [],
        seed=STUDY.seed,
        answers=STUDY.answers,
        engine=STUDY.engine,
    message:
        "knockouts: {wildcards.model}, window {wildcards.window}, {wildcards.category}"
    shell:
        crossflow(
            "knockout --questions {input.questions:q} --answers {input.answers:q} {params.images:q}"
            " {params.model:q} --window {wildcards.window} --flows {params.flows:q} {params.controls:q}"
            " --select {params.answers} --seed {params.seed} {params.whole} --engine {params.engine}"
            " --output {output:q}"
        )


rule logit_lens:
    """Read the answer's first token, and the false option's, off the last position after every layer."""
    input:
        lambda wildcards: IMAGE_FILES[wildcards.category],
        lambda wildcards: MODEL_FILES[wildcards.model],
        questions=f"{RESULTS}/questions/{{category}}.csv",
        answers=f"{RESULTS}/answers/{{model}}/{{category}}.parquet",
    output:
        f"{RESULTS}/lens/{{model}}/{{category}}.parquet",
    log:
        f"{LOGS}/lens/{{model}}/{{category}}.log",
    benchmark:
        f"{LOGS}/lens/{{model}}/{{category}}.benchmark.tsv"
    conda:
        GPU_ENV
    threads: device_threads()
    resources:
        gpu=1,
    params:
        code=code("experiments.logit_lens"),
        record=record,
        images=IMAGES,
        model=model_options(inputs.LENS_SETTINGS),
        answers=STUDY.answers,
    message:
        "logit lens: {wildcards.model}, {wildcards.category}"
    shell:
        crossflow(
            "logit-lens --questions {input.questions:q} --answers {input.answers:q} {params.images:q}"
            " {params.model:q} --select {params.answers} --output {output:q}"
        )

"""The knockouts.

Needs: the chosen questions, the model's answers to them, the pictures, the model.
Makes: results/{study}/knockout/{model}/w{window}/{category}.parquet. A killed job leaves its finished questions in
{category}.journal.jsonl beside it, and the next run takes them up.
"""


rule knockout:
    """Knock out every flow at every centre layer of one model, in windows {wildcards.window}."""
    input:
        lambda wildcards: PICTURE_FILES[wildcards.category],
        lambda wildcards: MODEL_FILES[wildcards.model],
        questions=f"{RESULTS}/questions/{{category}}.csv",
        answers=f"{RESULTS}/answers/{{model}}/{{category}}.parquet",
        sources=sources("knockout"),
    output:
        f"{RESULTS}/knockout/{{model}}/w{{window}}/{{category}}.parquet",
    log:
        f"{LOGS}/knockout/{{model}}-w{{window}}-{{category}}.log",
    benchmark:
        f"{LOGS}/knockout/{{model}}-w{{window}}-{{category}}.benchmark.tsv"
    conda:
        GPU_ENV
    threads: device_threads()
    resources:
        gpu=1,
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        pictures=PICTURES,
        model=lambda wildcards: parameters.model_options(config, wildcards.model, parameters.KNOCKOUT_SETTINGS),
        flows=STUDY.flows,
        controls=["--controls", *STUDY.controls, "--stride", STUDY.stride] if STUDY.controls else [],
        whole=["--whole-answer"] if STUDY.whole_answer else [],
        seed=STUDY.seed,
        answers=STUDY.answers,
        engine=STUDY.engine,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow knockout"
        " --questions {input.questions:q} --answers {input.answers:q} {params.pictures:q}"
        " {params.model:q} --window {wildcards.window} --flows {params.flows:q} {params.controls:q}"
        " --select {params.answers} --seed {params.seed} {params.whole}"
        " --engine {params.engine} --output {output:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"

"""The models' answers.

Needs: the chosen questions, the pictures, a model.
Makes: results/{study}/answers/{model}/{category}.parquet, and .skipped.csv with the questions that are broken.
"""


rule answers:
    """Answer the questions of one category, with the picture and with the picture removed."""
    input:
        lambda wildcards: PICTURE_FILES[wildcards.category],
        lambda wildcards: MODEL_FILES[wildcards.model],
        questions=f"{RESULTS}/questions/{{category}}.csv",
        sources=sources("answers"),
    output:
        table=f"{RESULTS}/answers/{{model}}/{{category}}.parquet",
        skipped=f"{RESULTS}/answers/{{model}}/{{category}}.skipped.csv",
    log:
        f"{LOGS}/answers/{{model}}-{{category}}.log",
    benchmark:
        f"{LOGS}/answers/{{model}}-{{category}}.benchmark.tsv"
    conda:
        GPU_ENV
    threads: device_threads()
    resources:
        gpu=1,
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        pictures=PICTURES,
        model=lambda wildcards: parameters.model_options(config, wildcards.model, parameters.ANSWER_SETTINGS),
        baselines=["--baselines", *STUDY.baselines, "--seed", STUDY.seed] if STUDY.baselines else [],
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow answers"
        " --questions {input.questions:q} {params.pictures:q} {params.model:q} {params.baselines}"
        " --output {output.table:q} --skipped {output.skipped:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"

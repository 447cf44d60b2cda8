"""Answer tracking, unless the study says `lens: false`.

Needs: the chosen questions, the model's answers to them, the pictures, the model.
Makes: results/{study}/lens/{model}/{category}.parquet, results/{study}/summary/lens.csv, and two figures per model: with
       the final norm before the output embedding, and as published, without it but after the last layer.
"""


localrules:
    lens_summary,


rule lens:
    """Track the first token of the answer, and of the false option, through the layers."""
    input:
        lambda wildcards: PICTURE_FILES[wildcards.category],
        lambda wildcards: MODEL_FILES[wildcards.model],
        questions=f"{RESULTS}/questions/{{category}}.csv",
        answers=f"{RESULTS}/answers/{{model}}/{{category}}.parquet",
        sources=sources("lens"),
    output:
        f"{RESULTS}/lens/{{model}}/{{category}}.parquet",
    log:
        f"{LOGS}/lens/{{model}}-{{category}}.log",
    benchmark:
        f"{LOGS}/lens/{{model}}-{{category}}.benchmark.tsv"
    conda:
        GPU_ENV
    threads: device_threads()
    resources:
        gpu=1,
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        pictures=PICTURES,
        model=lambda wildcards: parameters.model_options(config, wildcards.model, parameters.LENS_SETTINGS),
        answers=STUDY.answers,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow lens"
        " --questions {input.questions:q} --answers {input.answers:q} {params.pictures:q} {params.model:q}"
        " --select {params.answers} --output {output:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"


rule lens_summary:
    """Mean tracks with 95 % intervals, clustered by picture."""
    input:
        FILES["lens"],
        sources=sources("lens-summary"),
    output:
        f"{RESULTS}/summary/lens.csv",
    log:
        f"{LOGS}/lens_summary.log",
    conda:
        CPU_ENV
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        results=lambda wildcards, output: str(Path(output[0]).parent.parent),
        models=STUDY.models,
        categories=STUDY.categories,
        seed=STUDY.seed,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow lens-summary"
        " --results {params.results:q} --models {params.models:q} --categories {params.categories:q}"
        " --seed {params.seed} --output {output:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"


for kind, norm in LENS_KINDS.items():

    rule:
        name:
            f"figure_{kind.replace('-', '_')}"
        input:
            table=f"{RESULTS}/summary/lens.csv",
            sources=sources("lens-figure"),
        output:
            pdf=f"{RESULTS}/figures/{kind}-{{model}}.pdf",
            png=report(
                f"{RESULTS}/figures/{kind}-{{model}}.png",
                caption="../report/answer-tracking.rst",
                category="Figures",
                subcategory="{model}",
                labels={"flows": "answer tracking", "norm": norm},
            ),
        log:
            f"{LOGS}/figures/{kind}-{{model}}.log",
        conda:
            CPU_ENV
        params:
            provenance=lambda wildcards, output: parameters.record_of(output[0]),
            norm=norm,
            categories=STUDY.categories,
        shell:
            "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow lens-figure"
            " --table {input.table:q} --norm {params.norm} --model {wildcards.model}"
            " --categories {params.categories:q} --output {output.pdf:q} {output.png:q}"
            " --provenance {params.provenance:q} 2>&1 | tee {log:q}"

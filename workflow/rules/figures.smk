"""The figures.

Needs: the summary tables; for the examples a category's questions, answers, knockouts and pictures, too.
Makes: results/{study}/figures/{kind}-{model}-w{window}.pdf and .png, one panel per category; overviews, heat maps, window
       sweeps and comparisons of models beside them; examples-{model}-{category}.pdf and .png, single questions;
       the same under results/{study}/expected/, from the tables in resources/expected/{study} and nothing else, only
       when asked for: `snakemake expected_figures`.
"""


localrules:
    examples,
    expected_figure,
    expected_figures,


for kind, flows in kinds_of([*STUDY.flows, *STUDY.controls]).items():

    rule:
        name:
            f"figure_{kind.replace('-', '_')}"
        input:
            f"{RESULTS}/summary/effects.csv",
            f"{RESULTS}/summary/counts.csv",
            f"{RESULTS}/summary/bands.csv",
            f"{RESULTS}/summary/noise.csv",
            sources=sources("figure"),
        output:
            pdf=f"{RESULTS}/figures/{kind}-{{model}}-w{{window}}.pdf",
            png=report(
                f"{RESULTS}/figures/{kind}-{{model}}-w{{window}}.png",
                caption=f"../report/{kind}.rst",
                category="Figures",
                subcategory="{model}",
                labels={"flows": ", ".join(flows), "window": "{window}"},
            ),
        log:
            f"{LOGS}/figures/{kind}-{{model}}-w{{window}}.log",
        localrule: True
        conda:
            CPU_ENV
        params:
            provenance=lambda wildcards, output: parameters.record_of(output[0]),
            summary=lambda wildcards, input: str(Path(input[0]).parent),
            kind=kind,
            categories=STUDY.categories,
        shell:
            "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow figure"
            " --summary {params.summary:q} --kind {params.kind} --model {wildcards.model}"
            " --window {wildcards.window} --categories {params.categories:q} --output {output.pdf:q} {output.png:q}"
            " --provenance {params.provenance:q} 2>&1 | tee {log:q}"


for kind, name in GRIDS.items():

    rule:
        name:
            f"figure_{kind.replace('-', '_')}"
        input:
            f"{RESULTS}/summary/effects.csv",
            f"{RESULTS}/summary/bands.csv",
            sources=sources("figure"),
        output:
            pdf=f"{RESULTS}/figures/{name}.pdf",
            png=report(
                f"{RESULTS}/figures/{name}.png",
                caption=f"../report/{kind}.rst",
                category="Figures",
                subcategory="{model}" if "{model}" in name else "all models",
                labels={"flows": kind, "window": "{window}" if "{window}" in name else ""},
            ),
        log:
            f"{LOGS}/figures/{name}.log",
        localrule: True
        conda:
            CPU_ENV
        params:
            provenance=lambda wildcards, output: parameters.record_of(output[0]),
            summary=lambda wildcards, input: str(Path(input[0]).parent),
            kind=kind,
            curves=lambda wildcards: curves_shown(wildcards),
            categories=STUDY.categories,
        shell:
            "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow figure"
            " --summary {params.summary:q} --kind {params.kind} {params.curves}"
            " --categories {params.categories:q} --output {output.pdf:q} {output.png:q}"
            " --provenance {params.provenance:q} 2>&1 | tee {log:q}"


rule examples:
    """Two questions of each category: their pictures with the related patches, beside their own curves."""
    input:
        PICTURE_FILES.values(),
        lambda wildcards: MODEL_FILES[wildcards.model],
        lambda wildcards: first_knockouts(wildcards.model),
        FILES["questions"],
        answers=[f"{RESULTS}/answers/{{model}}/{category}.parquet" for category in STUDY.categories],
        sources=sources("examples"),
    output:
        pdf=[f"{RESULTS}/figures/examples-{{model}}-{category}.pdf" for category in STUDY.categories],
        png=report(
            [f"{RESULTS}/figures/examples-{{model}}-{category}.png" for category in STUDY.categories],
            caption="../report/examples.rst",
            category="Figures",
            subcategory="{model}",
            labels={"flows": "single questions"},
        ),
    log:
        f"{LOGS}/figures/examples-{{model}}.log",
    conda:
        GPU_ENV
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        results=lambda wildcards, output: str(Path(output[0]).parent.parent),
        window=lambda wildcards: STUDY.windows[wildcards.model][0],
        categories=STUDY.categories,
        pictures=PICTURES,
        model=lambda wildcards: parameters.model_options(config, wildcards.model, parameters.KNOCKOUT_SETTINGS),
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow examples"
        " --results {params.results:q} --model {wildcards.model} --window {params.window}"
        " --categories {params.categories:q} {params.pictures:q} {params.model:q}"
        " --output {output.pdf:q} {output.png:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"


rule expected_figure:
    """Draw a figure from the expected summary tables, which are kept in the repository."""
    input:
        f"resources/expected/{STUDY.name}/effects.csv",
        f"resources/expected/{STUDY.name}/counts.csv",
        sources=sources("figure"),
    output:
        pdf=f"{RESULTS}/expected/{{kind}}-{{model}}-w{{window}}.pdf",
        png=f"{RESULTS}/expected/{{kind}}-{{model}}-w{{window}}.png",
    log:
        f"{LOGS}/expected/{{kind}}-{{model}}-w{{window}}.log",
    wildcard_constraints:
        kind="|".join(kinds_of([*STUDY.flows, *STUDY.controls])),
    conda:
        CPU_ENV
    params:
        summary=lambda wildcards, input: str(Path(input[0]).parent),
        categories=STUDY.categories,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow figure"
        " --summary {params.summary:q} --kind {wildcards.kind} --model {wildcards.model}"
        " --window {wildcards.window} --categories {params.categories:q}"
        " --output {output.pdf:q} {output.png:q} 2>&1 | tee {log:q}"


EXPECTED_FIGURES = [
    f"{kind}-{model}-w{window}.{suffix}"
    for kind in kinds_of([*STUDY.flows, *STUDY.controls])
    for model in STUDY.models
    for window in STUDY.windows[model]
    for suffix in ("pdf", "png")
]


rule expected_figures:
    """All figures of the expected tables: seconds, without a model or a picture."""
    input:
        [f"{RESULTS}/expected/{Path(file).name}" for file in FILES["figures"] if Path(file).name in EXPECTED_FIGURES],

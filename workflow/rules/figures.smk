"""The figures.

Needs: the summary tables.
Makes: results/{study}/figures/{kind}-{model}-w{window}.pdf and .png, one panel per category;
       the same under results/{study}/expected/, from the tables in resources/expected/{study} and nothing else, only
       when asked for: `snakemake expected_figures`.
"""

for kind, flows in kinds_of(STUDY.flows).items():

    rule:
        name:
            f"figure_{kind.replace('-', '_')}"
        input:
            f"{RESULTS}/summary/effects.csv",
            f"{RESULTS}/summary/counts.csv",
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
        kind="|".join(kinds_of(STUDY.flows)),
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


rule expected_figures:
    """All figures of the expected tables: seconds, without a model or a picture."""
    input:
        [f"{RESULTS}/expected/{Path(file).name}" for file in FILES["figures"] if "answer-tracking" not in file],

"""The figures.

Needs: the summary tables.
Makes: results/{study}/figures/{kind}-{model}-w{window}.pdf and .png, one panel per category.
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

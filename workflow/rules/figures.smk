"""The figures.

Needs: the summary tables.
Makes: results/{study}/figures/{kind}-{model}-w{window}.pdf and .png, one panel per category.
"""

FIGURES = [
    f"{RESULTS}/figures/{kind}-{model}-w{window}.{suffix}"
    for kind in kinds_of(STUDY.flows)
    for model in STUDY.models
    for window in STUDY.windows[model]
    for suffix in ("pdf", "png")
]

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
            summary=lambda wildcards, input: str(Path(input[0]).parent),
            kind=kind,
            categories=STUDY.categories,
        shell:
            "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow figure"
            " --summary {params.summary:q} --kind {params.kind} --model {wildcards.model}"
            " --window {wildcards.window} --categories {params.categories:q} --output {output.pdf:q} {output.png:q} 2>&1 | tee {log:q}"

"""The figures, and the explorer.

Needs: the summary tables; for the examples and the explorer also questions, answers, knockouts and images.
Makes: results/{study}/figures/*.pdf and .png, one rule for each entry of `crossflow.figures.kinds.FIGURES`;
       examples-{model}-{category}.pdf and .png, single questions;
       results/{study}/explorer.html, one page that needs no network and no server;
       figures of curves under results/{study}/expected/, from the tables in resources/expected/{study} and nothing else,
       only on request: `snakemake expected_figures`.
"""


localrules:
    examples,
    explorer,
    expected_figure,
    expected_figures,


for kind in FIGURES_OF_STUDY:

    rule:
        name:
            f"figure_{kind.replace('-', '_')}"
        input:
            [f"{RESULTS}/summary/{table}.csv" for table in FIGURES[kind].tables],
        output:
            pdf=f"{RESULTS}/figures/{FIGURES[kind].file}.pdf",
            png=report(
                f"{RESULTS}/figures/{FIGURES[kind].file}.png",
                caption=f"../report/{kind.removesuffix('-published')}.rst",
                category="Figures",
                subcategory="{model}" if "{model}" in FIGURES[kind].file else "all models",
                labels={
                    "figure": kind,
                    "shows": FIGURES[kind].title,
                    "window": "{window}" if "{window}" in FIGURES[kind].file else "",
                },
            ),
        log:
            f"{LOGS}/figures/{FIGURES[kind].file}.log",
        localrule: True
        params:
            code=code("figures.figure", FIGURES[kind].module.removeprefix("crossflow.")),
            record=record,
            summary=lambda wildcards, input: str(Path(input[0]).parent),
            kind=kind,
            curves=curves_shown,
            categories=STUDY.categories,
            flows=flows_shown(kind),
        message:
            f"figure: {FIGURES[kind].file.replace('{', '{wildcards.')}"
        shell:
            crossflow(
                "figure --summary {params.summary:q} --kind {params.kind} {params.curves}"
                " --categories {params.categories:q} {params.flows:q} --output {output.pdf:q} {output.png:q}"
            )


rule examples:
    """Two questions of each category: their images with the related visual tokens, beside their own curves."""
    input:
        IMAGE_FILES.values(),
        lambda wildcards: MODEL_FILES[wildcards.model],
        lambda wildcards: first_knockouts(wildcards.model),
        FILES["questions"],
        [f"{RESULTS}/answers/{{model}}/{category}.parquet" for category in STUDY.categories],
    output:
        pdf=[f"{RESULTS}/figures/examples-{{model}}-{category}.pdf" for category in STUDY.categories],
        png=report(
            [f"{RESULTS}/figures/examples-{{model}}-{category}.png" for category in STUDY.categories],
            caption="../report/examples.rst",
            category="Figures",
            subcategory="{model}",
            labels={"figure": "examples", "shows": "single questions"},
        ),
    log:
        f"{LOGS}/figures/examples-{{model}}.log",
    # The longest of the last jobs: begun first, it does not run alone at the end.
    priority: 1
    params:
        code=code("figures.examples"),
        record=record,
        results=lambda wildcards: results_options([f"{wildcards.model}:{STUDY.windows[wildcards.model][0]}"]),
        images=IMAGES,
        model=model_options(inputs.KNOCKOUT_SETTINGS),
    message:
        "figures: single questions, {wildcards.model}"
    shell:
        crossflow(
            "examples {params.results:q} {params.images:q} {params.model:q} --output {output.pdf:q} {output.png:q}"
        )


HEAD_TABLES_OF_STUDY = [
    table for summary in summaries_of(STUDY).values() for table in summary.tables if table in HEAD_TABLES
]

MAPS_OF_STUDY = FILES["image_lens"] if STUDY.image_lens and STUDY.image_lens.maps else []


rule explorer:
    """One interactive page of the study: curves, claims, and single questions with their images."""
    input:
        [f"{RESULTS}/summary/{table}.csv" for table in ("effects", "measures", "bands")],
        FILES["claims"],
        FILES["questions"],
        FILES["answers"],
        FILES["knockout"],
        IMAGE_FILES.values(),
        heads=[f"{RESULTS}/summary/{table}.csv" for table in HEAD_TABLES_OF_STUDY],
        maps=MAPS_OF_STUDY,
        patching=[f"{RESULTS}/summary/{table}.csv" for table in ("patching", "patching_depth") if STUDY.patching],
        page=[
            f"workflow/crossflow/figures/explorer_page/{name}"
            for name in ("page.html", "page.css", "page.js", "patching.js", "lens.js")
        ],
    output:
        f"{RESULTS}/explorer.html",
    log:
        f"{LOGS}/explorer.log",
    params:
        code=code("figures.explorer"),
        record=record,
        results=results_options(),
        images=IMAGES,
        heads=["--heads", *HEAD_TABLES_OF_STUDY] if HEAD_TABLES_OF_STUDY else [],
        maps=["--maps"] if MAPS_OF_STUDY else [],
        patching=["--patching"] if STUDY.patching else [],
    message:
        "explorer"
    shell:
        crossflow(
            "explorer {params.results:q} {params.images:q} {params.heads} {params.maps} {params.patching}"
            " --output {output:q}"
        )


EXPECTED_KINDS = [kind for kind in FIGURES_OF_STUDY if kind in FLOWS_SHOWN]


rule expected_figure:
    """Draw a figure from the expected summary tables in the repository."""
    input:
        f"resources/expected/{STUDY.name}/effects.csv",
        f"resources/expected/{STUDY.name}/counts.csv",
    output:
        pdf=f"{RESULTS}/expected/{{kind}}-{{model}}-w{{window}}.pdf",
        png=f"{RESULTS}/expected/{{kind}}-{{model}}-w{{window}}.png",
    log:
        f"{LOGS}/expected/{{kind}}-{{model}}-w{{window}}.log",
    wildcard_constraints:
        kind="|".join(EXPECTED_KINDS),
    params:
        code=code("figures.figure", "figures.curves"),
        summary=lambda wildcards, input: str(Path(input[0]).parent),
        categories=STUDY.categories,
        flows=lambda wildcards: flows_shown(wildcards.kind),
    message:
        "figure of expected tables: {wildcards.kind}, {wildcards.model}, window {wildcards.window}"
    shell:
        crossflow(
            "figure --summary {params.summary:q} --kind {wildcards.kind} --models {wildcards.model}"
            " --windows {wildcards.window} --categories {params.categories:q} {params.flows:q}"
            " --output {output.pdf:q} {output.png:q}",
            record=False,
        )


rule expected_figures:
    """All figures of the expected tables: takes seconds, needs no model and no image."""
    input:
        [
            f"{RESULTS}/expected/{name}.{suffix}"
            for kind in EXPECTED_KINDS
            for name in FIGURES_OF_STUDY[kind]
            for suffix in ("pdf", "png")
        ],
    message:
        "figures of the expected tables"

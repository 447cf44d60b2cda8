"""The explorer.

Needs: the summary tables, the claims, and the questions, answers, knockouts and pictures.
Makes: results/{study}/explorer.html, one page that needs no network and no server.
"""


localrules:
    explorer,


rule explorer:
    """One page to look around in the study: curves, claims, and single questions with their pictures."""
    input:
        FILES["summary"],
        FILES["claims"],
        FILES["questions"],
        FILES["answers"],
        FILES["knockout"],
        PICTURE_FILES.values(),
        page=[f"workflow/crossflow/explorer_page/page.{suffix}" for suffix in ("html", "css", "js")],
        sources=sources("explorer"),
    output:
        f"{RESULTS}/explorer.html",
    log:
        f"{LOGS}/explorer.log",
    conda:
        CPU_ENV
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        results=lambda wildcards, output: str(Path(output[0]).parent),
        curves=parameters.curves(STUDY),
        categories=STUDY.categories,
        pictures=PICTURES,
        seed=STUDY.seed,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow explorer"
        " --results {params.results:q} --curves {params.curves:q} --categories {params.categories:q}"
        " {params.pictures:q} --seed {params.seed} --output {output:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"

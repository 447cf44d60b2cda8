"""The summary tables.

Needs: all questions, answers and knockouts of the study.
Makes: results/{study}/summary/*.csv but lens.csv, and metrics.json; results/{study}/claims.json and claims.md;
       results/{study}/comparison.csv, only when asked for: `snakemake compare`, which fails if the tables are not within
       tolerance of those in resources/expected/{study}.
"""


localrules:
    claims,
    compare,


COMPARED = FILES["summary"][: len(parameters.COMPARED_TABLES)]


rule summary:
    """Means with 95 % intervals from a bootstrap clustered by picture, and where every question went."""
    input:
        FILES["questions"],
        FILES["answers"],
        FILES["knockout"],
        sources=sources("summary"),
    output:
        [file for file in FILES["summary"] if not file.endswith("lens.csv")],
    log:
        f"{LOGS}/summary.log",
    conda:
        CPU_ENV
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        results=lambda wildcards, output: str(Path(output[0]).parent.parent),
        curves=parameters.curves(STUDY),
        categories=STUDY.categories,
        seed=STUDY.seed,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow summary"
        " --results {params.results:q} --curves {params.curves:q} --categories {params.categories:q}"
        " --seed {params.seed} --provenance {params.provenance:q} 2>&1 | tee {log:q}"


rule claims:
    """Hold the study's claims against the tables, from each model's first window."""
    input:
        FILES["knockout"],
        FILES["lens"],
        sources=sources("claims"),
    output:
        json=f"{RESULTS}/claims.json",
        text=report(f"{RESULTS}/claims.md", caption="../report/claims.rst", category="Claims"),
    log:
        f"{LOGS}/claims.log",
    conda:
        CPU_ENV
    params:
        provenance=lambda wildcards, output: parameters.record_of(output[0]),
        results=lambda wildcards, output: str(Path(output[0]).parent),
        curves=parameters.curves(STUDY),
        categories=STUDY.categories,
        lens=["--lens"] if STUDY.lens else [],
        seed=STUDY.seed,
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow claims"
        " --results {params.results:q} --curves {params.curves:q} --categories {params.categories:q} {params.lens}"
        " --seed {params.seed} --output {output.json:q} --provenance {params.provenance:q} 2>&1 | tee {log:q}"


rule compare:
    """Compare the summary tables with the expected ones that are kept in the repository."""
    input:
        COMPARED,
        expected=[f"resources/expected/{STUDY.name}/{Path(table).name}" for table in COMPARED],
        sources=sources("compare"),
    output:
        f"{RESULTS}/comparison.csv",
    log:
        f"{LOGS}/compare.log",
    conda:
        CPU_ENV
    params:
        summary=lambda wildcards, input: str(Path(input[0]).parent),
        expected=lambda wildcards, input: str(Path(input.expected[0]).parent),
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow compare"
        " --summary {params.summary:q} --expected {params.expected:q} --output {output:q} 2>&1 | tee {log:q}"

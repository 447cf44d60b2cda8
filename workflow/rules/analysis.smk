"""The summary tables, and the verdicts on the study's claims.

Needs: all results of the study's experiments.
Makes: results/{study}/summary/*.csv, one job for each entry of `crossflow.analysis.tables.SUMMARIES`;
       results/{study}/metrics.json, claims.json and claims.md;
       results/{study}/comparison.csv, only on request: `snakemake compare` fails if a table differs from the one in
       resources/expected/{study} by more than its tolerance.
"""


localrules:
    metrics,
    claims,
    compare,


for name, summary in summaries_of(STUDY).items():

    rule:
        name:
            f"summary_{name.replace('-', '_')}"
        input:
            [FILES[stage] for stage in summary.needs],
        output:
            [f"{RESULTS}/summary/{table}.csv" for table in summary.tables],
        log:
            f"{LOGS}/summary/{name}.log",
        params:
            code=code("analysis.summary", summary.module.removeprefix("crossflow.")),
            record=record,
            summary=name,
            # An edited description of a column reruns nothing.
            tables={
                table: {name: column.kind for name, column in columns.items()}
                for table, columns in summary.tables.items()
            },
            # Answers and the logit lens do not depend on windows: another window reruns none of their tables.
            results=results_options(None if "knockout" in summary.needs else [f"{model}:any" for model in STUDY.models]),
        message:
            f"summary: {', '.join(summary.tables)}"
        shell:
            crossflow("summary --summary {params.summary} {params.results:q}")


rule metrics:
    """A few numbers with which DVC compares two runs."""
    input:
        effects=f"{RESULTS}/summary/effects.csv",
        answers=f"{RESULTS}/summary/answers.csv",
    output:
        f"{RESULTS}/metrics.json",
    log:
        f"{LOGS}/metrics.log",
    params:
        code=code("analysis.metrics"),
        record=record,
    message:
        "summary: metrics"
    shell:
        crossflow("metrics --effects {input.effects:q} --answers {input.answers:q} --output {output:q}")


rule claims:
    """Test the study's claims against the tables, in each model's first window."""
    input:
        FILES["answers"],
        FILES["knockout"],
        FILES["lens"],
        FILES["patching"],
    output:
        json=f"{RESULTS}/claims.json",
        text=report(f"{RESULTS}/claims.md", caption="../report/claims.rst", category="Claims"),
    log:
        f"{LOGS}/claims.log",
    params:
        code=code("analysis.claims_text"),
        record=record,
        results=results_options(),
        lens=["--lens"] if STUDY.lens else [],
        patching=["--patching"] if STUDY.patching else [],
    message:
        "claims"
    shell:
        crossflow("claims {params.results:q} {params.lens} {params.patching} --output {output.json:q}")


rule compare:
    """Compare the summary tables with the expected tables in the repository."""
    input:
        summary=[f"{RESULTS}/summary/{table}.csv" for table in EXPECTED],
        expected=[f"resources/expected/{STUDY.name}/{table}.csv" for table in EXPECTED],
    output:
        f"{RESULTS}/comparison.csv",
    log:
        f"{LOGS}/compare.log",
    params:
        code=code("analysis.expected"),
        summary=lambda wildcards, input: str(Path(input.summary[0]).parent),
        expected=lambda wildcards, input: str(Path(input.expected[0]).parent),
    message:
        f"comparison with resources/expected/{STUDY.name}"
    shell:
        crossflow(
            "compare --summary {params.summary:q} --expected {params.expected:q} --output {output:q}", record=False
        )

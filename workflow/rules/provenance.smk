"""Versions, machine and time behind the results, and tables as pages for the report.

Needs: all results of the study, beside which each job has written its own record in results/{study}/provenance/; the
       hashes of the study's data and models.
Makes: results/{study}/provenance.json, and two tables of it;
       an .html beside each .csv that the report shows.
"""


localrules:
    provenance,


_results = [
    file
    for stage in ("questions", "pairs", "answers", "knockout", "lens", *parameters.EXPERIMENTS, "summary", "figures")
    for file in FILES[stage]
]


rule provenance:
    """Collect parameters, versions, hashes of data and models, and when and where each job ran."""
    input:
        _results,
        hashes=FILES["data"][0],
    output:
        all=f"{RESULTS}/provenance.json",
        facts=f"{RESULTS}/provenance/facts.csv",
        times=f"{RESULTS}/provenance/times.csv",
    log:
        f"{LOGS}/provenance.log",
    params:
        code=code("analysis.provenance"),
        jobs=results.records(STUDY),
        study=json.dumps(parameters.recorded(config, STUDY), sort_keys=True),
    message:
        "provenance: parameters, versions, times"
    shell:
        crossflow(
            "provenance --jobs {params.jobs:q} --parameters {params.study:q} --hashes {input.hashes:q}"
            " --output {output.all:q} --facts {output.facts:q} --times {output.times:q}",
            record=False,
        )


_pages = {
    "effects": ("summary", "Effects of the knockouts", "Tables"),
    "answers": ("summary", "Accuracy, with the image and with it removed", "Tables"),
    "counts": ("summary", "Counts of questions", "Tables"),
    "facts": ("provenance", "Parameters, versions, hashes", "Provenance"),
    "times": ("provenance", "When and where each job ran", "Provenance"),
}

for table, (folder, title, category) in _pages.items():

    rule:
        name:
            f"page_{table}"
        input:
            f"{RESULTS}/{folder}/{table}.csv",
        output:
            report(
                f"{RESULTS}/{folder}/{table}.html",
                caption=f"../report/{table}.rst",
                category=category,
                labels={"table": title},
            ),
        log:
            f"{LOGS}/pages/{table}.log",
        localrule: True
        params:
            code=code("figures.table_page"),
            title=title,
        shell:
            crossflow("page --table {input:q} --title {params.title:q} --output {output:q}", record=False)

"""Tables as pages, which the report shows in the browser.

Needs: the summary tables, and those of the provenance.
Makes: an .html beside each .csv of results/{study}/summary/ and results/{study}/provenance/.
"""

_tables = {
    "effects": ("summary", "Effects of the knockouts", "Tables"),
    "answers": ("summary", "Accuracy, with the picture and with it removed", "Tables"),
    "counts": ("summary", "Where every chosen question went", "Tables"),
    "facts": ("provenance", "Parameters, versions, hashes", "Provenance"),
    "times": ("provenance", "When and where each job ran", "Provenance"),
}

for table, (folder, title, category) in _tables.items():

    rule:
        name:
            f"page_{table}"
        input:
            table=f"{RESULTS}/{folder}/{table}.csv",
            sources=sources("page"),
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
        conda:
            CPU_ENV
        params:
            title=title,
        shell:
            "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow page"
            " --table {input.table:q} --title {params.title:q} --output {output:q} 2>&1 | tee {log:q}"

"""By what, when and where the results were made.

Needs: all results of the study, beside which each job has written its own record in results/{study}/provenance/; the
       study's data and models.
Makes: results/{study}/hashes.json, of data and models; results/{study}/provenance.json, and two tables of it.
"""


localrules:
    hashes,
    provenance,


HASHES = FILES["data"][0]
PROVENANCE = f"{RESULTS}/provenance.json"
_data = list(
    dict.fromkeys(
        file for kind in (QUESTION_FILES, PICTURE_FILES, MODEL_FILES) for files in kind.values() for file in files
    )
)
_results = [
    file for stage in ("questions", "answers", "knockout", "lens", "summary", "figures") for file in FILES[stage]
]


rule hashes:
    """Hash the study's data and models: what follows can be looked at where they are not."""
    input:
        files=_data,
        sources=sources("hashes"),
    output:
        HASHES,
    log:
        f"{LOGS}/hashes.log",
    conda:
        CPU_ENV
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow hashes"
        " --files {input.files:q} --output {output:q} 2>&1 | tee {log:q}"


rule provenance:
    """Collect parameters, versions, hashes of data and models, and when and where each job ran."""
    input:
        _results,
        hashes=HASHES,
        sources=sources("provenance"),
    output:
        all=PROVENANCE,
        facts=f"{RESULTS}/provenance/facts.csv",
        times=f"{RESULTS}/provenance/times.csv",
    log:
        f"{LOGS}/provenance.log",
    conda:
        CPU_ENV
    params:
        jobs=list(dict.fromkeys(parameters.record_of(file) for file in _results)),
        study=json.dumps(parameters.recorded(config, STUDY), sort_keys=True),
    shell:
        "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow provenance"
        " --jobs {params.jobs:q} --parameters {params.study:q} --hashes {input.hashes:q}"
        " --output {output.all:q} --facts {output.facts:q} --times {output.times:q} 2>&1 | tee {log:q}"

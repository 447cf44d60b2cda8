"""Data sets that the workflow draws or fetches.

Needs: nothing, or GQA's site and the published repository, at the addresses in resources/sources.csv.
Makes: data/made/{dataset}/ in GQA's official layout (questions, scene graphs, images.zip) for data sets of kind `shapes`;
       data/gqa/ likewise, for data sets of kind `gqa` without a `root`: a split's questions and scene graphs, and in
       images.zip the pictures that studies asked for so far; data/gqa/pictures/{study}/{category}.csv lists them;
       data/published/{category}.csv, the published question sets, for `questions: published`.
"""


localrules:
    fetch_questions,
    fetch_scene_graphs,
    fetch_pictures,
    fetch_published,


if config["datasets"][STUDY.dataset]["kind"] == "shapes":

    rule shapes:
        """Draw the scenes of the mini world and ask about them."""
        input:
            sources("shapes"),
        output:
            parameters.gqa_files(config, STUDY.dataset),
            PICTURE_FILES[STUDY.categories[0]],
        log:
            f"{LOGS}/shapes.log",
        conda:
            CPU_ENV
        params:
            root=lambda wildcards: DATASET,
            scenes=config["datasets"][STUDY.dataset]["scenes"],
            seed=config["datasets"][STUDY.dataset].get("seed", 0),
        shell:
            "PYTHONPATH=workflow OMP_NUM_THREADS={threads} python -m crossflow shapes"
            " --scenes {params.scenes} --seed {params.seed} --root {params.root:q} 2>&1 | tee {log:q}"


rule fetch_questions:
    """Fetch the questions of a split of GQA, and nothing else, out of the zip of all questions."""
    input:
        sources("fetch"),
    output:
        f"{parameters.FETCHED_GQA}/questions/{{split}}_questions.json",
    log:
        f"{LOGS}/fetch_questions-{{split}}.log",
    conda:
        CPU_ENV
    params:
        source=source("gqa-questions"),
    shell:
        "PYTHONPATH=workflow python -m crossflow fetch --source gqa-questions"
        " --member {wildcards.split}_questions.json --output {output:q} 2>&1 | tee {log:q}"


rule fetch_scene_graphs:
    """Fetch the scene graphs of a part of GQA."""
    input:
        sources("fetch"),
    output:
        f"{parameters.FETCHED_GQA}/sceneGraphs/{{part}}_sceneGraphs.json",
    log:
        f"{LOGS}/fetch_scene_graphs-{{part}}.log",
    conda:
        CPU_ENV
    params:
        source=source("gqa-scene-graphs"),
    shell:
        "PYTHONPATH=workflow python -m crossflow fetch --source gqa-scene-graphs"
        " --member {wildcards.part}_sceneGraphs.json --output {output:q} 2>&1 | tee {log:q}"


rule fetch_published:
    """Fetch the published questions of a category."""
    input:
        sources("fetch"),
    output:
        parameters.published_file("{category}"),
    log:
        f"{LOGS}/fetch_published-{{category}}.log",
    wildcard_constraints:
        category="|".join(PUBLISHED_CATEGORIES),
    conda:
        CPU_ENV
    params:
        source=lambda wildcards: source(f"published-{wildcards.category}"),
    shell:
        "PYTHONPATH=workflow python -m crossflow fetch --source published-{wildcards.category}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule fetch_pictures:
    """Fetch the pictures of a category's questions that are not there yet."""
    input:
        questions=f"{RESULTS}/questions/{{category}}.csv",
        sources=sources("fetch-pictures"),
    output:
        parameters.fetched_pictures(STUDY, "{category}"),
    log:
        f"{LOGS}/fetch_pictures/{{category}}.log",
    conda:
        CPU_ENV
    params:
        source=source("gqa-images"),
        images=config["datasets"][STUDY.dataset].get("images", "needed"),
        root=lambda wildcards: DATASET,
    shell:
        "PYTHONPATH=workflow python -m crossflow fetch-pictures --source gqa-images"
        " --questions {input.questions:q} --images {params.images} --root {params.root:q}"
        " --output {output:q} 2>&1 | tee {log:q}"

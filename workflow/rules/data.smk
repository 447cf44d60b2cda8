"""Data sets that the workflow draws or fetches, and the questions of each category.

Downloads are checked against checksums, so no code shapes them, and an edit of the code downloads nothing again: files
from the hub, which are written in another form, stay in the hub's own cache.

Needs: nothing, or GQA's site, the Hugging Face hub and the published repository, at the addresses in
       resources/sources.csv.
Makes: data/made/{dataset}/ in GQA's official layout (questions, scene graphs, images.zip) for data sets of kind `shapes`;
       data/gqa/ likewise, for data sets of kind `gqa` without a `root`: a split's questions and scene graphs, and in
       images.zip the images that studies have needed so far; data/gqa/fetched/{study}/{category}.csv lists them, and
       data/gqa/fetched/{study}/pairs/{category}.csv those of pairs;
       data/gqa-hub/ likewise, for data sets of kind `gqa` with `source: hub`, whose scene graphs are from GQA's site;
       data/tables/{dataset}/questions.csv and images/, for data sets of kind `table` in parquet files;
       data/published/{category}.csv, the published question sets, for `questions: published`;
       results/{study}/questions/{category}.csv, and {category}.rejections.csv with the count of each reason;
       results/{study}/pairs/{category}.csv, {category}.rejections.csv and, for a drawn data set, {category}.zip with the
       pairs' images, if the study has the key `patching`;
       results/{study}/hashes.json, of data and models;
       results/{study}/published/overlap.csv and differences.csv, only on request: `snakemake published_overlap` in a
       study on GQA, which compares the choice made here with the published sets.
"""


localrules:
    fetch_questions,
    fetch_hub_questions,
    fetch_scene_graphs,
    fetch_images,
    fetch_published,
    hashes,


if STUDY.drawn:

    rule shapes:
        """Draw the scenes of the mini world and ask about them."""
        output:
            inputs.gqa_files(config, STUDY.dataset),
            IMAGE_FILES[STUDY.categories[0]],
        log:
            f"{LOGS}/shapes.log",
        params:
            code=code("mini.world"),
            root=lambda wildcards: DATASET,
            scenes=config["datasets"][STUDY.dataset]["scenes"],
            seed=config["datasets"][STUDY.dataset].get("seed", 0),
        message:
            "mini world: scenes and questions"
        shell:
            crossflow("mini-world --scenes {params.scenes} --seed {params.seed} --root {params.root:q}", record=False)


rule fetch_questions:
    """Fetch the questions of one split of GQA from the zip of all questions, without the rest of the zip."""
    output:
        f"{inputs.FETCHED_GQA}/questions/{{split}}_questions.json",
    log:
        f"{LOGS}/fetch_questions-{{split}}.log",
    params:
        source=source("gqa-questions"),
    message:
        "download: GQA's questions, {wildcards.split}"
    shell:
        crossflow(
            "fetch --source gqa-questions --member {wildcards.split}_questions.json --output {output:q}", record=False
        )


rule fetch_hub_questions:
    """Fetch the questions of one split of GQA from the Hugging Face hub, and write them in GQA's official layout."""
    output:
        f"{inputs.HUB_GQA}/questions/{{split}}_questions.json",
    log:
        f"{LOGS}/fetch_hub_questions-{{split}}.log",
    params:
        code=code("data.gqa_parquet"),
        source=source("gqa-hub"),
    message:
        "download: GQA's questions from the hub, {wildcards.split}"
    shell:
        crossflow("hub-questions --source gqa-hub --split {wildcards.split} --output {output:q}", record=False)


rule fetch_scene_graphs:
    """Fetch the scene graphs of a part of GQA."""
    output:
        "{root}/sceneGraphs/{part}_sceneGraphs.json",
    log:
        f"{LOGS}/fetch_scene_graphs/{{root}}-{{part}}.log",
    wildcard_constraints:
        root=f"{inputs.FETCHED_GQA}|{inputs.HUB_GQA}",
    params:
        source=source("gqa-scene-graphs"),
    message:
        "download: GQA's scene graphs, {wildcards.part}"
    shell:
        crossflow(
            "fetch --source gqa-scene-graphs --member {wildcards.part}_sceneGraphs.json --output {output:q}",
            record=False,
        )


rule fetch_published:
    """Fetch the published questions of a category."""
    output:
        inputs.published_file("{category}"),
    log:
        f"{LOGS}/fetch_published-{{category}}.log",
    wildcard_constraints:
        category="|".join(PUBLISHED_CATEGORIES),
    params:
        source=lambda wildcards: source(f"published-{wildcards.category}"),
    message:
        "download: published questions, {wildcards.category}"
    shell:
        crossflow("fetch --source published-{wildcards.category} --output {output:q}", record=False)


if inputs.is_unpacked(config, STUDY.dataset):

    rule unpack_table:
        """Write your own questions in parquet files, which may be on the Hugging Face hub, as a table with images."""
        input:
            inputs.parquet_files(config, STUDY.dataset),
        output:
            inputs.unpacked_table(STUDY.dataset),
        log:
            f"{LOGS}/unpack_table.log",
        params:
            code=code("data.parquet_table"),
            options=lambda wildcards: inputs.unpack_options(config, STUDY.dataset),
        message:
            f"table of {STUDY.dataset}"
        shell:
            crossflow("unpack-table {params.options:q} --output {output:q}", record=False)


rule fetch_images:
    """Fetch the images of a category's questions, or of their pairs, that are not there yet."""
    input:
        questions=lambda wildcards: f"{RESULTS}/{wildcards.pairs or 'questions/'}{wildcards.category}.csv",
    output:
        inputs.fetched_images(config, STUDY, "{category}", "{pairs}"),
    log:
        f"{LOGS}/fetch_images/{{pairs}}{{category}}.log",
    wildcard_constraints:
        pairs="(pairs/)?",
    params:
        name=inputs.gqa_sources(config, STUDY.dataset)[2],
        source=source(inputs.gqa_sources(config, STUDY.dataset)[2]),
        images=config["datasets"][STUDY.dataset].get("images", "needed"),
        root=lambda wildcards: DATASET,
        split=inputs.dataset_split(config, STUDY.dataset),
    message:
        "download: images, {wildcards.pairs}{wildcards.category}"
    shell:
        crossflow(
            "fetch-images --source {params.name} --questions {input.questions:q} --images {params.images}"
            " --split {params.split} --root {params.root:q} --output {output:q}",
            record=False,
        )


rule questions:
    """Choose the questions of one category by their programs, before any answer is known."""
    input:
        lambda wildcards: QUESTION_FILES[wildcards.category],
    output:
        chosen=f"{RESULTS}/questions/{{category}}.csv",
        rejections=f"{RESULTS}/questions/{{category}}.rejections.csv",
    log:
        f"{LOGS}/questions/{{category}}.log",
    params:
        code=code("data.choice"),
        record=record,
        source=lambda wildcards: chosen_from(wildcards.category),
        number=STUDY.number,
        seed=STUDY.seed,
    message:
        "questions: {wildcards.category}"
    shell:
        crossflow(
            "questions {params.source:q} --category {wildcards.category} --number {params.number}"
            " --seed {params.seed} --output {output.chosen:q} --rejections {output.rejections:q}"
        )


if STUDY.patching and STUDY.drawn:

    rule pairs:
        """Draw the pair of each question: its scene, changed so that another answer is true."""
        input:
            inputs.gqa_files(config, STUDY.dataset),
            questions=f"{RESULTS}/questions/{{category}}.csv",
        output:
            pairs=f"{RESULTS}/pairs/{{category}}.csv",
            rejections=f"{RESULTS}/pairs/{{category}}.rejections.csv",
            images=inputs.drawn_pairs(STUDY, "{category}"),
        log:
            f"{LOGS}/pairs/{{category}}.log",
        params:
            code=code("mini.pairs"),
            record=record,
            source=lambda wildcards: chosen_from(wildcards.category),
        message:
            "pairs: {wildcards.category}"
        shell:
            crossflow(
                "mini-pairs {params.source:q} --questions {input.questions:q} --category {wildcards.category}"
                " --output {output.pairs:q} --images {output.images:q} --rejections {output.rejections:q}"
            )

elif STUDY.patching:

    rule pairs:
        """Find the pair of each question: the same text about another image, with another answer."""
        input:
            lambda wildcards: QUESTION_FILES[wildcards.category],
            questions=f"{RESULTS}/questions/{{category}}.csv",
        output:
            pairs=f"{RESULTS}/pairs/{{category}}.csv",
            rejections=f"{RESULTS}/pairs/{{category}}.rejections.csv",
        log:
            f"{LOGS}/pairs/{{category}}.log",
        params:
            code=code("data.pairs"),
            record=record,
            source=lambda wildcards: chosen_from(wildcards.category),
            seed=STUDY.seed,
        message:
            "pairs: {wildcards.category}"
        shell:
            crossflow(
                "pairs {params.source:q} --questions {input.questions:q} --category {wildcards.category}"
                " --seed {params.seed} --output {output.pairs:q} --rejections {output.rejections:q}"
            )


if config["datasets"][STUDY.dataset]["kind"] == "gqa":

    rule published_overlap:
        """Compare the questions that the filter finds in the split with the published sets."""
        input:
            inputs.gqa_files(config, STUDY.dataset),
            published=[inputs.published_file(category) for category in PUBLISHED_CATEGORIES],
        output:
            overlap=f"{RESULTS}/published/overlap.csv",
            differences=f"{RESULTS}/published/differences.csv",
        log:
            f"{LOGS}/published_overlap.log",
        params:
            code=code("data.published_overlap"),
            root=lambda wildcards: DATASET,
            split=inputs.dataset_split(config, STUDY.dataset),
        message:
            "comparison with the published questions"
        shell:
            crossflow(
                "overlap --root {params.root:q} --split {params.split:q} --published {input.published:q}"
                " --output {output.overlap:q} --differences {output.differences:q}",
                record=False,
            )


_files = [file for found in (QUESTION_FILES, IMAGE_FILES, MODEL_FILES) for files in found.values() for file in files]


rule hashes:
    """Hash the study's data and models, so that results identify them on machines without them."""
    input:
        list(dict.fromkeys(_files)),
    output:
        FILES["data"][0],
    log:
        f"{LOGS}/hashes.log",
    message:
        "hashes of data and models"
    shell:
        crossflow("hashes --files {input:q} --output {output:q}", record=False)

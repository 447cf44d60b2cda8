"""Models that the workflow makes or fetches.

Needs: nothing, or the Hugging Face hub.
Makes: data/models/{owner}--{name}/{revision}.json, the list of the files of a model that was fetched into the hub's own
       cache (HF_HOME);
       data/made/random-llava/, a tiny LLaVA with random weights in Hugging Face format;
       data/mini-llava-trained/, a small LLaVA trained on the mini world, and its model card README.md, only on
       request: `snakemake mini_llava`. A copy of it is kept in resources/mini-llava.
"""


localrules:
    fetch_model,


rule fetch_model:
    """Fetch a model at its pinned revision; files in the cache are not fetched again."""
    output:
        inputs.manifest_of("{repo}", "{revision}"),
    log:
        f"{LOGS}/fetch_model/{{repo}}-{{revision}}.log",
    wildcard_constraints:
        repo=r"[A-Za-z0-9._-]+--[A-Za-z0-9._-]+",
        revision="[0-9a-f]{40}",
    params:
        # A repository's name has no two hyphens in a row.
        repo=lambda wildcards: wildcards.repo.replace("--", "/"),
    message:
        "download: model {params.repo}"
    shell:
        crossflow(
            "fetch-model --repo {params.repo:q} --revision {wildcards.revision} --output {output:q}",
            record=False,
        )


rule random_llava:
    """Build a tiny LLaVA with random weights: for tests."""
    output:
        [f"{inputs.RANDOM_LLAVA}/{name}" for name in inputs.MODEL_FILES],
    log:
        f"{LOGS}/random_llava.log",
    params:
        code=code("mini.random_model"),
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    message:
        "random-llava: random weights"
    shell:
        crossflow("random-model --seed 0 --output {params.folder:q}", record=False)


rule train_mini_llava:
    """Train mini-llava from scratch; a stopped training resumes from its checkpoint."""
    output:
        [f"{inputs.TRAINED_LLAVA}/{name}" for name in inputs.MODEL_FILES],
    log:
        f"{LOGS}/train_mini_llava.log",
    resources:
        gpu=1,
    params:
        code=code("mini.training"),
        folder=lambda wildcards, output: str(Path(output[0]).parent),
    message:
        "mini-llava: training"
    shell:
        crossflow("train-mini-llava --seed 0 --output {params.folder:q}", record=False)


rule mini_llava:
    """Ask the trained mini-llava about unseen scenes, with and without the image, and write its card."""
    input:
        rules.train_mini_llava.output,
    output:
        f"{inputs.TRAINED_LLAVA}/README.md",
    log:
        f"{LOGS}/mini_llava.log",
    threads: device_threads()
    resources:
        gpu=1,
    params:
        code=code("mini.model_card"),
        folder=lambda wildcards, input: str(Path(input[0]).parent),
    message:
        "mini-llava: accuracy on unseen scenes"
    shell:
        crossflow("mini-card --model-path {params.folder:q} --seed 0 --output {output:q}", record=False)

"""Data sets that the workflow makes itself.

Needs: nothing.
Makes: data/made/{dataset}/ in GQA's official layout (questions, scene graphs, images.zip) for data sets of kind `shapes`.
"""

if config["datasets"][STUDY.dataset]["kind"] == "shapes":

    rule shapes:
        """Draw the scenes of the mini world and ask about them."""
        input:
            sources("shapes"),
        output:
            QUESTION_FILES,
            PICTURE_FILES,
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

"""Models that the workflow makes itself.

Needs: nothing.
Makes: data/random-llava/, a tiny LLaVA with random weights in Hugging Face format.
"""


rule random_llava:
    """Build a tiny LLaVA with random weights: for tests, and for a first look at the workflow."""
    input:
        sources("random-model"),
    output:
        [f"{parameters.RANDOM_LLAVA}/{name}" for name in parameters.MODEL_FILES],
    params:
        folder=parameters.RANDOM_LLAVA,
    log:
        f"{LOGS}/random_llava.log",
    conda:
        CPU_ENV
    shell:
        CROSSFLOW + "random-model --seed 0 --output {params.folder:q}" + TO_LOG

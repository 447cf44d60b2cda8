"""The experiments: a job loads one model once and takes the questions of all categories, or of its share of them.

A study's `jobs_per_model` says among how many jobs the categories of a model are split. A killed job leaves its finished
questions in {category}.journal.jsonl beside each table, and the next run resumes there.

Needs: the chosen questions, the images, a model; for knockouts, also the answers.
Makes: results/{study}/answers/{model}/{category}.parquet, and .skipped.csv with the questions that are broken;
       results/{study}/lens/{model}/{category}.parquet, unless the study says `lens: false`;
       results/{study}/knockout/{model}/w{window}/{category}.parquet;
       results/{study}/heads/{model}/{category}.parquet, if the study has the key `heads`; likewise for every other
       experiment that a study asks for by a key of its own (`crossflow.study.parameters.Study.experiments`).
"""


def tables_of(folder: str, share: list[str], suffix: str = ".parquet") -> list[str]:
    """The files of a share's categories in a folder."""
    return [f"{RESULTS}/{folder}/{category}{suffix}" for category in share]


def pair_images(share: list[str]) -> list[str]:
    """The files of the images of a share's pairs."""
    return [file for category in share for file in inputs.pair_image_files(config, STUDY, category)]


def folder_of(files: list[str]) -> str:
    """The folder of the first of some files."""
    return str(Path(files[0]).parent)


for suffix, share in STUDY.shares.items():
    named = f", {' '.join(share)}" if len(STUDY.shares) > 1 else ""

    rule:
        # Answer the questions, with the image and with the image removed, and read the answer's first token, and the
        # false option's, off the last position after every layer.
        name:
            f"answers{suffix}"
        input:
            [file for category in share for file in IMAGE_FILES[category]],
            lambda wildcards: MODEL_FILES[wildcards.model],
            questions=tables_of("questions", share, ".csv"),
        output:
            tables_of("answers/{model}", share),
            tables_of("answers/{model}", share, ".skipped.csv"),
            lens=tables_of("lens/{model}", share) if STUDY.lens else [],
        log:
            f"{LOGS}/answers/{{model}}{suffix}.log",
        benchmark:
            f"{LOGS}/answers/{{model}}{suffix}.benchmark.tsv"
        threads: device_threads()
        resources:
            **GPU_JOB,
            gpu=1,
        params:
            code=code("experiments.answers"),
            record=f"{RESULTS}/provenance/answers/{{model}}{suffix}.json",
            images=IMAGES,
            model=model_options(inputs.ANSWER_SETTINGS),
            baselines=["--baselines", *STUDY.baselines, "--seed", STUDY.seed] if STUDY.baselines else [],
            folder=lambda wildcards, output: folder_of(output),
            lens=lambda wildcards, output: (
                ["--logit-lens", folder_of(output.lens), "--select", STUDY.answers] if output.lens else []
            ),
        message:
            f"answers: {{wildcards.model}}{named}"
        shell:
            crossflow(
                "answers --questions {input.questions:q} {params.images:q} {params.model:q} {params.baselines}"
                " --output {params.folder:q} {params.lens:q}"
            )

    rule:
        # Knock out every flow at every centre layer of one model, in the windows of one kind.
        name:
            f"knockout{suffix}"
        input:
            [file for category in share for file in IMAGE_FILES[category]],
            lambda wildcards: MODEL_FILES[wildcards.model],
            answers=tables_of("answers/{model}", share),
            questions=tables_of("questions", share, ".csv"),
        output:
            tables_of("knockout/{model}/w{window}", share),
        log:
            f"{LOGS}/knockout/{{model}}/w{{window}}{suffix}.log",
        benchmark:
            f"{LOGS}/knockout/{{model}}/w{{window}}{suffix}.benchmark.tsv"
        threads: device_threads()
        resources:
            **GPU_JOB,
            gpu=1,
        params:
            code=code("experiments.knockouts"),
            record=f"{RESULTS}/provenance/knockout/{{model}}/w{{window}}{suffix}.json",
            images=IMAGES,
            model=model_options(inputs.KNOCKOUT_SETTINGS),
            flows=STUDY.flows,
            controls=["--controls", *STUDY.controls, "--stride", STUDY.stride] if STUDY.controls else [],
            whole=["--whole-answer"] if STUDY.whole_answer else [],
            seed=STUDY.seed,
            select=STUDY.answers,
            engine=STUDY.engine,
            answers=lambda wildcards, input: folder_of(input.answers),
            folder=lambda wildcards, output: folder_of(output),
        message:
            f"knockouts: {{wildcards.model}}, window {{wildcards.window}}{named}"
        shell:
            crossflow(
                "knockout --questions {input.questions:q} --answers {params.answers:q} {params.images:q}"
                " {params.model:q} --window {wildcards.window} --flows {params.flows:q} {params.controls:q}"
                " --select {params.select} --seed {params.seed} {params.whole} --engine {params.engine}"
                " --output {params.folder:q}"
            )

    for name, experiment in STUDY.experiments.items():

        rule:
            # An experiment that the study asks for by a key of its own.
            name:
                f"{name}{suffix}"
            input:
                [file for category in share for file in IMAGE_FILES[category]],
                lambda wildcards: MODEL_FILES[wildcards.model],
                answers=tables_of("answers/{model}", share),
                questions=tables_of("questions", share, ".csv"),
                pairs=tables_of("pairs", share, ".csv") if experiment.pairs else [],
                pair_images=pair_images(share) if experiment.pairs else [],
            output:
                [table for end in experiment.suffixes for table in tables_of(f"{name}/{{model}}", share, end)],
            log:
                f"{LOGS}/{name}/{{model}}{suffix}.log",
            benchmark:
                f"{LOGS}/{name}/{{model}}{suffix}.benchmark.tsv"
            threads: device_threads()
            resources:
                **GPU_JOB,
                gpu=1,
            params:
                code=code(f"experiments.{name}"),
                record=f"{RESULTS}/provenance/{name}/{{model}}{suffix}.json",
                verb=name.replace("_", "-"),
                images=IMAGES,
                model=model_options(inputs.KNOCKOUT_SETTINGS),
                options=experiment.options(STUDY),
                select=STUDY.answers,
                answers=lambda wildcards, input: folder_of(input.answers),
                pairs=lambda wildcards, input: ["--pairs", folder_of(input.pairs)] if input.pairs else [],
                further=lambda wildcards, input: (
                    ["--further", *input.pair_images] if STUDY.drawn and input.pair_images else []
                ),
                folder=lambda wildcards, output: folder_of(output),
            message:
                f"{name.replace('_', ' ')}: {{wildcards.model}}{named}"
            shell:
                crossflow(
                    "{params.verb} --questions {input.questions:q} --answers {params.answers:q} {params.images:q}"
                    " {params.model:q} {params.options:q} {params.pairs:q} {params.further:q}"
                    " --select {params.select} --output {params.folder:q}"
                )

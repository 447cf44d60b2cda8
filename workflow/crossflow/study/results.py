"""The result files of a study, by the stage that makes them. Imports nothing heavy."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from crossflow.analysis.tables import EXPECTED, summaries_of
from crossflow.core.errors import CrossflowError
from crossflow.figures.kinds import figures_of
from crossflow.study.parameters import EXPERIMENTS, Study


def curves(study: Study) -> list[str]:
    """Model and window of every curve, written ``model:window``."""
    return [f"{model}:{window}" for model in study.models for window in study.windows[model]]


def _require_own_names(study: Study, files: Iterable[str]) -> None:
    """Refuse a study of which two results would have one file.

    Raises:
        CrossflowError: they would, if only where letters differ in case alone, as on most disks of macOS.
    """
    seen: set[str] = set()
    for file in files:
        if file.lower() in seen:
            raise CrossflowError(
                f"params.yaml, studies.{study.name}: two results would be the same file, {file} (upper and lower case "
                "are one on many disks): rename one of the models or categories."
            )
        seen.add(file.lower())


def result_files(study: Study) -> dict[str, list[str]]:
    """All result files of a study: stage -> files, in the order of the stages.

    Raises:
        CrossflowError: two of them would be one file, because of the names of models and categories.
    """
    results = f"results/{study.name}"
    categories, models = study.categories, study.models
    figures = figures_of(study).values()
    drawn = [name for names in figures for name in names]
    drawn += [f"examples-{model}-{category}" for model in models for category in categories]
    folders = {
        "questions": [""],
        "pairs": [""] if study.patching else [],
        "answers": [f"{model}/" for model in models],
        "knockout": [f"{model}/w{window}/" for model in models for window in study.windows[model]],
        "lens": [f"{model}/" for model in models if study.lens],
        **{name: [f"{model}/" for model in models if name in study.experiments] for name in EXPERIMENTS},
    }
    suffixes = {
        "questions": (".csv", ".rejections.csv"),
        "pairs": (".csv", ".rejections.csv", *([".zip"] if study.drawn else [])),
        "answers": (".parquet", ".skipped.csv"),
        **{name: experiment.suffixes for name, experiment in study.experiments.items()},
    }
    by_category = {
        stage: [
            f"{results}/{stage}/{folder}{category}{suffix}"
            for folder in found
            for category in categories
            for suffix in suffixes.get(stage, (".parquet",))
        ]
        for stage, found in folders.items()
    }
    tables = [table for summary in summaries_of(study).values() for table in summary.tables]
    files = {
        "data": [f"{results}/hashes.json"],
        **by_category,
        "summary": [*(f"{results}/summary/{table}.csv" for table in tables), f"{results}/metrics.json"],
        "claims": [f"{results}/claims.{suffix}" for suffix in ("json", "md")],
        "pages": [f"{results}/summary/{table}.html" for table in EXPECTED],
        "figures": [f"{results}/figures/{name}.{suffix}" for name in drawn for suffix in ("pdf", "png")],
        "explorer": [f"{results}/explorer.html"],
        "record": [f"{results}/provenance.json"]
        + [f"{results}/provenance/{table}.html" for table in ("facts", "times")],
    }
    _require_own_names(study, chain.from_iterable(files.values()))
    return files


def record_of(result: str) -> str:
    """Where the job that makes a result, but the jobs of the experiments, records versions, machine and time."""
    parts = Path(result).parts
    return Path(*parts[:2], "provenance", *parts[2:-1], f"{parts[-1].partition('.')[0]}.json").as_posix()


def records(study: Study) -> list[str]:
    """Where the jobs of a study record versions, machine and time."""
    jobs = [f"answers/{model}" for model in study.models]
    jobs += [f"{name}/{model}" for name in study.experiments for model in study.models]
    jobs += [f"knockout/{model}/w{window}" for model in study.models for window in study.windows[model]]
    of_models = [f"results/{study.name}/provenance/{job}{share}.json" for job in jobs for share in study.shares]
    with_model = {"answers", "knockout", "lens", *EXPERIMENTS}
    others = (files for stage, files in result_files(study).items() if stage not in with_model)
    return [*of_models, *dict.fromkeys(map(record_of, chain.from_iterable(others)))]

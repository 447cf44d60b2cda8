"""What the doctor looks at for a study: its models, questions and images, and the way to those that are fetched."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
import torch
from huggingface_hub import constants, get_token
from safetensors import SafetensorError, safe_open

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import require_window
from crossflow.data.images import Images
from crossflow.data.question_table import read_question_table
from crossflow.engine.planning import plan_knockout
from crossflow.fetch import environment, hub, hub_repo
from crossflow.fetch.download import new_session
from crossflow.fetch.hub_gqa import repo_of
from crossflow.fetch.sources import TABLE, RemoteFile, read_sources
from crossflow.models.folder import folder_of, lacking, read_manifest
from crossflow.models.loading import sketch_model
from crossflow.models.memory import GIB, Sizes, capacity, total_memory
from crossflow.models.model import DTYPES, ModelSettings, outline_of
from crossflow.models.weights import require_weights_of
from crossflow.study import inputs
from crossflow.study.parameters import Study
from crossflow.verify.finding import MISSING, NOTE, OK, Finding
from crossflow.verify.image_sample import look_at_images
from crossflow.verify.true_sizes import TRUE_SIZES, true_config

# Positions of a prompt without the image: system text, GQA's longest question, and the instruction.
TEXT = 128
# Of an image, for models that take any size; a job plans with its own images.
_USUAL = (640, 480)
# Reserved for what a study writes besides downloads: tables, figures, pages.
RESULTS = 2 * GIB
IMAGE = 120_000  # bytes, slightly more than GQA's mean
_SECONDS = 5.0  # for a server to respond


def _require_whole(folder: Path) -> None:
    """Refuse a model's folder with missing or truncated weights; only their headers are read.

    Raises:
        CrossflowError: weights are missing or truncated.
    """
    if absent := lacking(folder):
        raise CrossflowError(f"{folder} lacks {', '.join(absent)}; weights are read from safetensors only.")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CrossflowError(f"{file} is damaged or truncated ({error}): download it again.") from error


def _require_windows(study: Study, slug: str, layers: int) -> None:
    """Refuse a window that does not fit the model before any answer is computed.

    Raises:
        CrossflowError: see `require_window`.
    """
    for window in study.windows[slug]:
        require_window(window, layers, slug)


def _sizes(slug: str, settings: ModelSettings, folder: Path | None) -> Sizes | None:
    """The sizes of a model whose folder, if it is there, holds what belongs together.

    Raises:
        CrossflowError: the model would be refused when it is loaded.
    """
    if folder is not None:
        _require_whole(folder)
        sketch = sketch_model(settings, torch.device("cpu"))
        require_weights_of(sketch)
        return sketch.sizes_for([_USUAL])
    return outline_of(true_config(slug), DTYPES[settings.dtype]) if slug in TRUE_SIZES else None


def _fits(study: Study, sizes: Sizes, device: torch.device) -> tuple[bool, str]:
    plan = plan_knockout(
        sizes, sizes.visual + TEXT, sizes.visual + TEXT // 2, [*study.flows, *study.controls], capacity(device)
    )
    return plan.smallest <= capacity(device), (
        f"needs {plan.smallest / GIB:.1f} GiB of {total_memory(device) / GIB:.0f} on {device}, weights "
        f"{plan.weights / GIB:.1f}"
    )


def _reachable(url: str) -> str | None:
    """Why an address cannot be reached; None if it can."""
    try:
        with new_session() as session:
            session.mount("https://", requests.adapters.HTTPAdapter(max_retries=0))
            answer = session.head(url, timeout=_SECONDS, allow_redirects=True)
    except requests.RequestException as error:
        return type(error).__name__
    except CrossflowError:
        return "see environment"
    return None if answer.ok else f"the server says {answer.status_code}"


def check_model(config: Mapping[str, Any], study: Study, slug: str, offline: bool) -> Iterator[Finding]:
    """Whether a model is available and fits into the device's memory."""
    entry = config["models"][slug]
    what = f"model {slug}"
    folder: Path | None = None
    if "path" in entry:
        folder = Path(entry["path"])
        if not (folder / "config.json").is_file():
            if folder == Path(inputs.RANDOM_LLAVA):
                yield Finding(OK, what, f"{folder} is made by the run")
            else:
                yield Finding(MISSING, what, f"{folder} has no config.json: put the model's folder there")
            return
        where = str(folder)
    else:
        manifest = Path(inputs.manifest_of(entry["repo"], entry["revision"]))
        if manifest.is_file():
            folder = folder_of(read_manifest(manifest))
        else:
            folder = hub.cached_folder(entry["repo"], entry["revision"])
        where = str(folder) if folder else f"{entry['repo']}, fetched by the run (alone: `snakemake {manifest}`)"
        page = f"{constants.ENDPOINT}/api/models/{entry['repo']}"
        if folder is None and not offline and (reason := _reachable(page)):
            yield Finding(MISSING, what, f"{page} cannot be reached ({reason}): check the network, or log in")
    if folder is not None:
        _require_whole(folder)
    keys = [key for key in inputs.SETTINGS if key in entry]
    settings = ModelSettings(folder or Path(entry.get("repo", "")), **{key: entry[key] for key in keys})
    sizes = _sizes(slug, settings, folder)
    if sizes is None:
        yield Finding(NOTE, what, f"{where}; its memory use is not planned")
        return
    _require_windows(study, slug, sizes.layers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fits, said = _fits(study, sizes, device)
    hint = "" if fits else ": use a device with more memory, or a dtype of half the size"
    yield Finding(OK if fits else MISSING, what, f"{where}; {said}{hint}")


def _unfetched(config: Mapping[str, Any], study: Study) -> list[RemoteFile]:
    """Files of the table of sources that the run would download, or read parts of."""
    sources = read_sources(Path(TABLE))
    wanted = []
    for category in study.categories:
        if inputs.is_published(config, study.dataset):
            if not Path(inputs.published_file(category)).is_file():
                wanted.append(f"published-{category}")
        elif inputs.is_fetched(config, study.dataset):
            names = inputs.gqa_sources(config, study.dataset)
            files = inputs.question_files(config, study.dataset, category)
            wanted += [name for name, file in zip(names, files, strict=False) if not Path(file).is_file()]
        if inputs.is_fetched(config, study.dataset):
            folders = ["", "pairs/"] if study.patching else [""]
            lists = (Path(inputs.fetched_images(config, study, category, folder)) for folder in folders)
            _, _, images = inputs.gqa_sources(config, study.dataset)
            wanted += [images] if not all(path.is_file() for path in lists) else []
    return [sources[name] for name in dict.fromkeys(wanted)]


def _own_data(config: Mapping[str, Any], study: Study) -> str:
    """The location of a user's data set, or of a downloaded one.

    Raises:
        CrossflowError: a file, an image of a table, a category of it, or all images are missing.
    """
    root = inputs.dataset_root(config, study.dataset)
    # Asking for the files reports those that are missing.
    files = [file for name in study.categories for file in inputs.question_files(config, study.dataset, name)]
    if inputs.is_table(config, study.dataset):
        known = {question.category for question in read_question_table(Path(files[0]), Path(root))}
        if absent := [name for name in study.categories if name not in known]:
            raise CrossflowError(f"{files[0]} has no question of category {absent[0]!r}; it has {', '.join(known)}.")
    else:
        with Images(Path(root)):
            pass
    return root


def _is_packed(config: Mapping[str, Any], study: Study) -> bool:
    """Whether the data set is in parquet files that no run has written as a table yet."""
    return inputs.is_unpacked(config, study.dataset) and not Path(inputs.unpacked_table(study.dataset)).is_file()


def _packed(config: Mapping[str, Any], study: Study, offline: bool) -> Finding:
    what, entry = f"data {study.dataset}", config["datasets"][study.dataset]
    said = f"the run writes the table of {entry['file']}"
    if "repo" not in entry:
        inputs.parquet_files(config, study.dataset)  # reports that there is none
        return Finding(OK, what, said)
    page = f"{constants.ENDPOINT}/api/datasets/{entry['repo']}"
    if not offline and (reason := _reachable(page)):
        return Finding(MISSING, what, f"{page} cannot be reached ({reason}): check the network, or log in")
    return Finding(OK, what, f"{said} of {entry['repo']}, fetched by the run")


def check_data(config: Mapping[str, Any], study: Study, offline: bool) -> Iterator[Finding]:
    """Whether a study's questions and images are available or can be downloaded."""
    what = f"data {study.dataset}"
    unfetched = _unfetched(config, study)
    if not unfetched:
        if config["datasets"][study.dataset]["kind"] == "shapes":
            yield Finding(OK, what, "drawn by the run")
        elif _is_packed(config, study):
            yield _packed(config, study, offline)
        else:
            yield Finding(OK, what, _own_data(config, study))
    for source in unfetched:
        reason = None if offline else _reachable(source.url)
        said = f"{source.name} is fetched by the run from {source.url}"
        if reason:
            yield Finding(MISSING, what, f"{said}, which cannot be reached ({reason}): check the network")
        else:
            yield Finding(OK, what, f"{said} ({'not asked' if offline else 'reached'})")


def check_images(config: Mapping[str, Any], study: Study) -> Iterator[Finding]:
    """Whether a sample of a study's images can be used, and how they are changed before a model sees them."""
    made = config["datasets"][study.dataset]["kind"] == "shapes" or _is_packed(config, study)
    if made or _unfetched(config, study):
        return
    sample = look_at_images(config, study)
    what, broken = f"images {study.dataset}", len(sample.broken)
    if broken:
        said = f"{broken} of {sample.looked} images cannot be used, the first: {sample.broken[0]}"
        yield Finding(MISSING if broken == sample.looked else NOTE, what, f"{said}; their questions are skipped")
    elif sample.looked and not sample.changed:
        yield Finding(OK, what, f"{sample.looked} of them are used as they are")
    for how, number in sample.changed.items():
        yield Finding(NOTE, what, f"{number} of {sample.looked} are {how}")


def _uncached(config: Mapping[str, Any], study: Study) -> list[str]:
    """Models of a study that the run would fetch from the hub."""
    entries = {slug: config["models"][slug] for slug in study.models}
    return [
        slug
        for slug, entry in entries.items()
        if "repo" in entry and hub.cached_folder(entry["repo"], entry["revision"]) is None
    ]


def _token_is_refused() -> bool:
    """Whether the hub refuses the token that is set; False where it cannot be asked."""
    if not (token := get_token()):
        return False
    try:
        with new_session() as session:
            session.mount("https://", requests.adapters.HTTPAdapter(max_retries=0))
            page, sent = f"{constants.ENDPOINT}/api/whoami-v2", {"Authorization": f"Bearer {token}"}
            return session.get(page, headers=sent, timeout=_SECONDS).status_code == HTTPStatus.UNAUTHORIZED
    except (requests.RequestException, CrossflowError):
        return False


def _uses_hub(config: Mapping[str, Any], study: Study, unfetched: Sequence[RemoteFile]) -> bool:
    """Whether the run would fetch a model or data from the hub."""
    is_table = _is_packed(config, study) and "repo" in config["datasets"][study.dataset]
    return bool(is_table or _uncached(config, study) or any(map(repo_of, unfetched)))


def check_environment(config: Mapping[str, Any], study: Study, offline: bool) -> Iterator[Finding]:
    """Variables by which no server can be reached, which matters where the run fetches something."""
    unfetched = _unfetched(config, study)
    needed = [
        *([environment.FILES] if any(repo_of(source) is None for source in unfetched) else []),
        *([environment.HUB] if _uses_hub(config, study, unfetched) else []),
    ]
    missing = environment.faults(*needed)
    for fault in environment.faults(environment.FILES, environment.HUB):
        yield Finding(MISSING if fault in missing else NOTE, "environment", fault)
    if environment.HUB in needed and not missing and not offline and _token_is_refused():
        yield Finding(MISSING, "environment", hub_repo.refused_token())


def bytes_needed(config: Mapping[str, Any], study: Study) -> dict[Path, int]:
    """Folder -> bytes that a run will still write there."""
    sources = _unfetched(config, study)
    fetched = sum(source.bytes or GIB for source in sources if source.name != "gqa-images")
    for source in sources:
        if source.name == "gqa-images":
            whole = source.bytes or 0
            full = config["datasets"][study.dataset].get("images") == "full" or study.number == "all"
            fetched += whole if full else min(whole, int(study.number) * len(study.categories) * IMAGE)
    outlines = [outline_of(true_config(slug), torch.float16) for slug in _uncached(config, study) if slug in TRUE_SIZES]
    weights = sum(outline.weights for outline in outlines if outline is not None)
    needed = {Path("results") / study.name: RESULTS, Path("data"): fetched}
    return needed | ({Path(constants.HF_HUB_CACHE): weights} if weights else {})

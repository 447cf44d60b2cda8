"""Your own questions in parquet files, on this disk or in a data set of the Hugging Face hub."""

from fnmatch import fnmatch
from pathlib import Path

from crossflow.core.errors import CrossflowError
from crossflow.core.locks import alone
from crossflow.data.parquet_table import write_parquet_table
from crossflow.fetch.download import require_space
from crossflow.fetch.hub_repo import HubRepo, fetch_whole, find_files


def _fetched(repo: HubRepo, pattern: str) -> list[Path]:
    """The files of a data set on the hub that a pattern names, in the hub's cache."""
    files = find_files(repo, lambda name: fnmatch(name, pattern))
    if not files:
        raise CrossflowError(f"{repo.repo} has no file {pattern} at revision {repo.revision}.")
    folder = fetch_whole(repo, files)
    return [folder / name for name in sorted(files)]


def write_table(
    output: Path,
    files: tuple[Path, ...] = (),
    repo: str = "",
    revision: str = "",
    pattern: str = "",
    columns: tuple[str, ...] = (),
    images: Path | None = None,
) -> None:
    """Write your own questions from parquet files, which may be on the Hugging Face hub, as a table with images.

    Args:
        output: The table (CSV).
        files: Parquet files on this disk.
        repo: Data set on the hub instead, owner/name.
        revision: Commit of the data set, 40 hex digits.
        pattern: The files of the data set, such as data/test-*.parquet.
        columns: Columns of the table and where they come from, such as answer=label, or question="Is it {colour}?".
        images: Folder for the images; without it, the files name images of another folder.

    Raises:
        CrossflowError: the files could not be fetched, or are not as expected.
    """
    found = _fetched(HubRepo(repo, revision, "dataset"), pattern) if repo else list(files)
    with alone(output.with_name(f".{output.name}.lock"), f"writes {output}"):
        if images is not None:
            size = sum(path.stat().st_size for path in found if path.exists())
            require_space(images, size, f"writing the images of {repo or found[0]}")
        mapped = dict(column.split("=", 1) for column in columns)
        write_parquet_table(found, mapped, output, images)

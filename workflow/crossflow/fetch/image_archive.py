"""The images that studies need, in one local ``images.zip``, wherever they come from.

    <root>/images.zip           all images fetched so far
    <root>/images.zip.part.d/   the images of an unfinished job

``images.zip`` only grows and is replaced atomically, so a killed job loses and damages nothing.
"""

import shutil
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from crossflow.core.columns import IMAGE_ID, TEXT, WHOLE, Column, Columns
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.locks import alone
from crossflow.data.images import UNREADABLE_ZIP

COLUMNS: Columns = {
    "image_id": IMAGE_ID,
    "bytes": Column(WHOLE, words="Size of the image file, in bytes."),
    "crc32": Column(TEXT, words="Its checksum in the zip, 8 hex digits."),
}


def member_of(image_id: str) -> str:
    """The name of an image in the zip."""
    return f"images/{image_id}.jpg"


def is_file_name(image_id: str) -> bool:
    """Whether an image can be a file of its own, in no other folder."""
    name = f"{image_id}.jpg"
    return Path(name).name == name


class ImageArchive(NamedTuple):
    """The images of a root."""

    root: Path

    @property
    def path(self) -> Path:
        """The zip."""
        return self.root / "images.zip"

    @property
    def _parts(self) -> Path:
        return self.root / "images.zip.part.d"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other run fetch into it meanwhile."""
        with alone(self.root / ".images.lock", f"fetches images into {self.root}"):
            yield

    def _inside(self) -> dict[str, zipfile.ZipInfo]:
        if not self.path.exists():
            return {}
        try:
            with zipfile.ZipFile(self.path) as file:
                return {entry.filename: entry for entry in file.infolist()}
        except UNREADABLE_ZIP as error:
            raise CrossflowError(f"{self.path} is not a readable zip ({error}): delete it and run again.") from error

    def absent(self, image_ids: Collection[str]) -> list[str]:
        """The images that are not in the zip, sorted.

        Raises:
            CrossflowError: the zip is broken.
        """
        inside = self._inside()
        return sorted({image_id for image_id in image_ids if member_of(image_id) not in inside})

    def has_part(self, image_id: str) -> bool:
        """Whether an unfinished job has stored an image."""
        return (self._parts / f"{image_id}.jpg").exists()

    def space(self, new: int) -> int:
        """Bytes needed to store ``new`` bytes of images: during the merge, every image is stored twice."""
        return 2 * new + (self.path.stat().st_size if self.path.exists() else 0)

    def store(self, image_id: str, content: bytes) -> None:
        """Store an image until the merge."""
        with replacing(self._parts / f"{image_id}.jpg") as temporary:
            temporary.write_bytes(content)

    def merge(self) -> None:
        """Add the stored images to the zip, which is replaced atomically."""
        fetched = sorted(self._parts.glob("*.jpg"))
        if fetched:
            with replacing(self.path) as temporary:
                temporary.unlink(missing_ok=True)  # left by a killed job
                if self.path.exists():
                    shutil.copyfile(self.path, temporary)
                with zipfile.ZipFile(temporary, "a", zipfile.ZIP_STORED) as file:
                    inside = set(file.namelist())
                    for path in fetched:
                        if member_of(path.stem) not in inside:
                            # A fixed date, so that the same images give the same bytes.
                            file.writestr(zipfile.ZipInfo(member_of(path.stem)), path.read_bytes())
        shutil.rmtree(self._parts, ignore_errors=True)

    def rows(self, image_ids: Collection[str]) -> list[dict[str, Any]]:
        """Rows of `COLUMNS`: those of some images that are there, by id."""
        inside = self._inside()
        return [
            {"image_id": image_id, "bytes": entry.file_size, "crc32": f"{entry.CRC:08x}"}
            for image_id in sorted(set(image_ids))
            if (entry := inside.get(member_of(image_id))) is not None
        ]

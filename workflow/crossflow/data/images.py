"""The images of a data set, from a folder or a zip.

    <root>/images/<image_id>.jpg    or <root>/images.zip, with members images/<image_id>.jpg or <image_id>.jpg

A table of one's own has a folder of images, and an image's id is its file name.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from crossflow.core.errors import BrokenQuestion, CrossflowError

# Pillow detects the format by content and would run Ghostscript on PostScript; a .jpg never justifies that.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# Raised by damaged bytes; found by damaging images.
UNREADABLE_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError)
_UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


# Limit of the encoded bytes; Pillow limits the decoded ones.
LARGEST_IMAGE = 1 << 26


def _read_bounded(read: Callable[[int], bytes], where: str) -> bytes:
    """Read a file or zip member up to the limit: a few bytes of a zip may unpack to gigabytes."""
    content = read(LARGEST_IMAGE + 1)
    if len(content) > LARGEST_IMAGE:
        raise BrokenQuestion(f"the image {where} has more than {LARGEST_IMAGE >> 20} MiB")
    return content


class Images:
    """The images of a data set, from a folder (if there is one) or a zip. A context manager.

    Zip members are read into memory, never extracted.

    Args:
        root: A data set in GQA's layout; or, with ``by_file``, a folder of images whose ids are their files' names.

    Raises:
        CrossflowError: both are missing, or the zip is broken.
    """

    def __init__(self, root: Path, *, by_file: bool = False) -> None:
        self._folder = root if by_file else root / "images"
        self._suffix = "" if by_file else ".jpg"
        self._zip: zipfile.ZipFile | None = None
        self._members: frozenset[str] = frozenset()
        if self._folder.is_dir():
            return
        if by_file:
            raise CrossflowError(f"The folder of images {root} does not exist.")
        path = root / "images.zip"
        if not path.is_file():
            raise CrossflowError(f"{root} holds neither images/ nor images.zip.")
        try:
            self._zip = zipfile.ZipFile(path)
        except UNREADABLE_ZIP as error:
            raise CrossflowError(f"{path} is not a readable zip, or is cut short ({error}).") from error
        self._members = frozenset(self._zip.namelist())

    def __enter__(self) -> "Images":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def _bytes(self, image_id: str) -> tuple[str, bytes]:
        """The location of an image, for messages, and its encoded bytes."""
        name = f"{image_id}{self._suffix}"
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or (self._suffix and len(path.parts) > 1):
            raise BrokenQuestion(f"the image id {image_id!r} is not the name of a file")
        if self._zip is None:
            file = self._folder / path
            try:
                with file.open("rb") as opened:
                    return str(file), _read_bounded(opened.read, str(file))
            except FileNotFoundError as error:
                raise BrokenQuestion(f"the image {file} is missing") from error
            except (OSError, ValueError) as error:
                raise BrokenQuestion(f"the image {file} can not be read ({error})") from error
        member = next((member for member in (f"images/{name}", name) if member in self._members), None)
        if member is None:
            raise BrokenQuestion(f"the image {name} is missing from {self._zip.filename}")
        where = f"{self._zip.filename}/{member}"
        try:
            with self._zip.open(member) as opened:
                return where, _read_bounded(opened.read, where)
        except UNREADABLE_ZIP as error:
            raise BrokenQuestion(f"the image {where} can not be read ({error})") from error

    def open(self, image_id: str) -> Image.Image:
        """The decoded image, in RGB.

        Raises:
            BrokenQuestion: the image is missing, does not decode, or is too large.
        """
        where, encoded = self._bytes(image_id)
        try:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                return image.convert("RGB")
        except UnidentifiedImageError as error:  # Pillow's own message holds an address in memory
            raise BrokenQuestion(f"the image {where} does not decode (it is none of {', '.join(_FORMATS)})") from error
        except _UNDECODABLE as error:
            raise BrokenQuestion(f"the image {where} does not decode ({error})") from error


@dataclass(frozen=True)
class ImageSource:
    """Where a data set's images are: exactly one of both.

    Attributes:
        root: Data set in GQA's layout.
        images: Folder of the images of a table of one's own, whose ids are their files' names.
    """

    root: Path | None = None
    images: Path | None = None

    def open(self) -> Images:
        """The images.

        Raises:
            CrossflowError: both are named or none, or they can not be read.
        """
        if self.root is not None and self.images is None:
            return Images(self.root)
        if self.images is not None and self.root is None:
            return Images(self.images, by_file=True)
        raise CrossflowError("Images come from --root or from --images: name one of them.")

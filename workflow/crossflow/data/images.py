"""The images of a data set, from a folder or a zip.

    <root>/images/<image_id>.jpg    or <root>/images.zip, with members images/<image_id>.jpg or <image_id>.jpg

Your own table has a folder of images, and an image's id is its file name. Ids are in Unicode's composed form
(`crossflow.data.text`); file names may be in either form.

An image is shown as its EXIF orientation says, as browsers and cameras do. Where the data give the size of the image in
which boxes are measured, the image must have the same shape, upright or as stored; if it has another scale, for example
because it was halved to save space, the boxes are scaled with it.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.records import Box, ChosenQuestion
from crossflow.data.text import composed

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


def _orientation(image: Image.Image) -> int:
    """What EXIF data say, from 1 (upright) to 8; data that cannot be read say nothing."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (*_UNDECODABLE, KeyError, TypeError):
        return 1
    return found if found in range(2, 9) else 1


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation says; unreadable EXIF data are ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except (*_UNDECODABLE, KeyError, TypeError):
        return image


def in_rgb(image: Image.Image, where: str) -> Image.Image:
    """An image in RGB with 8 bits; transparency is dropped, as LLaVA does, and shows the colour below it.

    Raises:
        BrokenQuestion: its values have no known white point.
    """
    if image.mode.startswith("I;16"):
        # Pillow would cut everything above 255 to white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BrokenQuestion(f"the image {where} has 32-bit values without a known white point: save it with 8 bits")
    return image.convert("RGB")


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height of an upright image, from its file header; None if the header is unreadable."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return (image.height, image.width) if _orientation(image) in range(5, 9) else image.size
    except (*_UNDECODABLE, KeyError, TypeError):
        return None


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether the two sizes differ in scale only, each side rounded to whole pixels."""
    (width, height), (other_width, other_height) = size, other
    return (
        abs(width * other_height / other_width - height) <= 1 or abs(height * other_width / other_height - width) <= 1
    )


def fitted(question: ChosenQuestion, size: tuple[int, int]) -> ChosenQuestion:
    """The question with its boxes in pixels of its image, which has ``size`` (width, height).

    Raises:
        BrokenQuestion: the image has another shape than the data give for it.
    """
    given = question.image_size
    if given is None or given == size:
        return question
    if not _same_shape(size, given):
        raise BrokenQuestion(
            f"the image {question.image_id} has {size[0]} x {size[1]} pixels, but its boxes are given for an image of "
            f"{given[0]} x {given[1]}"
        )
    across, down = size[0] / given[0], size[1] / given[1]

    def scaled(box: Box) -> Box:
        left, right = round(box.x * across), round((box.x + box.w) * across)
        top, bottom = round(box.y * down), round((box.y + box.h) * down)
        return Box(left, top, right - left, bottom - top)

    objects = tuple(replace(chosen, box=scaled(chosen.box)) for chosen in question.objects)
    return replace(question, objects=objects, image_size=size)


def image_file(folder: Path, name: PurePosixPath) -> Path:
    """The file of an image in a folder, whose name may be written in either form of Unicode; it need not exist.

    Raises:
        OSError, ValueError: the file system does not accept the name.
    """
    forms = [folder / normalize(form, str(name)) for form in ("NFC", "NFD")]
    return next((file for file in forms if file.exists()), forms[0])


class Opened(NamedTuple):
    """A decoded image, and what its file holds.

    Attributes:
        image: Upright, in RGB with 8 bits.
        mode: Pillow's name for the file's kind of pixels.
        turned: Whether EXIF data turned it.
    """

    image: Image.Image
    mode: str
    turned: bool


class _Zip:
    """A zip of images, with members images/<name> or <name>, which are read into memory and never extracted.

    Raises:
        CrossflowError: it is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except UNREADABLE_ZIP as error:
            raise CrossflowError(f"{path} is not a readable zip, or is truncated ({error}).") from error
        self.path = path
        self._members = {composed(name): name for name in self._zip.namelist()}

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def find(self, name: str) -> str | None:
        """The member that holds an image."""
        places = [composed(place) for place in (f"images/{name}", name)]
        return next((self._members[place] for place in places if place in self._members), None)

    def read(self, member: str) -> tuple[str, bytes]:
        """The location of an image, for messages, and its encoded bytes."""
        where = f"{self.path}/{member}"
        try:
            with self._zip.open(member) as opened:
                return where, _read_bounded(opened.read, where)
        except UNREADABLE_ZIP as error:
            raise BrokenQuestion(f"the image {where} cannot be read ({error})") from error


class Images:
    """The images of a data set, from a folder (if there is one) or a zip. A context manager.

    Args:
        root: A data set in GQA's layout; or, with ``by_file``, a folder of images whose ids are their files' names.
        further: Zips of more images, such as those of pairs; an id that the data set has is the data set's image.

    Raises:
        CrossflowError: folder and zip are both missing, or a zip is broken.
    """

    def __init__(self, root: Path, *, by_file: bool = False, further: Sequence[Path] = ()) -> None:
        self._folder = root if by_file else root / "images"
        self._suffix = "" if by_file else ".jpg"
        self._zip: _Zip | None = None
        if not self._folder.is_dir():
            if by_file:
                raise CrossflowError(f"The folder of images {root} does not exist.")
            path = root / "images.zip"
            if not path.is_file():
                raise CrossflowError(f"{root} contains neither images/ nor images.zip.")
            self._zip = _Zip(path)
        self._further = [_Zip(path) for path in further]

    def __enter__(self) -> "Images":
        return self

    def __exit__(self, *exception: object) -> None:
        for archive in (self._zip, *self._further):
            if archive is not None:
                archive.close()

    def _bytes(self, image_id: str) -> tuple[str, bytes]:
        """The location of an image, for messages, and its encoded bytes."""
        name = f"{image_id}{self._suffix}"
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or (self._suffix and len(path.parts) > 1):
            raise BrokenQuestion(f"the image id {image_id!r} is not a valid file name")
        missing: BrokenQuestion
        if self._zip is None:
            file = self._folder / path
            try:
                file = image_file(self._folder, path)
                with file.open("rb") as opened:
                    return str(file), _read_bounded(opened.read, str(file))
            except FileNotFoundError:
                missing = BrokenQuestion(f"the image {file} is missing")
            except (OSError, ValueError) as error:
                raise BrokenQuestion(f"the image {file} cannot be read ({error})") from error
        elif (member := self._zip.find(name)) is not None:
            return self._zip.read(member)
        else:
            missing = BrokenQuestion(f"the image {name} is missing from {self._zip.path}")
        for archive in self._further:
            if (member := archive.find(name)) is not None:
                return archive.read(member)
        raise missing

    def open(self, image_id: str, size: tuple[int, int] | None = None) -> Image.Image:
        """The decoded image, upright, in RGB with 8 bits; see `look`."""
        return self.look(image_id, size).image

    def look(self, image_id: str, size: tuple[int, int] | None = None) -> Opened:
        """The decoded image, with what its file holds.

        Args:
            image_id: The image.
            size: Width and height that the data give for it. If they fit the image as it is stored and not as its EXIF
                orientation says, it is left as it is stored.

        Raises:
            BrokenQuestion: the image is missing, does not decode, or is too large.
        """
        where, encoded = self._bytes(image_id)
        try:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                turned = upright(image)
                contradicted = size is not None and not _same_shape(turned.size, size) and _same_shape(image.size, size)
                turns = not contradicted and _orientation(image) != 1
                return Opened(in_rgb(image if contradicted else turned, where), image.mode, turns)
        except UnidentifiedImageError as error:  # Pillow's own message holds an address in memory
            raise BrokenQuestion(f"the image {where} does not decode (supported are {', '.join(_FORMATS)})") from error
        except _UNDECODABLE as error:
            raise BrokenQuestion(f"the image {where} does not decode ({error})") from error

    def open_for(self, question: ChosenQuestion) -> tuple[ChosenQuestion, Image.Image]:
        """A question's image, and the question with its boxes in pixels of that image.

        Raises:
            BrokenQuestion: as `open` and `fitted`.
        """
        image = self.open(question.image_id, question.image_size)
        return fitted(question, image.size), image


@dataclass(frozen=True)
class ImageSource:
    """Where a data set's images are: exactly one of ``root`` and ``images``.

    Attributes:
        root: Data set in GQA's layout.
        images: Folder of the images of your own table; file names are the ids.
        further: Zips of more images, such as those of pairs.
    """

    root: Path | None = None
    images: Path | None = None
    further: tuple[Path, ...] = ()

    def open(self) -> Images:
        """The images.

        Raises:
            CrossflowError: both are named or none, or they cannot be read.
        """
        if self.root is not None and self.images is None:
            return Images(self.root, further=self.further)
        if self.images is not None and self.root is None:
            return Images(self.images, by_file=True, further=self.further)
        raise CrossflowError("Give either --root or --images.")

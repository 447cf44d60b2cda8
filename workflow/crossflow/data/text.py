"""Text as it enters: an accented letter is one character, however the file writes it.

Unicode writes "é" as one character or as "e" and an accent; macOS writes file names in the second form. What is read
from a data set is composed (NFC) once, where it enters, so that words are equal wherever they are compared.
"""

from typing import Any
from unicodedata import normalize


def composed(text: str) -> str:
    """A text in which every letter that has one is a character of its own."""
    return normalize("NFC", text)


def composed_json(value: Any) -> Any:
    """JSON whose texts and keys are composed."""
    match value:
        case str():
            return composed(value)
        case list():
            return [composed_json(item) for item in value]
        case dict():
            return {composed(key): composed_json(item) for key, item in value.items()}
        case _:
            return value

"""What the doctor says of one thing that it looked at."""

from typing import NamedTuple

OK, NOTE, MISSING = "ok", "note", "MISSING"


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        level: `OK`, `NOTE` (a run is possible) or `MISSING` (it is not).
        what: What was checked.
        found: What was found, and how to fix it.
    """

    level: str
    what: str
    found: str

"""Seeds for everything that is drawn at random."""

import hashlib
import json


def derived_seed(seed: int, *names: str) -> int:
    """Derive a seed for a combination of names, the same on every machine and in every order of work."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:16], "big")

"""Refuse a built site that would load anything from a network: `make docs` runs this after MkDocs."""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Elements whose address a browser loads by itself; a link is only followed by the reader.
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "modulepreload", "dns-prefetch"}


class _Loaded(HTMLParser):
    """Collects the addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in LOADED:
            self.addresses.append(given.get(LOADED[tag], ""))
        elif tag == "link" and LOADED_LINKS & set(given.get("rel", "").split()):
            self.addresses.append(given.get("href", ""))


def loaded_from_a_network(page: str) -> list[str]:
    """The addresses outside the site that a page loads."""
    parser = _Loaded()
    parser.feed(page)
    return [address for address in parser.addresses if address.startswith(("http:", "https:", "//"))]


def problems(site: Path) -> Iterator[str]:
    """One sentence for each page, and each style sheet, that loads something."""
    for path in sorted(site.rglob("*.html")):
        for address in loaded_from_a_network(path.read_text(encoding="utf-8")):
            yield f"{path} loads {address}."
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        if any(
            f"{start}{quote}{scheme}" in text
            for start in ("url(", "@import ")
            for quote in ("", '"', "'")
            for scheme in ("http", "//")
        ):
            yield f"{path} loads something by url() or @import."


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    sys.exit(bool(found))

"""Which source files a verb runs: the import closure of its module, read from the sources themselves.

A rule names these files among its inputs, so an edited module reruns exactly the jobs that use it. Standard library
only: the workflow asks before anything heavy is loaded.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_ENTRY = ("crossflow", "crossflow.__main__", "crossflow.cli", "crossflow.verbs")


def _file_of(module: str) -> Path | None:
    path = _PACKAGE.parent.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, in whatever form and place."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.partition(".")[0] == "crossflow" and _file_of(name))


def modules_of(verb: str) -> set[str]:
    """Every module of the package that a verb imports, its own and the entry's included."""
    found: set[str] = set()
    pending = [*_ENTRY, f"crossflow.verbs.{verb.replace('-', '_')}"]
    while pending:
        module = pending.pop()
        path = _file_of(module)
        if module in found or path is None:
            continue
        found.add(module)
        pending.extend(_imports(path))
    return found


def sources_of(verb: str, root: Path) -> list[str]:
    """The files of `modules_of`, sorted, relative to ``root``, so that a clone elsewhere reruns nothing."""
    paths = [path for module in modules_of(verb) if (path := _file_of(module))]
    return sorted(path.relative_to(root.resolve()).as_posix() for path in paths)

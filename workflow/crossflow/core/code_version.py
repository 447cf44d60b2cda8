"""Code versions: which code shaped a result, as one digest.

The *code version* of a result is a digest of the modules that its numbers pass through: those that are named, and all
that they import. Rules carry it as a parameter and journals in their fingerprint, so an edit reruns exactly the jobs
whose numbers it may change, and a resumed job never mixes two versions.

The contract, held by ``tests/core/test_code_version.py``: the digest does not depend on

- comments, formatting, docstrings and type annotations of functions;
- messages: arguments of a raised exception, and calls of ``log``;
- labels, written as ``words=...`` in a table such as `crossflow.core.measures`; only figures show them, so they count
  where a module of `crossflow.figures` is named;
- the modules in `SHAPE_NO_NUMBER` and the command line (`crossflow.cli`): errors, locks, progress, provenance, the
  choice of a device, the planning of memory; and the lists of tables and figures, whose entries rules carry as
  separate parameters.

Every other module that a number passes through belongs to the digest, even if it cannot change a number. Modules are
read as text and never imported, because the workflow computes digests at every start. The digest is the same for every
Python version that parses the code alike.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent

SHAPE_NO_NUMBER = frozenset(
    {
        "crossflow.analysis.tables",
        "crossflow.core.code_version",
        "crossflow.core.devices",
        "crossflow.core.errors",
        "crossflow.core.locks",
        "crossflow.core.progress",
        "crossflow.core.provenance",
        "crossflow.engine.planning",
        "crossflow.figures.kinds",
        "crossflow.models.consistency",
        "crossflow.models.memory",
        "crossflow.models.weights",
    }
)
_COMMAND_LINE = "crossflow.cli"


def _file_of(module: str) -> Path | None:
    path = _PACKAGE.parent.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@cache
def _parsed(module: str) -> ast.Module:
    file = _file_of(module)
    if file is None:
        raise ValueError(f"there is no module {module}")
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def _imports(module: str) -> list[str]:
    """Modules of this package that a module imports, in any form and place."""
    found: list[str] = []
    for node in ast.walk(_parsed(module)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found.extend(name for name in names if name.partition(".")[0] == "crossflow" and _file_of(name))
    return found


def _is_exempt(module: str) -> bool:
    return module in SHAPE_NO_NUMBER or f"{module}.".startswith(f"{_COMMAND_LINE}.")


def modules_behind(*modules: str) -> list[str]:
    """The modules that shape what ``modules`` compute: these and all that they import, except exempt ones.

    Args:
        modules: Full names, as ``crossflow.experiments.answers``; a named one is never exempt.

    Raises:
        ValueError: there is no such module.
    """
    found: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module in found or (module not in modules and _is_exempt(module)):
            continue
        pending.extend(_imports(module))
        found.add(module)
    return sorted(found)


def _shapes_nothing(node: object, labels: bool) -> bool:
    """Whether a part of a syntax tree is a docstring, a call of ``log``, or a label that is not kept."""
    if isinstance(node, ast.keyword):
        return node.arg == "words" and not labels
    if not isinstance(node, ast.Expr):
        return False
    called = node.value.func if isinstance(node.value, ast.Call) else None
    is_log = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "log"
    return is_log or isinstance(node.value, ast.Constant)


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The fields of a part of a syntax tree without annotations, messages, and what the parser adds."""
    if isinstance(node, ast.arg):
        yield "arg", node.arg
        return
    message = isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    for name in node._fields:
        value = getattr(node, name, None)
        if message:
            value = value.func if name == "exc" else None  # type: ignore[union-attr]
        elif name in ("ctx", "kind") or (name in ("returns", "type_comment") and isinstance(node, ast.FunctionDef)):
            continue
        yield name, value


def _written(node: object, labels: bool) -> str:
    """What shapes numbers in a syntax tree, as text. Not `ast.dump`, whose form differs between versions of Python."""
    if isinstance(node, ast.AST):
        fields = ((name, _written(value, labels)) for name, value in _fields(node) if value is not None)
        inner = ",".join(f"{name}={text}" for name, text in fields if text != "[]")
        return f"{type(node).__name__}({inner})"
    if isinstance(node, list):
        return f"[{','.join(_written(each, labels) for each in node if not _shapes_nothing(each, labels))}]"
    return repr(node)


@cache
def _code_of(module: str, labels: bool) -> str:
    """The code of a module without what shapes no number; imports in any order."""
    imports: list[str] = []
    code: list[str] = []
    for node in _parsed(module).body:
        if not _shapes_nothing(node, labels):
            (imports if isinstance(node, ast.Import | ast.ImportFrom) else code).append(_written(node, labels))
    return "\n".join([*sorted(imports), *code])


@cache
def code_version(*modules: str) -> str:
    """The code version of what modules compute: 16 hex digits.

    Args:
        modules: As for `modules_behind`.

    Raises:
        ValueError: there is no such module.
    """
    labels = any(module.startswith("crossflow.figures.") for module in modules)
    digest = hashlib.sha256()
    for module in modules_behind(*modules):
        digest.update(f"{module}\n{_code_of(module, labels)}\n".encode())
    return digest.hexdigest()[:16]

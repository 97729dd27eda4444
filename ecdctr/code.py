"""What a piece of the project computes, as a digest.

Its modules and those that they import, comments left out. A result carries the digest of the code
that made it, so that a changed formula is never answered from an old file, while a comment, a
docstring or another layout changes nothing. Modules are read, not imported.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parent
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_digest(roots: Collection[str], rooms: Collection[str], package: Path = PACKAGE) -> str:
    """Digest the modules `roots` and all that they import, directly or not, within `rooms`.

    Args:
        roots: modules by their name inside the package, for example "levels.tpm".
        rooms: rooms or single modules, for example ("models", "training.loop"); what lies
            outside of them is neither digested nor followed.
        package: folder of the package.

    Raises FileNotFoundError for a root that is no module.
    """
    parts = hashlib.sha256()
    for name in sorted(_closure(roots, rooms, package)):
        parts.update(f"{name}\0{_normalised(_file(name, package))}\0".encode())
    return parts.hexdigest()


def _closure(roots: Collection[str], rooms: Collection[str], package: Path) -> set[str]:
    reached: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            imported = _imports(_file(name, package), package)
            waiting += [one for one in imported if one in rooms or one.split(".")[0] in rooms]
    return reached


def _file(name: str, package: Path) -> Path:
    path = package.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache(maxsize=1024)
def _imports(file: Path, package: Path) -> tuple[str, ...]:
    """Return the modules of the package that a file imports anywhere, also inside functions.

    What is imported for the type checker alone computes nothing.
    """
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    return tuple(_imported(tree, package))


def _imported(tree: ast.Module, package: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ecdctr."):
            module = (node.module or "").removeprefix("ecdctr.")
            yield module
            for alias in node.names:  # `from ecdctr.models import checkpoint` names a module
                if _file(f"{module}.{alias.name}", package).exists():
                    yield f"{module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("ecdctr."):
                    yield alias.name.removeprefix("ecdctr.")


@lru_cache(maxsize=1024)
def _normalised(file: Path) -> str:
    """Return the syntax tree as text, without docstrings; comments and layout are not in it."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)

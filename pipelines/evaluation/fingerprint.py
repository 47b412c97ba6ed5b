"""Which code a number came from: a hash over the modules that it needs, found by their imports.

A stored number counts only while the code that would make it again is the same. A version that a person
must raise by hand is forgotten; the hash changes by itself, and comments and layout do not change it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_OWN = ("rwsa", "pipelines")


@cache
def code_version(modules: tuple[str, ...], packages: tuple[str, ...] = ()) -> str:
    """Hexadecimal SHA-256 over modules of this project and all of its modules that they import.

    Args:
        modules: such as `rwsa.metrics`, which stands for every module of that package.
        packages: installed distributions whose versions count too; a missing one counts as missing.
    """
    digest = hashlib.sha256()
    for name, tree in sorted(_reached(modules).items()):
        digest.update(f"{name} {ast.dump(tree)}\n".encode())
    for package in packages:
        digest.update(f"{package} {_version(package)}\n".encode())
    return digest.hexdigest()


def modules_reached(modules: tuple[str, ...]) -> frozenset[str]:
    """The project's modules that `modules` need, they themselves included."""
    return frozenset(_reached(modules))


def _reached(modules: Sequence[str]) -> dict[str, ast.Module]:
    trees: dict[str, ast.Module] = {}
    waiting = [found for name in modules for found in (name, *_below(name))]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name in trees or path is None:
            continue
        trees[name] = ast.parse(path.read_bytes(), str(path))
        waiting += _imported(trees[name])
    return trees


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names of the project that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_own(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_own(node.module):
            yield node.module
            # What is imported from a package may be a module of it.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in _OWN


def _below(name: str) -> Iterator[str]:
    path = _path(name)
    if path is not None and path.name == "__init__.py":
        yield from (f"{name}.{module.stem}" for module in path.parent.glob("*.py") if module != path)


def _path(name: str) -> Path | None:
    """The file of a module; None for a name that is no module of its own, such as a function."""
    package, *rest = name.split(".")
    base = _root(package).joinpath(*rest)
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


@cache
def _root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(next(iter(spec.submodule_search_locations)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"

"""Fingerprints of the code and packages that a stored number depends on: equal fingerprints, equal numbers.

Comments, layout, docstrings and the version of Python do not count, and neither do modules that cannot change
a number (errors, configuration, files).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType

# Imports are not followed into these: they report, configure, read and write, and compute nothing.
_NEUTRAL = (
    "rwsa.audio_folders",
    "rwsa.audio_lengths",
    "rwsa.config",
    "rwsa.corpora",
    "rwsa.errors",
    "rwsa.file_cache",
    "rwsa.files",
    "rwsa.lease",
    "rwsa.fingerprint",
    "rwsa.names",
    "rwsa.process",
    "rwsa.shards",
    "rwsa.shipped",
)
# Fingerprint of today's code -> the fingerprint stored by an earlier commit for code that computes the same
# numbers, in score caches, data hashes and MLflow tags, with the packages of infra/constraints.txt and the
# CPU build of torch. These rows are of cb9c508, which hashed docstrings and more modules. When a change moves
# a fingerprint but no number, put the new one in place of the old left side; when it moves a number, remove
# the row, and its scores are computed again. The table can go when no score cache or evaluation of cb9c508 is
# in use any more.
SAME_NUMBERS: Mapping[str, str] = MappingProxyType(
    {
        # scoring
        "3a010bd8b7d9eb2aef748a60df5fb595b2c60693aef47a609025da48ae38b003": (
            "4c10975764b0918ecae2a7fb63550d48ba1d58c723095478122301ad5758de24"
        ),
        # scoring by Table 1's metrics
        "a7457189082f05dee96fe734cdb801cdae658db951c5393f486995ceaabc2750": (
            "2d03f76421609ee075a8a98e651e8ebff28fc18f67cf91aa86645e55c15e8f03"
        ),
        # mixing
        "480b5911eb7ffb9d9086020a0e835aa470aecee43caa1d904e7664115a46e3f9": (
            "5bf499aae371f9526bfa161834401141e0a9e0608284323682a8c4115f280fd2"
        ),
    }
)


@cache
def code_fingerprint(
    modules: tuple[str, ...], packages: tuple[str, ...] = (), within: tuple[str, ...] = ("rwsa",)
) -> str:
    """Hexadecimal SHA-256 of modules, of those that they import, and of the versions of packages.

    Args:
        modules: such as `rwsa.metrics`, which stands for every module of that package.
        packages: installed distributions; a missing one counts as missing.
        within: packages and modules in which imports are followed.
    """
    found = current_fingerprint(modules, packages, within)
    return SAME_NUMBERS.get(found, found)


def current_fingerprint(
    modules: tuple[str, ...], packages: tuple[str, ...] = (), within: tuple[str, ...] = ("rwsa",)
) -> str:
    """`code_fingerprint` without regard to `SAME_NUMBERS`."""
    digest = hashlib.sha256()
    for name, text in sorted(_reached(modules, within).items()):
        digest.update(f"{name} {text}\n".encode())
    for package in packages:
        digest.update(f"{package} {installed_version(package) or 'missing'}\n".encode())
    return digest.hexdigest()


def modules_reached(modules: tuple[str, ...], within: tuple[str, ...] = ("rwsa",)) -> frozenset[str]:
    """The modules that a fingerprint covers."""
    return frozenset(_reached(modules, within))


def installed_version(package: str) -> str | None:
    """The version of an installed distribution; None for a missing one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reached(modules: Sequence[str], within: Sequence[str]) -> dict[str, str]:
    """Module -> its syntax tree as text."""
    texts: dict[str, str] = {}
    waiting = [found for name in modules for found in (name, *_submodules(name))]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name not in texts and path is not None:
            texts[name], imports = _parsed(path, path.read_bytes())
            waiting += [found for found in imports if _is_in(found, within) and not _is_in(found, _NEUTRAL)]
    return texts


@cache
def _parsed(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    """A module's syntax tree as text, and its imports; fingerprints share most modules."""
    tree = ast.parse(content, str(path))
    return str(_plain(tree)), tuple(_imports(tree))


def _imports(tree: ast.Module) -> Iterator[str]:
    """Names that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            # What is imported from a package may be one of its modules.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_in(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _plain(value: object) -> object:
    """A syntax tree as nested lists, without docstrings, positions and fields that only some Pythons have."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = dict(ast.iter_fields(value))
    if isinstance(value, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        fields["body"] = [one for one in value.body if not _is_string(one)]
    return [
        type(value).__name__,
        *([name, _plain(one)] for name, one in fields.items() if one not in (None, [])),
    ]


def _is_string(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, of a module, class, function or attribute."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _submodules(name: str) -> Iterator[str]:
    path = _path(name)
    if path is not None and path.name == "__init__.py":
        yield from (f"{name}.{module.stem}" for module in path.parent.glob("*.py") if module != path)


def _path(name: str) -> Path | None:
    """The file of a module; None for a name that is no module, such as a function."""
    package, *rest = name.split(".")
    base = _root(package).joinpath(*rest)
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


@cache
def _root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(next(iter(spec.submodule_search_locations)))

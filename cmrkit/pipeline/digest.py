"""Digests of parameters and of source code, the two things that a step's key is made of."""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent


def digest_of(value: Any) -> str:
    """Return the sha256 of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def source_digest(path: Path) -> str:
    """Return the digest of a module and of every cmrkit module it imports, directly or not.

    It is taken over the syntax tree without docstrings, so that comments, layout and prose change nothing.
    """
    pending, seen = [path.resolve()], {}
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        tree = ast.parse(current.read_text(encoding="utf-8"))
        pending += [p for p in _imports(tree) if p not in seen]
        seen[current] = ast.dump(_without_docstrings(tree))
    return digest_of(sorted(seen.values()))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _imports(tree: ast.Module) -> list[Path]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [p for p in map(_module_file, names) if p is not None]


def _module_file(name: str) -> Path | None:
    if not name.startswith("cmrkit."):
        return None
    path = PACKAGE.joinpath(*name.split(".")[1:])
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None

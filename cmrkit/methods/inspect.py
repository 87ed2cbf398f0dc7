"""Reading what a method file declares without importing it, so that planning stays instant and light."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, create_model

from cmrkit.errors import CmrkitError, UsageError

_TYPES = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "tuple": tuple,
    "list": list,
    "Literal": Literal,
}
_HERE = Path(__file__).resolve().parent
_BASES = {
    "Embedder": _HERE / "base.py",
    **dict.fromkeys(("DeepEmbedder", "SetMatcher", "PairScorer"), _HERE / "deep.py"),
}


@dataclass(frozen=True)
class MethodSource:
    """The one public class of a method file: its hyper-parameters, docstring and class attributes."""

    path: Path

    @cached_property
    def _class(self) -> ast.ClassDef:
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
        methods = [c for c in classes if _base_name(c)]
        if len(methods) != 1:
            kinds = ", ".join(_BASES)
            raise CmrkitError(f"{self.path}: expected exactly one public class of {kinds}, found {len(methods)}")
        return methods[0]

    @cached_property
    def _lineage(self) -> list[ast.ClassDef]:
        """The class behind those that it inherits from, the most basic first."""
        lineage = [self._class]
        while name := _base_name(lineage[0]):
            lineage.insert(0, _base_class(name))
        return lineage

    @property
    def deep(self) -> bool:
        """Whether the method is a network that the training loop trains."""
        return any(c.name == "DeepEmbedder" for c in self._lineage)

    def defines(self, name: str) -> bool:
        """Whether the class, or one that it inherits from, has a function ``name``."""
        return any(isinstance(node, ast.FunctionDef) and node.name == name for c in self._lineage for node in c.body)

    @property
    def class_name(self) -> str:
        """Name of the method's class."""
        return self._class.name

    @cached_property
    def doc(self) -> str:
        """The file's docstring followed by the class's."""
        module = ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8"))) or ""
        return f"{module}\n\n{ast.get_docstring(self._class) or ''}".strip()

    @cached_property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """Hyper-parameters by name, as (type, default), with ``...`` where the recipe must give a value."""
        fields = {}
        for node in (node for c in self._lineage for node in c.body):
            if not isinstance(node, ast.AnnAssign) or "ClassVar" in ast.unparse(node.annotation):
                continue
            annotation = eval(ast.unparse(node.annotation), {"__builtins__": {}}, _TYPES)
            fields[node.target.id] = (annotation, ast.literal_eval(node.value) if node.value else ...)
        return fields

    def class_attribute(self, name: str, default: Any = None) -> Any:
        """Return a literal class attribute such as ``space`` or ``supervised``."""
        for node in (node for c in reversed(self._lineage) for node in c.body):
            target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
            if isinstance(target, ast.Name) and target.id == name and node.value is not None:
                return ast.literal_eval(node.value)
        return default

    def validate(self, params: dict[str, Any], where: str) -> dict[str, Any]:
        """Return ``params`` converted to the declared types, defaults filled in.

        Raises UsageError, beginning with ``where``, for an unknown name, a missing one or a wrong type.
        """
        from cmrkit.recipe.source import did_you_mean

        model = create_model(self.class_name, __config__=ConfigDict(extra="forbid"), **self.fields)
        try:
            return model.model_validate(params).model_dump(mode="json")
        except ValidationError as error:
            faults = []
            for e in error.errors():
                name = e["loc"][0]
                if e["type"] == "extra_forbidden":
                    faults.append(f"{where}: unknown parameter {name!r}{did_you_mean(name, self.fields)}")
                elif e["type"] == "missing":
                    faults.append(f"{where}: parameter {name!r} of {self.class_name} has no value")
                else:
                    faults.append(f"{where}: {name}: {e['msg']} (got {e['input']!r})")
            raise UsageError("\n".join(faults)) from None


def _base_name(node: ast.ClassDef) -> str | None:
    return next((b.id for b in node.bases if isinstance(b, ast.Name) and b.id in _BASES), None)


@cache
def _base_class(name: str) -> ast.ClassDef:
    tree = ast.parse(_BASES[name].read_text(encoding="utf-8"))
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def find_method(family: str, name: str) -> MethodSource:
    """Return the method ``name`` of ``family`` from any recipe root. Raises CmrkitError where there is none."""
    from cmrkit.recipe.library import roots

    for root in roots():
        path = root.methods / family / f"{name.replace('-', '_')}.py"
        if path.is_file():
            return MethodSource(path)
    raise CmrkitError(f"no method file {family}/{name.replace('-', '_')}.py beside any recipe root")


def load_method(source: MethodSource) -> type:
    """Import the file of ``source`` and return its class."""
    import importlib
    import importlib.util
    import sys

    here = Path(__file__).resolve().parent
    if source.path.resolve().is_relative_to(here):
        parts = source.path.resolve().relative_to(here).with_suffix("").parts
        return getattr(importlib.import_module(".".join(("cmrkit.methods", *parts))), source.class_name)
    name = f"cmrkit_outside.{source.path.parent.name}.{source.path.stem}"
    spec = importlib.util.spec_from_file_location(name, source.path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return getattr(module, source.class_name)

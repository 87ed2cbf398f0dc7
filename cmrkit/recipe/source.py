"""Reading YAML so that every complaint can name its file and line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cmrkit.errors import UsageError

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it
ModelT = TypeVar("ModelT", bound=BaseModel)


class Frozen(BaseModel):
    """The base of everything a YAML file declares: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _UniqueKeyLoader(Loader):
    """Refuses a mapping that gives one key twice, which YAML itself would silently accept."""


def _unique_mapping(loader, node, deep=False):
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


# YAML 1.1 takes a bare ``on`` for true; recipes mean the word, as YAML 1.2 does.
_UniqueKeyLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in Loader.yaml_implicit_resolvers.items()
}
_UniqueKeyLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|True|false|False)$"), list("tTfF"))
_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: _unique_mapping(loader, node, True))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in ``path``. Raises UsageError with file:line where it is not valid YAML."""
    try:
        data = yaml.load(path.read_bytes(), Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(f"{path}:{line}: {error.problem or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}:1: not readable as YAML: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: expected a mapping at the top level, found {type(data).__name__}")
    return data


def line_of(path: Path, where: Iterable[Any]) -> int:
    """Return the 1-based line of the deepest node of ``path`` that the key path ``where`` still reaches."""
    node, line = yaml.compose(path.read_bytes(), Loader=Loader), 1
    for step in where:
        found = _child(node, step)
        if found is None:
            break
        line, node = found
    return line


def _child(node: yaml.Node | None, step: Any) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    return None


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def validate(model: type[ModelT], data: Any, path: Path) -> ModelT:
    """Return ``data`` as ``model``. Raises UsageError listing every fault as ``file:line: what``."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        faults = [f"{path}:{line_of(path, e['loc'])}: {_explain(e, model)}" for e in error.errors()]
        raise UsageError("\n".join(faults)) from None


def _explain(error: dict[str, Any], model: type[BaseModel]) -> str:
    loc, kind = error["loc"], error["type"]
    dotted = ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        return f"unknown key {loc[-1]!r}{did_you_mean(loc[-1], _keys_at(model, loc[:-1]))}"
    if kind == "missing":
        return f"missing key {dotted!r}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message}" if dotted else message


def _keys_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Field names of the model that lies at ``loc`` below ``model``."""
    current: Any = model
    for step in loc:
        field = getattr(current, "model_fields", {}).get(step)
        if field is not None:
            current = field.annotation
        nested = _models_in(current)
        current = nested[0] if nested else current
    return list(getattr(current, "model_fields", {}))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]

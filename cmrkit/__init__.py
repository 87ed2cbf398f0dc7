"""cmrkit reproduces cross-modal (image-text) retrieval papers with one command.

Python interface: ``cmrkit.reproduce(key, dataset)``, ``cmrkit.load(checkpoint)``, ``cmrkit.evaluate(...)``.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {"reproduce": "cmrkit.api", "load": "cmrkit.api", "evaluate": "cmrkit.evaluation"}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that ``import cmrkit`` and ``cmrkit --help`` stay instant.
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cmrkit' has no attribute {name!r}")

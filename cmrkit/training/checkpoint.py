"""The working checkpoint of a training: written whole or not at all, read without running any code in it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from cmrkit.errors import CmrkitError

LAST, BEST, HISTORY = "last.pt", "best.pt", "history.jsonl"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values to ``path`` in one rename; a kill at any moment leaves the old file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Return what ``save`` wrote, or None where there is no such file. Raises CmrkitError where it is damaged."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise CmrkitError(f"{path}: damaged checkpoint ({error}); remove it, and training starts anew") from None


def random_state(generator: torch.Generator, device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of every random generator that a training may draw from."""
    state = {"cpu": torch.get_rng_state(), "order": generator.get_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], generator: torch.Generator, device: torch.device) -> None:
    """Put back what ``random_state`` returned."""
    torch.set_rng_state(state["cpu"].cpu())
    generator.set_state(state["order"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def append_history(directory: Path, line: dict[str, Any]) -> None:
    """Add one line to the history of a training."""
    with (directory / HISTORY).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def cut_history(directory: Path, lines: int) -> None:
    """Keep the first ``lines`` lines: those after were written after the checkpoint, and training repeats them."""
    path = directory / HISTORY
    if path.is_file():
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
        path.write_text("".join(kept), encoding="utf-8")

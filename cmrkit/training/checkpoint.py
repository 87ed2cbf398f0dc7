"""The working checkpoint of a training: written whole or not at all, read without running any code in it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
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


def fill(net: Any, weights: Mapping[str, Any], what: str, may_lack: tuple[str, ...] | None = None) -> list[str]:
    """Load ``weights`` into ``net`` and return the names of its tensors that they lack.

    Those must begin with one of ``may_lack``; None lets them lack what they will, as where fine-tuning starts, but
    not everything. Raises CmrkitError naming the first tensors that are missing, left over, or of another shape.
    """
    wanted = net.state_dict()
    lacking = [name for name in wanted if name not in weights]
    extra = [name for name in weights if name not in wanted]
    shaped = [n for n in wanted if n in weights and weights[n].shape != wanted[n].shape]
    missing = [] if may_lack is None else [name for name in lacking if not name.startswith(tuple(may_lack))]
    faults = []
    if missing:
        faults.append(f"{', '.join(missing[:3])} missing ({len(missing)} of {len(wanted)})")
    if extra:
        faults.append(f"{', '.join(extra[:3])} not of this network ({len(extra)} of {len(weights)})")
    if shaped:
        have, want = list(weights[shaped[0]].shape), list(wanted[shaped[0]].shape)
        faults.append(f"{shaped[0]} is {have} instead of {want} ({len(shaped)} such tensors)")
    if len(lacking) == len(wanted):
        faults = [f"none of the network's {len(wanted)} tensors is among its {len(weights)}"]
    if faults:
        raise CmrkitError(f"{what}: these are not this network's weights: {'; '.join(faults)}")
    net.load_state_dict(weights, strict=False)
    return lacking

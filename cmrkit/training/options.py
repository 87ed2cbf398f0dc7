"""Where and how a training runs, as opposed to what it computes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cmrkit.errors import UsageError


@dataclass(frozen=True)
class Options:
    """What a user may choose without changing what is trained; none of it enters a step's key.

    ``device``: auto, cpu, cuda, cuda:N or mps. ``workers``: threads that assemble batches ahead; None leaves it
    to the loop. ``directory``: where the working checkpoint lies, so that a killed training is continued; None
    keeps it in a temporary folder. ``checkpoint_every``: steps between checkpoints, besides those at epoch ends,
    which come at most once in ``checkpoint_seconds``. ``tensorboard``: folder of event files, where asked for.
    ``label`` names the training in messages.
    """

    device: str = "auto"
    workers: int | None = None
    directory: Path | None = None
    checkpoint_every: int = 0
    checkpoint_seconds: float = 10.0
    progress: bool = False
    tensorboard: Path | None = None
    label: str = "training"

    @classmethod
    def from_environment(cls) -> Options:
        """Return the options that CMRKIT_DEVICE, CMRKIT_WORKERS, CMRKIT_CHECKPOINT_EVERY and _TENSORBOARD name."""
        board = os.environ.get("CMRKIT_TENSORBOARD")
        return cls(
            device=os.environ.get("CMRKIT_DEVICE") or "auto",
            workers=_number("CMRKIT_WORKERS", None),
            checkpoint_every=_number("CMRKIT_CHECKPOINT_EVERY", 0),
            tensorboard=Path(board) if board else None,
        )


def _number(name: str, default: int | None) -> int | None:
    text = os.environ.get(name)
    if not text:
        return default
    if not text.isdigit():
        raise UsageError(f"{name} must be a whole number of at least 0, not {text!r}")
    return int(text)


def process_rank() -> int:
    """Return this process's place among those that torchrun started, 0 where it runs alone."""
    return int(os.environ.get("RANK", 0))


def process_count() -> int:
    """Return how many processes torchrun started, 1 where this one runs alone."""
    return int(os.environ.get("WORLD_SIZE", 1))

"""What a training says while it runs: a progress bar, a history in JSON lines, TensorBoard where asked."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from cmrkit.errors import UsageError
from cmrkit.training import checkpoint
from cmrkit.training.options import Options


class Log:
    """Means of what the steps report, since the last line; numbers stay on their device until a line is due."""

    def __init__(self, directory: Path, options: Options, items: int, quiet: bool):
        from tqdm import tqdm

        self.directory, self.quiet = directory, quiet
        self.bar = tqdm(total=items, unit="pair", unit_scale=True, leave=False, desc=options.label,
                        disable=quiet or not options.progress)  # fmt: skip
        self.board = None if quiet or options.tensorboard is None else _board(options.tensorboard / options.label)
        self.lines = 0  # written to the history so far
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.items, self.started = 0, time.perf_counter()

    def add(self, values: dict[str, Tensor | float], items: int) -> None:
        """Take in what one step reported about ``items`` pairs."""
        for name, value in values.items():
            value = value.detach() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.items += items
        self.bar.update(items)

    def line(self, epoch: int, step: int, **more: Any) -> dict[str, Any]:
        """Write a line: the means since the last one, throughput, and ``more``."""
        seconds = time.perf_counter() - self.started
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        line = {"epoch": epoch, "step": step, **means, **more, "seconds": round(seconds, 3),
                "items_per_second": round(self.items / seconds, 1) if seconds > 0 else None}  # fmt: skip
        if not self.quiet:
            checkpoint.append_history(self.directory, line)
        self.lines += 1
        if self.board is not None:
            for name, value in {**means, **more, "items_per_second": line["items_per_second"]}.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(name, value, step)
        self.bar.set_postfix_str(f"epoch {epoch}, step {step}, loss {means.get('loss', float('nan')):.4g}")
        self._clear()
        return line

    def say(self, message: str) -> None:
        """Tell the user something that the result does not show."""
        if not self.quiet:
            self.bar.write(f"cmrkit: {message}", file=sys.stderr)

    def close(self) -> None:
        """Remove the bar and finish the event file."""
        self.bar.close()
        if self.board is not None:
            self.board.close()


def _board(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("--tensorboard needs the package tensorboard, which is not installed here") from None
    return SummaryWriter(str(directory))

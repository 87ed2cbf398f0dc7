"""An array that grows row by row in a .npy file, and is continued after the process was killed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

EVERY = 5.0  # seconds between two notes of how far the file has got


def new_array(folder: Path | None, name: str, shape: tuple[int, ...], dtype: np.dtype | str) -> np.ndarray:
    """Return an array of zeros in the file ``name``.npy of ``folder``, or in memory where there is no folder."""
    if folder is None:
        return np.zeros(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


class RowFile:
    """An array of known shape that is filled from the first row on, in a .npy file where there is a ``folder``.

    ``about`` says what the rows are: those of an earlier process are kept only if it said the same. ``done``
    counts the rows that are known to be written. They are noted every few seconds, data first, so that a killed
    process loses those seconds and never believes in rows it did not write. ``skipped`` are the rows among them
    that were left empty on purpose.
    """

    def __init__(self, folder: Path | None, name: str, shape: tuple[int, ...], dtype: str, about: dict[str, object]):
        self._folder, self._name = folder, name
        self._about = {"shape": list(shape), "dtype": dtype, **about}
        self.done, self.skipped = (0, []) if folder is None else self._recorded()
        if self.done:
            self.array = np.lib.format.open_memmap(self._file("npy"), mode="r+")
        else:
            if folder is not None:
                self._file("progress.json").unlink(missing_ok=True)  # before the rows that it speaks of are gone
            self.array = new_array(folder, name, shape, dtype)
        self._noted = time.monotonic()

    def _file(self, ending: str) -> Path:
        return self._folder / f"{self._name}.{ending}"

    def _recorded(self) -> tuple[int, list[int]]:
        try:
            note = json.loads(self._file("progress.json").read_text(encoding="utf-8"))
            existing = np.load(self._file("npy"), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            return 0, []
        same = note.get("about") == self._about
        same &= list(existing.shape) == self._about["shape"] and str(existing.dtype) == self._about["dtype"]
        return (note["done"], note["skipped"]) if same else (0, [])

    def write(self, rows: np.ndarray) -> None:
        """Append ``rows`` (k, ...)."""
        self.array[self.done : self.done + len(rows)] = rows
        self.done += len(rows)
        if time.monotonic() - self._noted >= EVERY or self.done == len(self.array):
            self.note()

    def note(self) -> None:
        """Make sure that what is written so far outlives this process."""
        self._noted = time.monotonic()
        if self._folder is None:
            return
        self.array.flush()
        record = {"done": self.done, "skipped": self.skipped, "about": self._about}
        temporary = self._file("progress.tmp")
        temporary.write_text(json.dumps(record), encoding="utf-8")
        os.replace(temporary, self._file("progress.json"))

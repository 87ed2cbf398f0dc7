"""How a source can fail, and when it is worth asking again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class SourceError(Exception):
    """This source does not have the file for us: go on to the next one."""


class TransientError(SourceError):
    """It may work in a moment; the server may have said when (``retry_after``, seconds)."""

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Retry:
    """Exponential back-off with jitter. ``attempts`` counts failures in a row that brought nothing new."""

    attempts: int = 5
    base: float = 1.0
    cap: float = 120.0
    timeout: tuple[float, float] = (15.0, 60.0)  # to connect, between two bytes
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    def run(self, attempt: Callable[[], T], reached: Callable[[], int] = lambda: 0) -> T:
        """Return ``attempt()``, repeated while it raises TransientError and ``reached()`` still grows.

        Raises SourceError with the last reason once ``attempts`` in a row did not get further.
        """
        failures, furthest = 0, reached()
        while True:
            try:
                return attempt()
            except TransientError as error:
                # Only beyond the furthest point so far: a server that always starts over makes no progress.
                failures = 1 if reached() > furthest else failures + 1
                furthest = max(furthest, reached())
                if failures >= self.attempts:
                    raise SourceError(f"{error} (gave up after {failures} attempts)") from error
                self.sleep(self.delay(failures, error.retry_after))

    def delay(self, failures: int, retry_after: float | None = None) -> float:
        """Return the seconds to wait after so many failures: what the server asked for, up to the cap."""
        if retry_after is not None:
            return min(max(retry_after, 0.0), self.cap)
        return min(self.base * 2 ** (failures - 1), self.cap) * (0.5 + self.jitter() / 2)

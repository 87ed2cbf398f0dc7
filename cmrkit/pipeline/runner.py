"""Obtaining a step's artifact: from the store where it is, by doing the work where it is not."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmrkit import __version__
from cmrkit.errors import CmrkitError
from cmrkit.methods.inspect import find_method
from cmrkit.pipeline.plan import Step
from cmrkit.pipeline.steps import FUNCTIONS, Context
from cmrkit.pipeline.store import Artifact
from cmrkit.training.options import process_count, process_rank


@dataclass
class Runner:
    """Obtains artifacts, and remembers for every step whether it was cached and how long it took.

    ``force`` names a step to do again; everything that depends on it is done again too.
    """

    context: Context
    force: str | None = None
    log: dict[str, dict[str, Any]] = field(default_factory=dict)
    _done: dict[str, Artifact] = field(default_factory=dict)

    def obtain(self, step: Step, verify: bool = True) -> Artifact:
        """Return the artifact of ``step``, verified unless told otherwise."""
        if step.key in self._done:
            return self._done[step.key]
        artifact = None if self._is_forced(step) else self._sound(step, verify)
        artifact = artifact or self._produce(step)
        self._done[step.key] = artifact
        for ancestor in step.ancestry():
            self._note(ancestor, cached=True, seconds=0.0)
        return artifact

    def _is_forced(self, step: Step) -> bool:
        if process_rank() > 0 and not _is_deep_training(step):
            return False  # the first process does it
        return self.force is not None and any(s.name == self.force for s in step.ancestry())

    def _sound(self, step: Step, verify: bool) -> Artifact | None:
        artifact = self.context.store.find(step.name, step.key)
        if artifact is None or not verify:
            return artifact
        faults = artifact.faults()
        if step.name == "download" and not faults:
            faults = [f"{p}: no longer there" for p in artifact.json("files.json").values() if not Path(p).is_file()]
        if not faults:
            return artifact
        if step.name != "download":
            print(f"cmrkit: cached {step.name} is damaged and is done again: {faults[0]}", file=sys.stderr)
        self.context.store.discard(step.name, step.key)
        return None

    def _produce(self, step: Step) -> Artifact:
        inputs = [self.obtain(parent) for parent in step.inputs]
        store = self.context.store
        together = process_count() > 1 and _is_deep_training(step)
        if together and process_rank() > 0:
            return self._follow(step, inputs)
        with store.lock(step.key):
            # Another process may have done it while we waited for the lock.
            found = None if self._is_forced(step) else self._sound(step, verify=True)
            if together:
                self._first_says(found is None)
            if found is not None:
                return found
            started = time.perf_counter()
            about = {"params": step.params, "inputs": [i.key for i in step.inputs], "cmrkit": __version__}
            try:
                artifact = store.publish(
                    step.name,
                    step.key,
                    about,
                    lambda out: FUNCTIONS[step.name](step, inputs, out, self.context),
                )
            except MemoryError:
                raise CmrkitError(f"not enough memory for step {step.name!r} of {step.label}") from None
            self._note(step, cached=False, seconds=time.perf_counter() - started)
        if together:
            self._first_says(True)  # the others wait for what was published
        return artifact

    def _follow(self, step: Step, inputs: list[Artifact]) -> Artifact:
        """Take part in a training that the first process holds the lock of and publishes."""
        if self._first_says():
            with tempfile.TemporaryDirectory() as unused:
                FUNCTIONS[step.name](step, inputs, Path(unused), self.context)
            self._first_says()
        artifact = self.context.store.find(step.name, step.key)
        if artifact is None:
            raise CmrkitError(f"{step.label}: the first process published no checkpoint in {self.context.store.root};"
                              " processes that train together share one CMRKIT_CACHE")  # fmt: skip
        self._note(step, cached=False, seconds=0.0)
        return artifact

    def _first_says(self, value: bool = False) -> bool:
        """Return the first process's value on every process of a training, once all have come here."""
        from cmrkit.training import distributed
        from cmrkit.training.device import pick_device

        device = distributed.join(pick_device(self.context.training.device))
        return bool(distributed.agree(float(value), device))

    def _note(self, step: Step, cached: bool, seconds: float) -> None:
        entry = {
            "name": step.name,
            "key": step.key,
            "label": step.label,
            "cached": cached,
            "seconds": seconds,
        }
        self.log.setdefault(step.key, entry)


def _is_deep_training(step: Step) -> bool:
    return step.name == "train" and find_method(step.params["family"], step.params["method"]).deep

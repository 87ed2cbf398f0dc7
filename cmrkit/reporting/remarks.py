"""What a reader must know before believing a comparison: one sentence for each thing that is not alike in its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from cmrkit.evaluation.protocols import find_protocol
from cmrkit.pipeline.resolve import Run

if TYPE_CHECKING:
    from cmrkit.reporting.comparison import System


def remarks(systems: list[System], kind: str) -> list[str]:
    """Return what a reader must know before believing the table."""
    notes = []
    run = systems[0].run
    if run.dataset in ("shapes", "digits"):
        notes.append(f"{run.dataset} is an embedded smoke set: these numbers show that methods run, not what they are"
                     " worth")  # fmt: skip
    features = _by(systems, lambda s: f"{s.run.choice.image} + {s.run.choice.text}")
    if len(features) > 1:
        each = "; ".join(f"{f}: {', '.join(names)}" for f, names in features.items())
        notes.append(
            f"warning: not all rows read the same features, so differences are not the methods' alone ({each})"
        )
    spaces = _by(systems, lambda s: f"{s.choice['protocol']} by {s.space}")
    if len(spaces) > 1:
        each = "; ".join(f"{space}: {', '.join(names)}" for space, names in spaces.items())
        notes.append(f"rows rank in different spaces ({each})")
    own = _by([s for s in systems if _departs(s)], lambda s: _own(s.run))
    if own:
        each = "; ".join(f"{o}: {', '.join(names)}" for o, names in own.items())
        notes.append(f"papers with a protocol of their own are not judged by these numbers ({each})")
    single = _by([s for s in systems if len(s.seeds) == 1], lambda s: "")
    if single:
        notes.append(f"one run only, so no spread over seeds: {', '.join(single[''])}")
    if len({len(s.seeds) for s in systems if len(s.seeds) > 1}) > 1:
        notes.append("numbers of seeds differ between rows: --seeds N makes them equal")
    if kind == "map" and any(s.choice["database"] == "learned" for s in systems):
        notes.append("database codes are those learned in training, which a new item does not have")
    if any(len(s.asked) > 1 for s in systems) or len({frozenset(s.asked) for s in systems}) > 1:
        notes.append("warning: not all rows answered the same queries; those are not tested against each other")
    return notes


def _by(systems: list[System], what: Callable[[System], str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for system in systems:
        if system.name not in found[what(system)]:
            found[what(system)].append(system.name)
    return {k: names for k, names in found.items() if names}


def _departs(system: System) -> bool:
    own, choice = system.run.eval.model_dump(), system.choice
    return any(choice.get(name, own[name]) != own[name] for name in ("protocol", "database", "items", "ties"))


def _own(run: Run) -> str:
    choice = run.eval
    if find_protocol(choice.protocol).relevance == "pairs":
        return choice.protocol
    where = "ranking the query set" if choice.items == "query" else f"{choice.database} database codes"
    return f"{choice.protocol}, {where}" + ("" if choice.ties == "expected" else f", ties {choice.ties}")

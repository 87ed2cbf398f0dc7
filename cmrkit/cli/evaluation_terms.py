"""What ``cmrkit show`` says of protocols and metrics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cmrkit.cli.shared import print_json

LISTS = ("protocols", "metrics")


def is_evaluation_term(name: str) -> bool:
    """Tell whether ``name`` is a protocol, a metric, or the word for all of either; never a recipe's key."""
    if name in LISTS:
        return True
    if "@" not in name and not name.startswith(("hamming-", "real-", "recall", "cxc", "eccv", "pmrp", "medr", "meanr",
                                                "rsum", "pr_curve", "r-precision")):  # fmt: skip
        return False
    from cmrkit.evaluation.metrics import explain
    from cmrkit.evaluation.protocols import PROTOCOLS

    return name in PROTOCOLS or explain(name) is not None


def show_evaluation_term(name: str, as_json: bool) -> None:
    """Print the definition of a protocol or a metric, its reference and the published code that computes it."""
    document = _document(name)
    if as_json:
        return print_json(document)
    from rich.markup import escape

    from cmrkit.reporting.card import console, table

    out = console()
    if name in LISTS:
        rows = table(name[:-1], "definition")
        for entry in document[name]:
            rows.add_row(entry["name"], escape(entry["definition"]))
        out.print(rows)
        return None
    for key, value in document.items():
        text = ", ".join(value) if isinstance(value, (list, tuple)) else str(value)
        if value is not None:
            out.print(f"{key:17} {escape(text)}")
    return None


def _document(name: str) -> dict[str, Any]:
    from cmrkit.evaluation.metrics import METRICS, explain
    from cmrkit.evaluation.protocols import PROTOCOLS

    if name == "protocols":
        return {name: [{"name": p.name, "definition": p.definition} for p in PROTOCOLS.values()]}
    if name == "metrics":
        return {name: [{"name": form, "definition": text} for form, text in METRICS.items()]}
    if name in PROTOCOLS:
        return {**asdict(PROTOCOLS[name]), "digest": PROTOCOLS[name].digest}
    used = [p.name for p in PROTOCOLS.values() if name in p.metrics]
    return {"name": name, "definition": explain(name), "protocols": used or None}

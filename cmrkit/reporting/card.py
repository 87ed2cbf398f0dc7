"""The terminal card: paper beside obtained, with a verdict, in at most 100 columns."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from cmrkit.reporting.judge import QUALIFIERS

WIDTH = 100
STYLE = {"match": "green", "near": "yellow", "below": "red", "above": "magenta"}
SHOWN = 12


def console() -> Console:
    """Return a console that colours a terminal and leaves a pipe plain."""
    probe = Console()
    return Console(width=min(probe.width, WIDTH) if probe.is_terminal else WIDTH, highlight=False)


def table(*columns: str) -> Table:
    """Return an empty table; columns whose name starts with '>' are aligned right."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        out.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return out


def print_card(document: dict[str, Any], paper: Any, seconds: float) -> None:
    """Print what ``reproduce`` found: metrics per setting, claims beside results, steps."""
    out = console()
    out.print(f"[bold]{paper.acronym}[/bold]  {paper.title}  ({paper.venue} {paper.year})", highlight=False)
    out.print(f"dataset {document['dataset']} · protocol {document['protocol']}")
    if document["dataset"] in ("shapes", "digits"):
        out.print("An embedded smoke set: these numbers show that the method runs, not what the paper claims.")
    out.print()
    out.print(_metrics(document["runs"]))
    _print_claims(out, document["claims"])
    out.print()
    out.print(_steps(document["steps"], seconds), soft_wrap=True)
    out.print(f"every variant with its bounds: cmrkit show {document['recipe']} --variants; a page: cmrkit report")


def _metrics(runs: list[dict[str, Any]]) -> Table:
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[_setting(run)].append(run)
    names = [m for m, v in runs[0]["metrics"].items() if _is_plain(v)]
    main = [m for m in ("map@all", "map@50", "r@1", "r@5", "r@10", "rsum") if m in names]
    columns = [(m, d) for m in main for d in ("i2t", "t2i") if m != "rsum" or d == "i2t"]
    out = table("setting", ">seeds", *(f">{m} {d}" if m != "rsum" else ">rsum" for m, d in columns))
    for setting, members in groups.items():
        cells = [_mean_std([_at(r["metrics"][m], d) for r in members]) for m, d in columns]
        out.add_row(" ".join(f"{k}={v}" for k, v in setting) or "-", str(len(members)), *cells)
    return out


def obtained_table(groups: list[Any], recipe: Any) -> Table:
    """Return means and deviations over seeds of groups of records, and how their recipe's claims came out."""
    from cmrkit.errors import CmrkitError
    from cmrkit.reporting.records import judge_group

    names = dict.fromkeys(m for g in groups for m in g.first.metrics)
    metrics = [m for m in ("map@all", "r@1", "rsum") if m in names]
    columns = [(m, d) for m in metrics for d in (("i2t", "t2i") if m != "rsum" else (None,))]
    out = table("obtained", ">seeds", *(f">{m} {d or ''}".rstrip() for m, d in columns), "claims")
    for group in groups:
        try:
            rows = [r for r in judge_group(group, recipe) if not r["departures"]]
        except CmrkitError:  # the recipe no longer knows of such runs
            rows = []
        counts = Counter(r["verdict"] for r in rows)
        tally = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        cells = [_mean_std(group.values(m, d)) for m, d in columns]
        out.add_row(f"{group.first.dataset} {group.label}", str(len(group.seeds)), *cells, tally or "-")
    return out


def _setting(run: dict[str, Any]) -> tuple:
    chosen = [(k, run["params"][k]) for k in ("variant", "bits", "dim") if k in run["params"]]
    return (*chosen, *((k, v) for k, v in run.get("setting", {}).items() if k != "seed"))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, dict) and set(value) <= {"i2t", "t2i"} and all(
        isinstance(v, (int, float)) for v in value.values()))  # fmt: skip


def _at(value: Any, direction: str) -> float | None:
    return value.get(direction) if isinstance(value, dict) else value


def _mean_std(values: list[float | None]) -> str:
    present = [v for v in values if v is not None]
    if not present:
        return "-"
    text = f"{fmean(present):.4f}"
    return f"{text} ± {stdev(present):.4f}" if len(present) > 1 else text


def _print_claims(out: Console, claims: list[dict[str, Any]]) -> None:
    out.print()
    if not claims:
        out.print("unclaimed: no sourced number for these settings")
        return
    shown = [c for c in claims if c["main"]] or claims
    if len(shown) > SHOWN:
        shown = [c for c in shown if c["metric"] in ("map@all", "r@1")] or shown
    rows = table("claim", "at", ">paper", ">ours", ">difference", "verdict")
    for claim in shown:
        hidden = QUALIFIERS if claim["main"] else ()  # what the protocol line above says already
        at = " ".join(f"{k}={v}" if k != "direction" else str(v) for k, v in claim["at"].items() if k not in hidden)
        paper = f"{claim['value']:.4f}" + (f" ± {claim['claimed_std']:.4f}" if claim["claimed_std"] else "")
        ours = f"{claim['obtained']:.4f}" + (f" ± {claim['std']:.4f}" if claim["std"] is not None else "")
        verdict = f"[{STYLE[claim['verdict']]}]{claim['verdict']}[/]"
        label = f"{claim['metric']} ({claim['kind']})"
        rows.add_row(label, at, paper, ours, f"{claim['obtained'] - claim['value']:+.4f}", verdict)
    out.print(rows)
    for source in dict.fromkeys(c["source"] for c in shown):
        out.print(f"source: {source}")
    for cause in dict.fromkeys(c["cause"] for c in shown if c["cause"]):
        out.print(f"cause: {cause}")
    counts = Counter(c["verdict"] for c in claims)
    tally = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
    out.print(f"all {len(claims)} claims for these settings, under every protocol variant: {tally}")


def _steps(steps: list[dict[str, Any]], seconds: float) -> str:
    parts = []
    for name in dict.fromkeys(s["name"] for s in steps):
        mine = [s for s in steps if s["name"] == name]
        done = [s for s in mine if not s["cached"]]
        parts.append(f"{name} {sum(s['seconds'] for s in done):.1f} s" if done else f"{name} cached")
    state = "every step was cached" if all(s["cached"] for s in steps) else "steps"
    return f"{state}: {' · '.join(parts)}  (total {seconds:.1f} s)"

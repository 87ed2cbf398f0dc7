"""A comparison as text: on screen, and as CSV, Markdown and LaTeX.

``document`` is what ``comparison.compare`` returns. A table has one line per method (and variant), one column per
code length and metric in each direction; the best number of a column is marked, and the second best.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WAYS = {"i2t": "image to text", "t2i": "text to image", "both": "both ways"}
ON_SCREEN = 4  # columns that fit into 100 characters beside the names
FIELDS = ("key", "name", "family", "space", "protocol", "bits", "image features", "text features", "preprocess",
          "metric", "direction", "mean", "std", "n", "group")  # fmt: skip


@dataclass(frozen=True)
class Column:
    """Where a number stands: direction (i2t, t2i, both), code length (None: not a hashing method) and metric."""

    direction: str
    size: int | None
    metric: str


def columns(document: dict[str, Any]) -> list[Column]:
    """Return the columns that some row fills, by direction, then code length, then metric."""
    shown = [(d, m) for d in ("i2t", "t2i") for m in document["shown"]]
    if document["protocol"] == "recall":
        shown.append(("both", "rsum"))
    return [Column(d, size, m) for d in WAYS for size in document["sizes"] for direction, m in shown
            if direction == d and any(_has(row, Column(d, size, m)) for row in document["rows"])]  # fmt: skip


def lines(document: dict[str, Any]) -> dict[str, dict[Column, dict[str, Any]]]:
    """Return the cells of each line: name -> column -> {mean, std, n, group}; hashing methods come first."""
    found: dict[str, dict[Column, dict[str, Any]]] = {}
    for row in sorted(document["rows"], key=lambda r: r["space"] != "hamming"):
        cells = {c: row["metrics"][c.metric][c.direction] for c in columns(document) if _has(row, c)}
        found.setdefault(row["name"], {}).update(cells)
    return found


def _has(row: dict[str, Any], column: Column) -> bool:
    return row["size"] == column.size and column.direction in row["metrics"].get(column.metric, {})


def decimals(metric: str) -> int:
    """Return how many decimals a metric is read with: percentages one, shares four."""
    return 1 if metric.startswith("r@") or metric in ("rsum", "medr") else 4


def places(document: dict[str, Any]) -> dict[tuple[str, Column], int]:
    """Return which lines are best (1) and second (2) in each column, as printed: equal numbers share a place."""
    found = {}
    table = lines(document)
    for column in columns(document):
        means = {name: round(cells[column]["mean"], decimals(column.metric))
                 for name, cells in table.items() if column in cells}  # fmt: skip
        if len(means) > 1:
            order = sorted(set(means.values()), reverse=True)
            found |= {(name, column): order.index(mean) + 1 for name, mean in means.items() if mean in order[:2]}
    return found


def size_name(size: int | None) -> str:
    """Return a code length as a heading."""
    return "real-valued" if size is None else f"{size} bits"


def _heading(document: dict[str, Any], column: Column) -> str:
    """Return what tells a column from those of its direction."""
    by_size = len(document["sizes"]) > 1 or column.size is not None
    by_metric = document["protocol"] == "recall"
    parts = [size_name(column.size) if by_size else "", column.metric if by_metric or not by_size else ""]
    return " ".join(part for part in parts if part)


def caption(document: dict[str, Any]) -> str:
    """Return in one sentence what the numbers are and how they were made."""
    choice = document["choice"]
    protocols = " and ".join(dict.fromkeys(f"{r['protocol']} ({r['space']})" for r in document["rows"]))
    against = "the query set" if choice["items"] == "query" else f"the database ({choice['database']} codes)"
    what = ", ".join(document["shown"])
    seeds = {len(r["seeds"]) for r in document["rows"]}
    over = f"means over {seeds.pop()} seeds" if len(seeds) == 1 and seeds != {1} else "means over seeds"
    over = over if any(len(r["seeds"]) > 1 for r in document["rows"]) else "one run each"
    return (f"{what} on {document['dataset']}, split {document['split']}, protocol {protocols},"
            f" ranked against {against}; {over}")  # fmt: skip


def legend(document: dict[str, Any]) -> str:
    """Return how to read the letters, or nothing where there are none."""
    if not document["tests"]:
        return ""
    return ("Within a column, rows that share a letter do not differ: randomisation tests over the queries,"
            " Holm-corrected, at 5 %.")  # fmt: skip


def print_tables(out: Any, document: dict[str, Any]) -> None:
    """Print the tables on a rich console, a few columns at a time."""
    from rich.markup import escape

    from cmrkit.reporting.card import table

    out.print(escape(caption(document)))
    best, content = places(document), lines(document)
    for group in _groups(columns(document)):
        rows = table(WAYS[group[0].direction], *(f">{_heading(document, c)}" for c in group))
        for name, cells in content.items():
            if any(c in cells for c in group):
                rows.add_row(escape(name), *(_on_screen(cells.get(c), c, best.get((name, c))) for c in group))
        out.print()
        out.print(rows)
    if document["tests"]:
        out.print(f"\n{legend(document)}")
    for note in document["notes"]:
        out.print(escape(f"note: {note}"))


def _groups(found: list[Column]) -> Iterator[list[Column]]:
    for direction in dict.fromkeys(c.direction for c in found):
        mine = [c for c in found if c.direction == direction]
        for start in range(0, len(mine), ON_SCREEN):
            yield mine[start : start + ON_SCREEN]


def _on_screen(cell: dict[str, Any] | None, column: Column, place: int | None) -> str:
    if cell is None:
        return "-"
    text = f"{cell['mean']:.{decimals(column.metric)}f}"
    style = {1: "bold", 2: "underline"}.get(place)
    text = f"[{style}]{text}[/{style}]" if style else text
    if cell["std"] is not None:
        text += f" ± {cell['std']:.{decimals(column.metric)}f}"
    return f"{text} {cell['group']}" if cell.get("group") else text


def as_csv(document: dict[str, Any]) -> str:
    """Return every number of every metric as one line of CSV (RFC 4180), full precision."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(FIELDS)
    for r in document["rows"]:
        about = (r["key"], r["name"], r["family"], r["space"], r["protocol"], r["size"], r["features"]["image"],
                 r["features"]["text"], r["preprocess"])  # fmt: skip
        for metric, directions in r["metrics"].items():
            for direction, v in directions.items():
                writer.writerow((*about, metric, direction, v["mean"], v["std"], v["n"], v.get("group")))
    return out.getvalue()


def as_markdown(document: dict[str, Any]) -> str:
    """Return the table in Markdown: the best number of a column bold, the second in italics."""
    found, best = columns(document), places(document)
    heads = [f"{WAYS[c.direction]}, {_heading(document, c)}" for c in found]
    text = [f"| method | {' | '.join(heads)} |", "|---|" + "---:|" * len(found)]
    for name, cells in lines(document).items():
        shown = (_in_markdown(cells.get(c), c, best.get((name, c))) for c in found)
        text.append(f"| {escape_markdown(name)} | {' | '.join(shown)} |")
    foot = [escape_markdown(caption(document)) + "."]
    foot += [escape_markdown(legend(document))] if document["tests"] else []
    foot += [f"* {escape_markdown(note)}" for note in document["notes"]]
    return "\n".join([*text, "", *foot[:2], "", *foot[2:]]).rstrip() + "\n"


def _in_markdown(cell: dict[str, Any] | None, column: Column, place: int | None) -> str:
    if cell is None:
        return ""
    mark = {1: "**", 2: "*"}.get(place, "")
    text = f"{mark}{cell['mean']:.{decimals(column.metric)}f}{mark}"
    if cell["std"] is not None:
        text += f" ± {cell['std']:.{decimals(column.metric)}f}"
    return f"{text} <sup>{cell['group']}</sup>" if cell.get("group") else text


def escape_markdown(text: str) -> str:
    """Return ``text`` so that Markdown, also within a table, shows it as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
    return "".join(f"\\{c}" if c in "\\`*_{}[]#|~$" else c for c in text)


def as_latex(document: dict[str, Any]) -> str:
    """Return the table in LaTeX (package booktabs): the best number of a column bold, the second underlined."""
    found, best = columns(document), places(document)
    ways = list(dict.fromkeys(c.direction for c in found))
    widths = [sum(c.direction == way for c in found) for way in ways]
    starts = [2 + sum(widths[:i]) for i in range(len(ways))]
    over = " & ".join(f"\\multicolumn{{{w}}}{{c}}{{{WAYS[way].capitalize()}}}"
                      for way, w in zip(ways, widths, strict=True))  # fmt: skip
    rules = "".join(f"\\cmidrule(lr){{{s}-{s + w - 1}}}" for s, w in zip(starts, widths, strict=True))
    heads = " & ".join(escape_latex(_heading(document, c)) for c in found)
    body = []
    real = {r["name"] for r in document["rows"] if r["space"] != "hamming"}
    for name, cells in lines(document).items():
        if name in real and body and "\\midrule" not in body and len(real) < len(lines(document)):
            body.append("\\midrule")
        shown = (_in_latex(cells.get(c), c, best.get((name, c))) for c in found)
        body.append(f"{escape_latex(name)} & {' & '.join(shown)} \\\\")
    about = " ".join(p for p in (f"{caption(document)}.", legend(document)) if p)
    kind = "table*" if len(found) > ON_SCREEN else "table"
    return "\n".join([
        *(f"% {' '.join(note.split())}" for note in document["notes"]),
        f"\\begin{{{kind}}}[t]", "\\centering", f"\\caption{{{escape_latex(about)}}}",
        f"\\label{{tab:comparison-{''.join(c if c.isalnum() else '-' for c in document['dataset'])}}}",
        f"\\begin{{tabular}}{{l{' ' + ' '.join('r' * w for w in widths)}}}", "\\toprule",
        f" & {over} \\\\", rules, f"Method & {heads} \\\\", "\\midrule", *body, "\\bottomrule", "\\end{tabular}",
        f"\\end{{{kind}}}",
    ]) + "\n"  # fmt: skip


def _in_latex(cell: dict[str, Any] | None, column: Column, place: int | None) -> str:
    if cell is None:
        return "--"
    text = f"{cell['mean']:.{decimals(column.metric)}f}"
    text = {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(place, text)
    if cell["std"] is not None:
        text += f"\\,{{\\tiny$\\pm$\\,{cell['std']:.{decimals(column.metric)}f}}}"
    return f"{text}\\textsuperscript{{{cell['group']}}}" if cell.get("group") else text


def escape_latex(text: str) -> str:
    """Return ``text`` so that LaTeX shows it as it is."""
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
               "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "\n": " "}  # fmt: skip
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)

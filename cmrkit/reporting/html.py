"""The page that people look at: one HTML file that needs no network and no other file but its gallery's images.

The matrix is plain HTML that reads without styles and scripts. What a paper's card shows is compressed JSON inside
the page, one block per paper, unpacked when the card is opened. A Content-Security-Policy allows the page's own
script and style and nothing else, so that no text of a record could ever run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from cmrkit import __version__
from cmrkit.errors import CmrkitError
from cmrkit.pipeline.store import Store
from cmrkit.recipe.library import dataset_keys, load_all, load_manifest
from cmrkit.recipe.model import FAMILIES, Recipe
from cmrkit.reporting.dossier import LISTED, facts, results, rounded
from cmrkit.reporting.gallery import Thumbnails, gallery
from cmrkit.reporting.league import league_tables, may_compete
from cmrkit.reporting.records import Group, group_over_seeds, read_records

SITE = Path(__file__).resolve().parent / "site"
SCRIPTS = ("base.js", "charts.js", "matrix.js", "card.js", "runs.js", "league.js", "main.js")
VERDICTS = {"match": "✓", "near": "≈", "below": "▼", "above": "▲", "unclaimed": "·"}
FAMILY_NAMES = {
    "hashing_unsupervised_shallow": "Unsupervised hashing, shallow",
    "hashing_unsupervised_deep": "Unsupervised hashing, deep",
    "hashing_supervised_shallow": "Supervised hashing, shallow",
    "hashing_supervised_deep": "Supervised hashing, deep",
    "real_unsupervised": "Unsupervised, real-valued",
    "real_supervised_shallow": "Supervised, real-valued, shallow",
    "real_supervised_deep": "Supervised, real-valued, deep",
    "image_text_matching": "Image-text matching",
    "vision_language": "Vision-language",
    "scenarios": "Scenarios",
    "adjacent": "Adjacent work",
}

Progress = Callable[[list], Any]


def write_site(store: Store, out: Path, galleries: bool = True, progress: Progress = iter) -> dict[str, Any]:
    """Write ``out/index.html`` and, with ``galleries``, ``out/gallery/``; return paths, counts and sizes.

    Raises CmrkitError where ``out`` cannot be written. Records that cannot be used are named on the page.
    """
    found = read_records(store.root)
    recipes = {r.key: r for r in load_all()}
    groups: dict[str, list[Group]] = defaultdict(list)
    for group in group_over_seeds(found.records):
        groups[group.first.recipe].append(group)
    strangers = sorted(set(groups) - set(recipes))
    thumbnails = Thumbnails(out / "gallery")
    try:
        out.mkdir(parents=True, exist_ok=True)
        obtained = {}
        for key in progress([k for k in groups if k in recipes]):
            obtained[key] = results(store.root, recipes[key], groups[key])
            if galleries:
                obtained[key]["galleries"] = _galleries(store.root, groups[key], obtained[key]["groups"], thumbnails)
        leagues = league_tables(store.root, _competing(recipes, groups, obtained), progress)
        about = {
            "records": len(found.records),
            "superseded": found.superseded,
            "skipped": [[s.path.name, s.reason] for s in found.skipped],
            "strangers": strangers,
        }
        page = render(list(recipes.values()), obtained, leagues, about)
        (out / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise CmrkitError(f"{out}: cannot be written: {error.strerror or error}") from error
    size = len(page.encode())
    written = {"page": str(out / "index.html"), "bytes": size, "papers": len(recipes), "with_results": len(obtained)}
    pictures = {"files": thumbnails.files, "bytes": thumbnails.bytes}
    return {**written, "leagues": len(leagues), **about, "gallery": pictures}


def _competing(
    recipes: dict[str, Recipe], groups: dict[str, list[Group]], obtained: dict[str, Any]
) -> list[tuple[Group, Recipe]]:
    return [
        (group, recipes[key])
        for key, found in obtained.items()
        for group, shown in zip(groups[key], found["groups"], strict=True)
        if may_compete(group, shown["departs"])
    ]


def _galleries(root: Path, groups: list[Group], shown: list[dict[str, Any]], thumbnails: Thumbnails) -> list[dict]:
    """Return one gallery per dataset: of the recipe's own runs with the longest codes, where there are such."""
    best: dict[str, tuple[tuple, int]] = {}
    for i, (group, what) in enumerate(zip(groups, shown, strict=True)):
        rank = (what["departs"] == {}, not what["protocol"].get("limit"), what["bits"] or 0)
        if group.first.dataset not in best or rank > best[group.first.dataset][0]:
            best[group.first.dataset] = (rank, i)
    found = []
    for dataset, (_, i) in best.items():
        pictures = gallery(root, groups[i].first, thumbnails)
        if pictures:
            found.append({"dataset": dataset, "group": i, "seed": groups[i].first.seed, **rounded(pictures, 3)})
    return found


def render(
    recipes: list[Recipe], obtained: dict[str, dict[str, Any]], leagues: list[dict[str, Any]], about: dict[str, Any]
) -> str:
    """Return the page. ``obtained`` is ``dossier.results`` by recipe; ``about`` what there is to say of the store."""
    unrun = {r.key: results(Path(), r, []) for r in recipes if r.key not in obtained}
    entries = sorted((_entry(r, obtained.get(r.key) or unrun[r.key]) for r in recipes), key=_most_to_say)
    index = {
        "version": __version__,
        "when": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "families": FAMILY_NAMES,
        "verdicts": VERDICTS,
        "embedded": [d for d in dataset_keys() if load_manifest(d).embedded],
        "papers": entries,
        "leagues": [{k: league[k] for k in ("dataset", "split", "image", "text", "kind", "metrics", "protocol")}
                    for league in leagues],
        **about,
    }  # fmt: skip
    blobs = {"facts": {r.key: facts(r) for r in recipes}, "leagues": rounded(leagues, 4)}
    blobs["claims"] = {key: found["claims"] for key, found in unrun.items() if found["claims"]}
    blobs |= {f"run-{key}": {k: v for k, v in found.items() if k != "numbers"} for key, found in obtained.items()}
    style = (SITE / "style.css").read_text(encoding="utf-8")
    script = "\n".join((SITE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    policy = {
        "default-src": "'none'",
        "img-src": "'self' file: data:",
        "style-src": _hash(style),
        "script-src": _hash(script),
    }
    return Template((SITE / "page.html").read_text(encoding="utf-8")).substitute(
        policy="; ".join(f"{name} {value}" for name, value in policy.items()),
        style=style,
        script=script,
        index=_inline_json(index),
        blobs="\n".join(_blob(name, value) for name, value in blobs.items()),
        version=escape(__version__),
        **_matrix_html(entries, about),
    )


def _most_to_say(entry: dict[str, Any]) -> tuple:
    """Order papers as the matrix shows them at first: judged ones, then others with results, then by status."""
    status = ("verified", "runnable", "catalogued").index(entry["status"])
    return (not entry["tally"], not entry["runs"], status, FAMILIES.index(entry["family"]), entry["year"], entry["key"])


def _entry(recipe: Recipe, found: dict[str, Any]) -> dict[str, Any]:
    paper = recipe.paper
    return {
        "key": recipe.key, "acronym": paper.acronym, "title": paper.title, "venue": paper.venue, "year": paper.year,
        "family": recipe.family, "status": recipe.status, "fidelity": recipe.fidelity, "datasets": list(recipe.data),
        "verdict": found["verdict"] or ("unclaimed" if found["groups"] else None), "tally": found["tally"],
        "runs": sum(len(g["seeds"]) for g in found["groups"]), "numbers": [_packed(n) for n in found["numbers"]],
        "headings": " ".join(paper.taxonomy),
    }  # fmt: skip


def _packed(n: dict[str, Any]) -> list[Any]:
    return rounded([n["dataset"], n["bits"], n["metric"], n["kind"], *n["paper"], *n["ours"], *n["std"], n["n"],
                    n["verdict"]])  # fmt: skip


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _inline_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _blob(name: str, value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return f'<script type="text/plain" id="blob-{escape(name)}">{packed}</script>'


def _matrix_html(entries: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, str]:
    status = Counter(e["status"] for e in entries)
    verdicts = Counter(e["verdict"] for e in entries)
    metrics = sorted({n[2] for e in entries for n in e["numbers"]}, key=LISTED.index)
    tiles = [
        ("status", "", len(entries), "catalogued"),
        ("status", "runnable", len(entries) - status["catalogued"], "runnable"),
        ("status", "verified", status["verified"], "verified"),
        *(("verdict", v, verdicts[v], {"match": "matching"}.get(v, v)) for v in VERDICTS),
    ]  # fmt: skip
    return {
        "tiles": "\n".join(map(_tile, tiles)),
        "families": _options((f, FAMILY_NAMES[f]) for f in FAMILIES),
        "datasets": _options((d, d) for d in sorted({d for e in entries for d in e["datasets"]})),
        "bits": _options((b, b) for b in sorted({n[1] for e in entries for n in e["numbers"] if n[1]})),
        "metrics": _options((m, m) for m in metrics),
        "rows": "\n".join(map(_row, entries)),
        "total": str(len(entries)),
        "state": _state(about),
    }


def _options(pairs: Any) -> str:
    return "".join(f'<option value="{escape(str(value))}">{escape(str(name))}</option>' for value, name in pairs)


def _tile(tile: tuple[str, str, int, str]) -> str:
    field, value, count, label = tile
    glyph = f'<span class="glyph {value}" aria-hidden="true">{VERDICTS[value]}</span>' if field == "verdict" else ""
    return (f'<li><button type="button" class="tile" aria-pressed="false" data-field="{field}" data-value="{value}">'
            f'<span class="count">{count} {glyph}</span> <span class="what">{label}</span></button></li>')  # fmt: skip


def _state(about: dict[str, Any]) -> str:
    """Return what the reader should know of the store: that it is empty, or what in it could not be used."""
    notes = []
    if not about["records"]:
        notes.append("No results yet. <code>cmrkit reproduce batch --dataset shapes</code> makes the first in about a"
                     " minute; then write this page again.")  # fmt: skip
    if about["skipped"]:
        names = "".join(f"<li><code>{escape(name)}</code>: {escape(why)}</li>" for name, why in about["skipped"][:20])
        more = f"<li>and {len(about['skipped']) - 20} more</li>" if len(about["skipped"]) > 20 else ""
        notes.append(f"<details><summary>{len(about['skipped'])} records could not be used</summary>"
                     f"<ul>{names}{more}</ul></details>")  # fmt: skip
    if about["strangers"]:
        notes.append(f"Results of recipes that are not in this catalogue: {escape(', '.join(about['strangers']))}.")
    return "".join(f'<div class="notice">{note}</div>' for note in notes)


def _row(entry: dict[str, Any]) -> str:
    number = next(iter(entry["numbers"]), None)
    datasets = escape(", ".join(entry["datasets"])) or "–"
    return (
        f'<tr data-key="{escape(entry["key"])}"><th scope="row"><a href="#/paper/{escape(entry["key"])}">'
        f'{escape(entry["acronym"])}</a> <span class="title">{escape(entry["title"])}</span></th>'
        f'<td class="c-family">{escape(FAMILY_NAMES[entry["family"]])}</td><td class="c-year">{entry["year"]}</td>'
        f'<td class="c-status"><span class="status {entry["status"]}">{entry["status"]}</span></td>'
        f'<td class="c-fidelity">{escape(entry["fidelity"] or "–")}</td>'
        f'<td class="c-datasets"><span class="clamp">{datasets}</span></td>{_number_cells(entry, number)}</tr>'
    )


def _number_cells(entry: dict[str, Any], number: list[Any] | None) -> str:
    """Return four cells: what is measured, paper, ours, verdict. The script makes the same of other numbers."""
    if number is None:
        return '<td class="c-at">–</td><td class="num">–</td><td class="num">–</td><td class="c-verdict">–</td>'
    dataset, bits, metric, kind, *values, seeds, verdict = number
    where = escape(", ".join(filter(None, (dataset, f"{bits} bits" if bits else ""))))
    paper = _pair(metric, values[:2]) + (f'<span class="sub">{kind}</span>' if kind else "")
    ours = _pair(metric, values[2:4]) + (f'<span class="sub">{seeds} seed{"s"[: seeds != 1]}</span>' if seeds else "")
    return (
        f'<td class="c-at">{escape(metric)}<span class="sub">{where}</span></td><td class="num">{paper}'
        f'<span class="sub phone">{escape(metric)} {where}</span></td>'
        f'<td class="num">{ours}</td><td class="c-verdict">{_verdict(entry, verdict)}</td>'
    )


def _pair(metric: str, values: list[float | None]) -> str:
    digits = 1 if metric.startswith("r") else 3
    shown = [f"{v:.{digits}f}" for v in values if v is not None]
    return f'<span class="pair">{" / ".join(shown) or "–"}</span>'


def _verdict(entry: dict[str, Any], verdict: str | None) -> str:
    if verdict is None:
        return "–"
    tally, judged = entry["tally"], sum(entry["tally"].values())
    sub = f'<span class="sub">{tally.get("match", 0)}/{judged} claims</span>' if judged else ""
    glyph = f'<span class="glyph {verdict}" aria-hidden="true">{VERDICTS[verdict]}</span>'
    return f'<span class="verdict {verdict}">{glyph} {verdict}</span>{sub}'

"""Write README's status tables from the recipes and from the attestations under results/.

Usage: python benchmarks/status.py            write the tables
       python benchmarks/status.py --check    exit 1 where they are stale; CI does this
       python benchmarks/status.py --attest [KEY ..]   first run verified recipes on Wikipedia and attest them again,
                                              replacing what this machine attested (needs CMRKIT_MIRROR)
"""

import json
import sys
from collections import Counter
from pathlib import Path

from cmrkit.recipe.library import load_all, load_recipe
from cmrkit.recipe.model import FAMILIES
from cmrkit.reporting.attestation import as_text, attest, file_name, is_sealed, judged, read_attestation, select
from cmrkit.reporting.judge import overall

ROOT = Path(__file__).resolve().parent.parent
RESULTS, README = ROOT / "results", ROOT / "README.md"
BEGIN = "<!-- status: written by python benchmarks/status.py from recipes/ and results/ -->"
END = "<!-- end of status -->"
HEADLINES = ("map@all", "rsum", "r@1", "map@50")


def tables(results: Path = RESULTS) -> str:
    return "\n".join([*_families(), "", *_attested(results)])


def _families() -> list[str]:
    recipes = load_all()
    lines = ["| family | catalogued | run here | verified |", "|---|---:|---:|---:|"]
    for family in (*FAMILIES, None):
        mine = [r for r in recipes if family in (None, r.family)]
        counts = (len(mine), sum(r.runnable for r in mine), sum(r.status == "verified" for r in mine))
        name = family.replace("_", " ") if family else "all"
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    return lines


def _attested(results: Path) -> list[str]:
    lines = [
        "| attested | numbers that have a source | at | image to text: source, ours | text to image: source, ours |",
        "|---|---|---|---|---|",
    ]
    for path in newest(results):
        document = read_attestation(path)
        rows = judged(document)
        counts = verdicts(rows)
        tally = ", ".join(f"{n} {v}" for v in ("match", "near", "below", "above") if (n := counts[v])) or "none"
        link = path.relative_to(results.parent).as_posix()
        metric, setting, cells = _headline(rows)
        recipe, dataset = document["recipe"], document["dataset"]
        lines.append(f"| [{recipe}, {dataset}]({link}) | {tally} | {metric}{setting} | {' | '.join(cells)} |")
    return lines


def verdicts(rows: list[dict]) -> Counter:
    """Count claims by verdict: several settings may answer one, of which the worst counts."""
    claims: dict[str, list[dict]] = {}
    for row in rows:
        claims.setdefault(json.dumps([row[n] for n in ("metric", "at", "value", "source")]), []).append(row)
    return Counter(overall(answers) for answers in claims.values())


def newest(results: Path) -> list[Path]:
    """Return the newest attestation of each recipe on each dataset, sorted by name."""
    found: dict[tuple[str, str], tuple[str, Path]] = {}
    for path in sorted(results.glob("*/*.json")):
        document = read_attestation(path)
        if not is_sealed(document):
            raise SystemExit(f"{path}: its hash is not that of its content")
        place = (document["recipe"], document["dataset"])
        found[place] = max(found.get(place, ("", path)), (document["when"], path))
    return [path for _, (_, path) in sorted(found.items())]


def _headline(rows: list[dict]) -> tuple[str, str, list[str]]:
    main = [r for r in rows if r["main"] and r["at"].get("ties") != "stable"] or rows
    metric = next((m for m in HEADLINES if any(r["metric"] == m for r in main)), "")
    first = [r for r in main if r["metric"] == metric]
    if not first:
        return "", "", ["", ""]
    setting = _setting(first[0])
    cells = []
    for way in ("i2t", "t2i"):
        row = next((r for r in first if _setting(r) == setting and r["at"].get("direction") in (way, None)), None)
        cells.append(f"{row['value']:.4f}, {row['obtained']:.4f} {row['verdict']}" if row else "")
    return metric, "".join(f", {k} {v}" for k, v in setting.items()), cells


def _setting(row: dict) -> dict:
    hidden = ("direction", "database", "items", "ties", "similarity")
    return {k: v for k, v in row["at"].items() if k not in hidden}


def with_tables(text: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README}: the lines {BEGIN!r} and {END!r} are missing")
    return f"{before}{begin}\n\n{tables()}\n\n{end}{after}"


def attest_again(keys: list[str]) -> None:
    import cmrkit
    from cmrkit.api import open_store

    for key in keys or [r.key for r in load_all() if r.status == "verified" and "wikipedia" in r.data]:
        recipe = load_recipe(key)
        bits = sorted({c.at["bits"] for c in recipe.claims if c.dataset == "wikipedia" and "bits" in c.at})
        seeds = list(range(5)) if "seed" in recipe.sweep else [0]
        done = cmrkit.reproduce(key, "wikipedia", seeds=seeds, **({"bits": bits} if bits else {}))
        document = attest(select(open_store().root, [run["record"] for run in done["runs"]]))
        for path in (RESULTS / key).glob("wikipedia-*.json"):
            if read_attestation(path)["environment"] == document["environment"]:
                path.unlink()
        path = RESULTS / file_name(document)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(as_text(document), encoding="utf-8")
        print(path.relative_to(ROOT), flush=True)


def main(args: list[str]) -> int:
    if args[:1] == ["--attest"]:
        attest_again(args[1:])
    elif args not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    text = README.read_text(encoding="utf-8")
    fresh = with_tables(text)
    if args == ["--check"] and fresh != text:
        print("README.md: its status tables are stale: run python benchmarks/status.py", file=sys.stderr)
        return 1
    if fresh != text:
        README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Pages that are written from the sources: verbs from click, papers from recipes, datasets from manifests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent


def on_files(files, config):
    """Add the generated pages to those of ``pages/``."""
    pages = {
        "cli.md": command_line(),
        "datasets.md": datasets(),
        "verified.md": (ROOT / "docs" / "verified.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        **families(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def command_line() -> str:
    """Return the reference of all verbs, as their ``--help`` has it."""
    from cmrkit.cli.main import VERBS, cli

    context = click.Context(cli, info_name="cmrkit", max_content_width=100)
    parts = ["# Command line\n", "Every verb has `--json` and `--help`. Exit codes: 0, 1 for a failure, 2 for a mistake"
             " in what was asked. `--debug`, before or after the verb, shows the traceback of an error.\n"]  # fmt: skip
    for name in VERBS:
        command = cli.get_command(context, name)
        text = command.get_help(click.Context(command, info_name=name, parent=context, max_content_width=100))
        parts.append(f"## cmrkit {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def families() -> dict[str, str]:
    """Return a page for each family with its papers, and one that leads to them."""
    from cmrkit.recipe.library import load_all
    from cmrkit.recipe.model import FAMILIES

    recipes = load_all()
    runnable = [r for r in recipes if r.runnable]
    index = ["# Papers\n", f"{len(recipes)} papers are catalogued, {len(runnable)} run.\n",
             "| family | catalogued | runnable | verified |", "|---|---|---|---|"]  # fmt: skip
    pages = {}
    for family in FAMILIES:
        members = [r for r in recipes if r.family == family]
        count = Counter(r.status for r in members)
        title = family.replace("_", " ")
        runs = count["runnable"] + count["verified"]
        index.append(f"| [{title}]({family}.md) | {len(members)} | {runs} | {count['verified']} |")
        pages[f"families/{family}.md"] = f"# {title.capitalize()}\n\n" + "".join(
            map(_paper, sorted(members, key=lambda r: (not r.runnable, r.paper.year, r.key)))
        )
    return {"families/index.md": "\n".join(index) + "\n", **pages}


def _paper(recipe) -> str:
    paper = recipe.paper
    title = f"[{_safe(paper.title)}]({paper.url})" if paper.url else _safe(paper.title)
    head = f"## {_safe(paper.acronym)} {{ #{recipe.key} }}\n\n{title}. {_safe(paper.venue)} {paper.year}. "
    if not recipe.runnable:
        return head + "Catalogued.\n\n"
    lines = [
        head + f"**{recipe.status.capitalize()}**, fidelity {recipe.fidelity}.\n",
        f"    cmrkit reproduce {recipe.key}\n",
        f"Datasets: {', '.join(recipe.data)}. {len(recipe.claims)} claims with a source.\n",
    ]
    lines += [f"* {_safe(note)}" for note in recipe.notes]
    return "\n".join(lines) + "\n\n"


def datasets() -> str:
    """Return what is known of every dataset."""
    from cmrkit.recipe.library import dataset_keys, load_manifest

    parts = [(ROOT / "docs" / "datasets-intro.md").read_text(encoding="utf-8")]
    for key in dataset_keys():
        m = load_manifest(key)
        parts.append(f"## {key}\n\n{_safe(m.title)}. {_safe(m.citation)}\n")
        parts.append(f"Licence: {_safe(m.licence or 'none stated')}. {_safe(m.registration or '')}\n")
        parts += [f"* {_safe(note)}" for note in m.notes]
        parts.append("\n| split | items | |\n|---|---|---|")
        for name, split in m.splits.items():
            counts = ", ".join(f"{role} {count:,}" for role, count in split.counts.items())
            parts.append(f"| {name} | {counts} | {_safe(split.note or '')} |")
        for modality in ("image", "text"):
            names = ", ".join(f"`{name}`" for name in getattr(m.features, modality))
            parts.append(f"\n{modality.capitalize()} features: {names or 'none'}.")
        parts.append("")
    return "\n".join(parts)


def _safe(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|").replace("[", "\\[").strip()

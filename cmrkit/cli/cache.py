"""cmrkit cache."""

from __future__ import annotations

import click

from cmrkit.api import open_store
from cmrkit.cli.shared import human_size, json_option, print_json
from cmrkit.errors import CmrkitError


@click.group()
def command() -> None:
    """List, verify, pin and collect what was computed."""


@command.command()
@json_option
def ls(as_json: bool) -> None:
    """List every artifact."""
    store = open_store()
    rows = [{"step": a.path.parent.name, "key": a.path.name, "bytes": a.size, "seconds": a.manifest["seconds"],
             "pinned": store.is_pinned(a), "path": str(a.path)} for a in store.artifacts()]  # fmt: skip
    if as_json:
        return print_json(rows)
    from cmrkit.reporting.card import console, table

    out, lines = console(), table("step", "key", ">size", ">took", "")
    for r in rows:
        pin = "pinned" if r["pinned"] else ""
        lines.add_row(r["step"], r["key"][:16], human_size(r["bytes"]), f"{r['seconds']:.2f} s", pin)
    out.print(lines)
    out.print(f"{len(rows)} artifacts, {human_size(sum(r['bytes'] for r in rows))} in {store.root}", soft_wrap=True)
    return None


@command.command()
@json_option
def verify(as_json: bool) -> None:
    """Check every artifact's content against its digests; exit 1 where something is damaged."""
    artifacts = open_store().artifacts()
    faults = [fault for a in artifacts for fault in a.faults()]
    if as_json:
        print_json({"artifacts": len(artifacts), "faults": faults})
    elif not faults:
        click.echo(f"{len(artifacts)} artifacts are sound")
    if faults:
        raise CmrkitError("\n".join(faults))


@command.command()
@click.option("--older-than", default=30.0, show_default=True, metavar="DAYS", help="Not used for so many days.")
@json_option
def gc(older_than: float, as_json: bool) -> None:
    """Remove leftovers of killed runs and artifacts that were not used for a while."""
    removed = [a.path.name for a in open_store().collect(older_than)]
    print_json({"removed": removed}) if as_json else click.echo(f"{len(removed)} artifacts removed")


@command.command()
@click.argument("key")
@click.option("--off", is_flag=True, help="No longer keep it.")
@json_option
def pin(key: str, off: bool, as_json: bool) -> None:
    """Keep the artifact whose key starts with KEY from garbage collection."""
    artifact = open_store().pin(key, not off)
    if as_json:
        return print_json({"step": artifact.path.parent.name, "key": artifact.path.name, "pinned": not off})
    click.echo(f"{artifact.path.parent.name} {artifact.path.name[:16]} {'un' if off else ''}pinned")
    return None

"""cmrkit index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cmrkit.cli.shared import dataset_option, json_option, offline_option, print_json
from cmrkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

MODALITIES = ("image", "text")


@click.command()
@click.option("--ckpt", type=click.Path(), help="A checkpoint directory; its dataset's database is encoded.")
@click.option("--codes", type=click.Path(), help="An .npz file of codes or embeddings.")
@click.option("--modality", type=click.Choice(MODALITIES), help="Which items; needed where there are both.")
@click.option("--output", "-o", required=True, type=click.Path(), help="The index file to write.")
@dataset_option
@offline_option
@json_option
def command(ckpt, codes, modality, output, dataset, offline, as_json) -> None:
    """Export database codes as a FAISS index (--ckpt or --codes)."""
    from cmrkit.evaluation.faiss_index import export_index

    if bool(ckpt) == bool(codes):
        raise UsageError("give either --ckpt DIRECTORY or --codes FILE.npz")
    if codes and dataset:
        raise UsageError("--codes carries its own items: --dataset goes with --ckpt")
    arrays, space = _from_file(codes) if codes else _from_checkpoint(ckpt, dataset, offline)
    name = _chosen(arrays, modality, codes or ckpt)
    written = export_index(output, arrays[name], space, name)
    if as_json:
        return print_json({**written, "space": space, "array": name, "source": str(codes or ckpt)})
    unit = "bits" if space == "hamming" else "dimensions"
    click.echo(f"{output}: {written['kind']} of {written['items']} items, {written['width']} {unit}, from {name}")
    if written["padding"]:
        click.echo(f"note: each code ends in {written['padding']} zero bits of padding; pad queries in the same way")
    return None


def _from_file(path: str) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays of a file that may stand in a database. Of two sets that rank each other either may."""
    from cmrkit.evaluation.files import load_codes
    from cmrkit.evaluation.inputs import DATABASE, POSITIVES, QUERY

    file = load_codes(path)
    names = [name for names in DATABASE.values() for name in names]
    if {"pairs", *POSITIVES.values()} & file.arrays.keys():
        names += QUERY
    return {name: file.arrays[name] for name in names if name in file.arrays}, file.space


def _from_checkpoint(path: str, dataset: str | None, offline: bool) -> tuple[dict[str, np.ndarray], str]:
    """Encode the database of a checkpoint's own dataset, or of another: each image once, in the split's order."""
    from cmrkit.evaluating import encode

    model, arrays, _ = encode(path, dataset, offline=offline, learned=False)
    if "database_items" not in arrays:
        raise UsageError(f"{path}: {model.about['recipe']} compares whole sets and gives no codes to index")
    return each_image_once(arrays), model.space


def each_image_once(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the database codes of encoded arrays, which hold one row per text, with no image twice."""
    import numpy as np

    first = np.sort(np.unique(arrays["database_items"], return_index=True)[1])
    return {"database_image": arrays["database_image"][first], "database_text": arrays["database_text"]}


def _chosen(arrays: dict[str, np.ndarray], modality: str | None, source: str) -> str:
    """Return the name of the array to index: what encoders made before what training learned."""
    wanted = [modality] if modality else MODALITIES
    names = {m: [n for k in ("database", "learned", "query") if (n := f"{k}_{m}") in arrays] for m in wanted}
    there = [m for m in wanted if names[m]]
    if len(there) == 2:
        raise UsageError(f"{source} holds images and texts: choose with --modality image or --modality text")
    if there:
        return names[there[0]][0]
    if "unified" in arrays:
        return "unified"
    of = f"{modality} " if modality else ""
    raise UsageError(f"{source} holds no {of}database items; it has {', '.join(arrays) or 'none at all'}")

"""Contact sheets: what a search found, as one picture or one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from cmrkit.errors import UsageError

SIDE = 160  # pixels of a thumbnail's longer side
STYLE = """
:root { color-scheme: light dark; font: 16px/1.4 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem; padding: 0; }
li { list-style: none; }
img { max-width: 100%; border-radius: .25rem; display: block; }
figure { margin: 0; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
li.text { border: 1px solid; border-radius: .25rem; padding: .5rem; }
"""


def write_sheet(document: dict[str, Any], path: Path) -> None:
    """Write the rankings of `cmrkit.searching.search` to ``path``, whose suffix is .html or .png.

    Raises UsageError for another suffix or a folder that is not there.
    """
    writers = {".html": _page, ".png": _picture}
    if path.suffix.lower() not in writers:
        raise UsageError(f"-o {path}: a contact sheet is a .html or a .png file")
    if not path.parent.is_dir():
        raise UsageError(f"-o {path}: there is no folder {path.parent}")
    content = writers[path.suffix.lower()](document)
    path.write_bytes(content)


def _page(document: dict[str, Any]) -> bytes:
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>cmrkit search</title><style>{STYLE}</style>',
             f"<h1>cmrkit search</h1><p>{html.escape(document['checkpoint'])}</p>"]  # fmt: skip
    for query in document["queries"]:
        parts.append(f"<section><h2>{_query(document, query)}</h2><ol>")
        parts += [_hit(rank, hit) for rank, hit in enumerate(query["results"], start=1)]
        parts.append("</ol></section>")
    parts += [f"<p>{html.escape(note)}</p>" for note in document["notes"]]
    return "\n".join([*parts, "</html>"]).encode()


def _query(document: dict[str, Any], query: dict[str, Any]) -> str:
    if document["direction"] == "t2i":
        return html.escape(query["query"])
    name = html.escape(query["query"])
    return f'<img src="{_data(query["query"])}" alt="{name}"> {name}'


def _hit(rank: int, hit: dict[str, Any]) -> str:
    name, score = html.escape(hit["result"]), f"{hit['score']:.4f}"
    if "path" not in hit:
        return f'<li class="text">{rank}. {name} <small>{score}</small></li>'
    return (f'<li><figure><img src="{_data(hit["path"])}" alt="{name}">'
            f"<figcaption>{rank}. {name} <small>{score}</small></figcaption></figure></li>")  # fmt: skip


def _data(path: str) -> str:
    content = io.BytesIO()
    _thumbnail(path).save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _thumbnail(path: str) -> Any:
    from PIL import Image

    from cmrkit.data.images import ImageFiles

    root, colon, member = path.rpartition(":")
    place = Path(root), member
    if not (colon and Path(root).is_file()):
        place = Path(path).parent, Path(path).name
    image = Image.fromarray(ImageFiles((("it", place[1]),), {"it": place[0]})[0])
    image.thumbnail((SIDE, SIDE))
    return image


def _picture(document: dict[str, Any]) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(14)
    cell, line, margin = (SIDE + 12, SIDE + 40), 22, 12
    columns = min(5, max(len(q["results"]) for q in document["queries"]))
    pictured = document["direction"] == "t2i"
    heights = [line + 8 + (-(-len(q["results"]) // columns) * cell[1] if pictured else SIDE + len(q["results"]) * line)
               for q in document["queries"]]  # fmt: skip
    width = 2 * margin + max(columns * cell[0], 640)
    sheet = Image.new("RGB", (width, 2 * margin + sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), margin
    for query, height in zip(document["queries"], heights, strict=True):
        draw.text((margin, top), _fitting(query["query"], draw, font, width - 2 * margin), "black", font)
        if not pictured:
            sheet.paste(_thumbnail(query["query"]), (margin, top + line))
        for i, hit in enumerate(query["results"]):
            name = Path(hit["result"]).name if pictured else hit["result"]
            label = f"{i + 1}. {hit['score']:.3f} {name}"
            if pictured:
                x, y = margin + i % columns * cell[0], top + line + i // columns * cell[1]
                sheet.paste(_thumbnail(hit["path"]), (x, y))
                draw.text((x, y + SIDE + 4), _fitting(label, draw, font, SIDE), "black", font)
            else:
                draw.text((margin, top + line + SIDE + 4 + i * line), _fitting(label, draw, font, width - 2 * margin),
                          "black", font)  # fmt: skip
        top += height
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _fitting(text: str, draw: Any, font: Any, width: int) -> str:
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."

"""Figures of a comparison: the metric over code lengths, precision against recall, precision or recall by rank.

They are meant for print as they are: 7 inches wide or less, 8-point type, vector formats with embedded fonts, and the
same bytes for the same numbers. Methods are told apart by colour (Okabe & Ito, Color Universal Design, 2008), marker
and line style at once, so that neither colour vision nor a colour printer is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmrkit.reporting.comparison_tables import Column, lines, size_name

FORMATS = ("svg", "pdf", "png")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # yellow is lost on white
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
WAYS = {"i2t": "Image → text", "t2i": "Text → image"}
PANEL = (1.72, 1.62)  # inches
WIDEST = 7.2  # inches: two columns of most journals
STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.size": 0, "lines.linewidth": 1.3,
    "lines.markersize": 4.5, "pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "cmrkit",
}  # fmt: skip
SCALE = 300  # dots per inch of the bitmaps


def draw(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write the figures that a comparison has numbers for into ``folder``; return their paths. Raises OSError.

    ``document`` is what ``comparison.compare`` returns. The metric over code lengths needs two of them.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's own settings are
        matplotlib.rcParams.update(STYLE)
        figures = {}
        if sum(size is not None for size in document["sizes"]) > 1:
            for metric in document["shown"]:
                figures[f"{metric.replace('@', '-')}-over-bits"] = over_bits(document, metric)
        if document["protocol"] == "map":
            figures["precision-recall"] = along(document, "recall", "precision", "Recall", "Precision")
            figures["precision-at-n"] = along(document, "rank", "precision", "N", "Precision@N")
        else:
            figures["recall-at-k"] = along(document, "rank", "recall", "K", "Recall@K (%)")
        return [_save(figure, folder / f"{name}.{suffix}") for name, figure in figures.items() for suffix in FORMATS]


def _save(figure: Any, path: Path) -> Path:
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    figure.savefig(path, dpi=SCALE, metadata=dates[path.suffix[1:]])
    return path


def over_bits(document: dict[str, Any], metric: str) -> Any:
    """Return a figure of ``metric`` over code lengths, with a bar of one standard deviation over seeds.

    A method that has no code length is a horizontal line.
    """
    sizes = [size for size in document["sizes"] if size is not None]
    table, styles = lines(document), _styles(document)
    figure, axes = _panels(1, list(WAYS), wide=1.35)
    for axis, way in zip(axes[0], WAYS, strict=True):
        for name, cells in table.items():
            found = [(size, cells[at]) for size in sizes if (at := Column(way, size, metric)) in cells]
            if (real := cells.get(Column(way, None, metric))) is not None:
                axis.axhline(real["mean"], **{**styles[name], "marker": None})
            elif found:
                axis.errorbar([s for s, _ in found], [c["mean"] for _, c in found], [c["std"] or 0 for _, c in found],
                              capsize=2, elinewidth=0.8, **styles[name])  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set(title=WAYS[way], xlabel="Bits", xlim=(sizes[0] / 1.15, sizes[-1] * 1.15))
    axes[0][0].set_ylabel(_metric_name(metric))
    return _finished(figure, styles)


def along(document: dict[str, Any], x: str, y: str, x_name: str, y_name: str) -> Any:
    """Return a figure of two curves' coordinates, a row of panels a direction and a column a code length."""
    sizes, styles = document["sizes"], _styles(document)
    figure, axes = _panels(len(WAYS), [size_name(s) if len(document["sizes"]) > 1 or s else "" for s in sizes])
    for row, way in zip(axes, WAYS, strict=True):
        for axis, size in zip(row, sizes, strict=True):
            for r in document["rows"]:
                if r["size"] == size and way in r["curves"]:
                    curve = r["curves"][way]
                    axis.plot(curve[x], curve[y], markevery=_sparse(curve[x], x == "rank"), **styles[r["name"]])
            if x == "rank":
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            else:
                axis.set(xlim=(0, 1), xticks=(0, 0.5, 1))
        row[0].set_ylim(0, 1.05 * max(line.get_ydata().max() for axis in row for line in axis.lines))
        row[0].set_ylabel(f"{WAYS[way]}\n{y_name}")
    for axis in axes[-1]:
        axis.set_xlabel(x_name)
    return _finished(figure, styles)


def _sparse(x: list[float], logarithmic: bool, count: int = 6) -> list[int]:
    """Return about ``count`` points of a curve, evenly spread along the axis, to carry a marker."""
    import numpy as np

    at = np.log(x) if logarithmic else np.asarray(x)
    wanted = np.linspace(at[0], at[-1], count)
    return sorted({int(np.abs(at - w).argmin()) for w in wanted})


def _panels(rows: int, titles: list[str], wide: float = 1.0) -> tuple[Any, list[list[Any]]]:
    from matplotlib.figure import Figure

    size = (min(0.55 + wide * PANEL[0] * max(len(titles), 2), WIDEST), 0.55 + wide * PANEL[1] * rows)
    figure = Figure(size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)
    axes = figure.subplots(rows, len(titles), squeeze=False, sharex="all", sharey="row").tolist()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return figure, axes


def _styles(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return how each line is drawn; after seven colours they come again with another marker and style."""
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)],
               "linestyle": DASHES[(i + i // len(COLOURS)) % len(DASHES)], "markeredgewidth": 0.4,
               "markeredgecolor": "white"}
        for i, name in enumerate(lines(document))
    }  # fmt: skip


def _metric_name(metric: str) -> str:
    return {"map@all": "mAP"}.get(metric, metric.replace("map@", "mAP@").replace("r@", "R@"))


def _finished(figure: Any, styles: dict[str, dict[str, Any]]) -> Any:
    """Put one legend for all panels below them; names are shown as they are, dollar signs included."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style) for style in styles.values()]
    wide, high = figure.get_size_inches()
    across = max(1, min(int(wide / (0.65 + 0.062 * max(map(len, styles)))), len(handles)))
    figure.set_size_inches(wide, high + 0.16 * -(-len(handles) // across))  # the panels keep their size
    legend = figure.legend(handles, [str(i) for i in range(len(handles))], loc="outside lower center", ncols=across,
                           frameon=False, handlelength=3.2)  # fmt: skip
    for text, name in zip(legend.get_texts(), styles, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not for every format again
    return figure

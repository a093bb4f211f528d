"""A heat map of scores: a number and its interval in every cell, the difference to a control as its colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from unreel.report.figures import INK, MUTED, STYLE, Drawing

# It ends in blue and in red-brown, which every kind of colour blindness tells apart, and is light in the middle.
_COLOURS = "RdBu"
_CELL_IN = (1.12, 0.5)
_DARK, _LIGHT = "#14171c", "#ffffff"  # text in a cell, whatever the page's colours
_HATCH = "#b9c0ca"
_CAPTION = "score in %, its 95 % interval, the difference with its interval; hatched: that one includes 0"
_WEIGHTS = ("bold", "normal", "normal")


def _luminance(rgb: Sequence[float]) -> float:
    """Relative luminance (WCAG 2.1) of an sRGB colour in [0, 1]."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_colour(rgb: Sequence[float]) -> str:
    """Dark or white, whichever has more contrast on this background."""
    # Contrast is (L1 + 0.05) / (L2 + 0.05); the two are equal where L + 0.05 = √(1.05 · 0.05) for black.
    return _DARK if _luminance(rgb) > 0.19 else _LIGHT


def _signed(share: float) -> str:
    """Percentage points with a sign, 0 without."""
    return f"{100 * share:+.0f}".replace("-", "−") if abs(100 * share) >= 0.5 else "0"


def heat_map(
    rows: Sequence[str], columns: Sequence[str], scores: ArrayLike, changes: ArrayLike, *, name: str, title: str,
    unit: str, limit: float | None = None,
) -> Drawing:  # fmt: skip
    """Scores of R methods on C questions.

    Args:
        rows, columns: labels; a column's may have several lines.
        scores: (3, R, C), shares in [0, 1] and their interval's ends, shown in percent; NaN leaves a cell empty.
        changes: (3, R, C), paired differences and their interval's ends; they colour the cell. Where the interval
            includes 0 it is hatched in grey instead. NaN (a control): neither.
        name, title: of the drawing. unit: written beside the colour bar.
        limit: difference of the deepest colour, a share; by default the next 10 % above all that are shown.
    Raises: ValueError for arrays of another shape.
    """
    shape = (len(rows), len(columns))
    value, lows, highs = np.asarray(scores, dtype=np.float64).reshape(3, *shape)
    change, least, most = np.asarray(changes, dtype=np.float64).reshape(3, *shape)
    known = np.abs(change[np.isfinite(change)])
    top = limit if limit is not None else max(0.1, float(np.ceil(10 * known.max() - 1e-9)) / 10 if known.size else 0.1)
    scale, colours = Normalize(-100 * top, 100 * top), colormaps[_COLOURS]
    heads = max(label.count("\n") + 1 for label in columns)
    with rc_context({**STYLE, "axes.grid": False, "hatch.linewidth": 0.7}):
        figure = Figure(
            figsize=(1.2 + _CELL_IN[0] * shape[1] + 0.9, 0.55 + 0.17 * heads + _CELL_IN[1] * shape[0]),
            layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03),
        )
        axes = figure.add_subplot()
        for i, j in np.argwhere(np.isfinite(value)):
            decided = np.isfinite(change[i, j]) and (least[i, j] > 0 or most[i, j] < 0)
            open_ = np.isfinite(change[i, j]) and not decided
            fill = colours(scale(100 * change[i, j])) if decided else (1.0, 1.0, 1.0, 1.0)
            box = {"linewidth": 0.6, "edgecolor": _HATCH, "hatch": "////" if open_ else None}
            axes.add_patch(Rectangle((j - 0.48, i - 0.47), 0.96, 0.94, facecolor=fill, **box))
            # On the hatching, text stands on white.
            behind = {"facecolor": _LIGHT, "edgecolor": "none", "pad": 0.6} if open_ else None
            lines = [f"{100 * value[i, j]:.1f}", f"{100 * lows[i, j]:.0f} – {100 * highs[i, j]:.0f}"]
            if np.isfinite(change[i, j]):
                lines.append(f"{_signed(change[i, j])} [{_signed(least[i, j])}, {_signed(most[i, j])}]")
            for line, drop, size, weight in zip(lines, (-0.2, 0.06, 0.3), (9.5, 7, 7), _WEIGHTS, strict=False):
                look = {"color": text_colour(fill), "fontsize": size, "fontweight": weight, "bbox": behind}
                axes.text(j, i + drop, line, ha="center", va="center", **look)
        axes.set_xlim(-0.5, shape[1] - 0.5)
        axes.set_ylim(shape[0] - 0.5, -0.5)
        axes.set_xticks(range(shape[1]), columns, color=INK)
        axes.set_yticks(range(shape[0]), rows, color=INK)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, fraction=0.03, pad=0.015, aspect=28)
        bar.set_label(unit, color=MUTED)
        bar.outline.set_visible(False)
        figure.supxlabel(_CAPTION, fontsize=8, color=MUTED)
    told = [
        f"{rows[i]}, {columns[j].replace(chr(10), ' ')}: {100 * value[i, j]:.1f}"
        for i, j in np.argwhere(np.isfinite(value))
    ]
    return Drawing(name, title, "; ".join(told), figure)


# The page's light colours (report.css): a file has no page around it.
_FILE_COLOURS = {"--ink": "#1b1f27", "--muted": "#626b7a", "--line": "#e1e5eb", "--paper": "#ffffff"}


def standalone_svg(drawing: Drawing) -> str:
    """A drawing as the text of an .svg file: with size, white paper and the light colours of the page."""
    svg = drawing.svg()
    for variable, colour in _FILE_COLOURS.items():
        svg = svg.replace(f"var({variable})", colour)
    width, height = (72 * side for side in drawing.figure.get_size_inches())
    opening = svg[: svg.index(">") + 1]
    head = opening.replace("<svg ", f'<svg width="{width:.0f}" height="{height:.0f}" ', 1)
    style = "<style>text { font-family: system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }</style>"
    paper = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{style}{paper}{svg[len(opening) :]}\n'

"""Figures as inline SVG: crisp text, small, equal bytes for equal data, no colour that must be told apart.

Every figure is drawn with matplotlib's ``Figure`` class alone; there is no global figure or style.
"""

from __future__ import annotations

import io
import re
import threading
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

INK, PALE, GRID = "#1f2328", "#6a7078", "#d8dbdf"
#: Okabe and Ito 2008. Blue and vermillion differ in hue and in lightness for every kind of colour vision.
BLUE, ORANGE, AMBER, GREEN = "#0072B2", "#D55E00", "#E69F00", "#009E73"


class Marks(NamedTuple):
    """How a thing is drawn: never by colour alone."""

    color: str
    line: Any
    marker: str


LABEL_MARKS = MappingProxyType(
    {
        "negative": Marks(BLUE, "-", "o"),
        "positive": Marks(ORANGE, (0, (5, 2)), "^"),
        "gap": Marks(PALE, ":", "x"),
    }
)

#: The page's own font takes over; this one only measures while drawing and comes with matplotlib.
STYLE = MappingProxyType(
    {
        "font.family": ["DejaVu Sans"],
        "font.size": 9.0,
        "svg.fonttype": "none",
        "svg.hashsalt": "fedkalemia",
        "axes.unicode_minus": True,
        "path.simplify": True,
        "axes.formatter.use_mathtext": False,
    }
)
_LOCK = threading.Lock()
#: SVG units of matplotlib (points) per pixel of the page.
POINTS, PIXELS_PER_INCH = 0.75, 96


@dataclass(frozen=True)
class Figure:
    """A figure ready for the page.

    Attributes
    ----------
    svg : markup with a title and a description inside.
    caption : what is seen, from how many patients, how to read it.
    number : shown in front of the caption.
    """

    svg: Markup
    caption: str
    number: int


def figure(width: float, height: float) -> Canvas:
    """Return an empty figure, inches; 9 inches fill the page."""
    return Canvas(figsize=(width, height))


def tidy(axes: Axes, x: str = "", y: str = "", title: str = "", grid: str = "y") -> None:
    """Give axes the house look: two thin lines, quiet grid, title flush left."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(PALE)
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(colors=INK, length=3, width=0.8, labelsize=8.5)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.6)  # type: ignore[arg-type,unused-ignore]
        axes.set_axisbelow(True)
    axes.set_xlabel(x, color=INK, fontsize=9)
    axes.set_ylabel(y, color=INK, fontsize=9)
    if title:
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=8)


def inline_svg(canvas: Canvas, name: str, title: str, description: str) -> Markup:
    """Draw a figure as SVG that can stand inside a page.

    Parameters
    ----------
    canvas : the figure.
    name : unique on the page; prefixes every id, so that two figures never share one.
    title : short name, read out by a screen reader.
    description : what a person who does not see the figure should know.
    """
    out = io.StringIO()
    # Style keys are global in matplotlib and are read while drawing; the lock keeps threads apart.
    with _LOCK, mpl.rc_context(dict(STYLE)):
        canvas.savefig(out, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    width, height = (PIXELS_PER_INCH * float(inches) for inches in canvas.get_size_inches())
    body = out.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', body)
    body = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{name}-\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    # Groups matplotlib numbers and nobody refers to only cost bytes.
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    head = (
        f'<svg class="drawing" role="img" aria-labelledby="{name}-title {name}-text" '
        f'width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width * POINTS:g} {height * POINTS:g}" xmlns="http://www.w3.org/2000/svg">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-text">{escape(description)}</desc>'
    )
    return Markup(head + body[body.index(">") + 1 :])

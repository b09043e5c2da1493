"""What every HTML page of this project shares: template, style, numbers, tables and figures.

A page is one file: style and figures are inside, nothing is loaded and no script runs, so it opens from an
e-mail attachment, from a share or in ten years. ``base.html`` tells the browser to refuse anything else.
"""

from common.page.figure import Figure, Marks, figure, inline_svg
from common.page.render import TABLES_SCRIPT, Key, Note, Script, Table, inline_script, render
from common.page.words import BASELINES, FIGURES, METHODS, FigureWords, MethodWords, headline

__all__ = [
    "BASELINES",
    "FIGURES",
    "METHODS",
    "TABLES_SCRIPT",
    "Figure",
    "FigureWords",
    "Key",
    "Marks",
    "MethodWords",
    "Note",
    "Script",
    "Table",
    "figure",
    "headline",
    "inline_script",
    "inline_svg",
    "render",
]

"""From content to one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.page import numbers

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """A table: its caption says what the numbers are and from how many patients.

    Attributes
    ----------
    caption : one or two sentences.
    head : column titles; the first column titles the rows.
    rows : cells as text; the first of a row is its title.
    text : indices of columns that hold words and are set flush left; all others are numbers.
    marked : indices of rows a reader should not miss. They also carry a sign, not only a colour.
    strong : indices of rows that head those below them, such as the steps of a way.
    note : a line below.
    empty : shown in place of a table without rows.
    form : ``narrow``: as wide as its cells need; ``dense``: many columns, small letters; else page-wide.
        With ``dated`` too, the titles of rows are moments and stay on one line.
    links : where the title of each row leads; empty for none.
    sortable : a reader with scripts may sort and search the rows; see ``tables.js``.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()
    marked: Sequence[int] = ()
    note: str = ""
    empty: str = ""
    form: str = ""
    strong: Sequence[int] = ()
    links: Sequence[str] = ()
    sortable: bool = False


@dataclass(frozen=True)
class Key:
    """A number of the first screen: what it is, the number, and the sample it comes from."""

    title: str
    value: str
    below: str
    main: bool = False


@dataclass(frozen=True)
class Note:
    """Something a reader must know before believing the numbers."""

    title: str
    text: str


@dataclass(frozen=True)
class Script:
    """A script inside a page, and the digest by which the page allows it and no other."""

    text: Markup
    sha256: str


def inline_script(path: Path) -> Script:
    """Read a script for a page; it is the only one the page will run."""
    text = path.read_text(encoding="utf-8")
    return Script(Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


#: Sorting and searching of tables that are marked as sortable.
TABLES_SCRIPT = HERE / "tables.js"


def render(template: Path, content: Mapping[str, Any]) -> str:
    """Fill a template that extends ``base.html``.

    Parameters
    ----------
    template : file; its folder and this one are searched.
    content : names the template uses; a missing one is an error.

    Returns
    -------
    HTML with the style inside.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = numbers.count
    environment.filters["short"] = numbers.short_digest
    style = (HERE / "style.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(style=Markup(style), **content)

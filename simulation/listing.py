"""Every setting with its value and meaning, as text."""

from __future__ import annotations

from collections.abc import Iterator

from common.config import Section, Settings


def settings_table(settings: Settings) -> str:
    """Return aligned lines ``section.key  value  meaning``."""
    rows = list(_rows(settings, ""))
    names, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:<{names}}  {value:<{values}}  {text}" for name, value, text in rows)


def settings_rows(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (name, value, meaning) of every setting, in the order of the code."""
    return list(_rows(settings, ""))


def _rows(section: Section, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value), info.description or ""

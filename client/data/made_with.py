"""Which settings a site's strips were made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from client.database.tables import Draw, Run, Strip
from client.site import Site
from common.errors import ConfigurationError

# Settings that decide what a strip is. Strips made with different ones must not share a database.
DECISIVE: Final = ("task", "signal", "strip", "quality", "label")


def check_made_with(session: Session, site: Site) -> None:
    """Refuse settings that are not those the stored strips were made with.

    A site's settings can be edited at any time; its strips stay what they were.

    Raises
    ------
    ConfigurationError
        If a decisive setting differs from the one the stored patients were ingested with.
    """
    run_id = session.scalar(select(func.max(Strip.run_id))) or session.scalar(select(func.max(Draw.run_id)))
    if run_id is None:
        return
    run = session.get_one(Run, run_id)
    now = {**site.settings.model_dump(mode="json", include=set(DECISIVE)), **source_form(site)}
    # A run from before the key existed was made without an offset.
    before = {"lab_clock_ahead_min": 0, **run.settings, **run.details.get("source", {})}
    changed = sorted(_differences(before, now))
    if changed:
        raise ConfigurationError(
            f"the database of {site.name} was filled with other settings ({'; '.join(changed)}): strips made "
            "in two ways cannot be mixed; set them back in site.toml, or make a fresh site folder with "
            "'fedkalemia-site init' and ingest there"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in now.items():
        if name not in before:
            continue
        old = before[name]
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from _differences(old, value, f"{prefix}{name}.")
        elif old != value:
            yield f"{prefix}{name} was {old!r} and is now {value!r}"


def source_form(site: Site) -> dict[str, Any]:
    """Return what of the source decides the strips."""
    return {
        "source_kind": site.source.kind,
        "detect": site.source.detect,
        "lab_clock_ahead_min": site.source.lab_clock_ahead_min,
    }

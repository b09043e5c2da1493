"""The part of the site's check-up that looks at patients' data: layout, rights, patients half forgotten."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.data.forgetting import PERSONAL_FILE
from client.data.sources import SYNTHETIC_ONLY, TASK_OF_KIND
from client.data.sources.guess import PARTS, Guess, guesses
from client.database.forgotten import unfinished
from client.site import Site
from common.doctor import Check
from common.wording import plural

#: Files that hold patients' data and that this software makes for their owner only.
DATABASE_ENDINGS = ("", "-wal", "-shm", "-journal")


def layout(site: Site) -> Check:
    """Compare what the data root looks like with what ``site.toml`` says, from a short look."""
    source, root = site.source, site.data_root
    found = guesses(root)
    fitting = next((guess for guess in found if guess.fits(source, root)), None)
    if fitting is not None:
        text = f"the data root looks like {source.kind} ({', '.join(fitting.evidence)}), as site.toml says"
        if source.kind in SYNTHETIC_ONLY:
            text += "; the reader of this layout was tested on synthetic files only"
        return Check("layout", "ok", text)
    says = f"site.toml says {source.kind}"
    if PARTS[source.kind]:
        says += f", clinical {source.clinical!r}, waveforms {source.waveforms!r}"
    if not found:
        advice = "correct source.folder in site.toml; 'fedkalemia-site check-data' says what a folder holds"
        return Check("layout", "warning", f"the data root looks like none of the layouts; {says}", advice)
    best = next((guess for guess in found if guess.kind == source.kind), found[0])
    if best.missing and best.kind == source.kind:
        lacking = " and ".join(f"source.{part}" for part in best.missing)
        return Check(
            "layout",
            "warning",
            f"the data root {best.sentence()}; {says}",
            f"put what is missing there, or correct {lacking} in site.toml",
        )
    return Check("layout", "warning", f"the data root {best.sentence()}; {says}", _to_set(site, best))


def _to_set(site: Site, guess: Guess) -> str:
    """Name the lines of ``site.toml`` that differ from a guess."""
    now = {
        "kind": site.source.kind,
        "folder": str(site.data_root),
        "clinical": site.source.clinical,
        "waveforms": site.source.waveforms,
    }
    wanted = {name: value for name, value in guess.settings().items() if now[name] != value}
    lines = ", ".join(f"{name} = {json.dumps(value)}" for name, value in wanted.items())
    advice = f"if so, set in section [source] of site.toml: {lines}"
    if guess.kind is not None and TASK_OF_KIND[guess.kind] != site.settings.task:
        advice += f"; and in section [settings]: task = {json.dumps(TASK_OF_KIND[guess.kind])}"
    return advice


def private_files(site: Site) -> Check:
    """Check that files with patients' data are for their owner only."""
    paths = [path for path in _with_patients(site) if _open_to_others(path)]
    if not paths:
        return Check("private files", "ok", "database, beats, personal models and review sheets: owner only")
    more = f" and {plural(len(paths) - 1, 'more file')}" if len(paths) > 1 else ""
    places = sorted({_place(site, path) for path in paths})
    return Check(
        "private files",
        "warning",
        f"others on this machine may read {paths[0]}{more}",
        f"run: chmod -R go= {' '.join(map(str, places))}",
    )


def half_forgotten(session: Session) -> Iterator[Check]:
    """Warn of patients whose rows are gone while files may be left."""
    if unfinished(session) is not None:
        yield Check(
            "forgotten",
            "warning",
            "forgetting a patient was interrupted: beats, models or pages may be left",
            "run the same 'fedkalemia-site forget' again",
        )


def _with_patients(site: Site) -> Iterator[Path]:
    database = _sqlite_file(site)
    if database is not None:
        yield from (database.with_name(database.name + ending) for ending in DATABASE_ENDINGS)
    yield BeatStore(site.beats).path
    if site.models.is_dir():
        yield from sorted(path for path in site.models.rglob("*") if PERSONAL_FILE.fullmatch(path.name))
    if (sheets := site.folder / "review").is_dir():
        yield from sorted(sheets.iterdir())
    yield site.folder / "pseudonyms.key"
    # The page of inclusion holds counts alone and may be read by all.
    yield from sorted(path for path in site.report.parent.rglob("*") if path.name != "inclusion.html")


def _sqlite_file(site: Site) -> Path | None:
    try:
        url = make_url(site.database_url)
    except ArgumentError:
        return None
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" and url.database else None


def _place(site: Site, path: Path) -> Path:
    """Return what the advice names: a database by itself, all else by its folder in the site folder."""
    database = _sqlite_file(site)
    if database is not None and path.parent == database.parent and path.name.startswith(database.name):
        return path
    return site.folder / path.relative_to(site.folder).parts[0]


def _open_to_others(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o077)

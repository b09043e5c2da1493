"""The whole journey on one machine: hospital files, federation, personal models, reports.

Every stage works on folders and databases that a hospital would have, through the code a hospital would
run, and goes on where it stopped. Only this module and the cross-run summary may see all sites at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.site import DATABASE_VARIABLE, Site, load_site, write_site_file
from common.config import Settings
from common.errors import CohortError, ConfigurationError, FederationError, StorageError
from common.files import read_json, write_json
from common.logs import say
from common.workers import current_workers, shared_workers
from simulation.folds import Fold

if TYPE_CHECKING:  # ingest workers load this module, and must not load torch with it
    from simulation.summary import RunSummary

FORMAT = 1
SITES_PER_WORKER = 2  # whose messages are answered at the same time, where there are several workers


@dataclass(frozen=True)
class SiteSpec:
    """A site of the simulation: its name, where its files are, and which patients each fold uses.

    ``folds`` maps a fold's name to (train keys, test keys); None lets the cohort rule decide.
    """

    name: str
    source: dict[str, Any]
    folds: dict[str, tuple[tuple[str, ...], tuple[str, ...]] | None]


@dataclass(frozen=True)
class Journey:
    """What to run.

    Attributes
    ----------
    out : folder of the run; must be empty, or hold the same run.
    settings : settings of every site and of the server.
    overrides : what was laid over the preset, for the sites' own files.
    sites : the sites.
    folds : names of the federations to run, one after the other.
    prepare : writes the hospitals' files, where the simulation makes them.
    workers : processes for all stages together, and twice as many sites at once; never changes a result.
    notes : sentences about the data that belong on the reports.
    """

    out: Path
    settings: Settings
    overrides: dict[str, Any]
    sites: Sequence[SiteSpec]
    folds: Sequence[str] = ("main",)
    prepare: Callable[[], None] | None = None
    workers: int = 2
    notes: Sequence[str] = ()


@dataclass
class _Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


def run_journey(journey: Journey) -> RunSummary:
    """Run everything that is not done yet, and write ``summary.json`` and the pages.

    Raises
    ------
    ConfigurationError
        If the folder holds a run with other settings or sites.
    StorageError
        If the folder holds something else, or cannot be written.
    CohortError
        If the cohort of a site is empty or has one label only. Nothing is trained then: a run without the
        site would not be the one asked for.
    """
    # Every site of a simulation has its own SQLite file; a variable meant for a real site must not reach it.
    os.environ.pop(DATABASE_VARIABLE, None)
    clock = _Clock()
    _claim(journey)
    with shared_workers(journey.workers):
        return _go_through(journey, clock)


def _go_through(journey: Journey, clock: _Clock) -> RunSummary:
    if journey.prepare is not None:
        with clock.stage("hospital_files"):
            journey.prepare()
    folders = [_make_site(journey, spec) for spec in journey.sites]
    with clock.stage("ingest"):
        for folder in folders:
            _ingest_site(folder, journey.workers)
    with clock.stage("cohort"):
        _freeze_all([load_site(folder, {}) for folder in folders], journey.sites)
    for name in journey.folds:
        # Federation and personalization are one run of the two Flower apps.
        with clock.stage("federation_and_personalization"):
            _federate(journey, name, folders)
    with clock.stage("reports"):
        pages = _write_pages(journey, folders)
    return _summarize(journey, folders, pages, clock)


def fold_specs(name: str, source: dict[str, Any], folds: Sequence[Fold], keys: Sequence[str]) -> SiteSpec:
    """Return the spec of a site that holds some patients of given folds."""
    mine = set(keys)
    return SiteSpec(
        name=name,
        source=source,
        folds={
            fold.name: (
                tuple(key for key in fold.train if key in mine),
                tuple(key for key in fold.test if key in mine),
            )
            for fold in folds
        },
    )


def _claim(journey: Journey) -> None:
    """Make the run folder ours, or find that it is."""
    path = journey.out / "run.json"
    identity = {
        "format": FORMAT,
        "settings_sha256": journey.settings.digest(),
        "folds": list(journey.folds),
        "sites": [
            {"name": spec.name, "source": spec.source, "folds": _plain(spec.folds)} for spec in journey.sites
        ],
    }
    if path.is_file():
        if read_json(path) != identity:
            raise ConfigurationError(
                f"{journey.out} holds a run with other settings or sites; choose another --out, or remove it"
            )
        say(f"going on with the run in {journey.out}")
    elif journey.out.is_dir() and any(not entry.name.startswith(".") for entry in journey.out.iterdir()):
        raise StorageError(f"{journey.out} is not empty and holds no run; choose another --out")
    else:
        write_json(path, identity)
    write_json(journey.out / "settings.json", journey.settings.model_dump(mode="json"))


def _plain(folds: dict[str, Any]) -> dict[str, Any]:
    return {name: None if sides is None else [list(side) for side in sides] for name, sides in folds.items()}


def _make_site(journey: Journey, spec: SiteSpec) -> Path:
    folder = journey.out / "sites" / spec.name
    settings = {"task": journey.settings.task, "preset": journey.settings.preset, **journey.overrides}
    write_site_file(folder, name=spec.name, source=spec.source, settings=settings)
    return folder


def _ingest_site(folder: Path, workers: int) -> None:
    from client.data.ingest import ingest
    from client.database.session import create_database, sessions

    site = load_site(folder, {})
    engine = create_database(site.database_url)
    try:
        ingest(site, sessions(engine), workers=workers)
    finally:
        engine.dispose()


def _freeze_all(sites: Sequence[Site], specs: Sequence[SiteSpec]) -> None:
    """Freeze every site's cohorts, so that one sentence names all sites that have none."""
    failures = []
    for site, spec in zip(sites, specs, strict=True):
        try:
            _freeze(site, spec)
        except CohortError as error:
            failures.append(str(error))
    if failures:
        raise CohortError(
            f"nothing was trained, because {len(failures)} of {len(sites)} sites cannot take part: "
            f"{'; '.join(failures)}; choose another --out with fewer --sites, other records or other settings"
        )


def _freeze(site: Site, spec: SiteSpec) -> None:
    from client.data.cohort import freeze_cohort
    from client.database.session import open_database, sessions

    engine = open_database(site.database_url)
    try:
        for name, sides in spec.folds.items():
            train, test = sides if sides is not None else (None, None)
            freeze_cohort(site, sessions(engine), name=name, train_keys=train, test_keys=test)
    finally:
        engine.dispose()


def _federate(journey: Journey, name: str, folders: Sequence[Path]) -> None:
    from client.app import app as client_app
    from server.app import app as server_app
    from simulation.grid import run_in_process

    run_config: dict[str, str | int | float | bool] = {
        "task": journey.settings.task,
        "preset": journey.settings.preset,
        "seed": journey.settings.seed,
        "name": name,
        "out": str(journey.out / "server" / name),
        "settings": str(journey.out / "settings.json"),
        "set": "",
        "personalize": True,
    }
    nodes = [{"site-folder": str(folder)} for folder in folders]
    # More than there are cores, so that the last of three sites does not work alone.
    at_once = SITES_PER_WORKER * journey.workers if journey.workers > 1 else 1
    run_in_process(server_app, client_app, nodes, run_config, workers=at_once)
    _check_all_personalized(journey, name)


def _check_all_personalized(journey: Journey, name: str) -> None:
    """Stop with a sentence that names the site whose personalization failed."""
    from common.protocol import sentence  # here, because ingest workers load this module without Flower

    story = read_json(journey.out / "server" / name / "server.json")
    for site, code in sorted(story["personalize_failures"].items()):
        raise FederationError(
            f"{site} did not personalize: {sentence(code)}. See {journey.out / 'sites' / site / 'site.log'}, "
            "then run the same command again; it goes on from there"
        )


def _write_pages(journey: Journey, folders: Sequence[Path]) -> dict[str, Path]:
    from server.summary import write_summary

    names = tuple(journey.folds)
    pages = dict(_write_report(folder, names) for folder in folders)
    pages["summary"] = journey.out / "summary.html"
    write_summary([journey.out / "server" / name for name in journey.folds], pages["summary"])
    return pages


def _write_report(folder: Path, names: tuple[str, ...]) -> tuple[str, Path]:
    """Write the report of one site, its patients' pages in the workers; return its name and the page."""
    from client.database.session import open_database, sessions
    from client.report.build import build_report

    site = load_site(folder, {})
    engine = open_database(site.database_url)
    try:
        return site.name, build_report(site, sessions(engine), names, workers=current_workers())
    finally:
        engine.dispose()


def _summarize(
    journey: Journey, folders: Sequence[Path], pages: dict[str, Path], clock: _Clock
) -> RunSummary:
    from simulation.summary import summarize

    summary = summarize(
        [load_site(folder, {}) for folder in folders],
        journey.settings,
        folds=journey.folds,
        servers={name: journey.out / "server" / name for name in journey.folds},
        pages={name: str(page.resolve().relative_to(journey.out.resolve())) for name, page in pages.items()},
        seconds={name: round(seconds, 2) for name, seconds in clock.seconds.items()},
        peak_memory_mb=peak_memory_mb(),
        notes=journey.notes,
    )
    write_json(journey.out / "summary.json", summary.model_dump(mode="json"))
    return summary


def peak_memory_mb() -> float:
    """Largest resident memory of this process and of any one of its workers, in MB."""
    usages = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(max(usages) / 1024, 1)

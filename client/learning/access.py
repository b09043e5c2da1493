"""What the answers to a server's messages share: checks of the request, the database, the frozen cohort."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from client.data.made_with import check_made_with
from client.database.runs import latest_run
from client.database.session import open_database, sessions
from client.database.tables import CohortMember, Run
from client.learning.dataset import StripRef, cohort_strips, labelled
from client.site import Site
from common.config import Settings, TrainingSettings
from common.errors import CohortError, PreprocessingError
from common.protocol import RunPlan

#: Cohorts whose strips a process keeps: two per site of a small federation in one process.
CACHED_COHORTS = 32
_cohorts: dict[tuple[Path, int, datetime, int | None, str], tuple[StripRef, ...]] = {}


@contextmanager
def opened(site: Site) -> Iterator[sessionmaker[Session]]:
    """Open a site's database for one piece of work."""
    engine = open_database(site.database_url)
    try:
        yield sessions(engine)
    finally:
        engine.dispose()


def check_preprocessing(site: Site, plan: RunPlan) -> None:
    """Refuse a run whose beats and results are made with other settings than this site's.

    Raises
    ------
    PreprocessingError
    """
    own = site.settings.preprocessing_digest()
    if plan.preprocessing != own:
        raise PreprocessingError(
            f"run {plan.name!r} was set up with other settings for task, signal, strip, quality, label, "
            f"cohort or personalization than site {site.name} (digest {plan.preprocessing[:12]} against "
            f"{own[:12]}); give both the same task, preset and settings, then ingest and freeze the cohort "
            "again"
        )


def cohort_run(session: Session, site: Site, name: str) -> Run:
    """Return the run that froze the cohort of this name.

    Raises
    ------
    CohortError
        If there is none.
    ConfigurationError
        If the strips were made with other settings than the site has now.
    """
    check_made_with(session, site)
    run = latest_run(session, "cohort", name)
    if run is None:
        raise CohortError(
            f"site {site.name} has no frozen cohort {name!r}; run 'fedkalemia-site cohort {site.folder}' "
            "first"
        )
    return run


def generic_strips(site: Site, session: Session, run: Run, split: str) -> tuple[StripRef, ...]:
    """Return the labelled strips of the generic patients of one split.

    A frozen cohort changes only where a patient of it is forgotten, so they are read once and kept between
    federated rounds.
    """
    members = select(func.count()).select_from(CohortMember).where(CohortMember.run_id == run.id)
    # The time tells a site folder that was made anew in the same place from the one before.
    cohort = (site.folder, run.id, run.started_at, session.scalar(members), split)
    if cohort not in _cohorts:
        while len(_cohorts) >= CACHED_COHORTS:
            _cohorts.pop(next(iter(_cohorts)), None)
        strips = labelled(cohort_strips(session, run.id, roles=["generic"], splits=[split]))
        _cohorts[cohort] = tuple(strips)
    return _cohorts[cohort]


def run_settings(site: Site, plan: RunPlan, training: TrainingSettings | None = None) -> Settings:
    """Return the settings a run of this plan really uses: the site's own, with what the server decides."""
    decided = {"seed": plan.seed, "model": plan.model}
    return site.settings.model_copy(update=decided | ({"training": training} if training else {}))

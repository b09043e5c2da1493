"""What sites send of inclusion and Table 1 adds up to what one site with all the patients would have."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update

from client.data.cohort import freeze_cohort
from client.database.cohort_queries import people
from client.database.runs import latest_run
from client.database.session import open_database, sessions
from client.database.tables import Draw, Patient, Strip
from client.learning.differencing import Sizes
from client.learning.release import Release
from client.learning.release_cohort import release_flow, release_steps, release_table_one
from common import protocol
from server.summary_cohort import Answers

SUPPORT = Path(__file__).parents[1] / "support" / "sites.py"
SIZES = {"north": (9, 3), "south": (6, 2), "west": (7, 1)}


def support() -> ModuleType:
    """Load the module that makes small sites."""
    spec = importlib.util.spec_from_file_location("fedkalemia_tiny_sites", SUPPORT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def varied(folder: Path, name: str, generic: int, personal: int) -> Any:
    """Make a site whose patients differ, some with values that are not known; return its session factory."""
    site = support().make_tiny_site(folder / name, name, generic=generic, personal=personal, cohort=False)
    factory = sessions(open_database(site.database_url))
    rng = np.random.default_rng(len(name))
    with factory.begin() as session:
        for patient in session.scalars(select(Patient).order_by(Patient.id)):
            patient.sex = [None, "F", "M"][rng.integers(3)]
            patient.age = float(rng.normal(65, 10)) if rng.random() < 0.7 else None
            patient.weight_kg = float(rng.normal(80, 10))
            patient.ethnicity = [None, "White", "Asian", "Maori"][rng.integers(4)]
        for strip in session.scalars(select(Strip).order_by(Strip.id)):
            strip.heart_rate_bpm, strip.value = (
                float(rng.normal(80, 9)),
                strip.value + float(rng.normal(0, 0.1)),
            )
            strip.beats_rejected = {"unlike": int(rng.integers(5))}
            if rng.random() < 0.1:
                strip.exclusion, strip.n_beats = "flat_line", 0
        session.execute(update(Draw).where(Draw.id % 5 == 0).values(hemolysis="suspected"))
    freeze_cohort(site, factory)
    return factory


def sent(factory: Any, min_cell: int) -> dict[str, Any]:
    """Return what a site sends, after the gate's own check."""
    with factory() as session:
        run = latest_run(session, "cohort", "main")
        assert run is not None
        release, sizes = Release(min_cell), Sizes(min_cell)
        release_flow(release, session)
        release_table_one(release, session, run, sizes)
        release_steps(release, session, sizes)
    flat = dict(release.flat())
    protocol.check(protocol.reply(flat), protocol.PERSONALIZE, "reply")
    return flat


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the databases of three sites."""
    folder = tmp_path_factory.mktemp("sites")
    return {name: varied(folder, name, *size) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def everybody(factories: dict[str, Any]) -> list[Any]:
    """Return every patient of every cohort, which no server ever sees."""
    found = []
    for factory in factories.values():
        with factory() as session:
            run = latest_run(session, "cohort", "main")
            assert run is not None
            found += people(session, run.id)
    return found


@pytest.mark.parametrize("role", ["generic", "personal"])
def test_without_suppression_table_one_over_sites_is_that_of_all_patients(
    factories: dict[str, Any], everybody: list[Any], role: str
) -> None:
    answers = Answers({name: sent(factory, 1) for name, factory in factories.items()})
    own = [one for one in everybody if one.role == role]
    prefix = f"table-one.{role}"
    assert answers.sum(f"{prefix}.patients").value == len(own)
    for sex, name in (("F", "female"), ("M", "male"), (None, "unknown")):
        assert answers.sum(f"{prefix}.sex.{name}").value == sum(one.sex == sex for one in own)
    for origin, name in (("White", "white"), ("Maori", "other"), (None, "unknown")):
        assert answers.sum(f"{prefix}.ethnicity.{name}").value == sum(one.ethnicity == origin for one in own)
    figures = {
        "age": [one.age for one in own],
        "weight": [one.weight_kg for one in own],
        "heart-rate": [one.heart_rate_bpm for one in own],
        "potassium-positive": [one.potassium["positive"] for one in own if "positive" in one.potassium],
    }
    for name, values in figures.items():
        known = [value for value in values if value is not None]
        moments, missing, _ = answers.moments(f"{prefix}.{name}")
        assert (moments.n, missing) == (len(known), len(values) - len(known))
        assert moments.mean == pytest.approx(np.mean(known))
        assert moments.sd == pytest.approx(np.std(known, ddof=1))


def test_without_suppression_the_flow_over_sites_is_that_of_all_rows(factories: dict[str, Any]) -> None:
    answers = Answers({name: sent(factory, 1) for name, factory in factories.items()})
    rows = {"flow.accepted": 0, "flow.flat_line": 0, "flow.suspected-kept": 0, "flow.beats.accepted": 0}
    patients = 0
    for factory in factories.values():
        with factory() as session:
            inside = select(func.count(Strip.id)).where(Strip.exclusion.is_(None))
            rows["flow.accepted"] += session.scalar(inside)
            rows["flow.flat_line"] += session.scalar(
                select(func.count(Strip.id)).where(Strip.exclusion == "flat_line")
            )
            rows["flow.suspected-kept"] += session.scalar(
                select(func.count(Draw.id)).where(Draw.hemolysis == "suspected")
            )
            rows["flow.beats.accepted"] += session.scalar(
                select(func.sum(Strip.n_beats)).where(Strip.exclusion.is_(None))
            )
            patients += session.scalar(select(func.count(Patient.id)))
    assert {key: answers.sum(key).value for key in rows} == rows
    assert rows["flow.flat_line"] > 0
    assert answers.sum("flow.patients.files").value == patients == sum(map(sum, SIZES.values()))
    total = sum(
        answers.sum(f"flow.by-label.accepted.{label}").value for label in ("positive", "negative", "gap")
    )
    assert total == rows["flow.accepted"]


def test_with_suppression_what_is_told_is_the_same_and_the_rest_is_silent(factories: dict[str, Any]) -> None:
    for factory in factories.values():
        everything, told = sent(factory, 1), sent(factory, 5)
        assert {key for key in told if key != "suppressed"} < set(everything)
        assert all(told[key] == everything[key] for key in told if key != "suppressed")
        assert not any(key.startswith("table-one.personal") for key in told)
        assert told["suppressed"] > 0


def test_a_site_of_one_patient_adds_nothing_to_the_sums(factories: dict[str, Any], tmp_path: Path) -> None:
    alone = varied(tmp_path, "alone", 1, 0)
    answers = {name: sent(factory, 5) for name, factory in factories.items()}
    before, after = Answers(answers), Answers({**answers, "alone": sent(alone, 5)})
    keys = {key for flat in after.flats.values() for key in flat if key.startswith(("flow.", "table-one."))}
    for key in keys:
        assert after.sum(key).value == before.sum(key).value

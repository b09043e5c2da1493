"""A forgotten patient is gone from every file of a site, stays gone, and nobody else's data change."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from client.data import forgetting
from client.data.beatstore import ROW_BYTES, BeatStore
from client.data.cohort import freeze_cohort
from client.data.forgetting import forget, need_known
from client.data.ingest import ingest
from client.database.forgotten import forgotten_filter, unfinished
from client.database.runs import start_run
from client.database.session import create_database, open_database, sessions
from client.database.tables import Base, CohortMember, FederatedRound, Model, Patient, Run, Strip
from client.learning.patients import personalize_site
from client.learning.rounds import federated_round
from client.report.build import build_report
from client.site import Site, load_site
from common.errors import CohortError, StorageError
from common.model import build_model
from common.protocol import RoundPlan, RunPlan
from common.seeding import torch_stream
from common.weights import Weights, pack, schema_of

PERSONAL = "alpha-006"
KILLS = 10


@dataclass(frozen=True)
class Forgettable:
    """A site that has trained, personalized and reported, and its open database."""

    site: Site
    engine: Engine

    def session(self) -> Session:
        return sessions(self.engine)()

    def patient(self, key: str) -> int:
        with self.session() as session:
            return session.scalars(select(Patient.id).where(Patient.source_key == key)).one()

    def strips(self, key: str | None = None) -> list[tuple[int, int]]:
        """First row and number of rows of the strips of one patient, or of all."""
        query = select(Strip.beat_offset, Strip.n_beats).join(Patient).order_by(Strip.id)
        with self.session() as session:
            return list(session.execute(query if key is None else query.where(Patient.source_key == key)))

    def beats(self) -> np.ndarray[Any, Any]:
        path = BeatStore(self.site.beats).path
        return np.fromfile(path, dtype="<f4").reshape(-1, ROW_BYTES // 4)

    def files(self) -> list[str]:
        found = (path for path in self.site.folder.rglob("*") if path.is_file())
        names = (path.relative_to(self.site.folder).as_posix() for path in found)
        return sorted(name for name in names if not name.endswith(("-wal", "-shm")))

    def content(self) -> dict[str, Any]:
        """Everything that is kept, but for times."""
        rows: dict[str, Any] = {}
        with self.session() as session:
            for name, table in Base.metadata.tables.items():
                columns = [column for column in table.columns if column.name != "forgotten_at"]
                rows[name] = [tuple(row) for row in session.execute(select(*columns).order_by(table.c.id))]
        return {"rows": rows, "files": self.files(), "beats": self.beats().tobytes()}


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, tiny_site_factory: Callable[..., Site]
) -> Iterator[Path]:
    """Make one site that went the whole way: two federated rounds, personalization, report, a sheet."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("template") / "alpha"
    site = tiny_site_factory(folder, "alpha")
    weights, plan = start(site)
    for round_ in (1, 2):
        reply = federated_round(site, weights, training(site, plan, round_))
        weights = reply.weights or weights
    personalize_site(site, weights, plan)
    engine = open_database(site.database_url)
    build_report(site, sessions(engine))
    engine.dispose()
    (folder / "review").mkdir()
    (folder / "review" / "review.html").write_text("a sheet")
    yield folder
    torch.set_num_threads(before)


def start(site: Site) -> tuple[Weights, RunPlan]:
    network = build_model(site.settings.model, torch_stream("forgetting"))
    schema = schema_of(network).digest
    return pack(network), RunPlan(
        "main", 7, schema, site.settings.preprocessing_digest(), site.settings.model
    )


def training(site: Site, plan: RunPlan, round_: int) -> RoundPlan:
    return RoundPlan(**vars(plan), round=round_, train=True, training=site.settings.training)


@pytest.fixture
def make(template: Path, tmp_path: Path) -> Iterator[Callable[[str], Forgettable]]:
    engines: list[Engine] = []

    def copy(name: str) -> Forgettable:
        shutil.copytree(template, tmp_path / name)
        site = load_site(tmp_path / name, {})
        engines.append(open_database(site.database_url))
        return Forgettable(site, engines[-1])

    yield copy
    for engine in engines:
        engine.dispose()


@pytest.fixture
def made(make: Callable[[str], Forgettable]) -> Forgettable:
    return make("alpha")


def of_split(made: Forgettable, split: str) -> str:
    """Return the identifier of a generic patient of a split."""
    query = select(Patient.source_key).join(CohortMember, CohortMember.patient_id == Patient.id)
    with made.session() as session:
        return session.scalars(query.where(CohortMember.split == split).order_by(Patient.id)).first() or ""


def test_no_file_of_the_site_holds_the_patient_and_all_others_keep_their_beats(made: Forgettable) -> None:
    number, before = made.patient(PERSONAL), made.beats()
    own = np.concatenate([np.arange(first, first + n) for first, n in made.strips(PERSONAL)])
    others = np.setdiff1d(np.arange(len(before)), own)
    assert len(own)
    assert len(others)
    marks = [PERSONAL.encode(), *(before[row].tobytes() for row in own[:5])]
    mine = [name for name in made.files() if f"patient-{number}-" in name]
    assert len(mine) >= 2  # a model and its description
    written = {name for name in made.files() if name.startswith(("report/", "review/"))}
    assert {"report/index.html", f"report/patients/{number}.html", "review/review.html"} <= written
    done = forget(made.site, made.engine, PERSONAL)
    assert (done.again, done.completed, done.running) == (False, True, ())
    assert done.rows["patients"] == 1
    assert done.rows["beats"] == len(own)
    assert sorted(done.models) == mine
    assert set(done.pages) == written
    with made.session() as session:
        assert not {"pages", "looked"} & set(
            session.scalars(select(Run).where(Run.kind == "report")).one().details
        )
    after = made.beats()
    assert after.shape == before.shape
    assert not after[own].any()
    np.testing.assert_array_equal(after[others], before[others])
    made.engine.dispose()
    for path in made.site.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(mark in data for mark in marks), path.name
            assert f"patient-{number}-" not in path.name


def test_the_patient_is_known_by_its_digest_alone_and_nothing_is_left_to_do(made: Forgettable) -> None:
    forget(made.site, made.engine, PERSONAL)
    with made.session() as session:
        assert forgotten_filter(session)(PERSONAL)
        assert unfinished(session) is None
    before = made.content()
    again = forget(made.site, made.engine, PERSONAL)
    assert (again.again, again.completed, again.models, again.pages) == (True, False, (), ())
    assert made.content() == before


def test_weights_that_left_are_counted_and_cannot_be_called_back(made: Forgettable) -> None:
    done = forget(made.site, made.engine, of_split(made, "train"))
    assert (done.beyond.weights, done.beyond.losses) == (2, 0)
    assert (done.beyond.sums, done.beyond.models, done.beyond.cohorts) == (1, 1, ("main",))
    validation = forget(made.site, made.engine, of_split(made, "validation"))
    assert (validation.beyond.weights, validation.beyond.losses) == (0, 2)
    assert forget(made.site, made.engine, PERSONAL).beyond.weights == 0
    with made.session() as session:
        assert session.scalar(select(func.count()).select_from(FederatedRound)) == 2
        assert session.scalar(select(func.count()).where(Model.kind == "generic")) == 1


def test_what_was_frozen_trains_on_without_the_patient(made: Forgettable) -> None:
    """Also in a process that has read the cohort before."""
    weights, plan = start(made.site)
    before = federated_round(made.site, weights, training(made.site, plan, 3)).metrics["train-patients"]
    forget(made.site, made.engine, of_split(made, "train"))
    after = federated_round(made.site, weights, training(made.site, plan, 4)).metrics["train-patients"]
    assert after == before - 1


def test_everything_can_be_made_anew(made: Forgettable) -> None:
    forget(made.site, made.engine, PERSONAL)
    summary = freeze_cohort(made.site, sessions(made.engine))
    assert (summary.reused, summary.personal) == (False, 0)
    weights, plan = start(made.site)
    personalize_site(made.site, weights, plan)
    assert build_report(made.site, sessions(made.engine)).is_file()


def test_an_unknown_patient_is_an_error_that_does_not_repeat_the_identifier(made: Forgettable) -> None:
    before = made.content()
    for call in (forget, need_known):
        with pytest.raises(CohortError, match="knows no patient") as caught:
            call(made.site, made.engine, "nobody-4711")
        assert "4711" not in str(caught.value)
    assert made.content() == before


def test_while_an_ingest_runs_nothing_is_removed(made: Forgettable) -> None:
    before = made.content()
    with BeatStore(made.site.beats) as ingesting:
        ingesting.lock()
        with pytest.raises(StorageError, match="another process is writing"):
            forget(made.site, made.engine, PERSONAL)
    assert made.content() == before


@pytest.mark.parametrize("kind", ["federation", "personalization", "report"])
def test_a_run_that_may_be_at_work_is_told(made: Forgettable, kind: Any) -> None:
    with made.session() as session:
        number = start_run(session, kind, made.site.settings).id
        session.commit()
    assert forget(made.site, made.engine, PERSONAL).running == (f"{kind} (run {number})",)


def test_what_a_personalization_left_of_nobody_is_deleted(made: Forgettable) -> None:
    """It was at work while the patient was forgotten, or was killed while it wrote a model."""
    forget(made.site, made.engine, PERSONAL)
    folder = made.site.models / "main" / "run-9-0123456789ab"
    folder.mkdir(parents=True)
    late = [folder / "patient-7-fine_tuned.safetensors", folder / ".patient-7-threshold.json.x1.tmp"]
    others = folder / "patient-1-fine_tuned.safetensors"
    for path in (*late, others):
        path.touch()
    again = forget(made.site, made.engine, PERSONAL)
    assert len(again.models) == 2
    assert not any(path.exists() for path in late)
    assert others.exists()


def test_pages_outside_the_site_folder_are_named(made: Forgettable, tmp_path: Path) -> None:
    page = tmp_path / "sheet.html"
    page.touch()
    with made.session() as session:
        run = session.scalars(select(Run).where(Run.kind == "report")).one()
        report = session.scalars(select(Base.metadata.tables["reports"].c.path)).one()
        assert report == "report/index.html"
        session.execute(
            Base.metadata.tables["reports"]
            .insert()
            .values(run_id=run.id, path=str(page), sha256="a" * 64, created_at=run.started_at)
        )
        session.commit()
    done = forget(made.site, made.engine, PERSONAL)
    assert done.elsewhere == (str(page),)
    assert page.exists()


# --- stopped on the way -----------------------------------------------------------------------------------


class Stop(BaseException):
    """A process that ends here."""


@pytest.fixture(scope="module")
def wanted(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what is kept after an undisturbed call."""
    folder = tmp_path_factory.mktemp("wanted") / "alpha"
    shutil.copytree(template, folder)
    site = load_site(folder, {})
    made = Forgettable(site, open_database(site.database_url))
    forget(made.site, made.engine, PERSONAL)
    found = made.content()
    made.engine.dispose()
    return found


STEPS = ("_remove_rows", "_erase", "_personal_files", "page_files", "compact", "mark_finished")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_stopped_at_any_step_the_same_call_completes_it(
    made: Forgettable,
    wanted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    when: str,
) -> None:
    real = getattr(forgetting, step)

    def stopped(*arguments: Any) -> None:
        if when == "after":
            real(*arguments)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(forgetting, step, stopped)
        with pytest.raises(Stop):
            forget(made.site, made.engine, PERSONAL)
    done = forget(made.site, made.engine, PERSONAL)
    assert done.completed
    assert made.content() == wanted


def test_stopped_between_two_files_the_same_call_completes_it(
    made: Forgettable, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink
    for allowed in range(4):
        left = iter(range(allowed))

        def unlink(path: Path, missing_ok: bool = False, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Stop
            real(path, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            with pytest.raises(Stop):
                forget(made.site, made.engine, PERSONAL)
    forget(made.site, made.engine, PERSONAL)
    assert made.content() == wanted


def calls_of(work: Callable[[], object], kill_at: int = 0) -> int:
    """Count the calls of Python functions some work makes; kill this process at one of them."""
    count = 0

    def watch(frame: object, event: str, argument: object) -> None:
        nonlocal count
        if event == "call":
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_killed_at_random_points_the_same_call_completes_it(
    make: Callable[[str], Forgettable], wanted: dict[str, Any]
) -> None:
    for name in ("first", "counted"):  # what is done once in a process, the first time, is not counted
        made = make(name)
        total = calls_of(lambda: forget(made.site, made.engine, PERSONAL))  # noqa: B023
        made.engine.dispose()
    points = random.Random(5).sample(range(1, total), KILLS)
    killed = 0
    for point in points:
        made = make(f"killed-{point}")
        made.engine.dispose()
        child = os.fork()
        if child == 0:
            engine = open_database(made.site.database_url)
            calls_of(lambda: forget(made.site, engine, PERSONAL), point)  # noqa: B023
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        forget(made.site, made.engine, PERSONAL)
        assert made.content() == wanted, point
    assert killed == KILLS


def test_rows_that_an_ingest_gave_to_somebody_else_meanwhile_are_left_alone(
    made: Forgettable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last patient of the store is forgotten, that is interrupted, and the place is used again."""
    with monkeypatch.context() as patch:
        patch.setattr(forgetting, "_erase", lambda *_: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            forget(made.site, made.engine, PERSONAL)
    end = max(first + n for first, n in made.strips())
    new = np.full((7, ROW_BYTES // 4), 0.25, np.float32)
    with BeatStore(made.site.beats) as store, made.session() as session:
        store.truncate(end)  # as an ingest begins
        offset = store.append(new)
        store.append(np.full_like(new, 0.5))  # and is killed before these have a row
        old = session.scalars(select(Strip).limit(1)).one()
        values = {column.key: getattr(old, column.key) for column in Strip.__mapper__.column_attrs}
        start = old.start + timedelta(days=900)
        values |= {"id": None, "draw_id": None, "start": start, "beat_offset": offset, "n_beats": len(new)}
        session.add(Strip(**values))
        session.commit()
    assert forget(made.site, made.engine, PERSONAL).completed
    after = made.beats()
    np.testing.assert_array_equal(after[end : end + len(new)], new)
    assert not after[end + len(new) :].any()


# --- with the hospital's files --------------------------------------------------------------------------


def test_a_later_ingest_does_not_bring_the_patient_back(
    hospital: Any, make_site: Callable[..., Site], database_url: str
) -> None:
    for number, subject in enumerate((20, 31, 42)):
        hospital.patient(subject)
        hospital.draw(subject, hospital.t0 + timedelta(minutes=10), 4.1 + number)
        leads = {"II": hospital.heartbeats(620, subject)}
        hospital.record(subject, hospital.t0, [hospital.segment(620, leads)])
    hospital.write()
    site = replace(make_site(hospital.root), database_url=database_url)
    engine = create_database(site.database_url)
    factory = sessions(engine)
    assert ingest(site, factory).patients == 3
    done = forget(site, engine, "31")
    assert done.rows["draws"] == 1
    assert done.rows["beats"] > 0
    with factory() as session:
        stored = {
            strip.patient_id: (strip.beat_offset, strip.n_beats) for strip in session.scalars(select(Strip))
        }
    kept = BeatStore(site.beats)
    before = {patient: kept.read(*place).copy() for patient, place in stored.items() if place[1]}
    result = ingest(site, factory)
    assert (result.patients, result.new_patients, result.gone_patients) == (2, 0, 0)
    with factory() as session:
        assert set(session.scalars(select(Patient.source_key))) == {"20", "42"}
    for patient, beats in before.items():
        np.testing.assert_array_equal(BeatStore(site.beats).read(*stored[patient]), beats)
    renamed = replace(site, name="south")
    assert ingest(renamed, factory).patients == 2
    engine.dispose()

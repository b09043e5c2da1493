"""Toy strips that a small network can tell apart, in memory and as a whole site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy.orm import Session, sessionmaker

from client.data.beatstore import BeatStore
from client.database.runs import finish_run, start_run
from client.database.session import create_database, sessions
from client.database.tables import CohortMember, Patient, Strip
from client.learning.dataset import Beats, StripRef
from client.site import Site, SourceSettings
from common.config import ModelSettings, Settings, make_settings
from common.model import ResNet1d, build_model
from common.protocol import RoundPlan, RunPlan
from common.seeding import stream, torch_stream
from common.task import Label
from common.weights import pack, schema_of

DAY = datetime(2150, 3, 1)
SMALL = ModelSettings(depth=18, width=4, stem="paper")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Compute with one thread, as a site does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class ArrayStore:
    """Beats in memory, read as from the beat store."""

    def __init__(self, beats: Beats) -> None:
        self.beats = beats

    def read(self, offset: int, n: int) -> Beats:
        return self.beats[offset : offset + n]

    def gather(self, rows: np.ndarray[Any, Any]) -> Beats:
        return self.beats[rows]


def toy_beats(n: int, label: Label, height: float, names: tuple[object, ...]) -> Beats:
    """Make beats with a narrow R wave and a T wave of ``height``, taller in positive beats, with noise."""
    t = np.arange(120)
    size = height + (0.5 if label == Label.POSITIVE else 0.0)
    wave = np.exp(-0.5 * ((t - 40) / 2) ** 2) + size * np.exp(-0.5 * ((t - 75) / 8) ** 2)
    return (wave + stream("toy", *names).normal(0, 0.05, (n, 120))).astype(np.float32)


def toy_strip(
    hour: float, label: str = "negative", *, strip_id: int = 0, patient: int = 1, offset: int = 0, n: int = 6
) -> StripRef:
    """Make a strip of ten minutes that starts at an hour of day one."""
    start = DAY + timedelta(hours=hour)
    return StripRef(strip_id, patient, Label(label), start, start + timedelta(minutes=10), offset, n, None)


def toy_patients(
    n_patients: int, per_label: int, beats: int = 6, spread: float = 0.3
) -> tuple[list[StripRef], ArrayStore]:
    """Patients whose T waves differ; strips of both labels take turns, a day apart."""
    strips: list[StripRef] = []
    parts: list[Beats] = []
    for patient in range(1, n_patients + 1):
        height = float(stream("height", patient).normal(0.3, spread))
        for number in range(2 * per_label):
            label = Label.POSITIVE if number % 2 else Label.NEGATIVE
            offset = len(strips) * beats
            strips.append(
                toy_strip(
                    24.0 * number, label, strip_id=len(strips) + 1, patient=patient, offset=offset, n=beats
                )
            )
            parts.append(toy_beats(beats, label, height, (patient, number)))
    return strips, ArrayStore(np.concatenate(parts))


@pytest.fixture
def strip() -> Callable[..., StripRef]:
    return toy_strip


@pytest.fixture(scope="module")
def patients() -> Callable[..., tuple[list[StripRef], ArrayStore]]:
    return toy_patients


@pytest.fixture
def network() -> ResNet1d:
    """Build a small untrained network."""
    return build_model(SMALL, torch_stream("toy network"))


@dataclass(frozen=True)
class ToySite:
    """A site with a database, beats and a frozen cohort, and the plan of a run it takes part in."""

    site: Site
    factory: sessionmaker[Session]
    run: RunPlan

    def round(self, number: int = 1, train: bool = True) -> RoundPlan:
        return RoundPlan(**vars(self.run), round=number, train=train, training=self.site.settings.training)

    def with_settings(self, **sections: dict[str, Any]) -> ToySite:
        """Return the same site under other settings, and a run that fits them."""
        values = self.site.settings.model_dump()
        for name, changes in sections.items():
            values[name] = values[name] | changes
        settings = Settings.model_validate(values)
        site = replace(self.site, settings=settings)
        return ToySite(site, self.factory, replace(self.run, preprocessing=settings.preprocessing_digest()))


#: role, split, strips of each label
TOY_COHORT = [
    *[("generic", "train", 2)] * 4,
    *[("generic", "validation", 2)] * 2,
    *[("generic", "test", 2)] * 2,
    *[("personal", None, 8)] * 2,
    ("personal", "test", 8),  # of a fold: also one of the patients the generic model is tested on
    ("generic", "train", 8),  # would be personal, had the generic model not seen it
]


@pytest.fixture
def toy_site(tmp_path: Path) -> Iterator[ToySite]:
    settings = make_settings(
        "hyperkalemia",
        "standard",
        {
            "model": SMALL.model_dump(),
            "training": {"beats_per_strip": 4, "batch_size": 16},
            "personalization": {
                "freeze_through": "stage2",
                "epochs": 2,
                "rounds": 3,
                "protocols": ("prospective",),
                "depth": "quick",
            },
            "policy": {"min_training_patients": 2, "min_validation_patients": 2, "min_cell": 1},
        },
    )
    url = f"sqlite:///{tmp_path / 'site.sqlite'}"
    site = Site("alpha", tmp_path, settings, SourceSettings(folder="data"), url)
    engine = create_database(url)
    factory = sessions(engine)
    with factory() as session, BeatStore(site.beats) as store:
        _fill(session, store, settings, TOY_COHORT)
        session.commit()
    schema = schema_of(build_model(SMALL, torch_stream("schema"))).digest
    yield ToySite(site, factory, RunPlan("main", 7, schema, settings.preprocessing_digest(), SMALL))
    engine.dispose()


def _fill(
    session: Session, store: BeatStore, settings: Settings, cohort: Sequence[tuple[str, str | None, int]]
) -> None:
    ingest = start_run(session, "ingest", settings)
    frozen = start_run(session, "cohort", settings)
    strips, beats = toy_patients(len(cohort), 8)
    for number, (role, split, per_label) in enumerate(cohort, start=1):
        patient = Patient(source_key=f"p{number}", split=split)
        session.add(patient)
        session.flush()
        own = [strip for strip in strips if strip.patient_id == number][: 2 * per_label]
        gap = replace(own[-1], label=Label.GAP, start=own[-1].start + timedelta(hours=12))
        for strip in [*own, gap]:
            offset = store.append(beats.read(strip.offset, strip.n_beats))
            session.add(
                Strip(
                    patient_id=patient.id,
                    run_id=ingest.id,
                    label=strip.label,
                    start=strip.start,
                    end=strip.start + timedelta(minutes=10),
                    beat_offset=offset,
                    n_beats=strip.n_beats,
                )
            )
        session.add(
            CohortMember(
                run_id=frozen.id,
                patient_id=patient.id,
                role=role,
                split=split,
                n_positive=per_label,
                n_negative=per_label,
                n_gap=1,
            )
        )
    store.flush()
    finish_run(session, ingest)
    finish_run(session, frozen)


@pytest.fixture
def toy_weights(network: ResNet1d) -> Any:
    return pack(network)

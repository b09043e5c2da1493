"""Small real sites: site folder, database, beats on disk and a frozen cohort, without hospital files.

The beats are two shapes with noise, so that a tiny network learns them in a few steps: a positive beat has a
tall narrow T wave, a negative one a low broad one, as hyperkalemia does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.data.cohort import freeze_cohort
from client.database.runs import finish_run, start_run
from client.database.session import create_database, sessions
from client.database.tables import Draw, Patient, Strip
from client.site import Site, load_site, write_site_file
from common.config import merge
from common.seeding import stream

#: Settings of tiny sites: a tiny network, few beats, and no minima that would hide a handful of patients.
TINY: Mapping[str, Any] = {
    "model": {"depth": 18, "width": 4},
    "training": {"beats_per_strip": 8, "batch_size": 32, "learning_rate": 3e-3},
    "federation": {"rounds": 3, "min_validation_patients": 2, "join_timeout_s": 20.0},
    "personalization": {
        "rounds": 2,
        "epochs": 1,
        "gap_s": 0.0,
        "beats_per_strip": 8,
        "protocols": ["prospective"],
        "depth": "quick",
    },
    "cohort": {"min_positive": 4, "min_negative": 4},
    "policy": {"min_training_patients": 1, "min_validation_patients": 1, "min_cell": 1},
}

FIRST_DAY = datetime(2101, 1, 1)


def beats_of(label: str, n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return ``n`` synthetic beats (n, 120), mV, R peak at index 40."""
    time = np.arange(120) - 40
    height, width = (0.7, 5.0) if label == "positive" else (0.3, 10.0)
    shape = np.exp(-((time / 2.0) ** 2)) + height * np.exp(-(((time - 30) / width) ** 2))
    scale = rng.normal(1.0, 0.1, size=(n, 1))
    return (scale * shape + rng.normal(0.0, 0.05, size=(n, 120))).astype(np.float32)


def make_tiny_site(
    folder: Path,
    name: str,
    *,
    generic: int = 6,
    personal: int = 1,
    beats: int = 10,
    settings: Mapping[str, Any] | None = None,
    cohort: bool = True,
) -> Site:
    """Write a whole site into ``folder`` and return it.

    Parameters
    ----------
    generic : patients with two positive and two negative strips.
    personal : patients with six of each, in turn.
    beats : beats of a strip.
    settings : laid over ``TINY``.
    cohort : freeze the cohort ``main``.
    """
    values = merge(dict(TINY), settings or {})
    write_site_file(folder, name=name, source={"kind": "mimic3", "folder": "."}, settings=values)
    site = load_site(folder, {})
    engine = create_database(site.database_url)
    factory = sessions(engine)
    rng = stream("tiny site", name)
    with factory() as session, BeatStore(site.beats) as store:
        run = start_run(session, "ingest", site.settings)
        for number in range(generic + personal):
            pairs = 2 if number < generic else 6
            patient = Patient(source_key=f"{name}-{number:03d}", sex="F", age=60.0)
            session.add(patient)
            session.flush()
            for day in range(2 * pairs):
                label = ("positive", "negative")[day % 2]
                _add_strip(session, store, run.id, patient.id, day, label, beats_of(label, beats, rng))
        store.flush()
        finish_run(session, run)
        session.commit()
    if cohort:
        freeze_cohort(site, factory)
    engine.dispose()
    return site


def _add_strip(
    session: Session,
    store: BeatStore,
    run: int,
    patient: int,
    day: int,
    label: str,
    beats: npt.NDArray[np.float32],
) -> None:
    end = FIRST_DAY + timedelta(days=day)
    value = 6.0 if label == "positive" else 4.0
    draw = Draw(
        patient_id=patient,
        run_id=run,
        source_row=f"row {day}",
        specimen_time=end,
        value=value,
        unit="mEq/L",
        item="50971",
        specimen="serum",
        label=label,
    )
    session.add(draw)
    session.flush()
    session.add(
        Strip(
            patient_id=patient,
            run_id=run,
            draw_id=draw.id,
            label=label,
            value=value,
            start=end - timedelta(minutes=10),
            end=end,
            beat_offset=store.append(beats),
            n_beats=len(beats),
            n_detected=len(beats),
            signal_s=600.0,
            heart_rate_bpm=70.0,
        )
    )

"""A site database with plausible rows, made up: the numbers look like a hospital's and belong to nobody."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session, sessionmaker

from client.data.beatstore import BeatStore
from client.database.runs import finish_run, start_run
from client.database.session import create_database
from client.database.tables import (
    CohortMember,
    Draw,
    FederatedRound,
    Patient,
    PersonalizationRound,
    PersonalizationRun,
    Run,
    Strip,
    StripPrediction,
)
from client.learning.models import keep_generic, personal_path, save_personal
from client.site import Site, SourceSettings
from common.config import Settings, make_settings
from common.metrics import ScoreHistogram
from common.model import ResNet1d, build_model
from common.protocol import RunPlan
from common.seeding import torch_stream
from common.weights import pack, schema_of

START = datetime(2150, 3, 1)
SECRET = "p0815"  # every identifier begins with it; none may appear on a page
TINY = {"model": {"depth": 18, "width": 4, "stem": "small"}, "personalization": {"depth": "quick"}}


@dataclass(frozen=True)
class Fabricated:
    """A made-up site."""

    site: Site
    engine: Engine
    sessions: sessionmaker[Session]


@dataclass
class Maker:
    """Writes the rows of one made-up site; ``digest`` is the hash of its generic model."""

    session: Session
    settings: Settings
    rng: np.random.Generator
    digest: str
    beats: tuple[int, int] = (250, 900)
    outcome: str = "personal"
    offset: int = 0

    def run(self, kind: str, name: str = "main", **known: object) -> Run:
        """Add a finished run."""
        run = start_run(self.session, kind, self.settings, name=name, **known)  # type: ignore[arg-type]
        finish_run(self.session, run, {})
        return run

    def patient(self, number: int, ingest: Run, positive: int, negative: int, gap: int) -> Patient:
        """Add a patient with draws and strips; every fifth draw is left out for some reason."""
        rng, blood = self.rng, self.settings.words.quantity is not None
        person = Patient(
            source_key=f"{SECRET}-{number:03d}",
            sex="M" if rng.random() < 0.58 else "F",
            age=float(np.clip(rng.normal(64, 14), 19, 91.4)) if rng.random() > 0.04 else None,
            ethnicity=str(rng.choice(["White", "African American", "Hispanic", "Asian", "unknown"]))
            if blood
            else None,
            height_cm=float(rng.normal(171, 9)) if blood and rng.random() > 0.3 else None,
            weight_kg=float(rng.normal(80, 16)) if blood and rng.random() > 0.1 else None,
            stratum="positive" if positive else "negative",
            split=str(rng.choice(["train", "validation", "test"], p=[0.6, 0.2, 0.2])),
        )
        self.session.add(person)
        self.session.flush()
        labels = ["positive"] * positive + ["negative"] * negative + ["gap"] * gap
        rng.shuffle(labels)
        when = START + timedelta(days=float(rng.uniform(0, 700)))
        for index, label in enumerate(labels):
            when += timedelta(hours=float(rng.uniform(5, 16)))
            value = {
                "positive": 5.6 + rng.gamma(1.5, 0.45),
                "negative": rng.uniform(3.5, 5.0),
                "gap": rng.uniform(5.05, 5.5),
            }[label]
            draw = None
            if blood:
                draw = self.draw(person, ingest, when, index, value, label=str(label))
                if rng.random() < 0.25:
                    reason = str(
                        rng.choice(["low_potassium", "merged_into", "not_in_stay", "whole_blood_twin"])
                    )
                    self.draw(
                        person, ingest, when + timedelta(minutes=3), 1000 + index, 3.1, exclusion=reason
                    )
            bad = rng.random() < 0.12 and positive < 8
            reason = str(
                rng.choice(
                    [
                        "no_waveform",
                        "no_waveform",
                        "atrial_fibrillation",
                        "detectors_disagree",
                        "lead_ii_absent",
                        "too_few_beats",
                    ]
                )
            )
            n_beats = int(rng.integers(*self.beats)) if blood else int(rng.integers(3, 80))
            self.session.add(
                Strip(
                    patient_id=person.id,
                    run_id=ingest.id,
                    draw_id=draw.id if draw else None,
                    label=str(label),
                    value=value if blood else None,
                    start=when - timedelta(minutes=10),
                    end=when,
                    record=f"{SECRET}/record",
                    exclusion=reason if bad else None,
                    beat_offset=None if bad else self.offset,
                    n_beats=0 if bad else n_beats,
                    n_detected=n_beats,
                    signal_s=590.0,
                    heart_rate_bpm=float(rng.normal(86, 13)),
                    quality={},
                )
            )
            self.offset += 0 if bad else n_beats
        self.session.flush()
        return person

    def draw(self, person: Patient, ingest: Run, when: datetime, row: int, value: float, **end: str) -> Draw:
        """Add a draw with a label or an exclusion."""
        draw = Draw(
            patient_id=person.id,
            run_id=ingest.id,
            source_row=f"{row}",
            specimen_time=when,
            value=value,
            unit="mEq/L",
            item="50971",
            specimen="serum",
            **end,
        )
        self.session.add(draw)
        self.session.flush()
        return draw

    def predictions(
        self, run: Run, person: Patient, personalization: PersonalizationRun | None
    ) -> np.ndarray:
        """Add the generic model's votes on a patient's strips; return its beat logits with labels."""
        shift, out = self.rng.normal(0, 1.1), []
        for strip in person.strips:
            if strip.exclusion:
                continue
            center = (
                {"positive": 1.1, "negative": -1.1, "gap": 0.2}[strip.label] + shift + self.rng.normal(0, 0.5)
            )
            logits = self.rng.normal(center, 1.3, strip.n_beats)
            self.session.add(
                StripPrediction(
                    run_id=run.id,
                    personalization_run_id=personalization.id if personalization else None,
                    strip_id=strip.id,
                    method="generic",
                    round=0,
                    purpose="gap" if strip.label == "gap" else "test",
                    n_beats=strip.n_beats,
                    n_positive_beats=int((logits > 0).sum()),
                    mean_logit=float(logits.mean()),
                )
            )
            if strip.label != "gap":
                out.append(np.column_stack([logits, np.full(strip.n_beats, strip.label == "positive")]))
        return np.concatenate(out) if out else np.empty((0, 2))

    def votes(self, run: Run, row: PersonalizationRun) -> None:
        """Add what generic and selected model said: of pairs before training on them, then of the rest."""
        asked = [(strip, n, "guard") for n, pair in enumerate(row.details["pairs"]) for strip in pair]
        asked += [(strip, row.rounds, "test") for strip in row.details["test"]]
        asked += [(strip, row.rounds, "gap") for strip in row.details["gap"]]
        for strip, round_, purpose in asked if row.rounds else ():
            label = self.session.get_one(Strip, strip).label
            for method, sharp in (("generic", 0.4), ("selected", 1.6)):
                center = sharp * {"positive": 1.0, "negative": -1.0, "gap": 0.2}[label]
                logits = self.rng.normal(center + self.rng.normal(0, 0.6), 1.0, 40)
                self.session.add(
                    StripPrediction(
                        run_id=run.id,
                        personalization_run_id=row.id,
                        strip_id=strip,
                        method=method,
                        round=round_,
                        purpose=purpose,
                        n_beats=40,
                        n_positive_beats=int((logits > 0).sum()),
                        mean_logit=float(logits.mean()),
                    )
                )

    def personalize(self, run: Run, person: Patient, outcome: str = "personal") -> PersonalizationRun:
        """Add a patient's rounds: every method a little better with each, the threshold close behind."""
        rng = self.rng
        rounds = int(rng.integers(3, 6)) if outcome in ("personal", "not_interleaved") else 0
        base = float(np.clip(rng.normal(0.68, 0.12), 0.4, 0.95))
        methods = ("generic", "threshold", "closed_form", "fine_tuned")
        strips = [strip for strip in person.strips if strip.exclusion is None]
        counted = [[s for s in strips if s.label == label] for label in ("positive", "negative")]
        pairs = [[p.id, n.id] for p, n in zip(*counted, strict=False)][:rounds]
        trained = {strip for pair in pairs for strip in pair}
        rest = [[s.id for s in own if s.id not in trained] for own in counted]
        test = sorted(rest[0][-3:] + rest[1][-5:]) if rounds else []
        gap = [s.id for s in strips if s.label == "gap"]
        chosen = str(rng.choice(methods, p=[0.1, 0.2, 0.45, 0.25])) if rounds else None
        row = PersonalizationRun(
            run_id=run.id,
            patient_id=person.id,
            protocol="prospective",
            outcome=outcome,
            generic_sha256=self.digest,
            cut=START,
            gap_s=21600.0,
            n_train_positive=rounds + 1,
            n_train_negative=rounds + 2,
            n_test_positive=3 if rounds else 0,
            n_test_negative=5 if rounds else 0,
            episodes_positive=3,
            episodes_negative=4,
            rounds=rounds,
            selected_method=chosen,
            selected_round=rounds or None,
            details={
                "guard-decided": rounds > 2,
                "guard-hit": bool(rng.random() < 0.8),
                "guard-losses": {m: [0.6, 0.5, 0.4][: rounds - 1] for m in methods},
                "pairs": pairs,
                "test": test,
                "gap": gap,
            },
        )
        self.session.add(row)
        self.session.flush()
        lift = {"generic": 0.0, "threshold": 0.10, "closed_form": 0.16, "fine_tuned": 0.15}
        slope = {method: lift[method] + rng.normal(0, 0.05) for method in methods}
        for round_ in range(rounds + 1 if rounds else 0):
            for method in (*methods, "selected") if round_ else ("generic", "selected"):
                source = (chosen if round_ > 2 else "generic") if method == "selected" else method
                gain = slope[str(source)] * (1 - math.exp(-round_)) if source != "generic" else 0.0
                right = float(
                    np.clip(base + gain + (rng.normal(0, 0.03) if source != "generic" else 0), 0.2, 1.0)
                )
                self.session.add(_round(row, round_, method, str(source), right))
        self.session.flush()
        return row


def _round(
    row: PersonalizationRun, round_: int, method: str, source: str, right: float
) -> PersonalizationRound:
    positive, negative = 3 * 400, 5 * 400
    tp, tn = round(positive * right), round(negative * right)
    strip_tp, strip_tn = round(3 * right), round(5 * right)
    return PersonalizationRound(
        personalization_run_id=row.id,
        round=round_,
        method=method,
        chosen=source if method == "selected" else None,
        guard_loss=None,
        tp=tp,
        fn=positive - tp,
        tn=tn,
        fp=negative - tn,
        strip_tp=strip_tp,
        strip_fn=3 - strip_tp,
        strip_tn=strip_tn,
        strip_fp=5 - strip_tn,
        beat_auc=min(1.0, right + 0.08),
        beat_f1=2 * tp / (2 * tp + positive - tp + negative - tn),
        strip_accuracy=(strip_tp + strip_tn) / 8,
        strip_auc=min(1.0, right + 0.1),
        brier=(1 - right) * 0.7,
        train_beats=800 * round_,
    )


def fabricate(
    folder: Path,
    *,
    task: str = "hyperkalemia",
    personal: int = 8,
    generic: int = 40,
    names: tuple[str, ...] = ("main",),
    seed: int = 3,
    models: bool = False,
    outcome: str = "personal",
) -> Fabricated:
    """Write a made-up site and return it; with models on the disk if asked for."""
    settings = make_settings(task, "standard", TINY)
    network = build_model(settings.model, torch_stream(seed, "model"))
    plan = RunPlan("main", seed, schema_of(network).digest, settings.preprocessing_digest(), settings.model)
    site = Site(
        name="hospital-a",
        folder=folder,
        settings=settings,
        source=SourceSettings(kind="mimic3", folder="data"),
        database_url=f"sqlite:///{folder / 'site.sqlite'}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    engine = create_database(site.database_url)
    sessions = sessionmaker(engine)
    with sessions() as session:
        size = (20, 40) if models else (250, 900)
        make = Maker(session, settings, np.random.default_rng(seed), pack(network).digest(), size, outcome)
        ingest = make.run("ingest", data_fingerprint="cd" * 32)
        others = [
            make.patient(
                i,
                ingest,
                *(
                    int(n)
                    for n in (make.rng.integers(0, 3), make.rng.integers(1, 5), make.rng.integers(0, 2))
                ),
            )
            for i in range(generic)
        ]
        persons = [make.patient(500 + i, ingest, 10, 12, 2) for i in range(personal)]
        for index, name in enumerate(names):
            _journey(make, name, others, persons[index :: len(names)], persons)
        session.commit()
        if models:
            _models_and_beats(site, session, plan, network, make.offset)
    return Fabricated(site, engine, sessions)


def _models_and_beats(site: Site, session: Session, plan: RunPlan, network: ResNet1d, rows: int) -> None:
    """Write the generic model, a personal suffix for every method, and beats whose T wave tells the label."""
    keep_generic(site, pack(network), plan)
    for row in session.scalars(select(PersonalizationRun)):
        for method in ("threshold", "closed_form", "fine_tuned"):
            suffix = {
                "head.weight": np.full((1, network.features), 0.1, np.float32),
                "head.bias": np.zeros(1, np.float32),
            }
            if method == "fine_tuned":
                suffix = {
                    name: p.detach().numpy() * 1.1
                    for name, p in network.named_parameters()
                    if name > "stage3"
                }
            path = personal_path(site, "main", row.run_id, row.patient_id, method, row.generic_sha256)
            save_personal(
                path, suffix, generic_sha256=pack(network).digest(), model=plan.model, method=method, round_=1
            )
    time = np.arange(120) - 40
    beats = np.random.default_rng(0).normal(0, 0.04, (rows, 120))
    beats += (
        np.exp(-(time**2) / 8)
        - 0.15 * np.exp(-((time - 4) ** 2) / 6)
        + 0.1 * np.exp(-((time + 20) ** 2) / 20)
    )
    for strip in session.scalars(select(Strip).where(Strip.exclusion.is_(None))):
        own = slice(strip.beat_offset, strip.beat_offset + strip.n_beats)
        tall, wide = (0.45, 40) if strip.label == "positive" else (0.25, 70)
        beats[own] += tall * np.exp(-((time - 34) ** 2) / wide)
    store = BeatStore(site.beats)
    store.append(beats.astype(np.float32))
    store.flush()


def _journey(
    make: Maker, name: str, others: list[Patient], own: list[Patient], everybody: list[Patient]
) -> None:
    cohort = make.run("cohort", name)
    for person in (*others, *everybody):
        counts = [
            sum(s.label == label and not s.exclusion for s in person.strips)
            for label in ("positive", "negative", "gap")
        ]
        personal = person in own
        make.session.add(
            CohortMember(
                run_id=cohort.id,
                patient_id=person.id,
                role="personal" if personal else "generic",
                split=None if personal else person.split,
                n_positive=counts[0],
                n_negative=counts[1],
                n_gap=counts[2],
            )
        )
    federation = make.run("federation", name, cohort_run_id=cohort.id)
    for number in range(1, 14):
        make.session.add(
            FederatedRound(
                run_id=federation.id,
                round=number,
                received_sha256=make.digest if number == 13 else f"{number:064x}",
                learning_rate=1e-3 * math.cos(number / 9) if number < 13 else None,
                train_patients=24,
                train_beats=9000 if number < 13 else 0,
                train_loss=0.69 - 0.02 * number,
                validation_patients=6,
                validation_loss=0.7 - 0.015 * number,
                seconds=3.0,
            )
        )
    run = make.run("personalization", name, cohort_run_id=cohort.id, model_sha256=make.digest)
    logits = [make.predictions(run, person, None) for person in others if person.split == "test"]
    scored = np.concatenate([*logits, np.empty((0, 2))])
    histogram = ScoreHistogram.of(scored[:, 0], scored[:, 1] > 0)
    for index, person in enumerate(own):
        row = make.personalize(run, person, "not_interleaved" if index == 6 else make.outcome)
        make.votes(run, row)
    run.details = histogram.as_flat("generic.histogram")


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Fabricated]:
    """Make a site, once for each choice of arguments."""
    made: dict[str, Fabricated] = {}

    def make(**choices: object) -> Fabricated:
        key = repr(sorted(choices.items()))
        if key not in made:
            made[key] = fabricate(tmp_path_factory.mktemp("site"), **choices)  # type: ignore[arg-type]
        return made[key]

    return make

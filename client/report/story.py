"""One patient's story, read from the site database.

It holds what was measured, what each strip was used for, and what models said about it before they had seen
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.tables import Draw, Model, Patient, PersonalizationRun, Strip, StripPrediction
from common.task import Label

#: Methods whose votes a page shows strip by strip.
SHOWN = ("generic", "selected")


@dataclass(frozen=True)
class Vote:
    """What one model said about a strip.

    Attributes
    ----------
    round : personalization rounds the model had seen; always before this strip was trained on.
    """

    n_beats: int
    n_positive_beats: int
    mean_logit: float
    round: int

    @property
    def share(self) -> float:
        """Share of beats called positive."""
        return self.n_positive_beats / self.n_beats

    @property
    def positive(self) -> bool:
        """Whether the strip is called positive; a tie is not."""
        return 2 * self.n_positive_beats > self.n_beats


@dataclass(frozen=True)
class StripStory:
    """An accepted strip of a patient.

    Attributes
    ----------
    strip, draw : rows of the database.
    pair : the personalization round from which on it is trained on; None for all other strips.
    use : ``train``, ``test``, ``gap`` (shown, never counted) or ``unused``.
    votes : by method of ``SHOWN``.
    """

    strip: int
    draw: int | None
    label: str
    value: float | None
    start: datetime
    end: datetime
    n_beats: int
    heart_rate_bpm: float | None
    record: str | None
    pair: int | None
    use: str
    votes: Mapping[str, Vote]

    @property
    def positive(self) -> bool:
        """Whether the label is positive."""
        return self.label == Label.POSITIVE

    def right(self, method: str) -> bool | None:
        """Whether a method called the strip as its label says; None where it was not asked."""
        if method not in self.votes or self.label == Label.GAP:
            return None
        return self.votes[method].positive == self.positive


@dataclass(frozen=True)
class DrawStory:
    """A blood draw of a patient; ``reason`` says why it has no accepted strip."""

    draw: int
    when: datetime
    value: float | None
    label: str | None
    reason: str | None


@dataclass(frozen=True)
class ModelFile:
    """A personal model on the disk."""

    model: int
    method: str
    round: int
    sha256: str
    path: str


@dataclass(frozen=True)
class Story:
    """What one site knows about one patient, under the primary protocol.

    Attributes
    ----------
    patient, row, run : rows of patients, personalization_runs and runs.
    first : of the patient's draws and strips; times of a pseudonymous page count from it.
    cut : start of the first test strip; None where no single time separates training from test.
    guard : by method, log loss on each pair before it was trained on.
    """

    patient: int
    row: int
    run: int
    sex: str | None
    age: float | None
    height_cm: float | None
    weight_kg: float | None
    first: datetime
    draws: Sequence[DrawStory]
    strips: Sequence[StripStory]
    left_out: Mapping[str, int]
    cut: datetime | None
    gap_s: float
    guard: Mapping[str, Sequence[float]]
    models: Sequence[ModelFile]

    @property
    def voted(self) -> bool:
        """Whether any model was asked about a strip."""
        return any(strip.votes for strip in self.strips)

    def of(self, use: str) -> list[StripStory]:
        """Return the strips of one use."""
        return [strip for strip in self.strips if strip.use == use]


def read_story(session: Session, row: PersonalizationRun) -> Story:
    """Read the story of a patient.

    Parameters
    ----------
    session : of the site database.
    row : the patient under the primary protocol.
    """
    person = session.get_one(Patient, row.patient_id)
    strips, left_out = _strips(session, row)
    draws = _draws(session, person.id)
    times = [strip.start for strip in strips] + [draw.when for draw in draws]
    return Story(
        patient=person.id,
        row=row.id,
        run=row.run_id,
        sex=person.sex,
        age=person.age,
        height_cm=person.height_cm,
        weight_kg=person.weight_kg,
        first=min(times, default=datetime.min),
        draws=draws,
        strips=strips,
        left_out=left_out,
        cut=row.cut,
        gap_s=row.gap_s or 0.0,
        guard=row.details.get("guard-losses", {}),
        models=_models(session, row),
    )


def _strips(session: Session, row: PersonalizationRun) -> tuple[list[StripStory], dict[str, int]]:
    pairs = {strip: n for n, pair in enumerate(row.details.get("pairs", ()), 1) for strip in pair}
    uses = dict.fromkeys(row.details.get("test", ()), "test")
    uses |= dict.fromkeys(row.details.get("gap", ()), "gap") | dict.fromkeys(pairs, "train")
    votes = _votes(session, row, pairs)
    found, left_out = [], Counter[str]()
    query = select(Strip).where(Strip.patient_id == row.patient_id).order_by(Strip.start, Strip.label)
    for strip in session.scalars(query):
        if strip.exclusion is not None or strip.n_beats == 0:
            left_out[strip.exclusion or "no_beats"] += 1
            continue
        found.append(
            StripStory(
                strip=strip.id,
                draw=strip.draw_id,
                label=strip.label,
                value=strip.value,
                start=strip.start,
                end=strip.end,
                n_beats=strip.n_beats,
                heart_rate_bpm=strip.heart_rate_bpm,
                record=strip.record,
                pair=pairs.get(strip.id),
                use=uses.get(strip.id, "unused"),
                votes=votes.get(strip.id, {}),
            )
        )
    return found, dict(left_out.most_common())


def _votes(session: Session, row: PersonalizationRun, pairs: Mapping[int, int]) -> dict[int, dict[str, Vote]]:
    """Return by strip what generic and selected model said: at last, or right before it was trained on."""
    columns = (
        StripPrediction.strip_id, StripPrediction.method, StripPrediction.round, StripPrediction.purpose,
        StripPrediction.n_beats, StripPrediction.n_positive_beats, StripPrediction.mean_logit,
    )  # fmt: skip
    query = select(*columns).where(
        StripPrediction.personalization_run_id == row.id,
        StripPrediction.method.in_(SHOWN),
        StripPrediction.n_beats > 0,
    )
    found: dict[int, dict[str, Vote]] = {}
    for strip, method, round_, purpose, n_beats, n_positive, logit in session.execute(query):
        asked_at = pairs[strip] - 1 if purpose == "guard" and strip in pairs else row.rounds
        if round_ == asked_at:
            found.setdefault(strip, {})[method] = Vote(n_beats, n_positive, logit, round_)
    return found


def _draws(session: Session, patient: int) -> list[DrawStory]:
    query = (
        select(Draw, Strip.exclusion)
        .outerjoin(Strip, Strip.draw_id == Draw.id)
        .where(Draw.patient_id == patient)
        .order_by(Draw.specimen_time, Draw.id)
    )
    return [
        DrawStory(draw.id, draw.specimen_time, draw.value, draw.label, draw.exclusion or exclusion)
        for draw, exclusion in session.execute(query)
    ]


def _models(session: Session, row: PersonalizationRun) -> list[ModelFile]:
    query = (
        select(Model)
        .where(Model.run_id == row.run_id, Model.patient_id == row.patient_id, Model.kind == "personal")
        .order_by(Model.id)
    )
    return [
        ModelFile(model.id, model.method or "", model.round or 0, model.sha256, model.path)
        for model in session.scalars(query)
    ]

"""Read from the site database what models said about strips, and what each model was trained with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from client.database.queries import accepted, frozen
from client.database.tables import CohortMember, PersonalizationRun, Run, Strip, StripPrediction
from client.learning.planning import PROSPECTIVE, Outcome
from client.report.evidence import StripVote
from common.config import TrainingSettings
from common.task import Label

#: Ways whose votes on personal patients are shown, simple to complex.
SHOWN = ("generic", "threshold", "selected")
#: What a personal model is trained with: every round adds one strip of each label.
PERSONAL_SHARE = 0.5


@dataclass(frozen=True)
class Scored:
    """What one model said about one strip, and how frequent positives were in its training.

    Attributes
    ----------
    vote : of the strip.
    trained_share : share of positives the model was trained with; None where it is not known.
    """

    vote: StripVote
    trained_share: float | None


@dataclass(frozen=True)
class ScoredStrips:
    """What the votes of a report rest on.

    Attributes
    ----------
    training : by name of the run, the settings with which its generic model was trained.
    trained : by name of the run, the share of positives its generic model was trained with; None where
        labels weighed as they occurred and this site trained on none of its own.
    personal : by method, the test strips and gap strips of the patients of the primary result, each scored
        by the patient's model after the last round.
    """

    training: Mapping[str, TrainingSettings] = field(default_factory=dict)
    trained: Mapping[str, float | None] = field(default_factory=dict)
    personal: Mapping[str, Sequence[Scored]] = field(default_factory=dict)


def read_scored(session: Session, run_ids: Sequence[int]) -> ScoredStrips:
    """Read the votes on personal patients, and the training balance of each personalization run.

    Parameters
    ----------
    session : of the site database.
    run_ids : personalization runs of one report.
    """
    runs = session.scalars(select(Run).where(Run.id.in_(run_ids)).order_by(Run.id)).all()
    training = {run.name: training_settings(session, run) for run in runs}
    trained = {run.name: trained_share(session, run, training[run.name]) for run in runs}
    names = {run.id: run.name for run in runs}
    query = (
        select(
            Strip.patient_id, Strip.label, Strip.value, StripPrediction.n_beats,
            StripPrediction.n_positive_beats, StripPrediction.mean_logit, StripPrediction.method,
            PersonalizationRun.selected_method, PersonalizationRun.run_id,
        )
        .join(StripPrediction, StripPrediction.strip_id == Strip.id)
        .join(PersonalizationRun, PersonalizationRun.id == StripPrediction.personalization_run_id)
        .where(
            PersonalizationRun.run_id.in_(run_ids),
            PersonalizationRun.protocol == PROSPECTIVE,
            PersonalizationRun.outcome == Outcome.PERSONAL.value,
            PersonalizationRun.rounds > 0,
            StripPrediction.round == PersonalizationRun.rounds,
            StripPrediction.method.in_(SHOWN),
            StripPrediction.purpose.in_(("test", "gap")),
            StripPrediction.n_beats > 0,
        )
        .order_by(Strip.id, StripPrediction.id)
    )  # fmt: skip
    personal: dict[str, list[Scored]] = {method: [] for method in SHOWN}
    for row in session.execute(query):
        method, selected, run_id = row[6:]
        behind = selected if method == "selected" else method
        share = trained[names[run_id]] if behind == "generic" else PERSONAL_SHARE
        personal[method].append(Scored(StripVote(*row[:6]), share))
    return ScoredStrips(training, trained, {method: tuple(own) for method, own in personal.items()})


def training_settings(session: Session, run: Run) -> TrainingSettings:
    """Return the settings with which the generic model of a personalization run was trained.

    The coordinator decides them, and the federation run of this site holds what it asked for. A model that
    came from elsewhere has no such run: then they are those of the site.
    """
    federation = session.scalars(
        select(Run)
        .where(Run.kind == "federation", Run.name == run.name, Run.cohort_run_id == run.cohort_run_id)
        .order_by(Run.id.desc())
    ).first()
    return TrainingSettings.model_validate((federation or run).settings["training"])


def trained_share(session: Session, run: Run, training: TrainingSettings) -> float | None:
    """Return the share of positives with which the generic model of a personalization run was trained.

    One half where both labels weighed the same. Where they weighed as they occur, the share of positive
    beats among this site's own training strips: what other sites had is not known here.
    """
    if training.balance == "strips":
        return 0.5
    if run.cohort_run_id is None:
        return None
    query = (
        select(Strip.id, Strip.run_id, Strip.label, Strip.n_beats)
        .join(CohortMember, CohortMember.patient_id == Strip.patient_id)
        .where(
            CohortMember.run_id == run.cohort_run_id,
            CohortMember.role == "generic",
            CohortMember.split == "train",
            Strip.label != Label.GAP,
            accepted(),
        )
    )
    inside = frozen(session, run.cohort_run_id)
    beats: Counter[str] = Counter()
    for strip, ingest, label, n_beats in session.execute(query):
        if inside.holds(strip, ingest):
            beats[label] += n_beats
    share = beats[Label.POSITIVE] / max(beats.total(), 1)
    return share if 0 < share < 1 else None

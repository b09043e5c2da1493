"""What the site database knows about a journey, as plain values; ``client.report.reading`` reads them.

Nothing here is computed twice: figures were stored by the step that made them. Identifiers come in through
``naming`` alone, which a pseudonymous copy replaces; dates of patients are on the patients' own pages only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from client.database.cohort_queries import Inclusion
from client.database.reviews import Reviews
from client.database.session import SCHEMA_VERSION
from client.learning.planning import PROSPECTIVE, Outcome
from client.report.naming import Naming
from common.metrics import Confusion, ScoreHistogram
from common.task import Label

if TYPE_CHECKING:  # these modules build on this one
    from client.report.reading_quality import StripSignal
    from client.report.reading_votes import ScoredStrips

#: Reported apart from the primary result: training and test strips of the labels overlap in time.
APART = Outcome.NOT_INTERLEAVED.value


@dataclass(frozen=True)
class Score:
    """One method after one personalization round, on a patient's test strips."""

    method: str
    round: int
    chosen: str | None
    beats: Confusion
    strips: Confusion
    stored: Mapping[str, float | None]

    def figure(self, key: str) -> float:
        """Return a figure by its column name; NaN where it does not exist."""
        if key in self.stored:
            value = self.stored[key]
            return math.nan if value is None else value
        level, name = key.split("_", 1)
        counts = self.beats if level == "beat" else self.strips
        return float(getattr(counts, name))


@dataclass(frozen=True)
class Personal:
    """One patient's personalization under one protocol.

    ``patient`` and ``row`` are rows of the tables patients and personalization_runs. ``guard`` tells whether
    the guard's choice was as good as the best, None where it could not decide.
    """

    patient: int
    row: int
    run: str
    protocol: str
    outcome: str
    train: tuple[int, int]
    test: tuple[int, int]
    episodes: tuple[int, int]
    rounds: int
    selected_method: str | None
    selected_round: int | None
    guard: bool | None
    scores: Mapping[tuple[str, int], Score]

    @property
    def tested(self) -> bool:
        """Whether there is at least one personalization round with a result."""
        return self.rounds > 0 and ("generic", 0) in self.scores

    @property
    def primary(self) -> bool:
        """Whether the patient belongs to the comparison that was declared before the run."""
        return self.tested and self.protocol == PROSPECTIVE and self.outcome != APART

    def score(self, method: str, round_: int) -> Score | None:
        """Return a method's result; before the first round every method is the generic model."""
        if method == "generic" or round_ == 0:
            return self.scores.get(("generic", 0))
        return self.scores.get((method, round_))

    def figure(self, method: str, round_: int, key: str) -> float:
        """Return a figure after a round, NaN where it does not exist."""
        score = self.score(method, round_)
        return math.nan if score is None else score.figure(key)

    def last(self, method: str, key: str) -> float:
        """Return a figure after the patient's last round."""
        return self.figure(method, self.rounds, key)


@dataclass(frozen=True)
class StripVote:
    """What the generic model said about one strip."""

    patient: int
    label: str
    value: float | None
    n_beats: int
    n_positive_beats: int
    mean_logit: float

    @property
    def vote(self) -> float:
        """Share of beats called positive."""
        return self.n_positive_beats / self.n_beats

    @property
    def called(self) -> bool:
        """Whether the vote calls the strip positive; a tie does not."""
        return 2 * self.n_positive_beats > self.n_beats


@dataclass(frozen=True)
class Generic:
    """The generic model of one run on the strips of patients it was not trained on."""

    run: str
    model_sha256: str | None
    votes: Sequence[StripVote]
    histogram: ScoreHistogram | None
    round: int | None
    rounds: int
    decayed: bool
    validation_patients: int

    @property
    def counted(self) -> list[StripVote]:
        """Strips with a positive or negative label."""
        return [vote for vote in self.votes if vote.label != Label.GAP]

    @property
    def beats(self) -> Confusion:
        """Beat level counts."""
        total = Confusion()
        for vote in self.counted:
            called, rest = vote.n_positive_beats, vote.n_beats - vote.n_positive_beats
            positive = vote.label == Label.POSITIVE
            total += Confusion(tp=called, fn=rest) if positive else Confusion(fp=called, tn=rest)
        return total

    @property
    def strips(self) -> Confusion:
        """Strip level counts, by vote."""
        total = Confusion()
        for vote in self.counted:
            positive = vote.label == Label.POSITIVE
            total += Confusion(
                tp=positive and vote.called,
                fn=positive and not vote.called,
                fp=not positive and vote.called,
                tn=not positive and not vote.called,
            )
        return total

    @property
    def patients(self) -> int:
        """Patients behind the counted strips."""
        return len({vote.patient for vote in self.counted})


@dataclass(frozen=True)
class Member:
    """A patient of a frozen cohort, as Table 1 and the flowchart need it."""

    patient: int
    run: str
    role: str
    split: str | None
    counts: Mapping[str, int]
    sex: str | None
    age: float | None
    ethnicity: str | None
    height_cm: float | None
    weight_kg: float | None
    stratum: str | None


@dataclass(frozen=True)
class StripRow:
    """An accepted strip, as Table 1 needs it."""

    patient: int
    label: str
    value: float | None
    n_beats: int
    heart_rate_bpm: float | None


@dataclass(frozen=True)
class RunFacts:
    """A run, as the provenance section shows it."""

    id: int
    kind: str
    name: str
    started: str
    finished: str
    code_version: str
    settings_sha256: str
    seed: int
    data_fingerprint: str | None
    model_sha256: str | None


@dataclass(frozen=True)
class CohortEvidence:
    """What is known of a site before anything is trained: its inclusion, and its frozen cohorts if any.

    Attributes
    ----------
    flow : counts at every step from the files to the accepted strips.
    members : of the cohorts; before one is frozen everybody with an accepted strip, in the role ``""``.
    strips : accepted strips of the members that the cohorts hold.
    runs : behind the numbers.
    settings : of the run the numbers are about.
    cohort_notes : what the freezing had to say.
    reviews : what reviewers said about strips; None where it was not asked.
    """

    flow: Inclusion
    members: Sequence[Member]
    strips: Sequence[StripRow]
    runs: Sequence[RunFacts]
    settings: Mapping[str, Any]
    cohort_notes: Sequence[str] = ()
    schema_version: str = SCHEMA_VERSION
    reviews: Reviews | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether there is a cohort yet."""
        return any(member.role for member in self.members)


@dataclass(frozen=True, kw_only=True)
class Evidence(CohortEvidence):
    """Everything one site report is written from.

    ``guard`` counts the patients for whom the guard chose as well as one could, and those it chose for.
    ``personal`` holds the primary protocol, ``beside`` the paper's, ``controls`` labels that mean nothing.
    ``naming`` says how patients are called, ``unfinished`` what a reader must know about the runs' ends.
    ``scored`` holds what models said about strips, ``signals`` what was measured of every strip.
    """

    generic: Sequence[Generic]
    personal: Sequence[Personal]
    guard: tuple[int, int]
    beside: Sequence[Personal] = ()
    controls: Sequence[Personal] = ()
    run_ids: Sequence[int] = ()
    naming: Naming = field(default_factory=lambda: Naming(False, {}))
    unfinished: Sequence[str] = ()
    scored: ScoredStrips | None = None
    signals: Sequence[StripSignal] = ()

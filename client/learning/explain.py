"""What a model sees in a patient's beats, before (generic) and after (selected).

``explain`` and ``explain_both`` are pure functions on networks and beats; ``explain_patient`` reads one
patient's test strips and models and applies them. Source: Chiu 2022, Figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.database.tables import Patient, PersonalizationRun, Run, Strip
from client.learning.attention import ATTENTION_STAGES, Attention, attention
from client.learning.beat_map import MAX_BEATS, BeatMap, beat_map, pick
from client.learning.dataset import LABELLED, Beats, BeatSource, StripRef, read_strip
from client.learning.evaluation import embed
from client.learning.models import generic_path, load_network, load_personal, personal_path
from client.learning.planning import PROSPECTIVE
from client.site import Site
from common.errors import ModelError
from common.model import ResNet1d
from common.seeding import key, stream
from common.task import Label

Floats: TypeAlias = npt.NDArray[np.float64]

# Grad-CAM's mean settles with far fewer beats than a patient has.
ATTENTION_BEATS: Final = 120
STRIP_BEATS: Final = 400


#: The head sees the same whatever its weights are, and finds its evidence at the same places whatever its
#: offset is.
HEAD: Final = ("head.weight", "head.bias")
OFFSET: Final = ("head.bias",)


@dataclass(frozen=True, eq=False)
class LabelledBeats:
    """Beats of both labels.

    Attributes
    ----------
    beats : float32 (n, 120), mV, R peak at index 40.
    positive : bool (n,)
    rr_s : (n,) RR interval, seconds; NaN where it is not known.
    """

    beats: Beats
    positive: npt.NDArray[np.bool_]
    rr_s: Floats

    def of(self, label: Label) -> LabelledBeats:
        """Return the beats of one label."""
        own = self.positive == (label == Label.POSITIVE)
        return LabelledBeats(self.beats[own], self.positive[own], self.rr_s[own])

    def some(self, most: int = ATTENTION_BEATS) -> LabelledBeats:
        """Return at most so many beats, evenly spread over all of them."""
        if len(self.beats) <= most:
            return self
        picked = np.linspace(0, len(self.beats) - 1, most).round().astype(int)
        return LabelledBeats(self.beats[picked], self.positive[picked], self.rr_s[picked])


@dataclass(frozen=True, eq=False)
class Explanation:
    """One model on one patient's beats.

    Attributes
    ----------
    mean_beat : by label, (120,) mV; of all beats, the same for every model.
    attention : by stage, in the order of the network, and label: Grad-CAM of the label over at most 120 of
        its beats.
    beats : the map.
    """

    mean_beat: Mapping[Label, Floats]
    attention: Mapping[str, Mapping[Label, Attention]]
    beats: BeatMap


@dataclass(frozen=True, eq=False)
class PatientExplanation:
    """The generic and the selected model on one patient's test strips.

    Attributes
    ----------
    before, after : the generic and the selected model.
    method : how the selected model was fitted.
    n_positive, n_negative : beats.
    same_map : the selected model has the generic embedding (generic, threshold, closed form), so
        ``after.beats`` is ``before.beats`` and there is only one map to show.
    same_attention : the selected model differs by its threshold at most, so ``after.attention`` is
        ``before.attention``.
    """

    before: Explanation
    after: Explanation
    method: str
    n_positive: int
    n_negative: int
    same_map: bool
    same_attention: bool


def explain(
    network: ResNet1d,
    data: LabelledBeats,
    names: tuple[object, ...],
    stages: Sequence[str] = ATTENTION_STAGES,
    max_beats: int = MAX_BEATS,
) -> Explanation:
    """Explain one model on beats of both labels.

    Parameters
    ----------
    network : is put into evaluation mode.
    data : at least one beat of each label, three in all.
    names : of the random stream that picks the mapped beats; the same names map the same beats.
    stages : for Grad-CAM.
    max_beats : mapped at most, half of them of each label.
    """
    return Explanation(
        mean_beat={label: data.of(label).beats.mean(0, dtype=np.float64) for label in LABELLED},
        attention=_attention(network, data, stages),
        beats=_map(network, data, names, max_beats),
    )


def explain_both(
    before: ResNet1d,
    after: ResNet1d,
    data: LabelledBeats,
    method: str,
    names: tuple[object, ...],
    stages: Sequence[str] = ATTENTION_STAGES,
    max_beats: int = MAX_BEATS,
) -> PatientExplanation:
    """Explain the generic and the selected model on the same beats; what cannot differ is computed once.

    Parameters
    ----------
    before, after : networks of one architecture.
    data, names, stages, max_beats : as for ``explain``.
    method : how ``after`` was fitted.
    """
    first = explain(before, data, names, stages, max_beats)
    same_map, same_attention = (equal_but_for(part, before, after) for part in (HEAD, OFFSET))
    return PatientExplanation(
        before=first,
        after=Explanation(
            mean_beat=first.mean_beat,
            attention=first.attention if same_attention else _attention(after, data, stages),
            beats=first.beats if same_map else _map(after, data, names, max_beats),
        ),
        method=method,
        n_positive=int(data.positive.sum()),
        n_negative=int((~data.positive).sum()),
        same_map=same_map,
        same_attention=same_attention,
    )


def equal_but_for(names: Sequence[str], one: ResNet1d, other: ResNet1d) -> bool:
    """Say whether two networks of one architecture hold the same numbers everywhere but in these arrays."""
    first, second = one.state_dict(), other.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first if name not in names)


def _attention(
    network: ResNet1d, data: LabelledBeats, stages: Sequence[str]
) -> dict[str, dict[Label, Attention]]:
    found: dict[Label, dict[str, Attention]] = {}
    for label in LABELLED:
        own = data.of(label).some()
        found[label] = attention(network, own.beats, own.rr_s, label, stages)
    return {stage: {label: found[label][stage] for label in LABELLED} for stage in found[Label.POSITIVE]}


def _map(network: ResNet1d, data: LabelledBeats, names: tuple[object, ...], max_beats: int) -> BeatMap:
    picked = pick(data.positive, max_beats, stream(*names, "beats"))
    return beat_map(embed(network, data.beats[picked]), data.positive[picked], key(*names, "t-sne"))


def explain_patient(
    site: Site,
    session: Session,
    row: PersonalizationRun,
    stages: Sequence[str] = ATTENTION_STAGES,
    max_beats: int = MAX_BEATS,
) -> PatientExplanation:
    """Explain the generic and the selected model on a patient's test strips.

    Parameters
    ----------
    site : whose beats and models are read.
    session : of its database.
    row : a patient with personal models (outcome personal or not_interleaved, protocol prospective).
    stages : for Grad-CAM.
    max_beats : mapped at most.

    Raises
    ------
    ModelError
        If the patient has no personal models under this protocol, a file is missing or damaged, the generic
        model on disk is another one than the run's, or test strips are no longer there.
    StorageError
        If beats are no longer there.
    """
    run = session.get_one(Run, row.run_id)
    if row.selected_method is None:
        raise ModelError(f"this patient has no personal models (outcome {row.outcome}); nothing to explain")
    if row.protocol != PROSPECTIVE:
        raise ModelError(f"models are kept of the protocol {PROSPECTIVE}, not of {row.protocol}")
    path = generic_path(site, run.name, row.generic_sha256)
    before, digest = load_network(path)
    if digest != row.generic_sha256:
        raise ModelError(
            f"{path} is another generic model than personalization run {run.id} began from; run the "
            "personalization again"
        )
    after = before
    if row.selected_method != "generic":
        suffix = personal_path(
            site, run.name, run.id, row.patient_id, row.selected_method, row.generic_sha256
        )
        after = load_personal(suffix, path).network
    data = read_beats(session, BeatStore(site.beats), row.details["test"])
    source = session.get_one(Patient, row.patient_id).source_key
    names = (run.seed, "explain", site.name, source)
    return explain_both(before, after, data, row.selected_method, names, stages, max_beats)


def read_beats(session: Session, store: BeatSource, strip_ids: Sequence[int]) -> LabelledBeats:
    """Read at most 400 beats of each of some strips, strips in order of time.

    The RR interval of a beat is that of its strip's heart rate, the median.

    Raises
    ------
    ModelError
        If a strip is no longer accepted or stored, or there are not strips of both labels.
    """
    rows = session.execute(
        select(
            Strip.id, Strip.patient_id, Strip.label, Strip.start, Strip.end, Strip.beat_offset, Strip.n_beats,
            Strip.heart_rate_bpm,
        )
        .where(Strip.id.in_(strip_ids), Strip.exclusion.is_(None), Strip.beat_offset.is_not(None))
        .order_by(Strip.start, Strip.label)
    ).all()  # fmt: skip
    if len(rows) != len(strip_ids) or {row.label for row in rows} != set(LABELLED):
        raise ModelError(
            f"of {len(strip_ids)} test strips {len(rows)} are still there, and both labels are needed; run "
            "the personalization again"
        )
    beats: list[Beats] = []
    positive: list[npt.NDArray[np.bool_]] = []
    rr_s: list[Floats] = []
    for strip_id, patient, label, start, end, offset, n_beats, rate in rows:
        strip = StripRef(strip_id, patient, Label(label), start, end, int(offset or 0), n_beats)
        own = read_strip(store, strip, STRIP_BEATS)
        beats.append(own)
        positive.append(np.full(len(own), strip.positive))
        rr_s.append(np.full(len(own), 60 / rate if rate else np.nan))
    return LabelledBeats(np.concatenate(beats), np.concatenate(positive), np.concatenate(rr_s))

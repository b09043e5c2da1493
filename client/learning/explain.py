"""What a model looks at: Grad-CAM over the mean beat, and a map of beats as the head sees them, with numbers.

Pure functions on a network and beats; ``explain_patient`` reads one patient's test strips and models and
applies them before (generic) and after (selected). Source: Chiu 2022, Figure 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from client.data.beatstore import BeatStore
from client.database.tables import Patient, PersonalizationRun, Run, Strip
from client.learning.dataset import Beats, BeatSource, StripRef, read_strip
from client.learning.evaluation import INFERENCE_BATCH, embed
from client.learning.models import generic_path, load_network, load_personal, personal_path
from client.site import Site
from common.errors import ModelError
from common.model import ResNet1d
from common.seeding import key, stream
from common.task import Label

Floats: TypeAlias = npt.NDArray[np.float64]

# A map of more beats is no clearer and costs by the square; Grad-CAM's mean settles with far fewer.
MAX_BEATS = 240
ATTENTION_BEATS = 120
STRIP_BEATS = 400
NEIGHBOURS = 10
PERPLEXITY = 30.0


@dataclass(frozen=True, eq=False)
class BeatMap:
    """Beats in two dimensions, by t-SNE of what the head sees.

    Attributes
    ----------
    points : (n, 2)
    positive : bool (n,)
    purity : mean over labels of the share of a beat's 10 nearest neighbours that have its label, measured
        in the embedding itself, not in the picture. 0.5 if labels are mixed and equally many, 1 if apart.
    """

    points: Floats
    positive: npt.NDArray[np.bool_]
    purity: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """One model on one patient's beats.

    Attributes
    ----------
    mean_beat : by label, (120,) mV.
    attention : by label, (120,) Grad-CAM of the label, mean over at most 120 of its beats, largest value 1.
    beats : the map.
    """

    mean_beat: Mapping[Label, Floats]
    attention: Mapping[Label, Floats]
    beats: BeatMap


@dataclass(frozen=True, eq=False)
class PatientExplanation:
    """The generic and the selected model on one patient's test strips."""

    before: Explanation
    after: Explanation
    method: str
    n_positive: int
    n_negative: int


def grad_cam(network: ResNet1d, beats: Beats, label: Label, stage: str = "stage4") -> Floats:
    """Return where a stage finds evidence for a label, mean over beats.

    Each channel of the stage's output is weighted by its mean gradient of the label's logit; what speaks
    for the label is kept, stretched to the beat's 120 samples and averaged. Source: Selvaraju 2017,
    "Grad-CAM".

    Parameters
    ----------
    network : in evaluation mode.
    beats : float32 (n, 120), mV.
    label : positive, or negative: evidence for it is evidence against positive.
    stage : one of ``common.model.STAGES``. The last has 15 positions of 64 ms with the small stem.

    Returns
    -------
    (120,), largest value 1; all zero where nothing speaks for the label.
    """
    sign = 1.0 if label == Label.POSITIVE else -1.0
    network.eval()
    total: Floats = np.zeros(0)
    for part in torch.split(torch.from_numpy(beats), INFERENCE_BATCH):
        with torch.no_grad():
            output = network.prefix(part, stage)
        hidden = output.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(sign * network.suffix(hidden, stage).sum(), hidden)
        evidence = torch.relu((hidden.detach() * gradient.mean(1, keepdim=True)).sum(2))
        found = evidence.sum(0).numpy().astype(np.float64)
        total = found if not len(total) else total + found
    curve = stretch(total / len(beats), beats.shape[1])
    largest = curve.max()
    return curve / largest if largest > 0 else curve


def stretch(cells: Floats, samples: int) -> Floats:
    """Interpolate values at the centres of equal cells to every sample; ends are continued flat."""
    centres = (np.arange(len(cells)) + 0.5) * (samples / len(cells)) - 0.5
    return np.interp(np.arange(samples), centres, cells)


def beat_map(embedding: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], seed: int) -> BeatMap:
    """Map beats to the plane by t-SNE, the same way every time.

    Parameters
    ----------
    embedding : (n, features) with n of at least 3.
    positive : (n,)
    seed : of what little t-SNE leaves to chance after it starts from principal components.
    """
    from sklearn.manifold import TSNE  # here, because it takes a second to import and few need it

    values = embedding.astype(np.float64)
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(values) - 1) / 3),
        init="pca",
        method="exact",  # the approximate one depends on the number of threads
        random_state=seed % 2**32,
    )
    points: Floats = tsne.fit_transform(values - values.mean(0)).astype(np.float64)
    return BeatMap(points, positive, purity(values, positive))


def purity(
    embedding: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], neighbours: int = NEIGHBOURS
) -> float:
    """Return how much the nearest neighbours of a beat share its label; NaN with one label only.

    Parameters
    ----------
    embedding : (n, features)
    positive : (n,)
    neighbours : how many; fewer where there are not as many other beats.
    """
    if positive.all() or not positive.any():
        return float("nan")
    values = embedding.astype(np.float64)
    square = (values**2).sum(1)
    distance = square[:, None] + square[None] - 2 * values @ values.T
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(neighbours, len(values) - 1)]
    same = (positive[nearest] == positive[:, None]).mean(1)
    return float((same[positive].mean() + same[~positive].mean()) / 2)


def explain(
    network: ResNet1d,
    beats: Beats,
    positive: npt.NDArray[np.bool_],
    names: tuple[object, ...],
    stage: str = "stage4",
    max_beats: int = MAX_BEATS,
) -> Explanation:
    """Explain one model on beats of both labels.

    Parameters
    ----------
    network : in evaluation mode.
    beats, positive : (n, 120) mV and (n,).
    names : of the random stream that picks the mapped beats; the same names map the same beats.
    stage : for Grad-CAM.
    max_beats : mapped at most, half of them of each label.
    """
    picked = pick(positive, max_beats, stream(*names, "beats"))
    own = {label: beats[positive == (label == Label.POSITIVE)] for label in (Label.POSITIVE, Label.NEGATIVE)}
    return Explanation(
        mean_beat={label: part.mean(0, dtype=np.float64) for label, part in own.items()},
        attention={label: grad_cam(network, some(part), label, stage) for label, part in own.items()},
        beats=beat_map(embed(network, beats[picked]), positive[picked], key(*names, "t-sne")),
    )


def some(beats: Beats, most: int = ATTENTION_BEATS) -> Beats:
    """Return at most so many beats, evenly spread over all of them."""
    if len(beats) <= most:
        return beats
    picked: Beats = beats[np.linspace(0, len(beats) - 1, most).round().astype(int)]
    return picked


def pick(
    positive: npt.NDArray[np.bool_], count: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Pick at most ``count`` beats, at most half of them of each label, in order."""
    parts = []
    for label in (True, False):
        places = np.flatnonzero(positive == label)
        parts.append(generator.permutation(places)[: count // 2])
    return np.sort(np.concatenate(parts))


def explain_patient(
    site: Site, session: Session, row: PersonalizationRun, stage: str = "stage4"
) -> PatientExplanation:
    """Explain the generic and the selected model on a patient's test strips.

    Parameters
    ----------
    site : whose beats and models are read.
    session : of its database.
    row : a patient with personal models (outcome personal or not_interleaved).

    Raises
    ------
    ModelError
        If the patient has no personal models, a file is missing or damaged, or the generic model on disk is
        another one than the run's.
    """
    run = session.get_one(Run, row.run_id)
    if row.selected_method is None:
        raise ModelError(f"this patient has no personal models (outcome {row.outcome}); nothing to explain")
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
    strips = _strips(session, row.details["test"])
    beats, positive = _beats(BeatStore(site.beats), strips)
    source = session.get_one(Patient, row.patient_id).source_key
    names = (run.seed, "explain", site.name, source)
    return PatientExplanation(
        before=explain(before, beats, positive, names, stage),
        after=explain(after, beats, positive, names, stage),
        method=row.selected_method,
        n_positive=int(positive.sum()),
        n_negative=int((~positive).sum()),
    )


def _strips(session: Session, ids: Sequence[int]) -> list[StripRef]:
    columns = (
        Strip.id, Strip.patient_id, Strip.label, Strip.start, Strip.end, Strip.beat_offset, Strip.n_beats
    )  # fmt: skip
    rows = session.execute(select(*columns).where(Strip.id.in_(ids)).order_by(Strip.start, Strip.label))
    strips: list[StripRef] = []
    for strip_id, patient, label, start, end, offset, n_beats in rows:
        strips.append(StripRef(strip_id, patient, Label(label), start, end, int(offset or 0), n_beats))
    return strips


def _beats(store: BeatSource, strips: Sequence[StripRef]) -> tuple[Beats, npt.NDArray[np.bool_]]:
    parts = [read_strip(store, strip, STRIP_BEATS) for strip in strips]
    positive = np.repeat([strip.positive for strip in strips], [len(part) for part in parts])
    return np.concatenate(parts), positive.astype(bool)

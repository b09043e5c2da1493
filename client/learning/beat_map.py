"""A map of beats as the head of a model sees them, and how far apart the labels lie there, in numbers.

The picture is t-SNE's; the numbers are measured in the embedding itself, because t-SNE moves groups apart
and together as it likes. Source: Chiu 2022, Figure 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]

#: A map of more beats is no clearer and costs by the square.
MAX_BEATS: Final = 240
NEIGHBOURS: Final = 10
PERPLEXITY: Final = 30.0
#: From principal components so few beats have found their places by then: as many steps again lower what
#: t-SNE minimizes by 1 to 2 % and double the time.
STEPS: Final = 500
#: Distances are told from the rounding of a float32 embedding from this share of its size on.
ALIKE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class BeatMap:
    """Beats in two dimensions, by t-SNE of what the head sees.

    Attributes
    ----------
    points : (n, 2)
    positive : bool (n,)
    purity : mean over labels of the share of a beat's 10 nearest neighbours that have its label. 0.5 if
        labels are mixed and equally many, 1 if apart; NaN with one label only.
    silhouette : mean silhouette of the labels, -1 to 1: 0 if labels are mixed, 1 if the beats of a label
        are alike and far from the others; NaN with one label only. It asks for two round groups, purity
        only for good company: labels of several groups each can be pure and have a low silhouette.
    """

    points: Floats
    positive: Flags
    purity: float
    silhouette: float


def beat_map(embedding: npt.NDArray[np.floating], positive: Flags, seed: int) -> BeatMap:
    """Map beats to the plane by t-SNE, the same way every time.

    Parameters
    ----------
    embedding : (n, features) with n of at least 3.
    positive : (n,)
    seed : of what little t-SNE leaves to chance after it starts from principal components.

    Returns
    -------
    BeatMap; of beats that are all alike to the model, every point at the origin.
    """
    values = embedding.astype(np.float64)
    return BeatMap(_places(values, seed), positive, purity(values, positive), silhouette(values, positive))


def purity(embedding: npt.NDArray[np.floating], positive: Flags, neighbours: int = NEIGHBOURS) -> float:
    """Return how much the nearest neighbours of a beat share its label.

    Parameters
    ----------
    embedding : (n, features)
    positive : (n,)
    neighbours : how many; fewer where there are not as many other beats.

    Returns
    -------
    Mean over labels, 0 to 1; NaN with one label only, and where all beats are alike.
    """
    values = embedding.astype(np.float64)
    if not _both(positive) or _all_alike(values):
        return float("nan")
    distance = cdist(values, values)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(neighbours, len(values) - 1)]
    same = (positive[nearest] == positive[:, None]).mean(1)
    return float((same[positive].mean() + same[~positive].mean()) / 2)


def silhouette(embedding: npt.NDArray[np.floating], positive: Flags) -> float:
    """Return the mean silhouette of the two labels by Euclidean distance.

    Parameters
    ----------
    embedding : (n, features)
    positive : (n,)

    Returns
    -------
    Mean over beats, -1 to 1; NaN with one label only, below 3 beats, and where all beats are alike.
    Source: Rousseeuw 1987.
    """
    values = embedding.astype(np.float64)
    if not _both(positive) or len(values) < 3 or _all_alike(values):
        return float("nan")
    from sklearn.metrics import silhouette_score  # here, because it takes a second to import

    return float(silhouette_score(values, positive))


def pick(positive: Flags, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Pick at most ``count`` beats, at most half of them of each label, in order."""
    parts = []
    for label in (True, False):
        places = np.flatnonzero(positive == label)
        parts.append(generator.permutation(places)[: count // 2])
    return np.sort(np.concatenate(parts))


def _places(values: Floats, seed: int) -> Floats:
    if _all_alike(values):  # there are no principal components to start from
        return np.zeros((len(values), 2))
    from sklearn.manifold import TSNE  # here, because it takes a second to import

    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(values) - 1) / 3),
        init="pca",
        method="exact",  # the approximate one depends on the number of threads
        max_iter=STEPS,
        random_state=seed % 2**32,
    )
    points: Floats = tsne.fit_transform(values - values.mean(0)).astype(np.float64)
    return points


def _both(positive: Flags) -> bool:
    return bool(positive.any() and not positive.all())


def _all_alike(values: Floats) -> bool:
    size = float(np.abs(values).max(initial=0.0))
    return bool(np.ptp(values, axis=0).max(initial=0.0) <= ALIKE * size)

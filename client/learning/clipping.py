"""How far a trained update may move the weights that arrived."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import ModelError

Vector = npt.NDArray[np.float32]
#: What the scaled update aims at, as shares of the limit: rounding to float32 must not exceed it. Large
#: weights round coarsely and need a smaller share; the last one leaves the weights as they arrived.
SHRINK = (1 - 1e-6, 1 - 1e-3, 0.9, 0.5, 0.1, 1e-2, 1e-4, 0.0)


@dataclass(frozen=True, eq=False)
class Clipped:
    """An update within its limit.

    Attributes
    ----------
    trainable : float32 1-D, the weights that may leave.
    norm : Euclidean length of their difference from the weights that arrived.
    before : the same length before clipping; equal to ``norm`` if nothing was changed.
    limit : the largest length that was allowed.
    """

    trainable: Vector
    norm: float
    before: float
    limit: float

    @property
    def changed(self) -> bool:
        """Whether the update was scaled down."""
        return self.before != self.norm

    @property
    def note(self) -> str:
        """A sentence for the site's log, for an update that was scaled down."""
        return f"update norm {self.before:.4g} scaled down to {self.limit:g} (policy.max_update_norm)"


def clip_update(received: Vector, returned: Vector, limit: float) -> Clipped:
    """Scale an update down to a largest Euclidean length; one within the limit stays as it is, bit for bit.

    Parameters
    ----------
    received, returned : float32 1-D of one length, the trainable weights before and after.
    limit : largest length of their difference.

    Raises
    ------
    ModelError
        If the lengths differ or the difference is not finite.
    """
    if received.shape != returned.shape:
        raise ModelError(
            f"the trained weights have {returned.size} values where {received.size} arrived; they belong to "
            "another model"
        )
    start = received.astype(np.float64)
    update = returned.astype(np.float64) - start
    before = norm = float(np.linalg.norm(update))
    if not np.isfinite(norm):
        raise ModelError("the trained weights hold values that are not finite; lower the learning rate")
    trainable, shrink = returned, iter(SHRINK)
    while norm > limit:
        trainable = (start + update * (next(shrink) * limit / before)).astype(np.float32)
        norm = float(np.linalg.norm(trainable.astype(np.float64) - start))
    return Clipped(trainable, norm, before, limit)

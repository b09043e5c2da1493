"""ECG paper: its squares, and how large traces are drawn on it.

All drawings count in tenths of a millimetre of paper at 25 mm/s and 10 mm/mV, so that a drawing keeps its
squares however large it is shown. A page defines the paper once (`paper`), drawings refer to it by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from client.data.ecg.beats import BEAT_SAMPLES, RATE_HZ
from client.review.excerpts import EXCERPT_S

Floats = npt.NDArray[np.floating]

#: Tenths of a millimetre per second and per millivolt at the full gain of 10 mm/mV.
PER_S: Final = 250
PER_MV: Final = 100
#: Gains (mm/mV) that are tried until a trace fits, the heights its paper can have, and the
#: distances of thin and thick lines.
GAINS: Final = (10.0, 5.0, 2.5)
SMALL: Final = 10
LINE: Final = 50
HEIGHTS: Final = (150, 200, 250)
#: Left of a trace: number and time, and the calibration pulse of 1 mV and 0.2 s. Above it: the marks.
MARGIN: Final = 200
LANE: Final = 56
WIDTH: Final = int(EXCERPT_S * PER_S)
BEAT_WIDTH: Final = BEAT_SAMPLES * PER_S // RATE_HZ
OVERVIEW_HEIGHT: Final = 110


def paper() -> Markup:
    """Return the invisible drawing that holds the squares of ECG paper; once on a page, before all others."""
    sheets = [
        f'<g id="{paper_name(width, height)}"><path class="fine" d="{_lines(width, height, fine=True)}"/>'
        f'<path class="coarse" d="{_lines(width, height, fine=False)}"/></g>'
        for width in (WIDTH, BEAT_WIDTH)
        for height in HEIGHTS
    ]
    return Markup(
        f'<svg class="paper" width="0" height="0" aria-hidden="true"><defs>{"".join(sheets)}'
        '<pattern id="no-signal" width="30" height="30" patternUnits="userSpaceOnUse">'
        '<path class="hatch" d="M0 30L30 0"/></pattern></defs></svg>'
    )


@dataclass(frozen=True)
class Scale:
    """How large the traces of a strip are drawn: gain in mm/mV, height of the paper in tenths of a mm."""

    gain: float
    height: int

    @property
    def per_mv(self) -> float:
        """Tenths of a millimetre per millivolt."""
        return PER_MV * self.gain / GAINS[0]

    def zero_line(self, values: Floats) -> float:
        """Return where on the paper 0 mV lies so that a trace is in the middle, on a line.

        Parameters
        ----------
        values : the trace, mV; NaN is passed over.

        Returns
        -------
        Tenths of a millimetre from the upper edge.
        """
        known = values[np.isfinite(values)]
        if not len(known):
            return self.height / 2
        ends = np.quantile(known, [0.005, 0.995])
        if np.ptp(known) * self.per_mv <= self.height:
            ends = np.array([known.min(), known.max()])
        want = self.height / 2 + float(ends.mean()) * self.per_mv
        return float(np.clip(round(want / SMALL) * SMALL, 0, self.height))


def scale_for(parts: Sequence[Floats]) -> Scale:
    """Choose one scale for some traces.

    The gain is the largest at which all but one sample in a hundred fits: a single artifact shall not make
    the beats small. The paper is as high as the whole traces need, where there is room.

    Parameters
    ----------
    parts : traces, mV; NaN is passed over.
    """
    known = [values for part in parts if len(values := part[np.isfinite(part)])]
    most = HEIGHTS[-1]
    usual = max((float(np.ptp(np.quantile(values, [0.005, 0.995]))) for values in known), default=0.0)
    gain = next((gain for gain in GAINS if usual * PER_MV * gain / GAINS[0] <= most), GAINS[-1])
    whole = max((float(np.ptp(values)) for values in known), default=0.0) * PER_MV * gain / GAINS[0]
    return Scale(gain, next((height for height in HEIGHTS if whole + SMALL <= height), most))


def paper_name(width: int, height: int) -> str:
    """Return the name drawings refer to a sheet of this size by."""
    return f"paper-{width}-{height}"


def _lines(width: int, height: int, *, fine: bool) -> str:
    """Return the lines of a millimetre (fine), or those of five."""
    step = SMALL if fine else LINE
    across = [f"M{x} 0v{height}" for x in range(step, width, step) if not (fine and x % LINE == 0)]
    along = [f"M0 {y}h{width}" for y in range(step, height, step) if not (fine and y % LINE == 0)]
    return "".join(across + along)

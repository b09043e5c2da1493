"""What else changes over a stay: electrodes, posture, autonomic tone, ischemia, paroxysms of fibrillation.

All of it is a function of time alone, on a grid of one minute, whether or not signal is written there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from simulation.cohort import parameters as table
from simulation.cohort.patient import Patient
from simulation.cohort.processes import relaxing

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MARGIN_MIN = 120  # the grid goes on after the last hour: strips may end a little later
BURN_IN = 10  # mean cycles of an episode process before the stay begins


@dataclass(frozen=True)
class Effects:
    """What conditions do to the beat at some moments; arrays (n,).

    Attributes
    ----------
    rate : added to the heart rate, beats per minute.
    p, q, r, s, t : factors on amplitudes.
    t_width : factor on the width of T.
    st, ischemia : added to ST, and to T (a part of it to ST, too), mV.
    pr, qt : added to the intervals, s.
    fibrillation : bool, in atrial fibrillation.
    """

    rate: Array
    p: Array
    q: Array
    r: Array
    s: Array
    t: Array
    t_width: Array
    st: Array
    ischemia: Array
    pr: Array
    qt: Array
    fibrillation: Flags

    @classmethod
    def none(cls, n: int) -> Self:
        """Nothing but the patient's own beat, at ``n`` moments."""
        factors = {name: np.ones(n) for name in _FACTORS}
        added = {name: np.zeros(n) for name in _NUMBERS if name not in _FACTORS}
        return cls(**factors, **added, fibrillation=np.zeros(n, bool))


_NUMBERS = tuple(field.name for field in fields(Effects) if field.name != "fibrillation")
_FACTORS = ("p", "q", "r", "s", "t", "t_width")


@dataclass(frozen=True)
class Conditions:
    """Conditions of one stay.

    Attributes
    ----------
    grid : float32 (11, n_minutes), the numbers of ``Effects`` in their order, minute by minute.
    fibrillation : bool (n_minutes,).
    """

    grid: npt.NDArray[np.float32]
    fibrillation: Flags

    def at(self, seconds: Array) -> Effects:
        """Effects at some moments.

        Parameters
        ----------
        seconds : float64 (n,), after the start of the stay; before and after the grid its ends hold.
        """
        last = self.grid.shape[1] - 1
        minute = np.clip(np.asarray(seconds, np.float64) / 60.0, 0.0, last)
        before = np.minimum(minute.astype(np.int64), last - 1)
        share = minute - before
        values = (1.0 - share) * self.grid[:, before] + share * self.grid[:, before + 1]
        flags = self.fibrillation[np.rint(minute).astype(np.int64)]
        return Effects(**dict(zip(_NUMBERS, values, strict=True)), fibrillation=flags)


def make_conditions(
    rng: np.random.Generator, patient: Patient, start_of_day_s: float, hours: float
) -> Conditions:
    """Draw the conditions of a stay.

    Electrodes are placed anew each morning. Posture and autonomic tone are stationary Ornstein-Uhlenbeck
    processes, so that two strips some hours apart differ as two independent strips would. Patients with
    coronary disease have ischemic episodes of one sign, those with paroxysms hours of atrial fibrillation.

    Parameters
    ----------
    rng : stream of the patient's conditions. Each process has a child of its own, so that the beginning of
        a longer stay is the same as that of a shorter one.
    patient : rhythm, pacemaker and coronary disease.
    start_of_day_s : seconds from midnight to the start of the stay.
    hours : length of the stay.

    Source: SCIENCE section 4.3 for all standard deviations; time constants are assumptions.
    """
    n = int(np.ceil(hours * 60.0)) + MARGIN_MIN
    children = rng.spawn(9)
    morning = np.floor((start_of_day_s / 60.0 + np.arange(n) - 60.0 * table.ELECTRODE_HOUR) / 1440.0)
    day = (morning - morning[0]).astype(np.int64)
    electrodes = children[0].normal(size=(int(day[-1]) + 1, 4))[day].T
    rate, tone, repolarization = (relaxing(child, n, table.AUTONOMIC_MIN) for child in children[1:4])
    posture, t_posture, t_width = (relaxing(child, n, table.POSTURE_MIN) for child in children[4:7])

    fibrillation = np.full(n, patient.rhythm == "fibrillation")
    if patient.rhythm == "paroxysmal":
        for start, end in episodes(children[7], n, table.PAROXYSM_SHARE, table.PAROXYSM_MIN):
            fibrillation[max(round(start), 0) : max(round(end), 0)] = True
    faster = table.FIBRILLATION_RATE * fibrillation if patient.rhythm == "paroxysmal" else 0.0

    numbers = Effects(
        rate=table.STRIP_RATE.spread * rate + faster,
        p=np.exp(table.DAY_P.spread * electrodes[1] + table.STRIP_P.spread * tone),
        q=np.exp(table.DAY_QS.spread * electrodes[2]),
        r=np.exp(table.DAY_R.spread * electrodes[0] + table.STRIP_R.spread * posture),
        s=np.exp(table.DAY_QS.spread * electrodes[2]),
        t=np.exp(table.DAY_T.spread * electrodes[3] + table.STRIP_T.spread * t_posture),
        t_width=np.exp(table.STRIP_T_WIDTH.spread * t_width),
        st=table.STRIP_ST.spread * posture,
        ischemia=_ischemia(children[8], n) if patient.ischemia else np.zeros(n),
        pr=table.STRIP_PR.spread * tone,
        qt=table.STRIP_QT.spread * repolarization,
        fibrillation=fibrillation,
    )
    grid = np.array([getattr(numbers, name) for name in _NUMBERS], np.float32)
    return Conditions(grid, fibrillation)


def episodes(
    rng: np.random.Generator, n: int, share: float, length: table.Parameter
) -> list[tuple[float, float]]:
    """Draw episodes that fill a share of the time.

    Parameters
    ----------
    rng : stream of this process.
    n : minutes.
    share : of the time inside episodes, in the long run.
    length : log-normal length of an episode, minutes. Pauses are exponential.

    Returns
    -------
    Start and end of each episode in minutes, in order; the first may begin before 0.
    """
    mean = length.value * float(np.exp(0.5 * length.spread**2))
    pause = mean * (1.0 - share) / share
    at, found = -BURN_IN * (mean + pause), []
    while at < n:
        start = at + rng.exponential(pause)
        at = start + length.lognormal(rng)
        if at > 0 and start < n:
            found.append((float(start), float(at)))
    return found


def _ischemia(rng: np.random.Generator, n: int) -> Array:
    """T shift in mV, minute by minute: episodes of one patient have one sign, as one vessel feeds them."""
    (levels,) = rng.spawn(1)
    sign = 1.0 if levels.random() < 0.5 else -1.0
    minutes, out = np.arange(n, dtype=np.float64), np.zeros(n)
    share = table.ISCHEMIA_SHARE / table.CORONARY_SHARE
    for start, end in episodes(rng, n, share, table.ISCHEMIA_MIN):
        level = sign * abs(table.ISCHEMIA_T.normal(levels))
        ramp = min(table.ISCHEMIA_RAMP_MIN, (end - start) / 3.0)
        low, high = max(int(start), 0), min(int(end) + 2, n)
        part = minutes[low:high]
        out[low:high] += level * np.clip(np.minimum(part - start, end - part) / ramp, 0.0, 1.0)
    return out

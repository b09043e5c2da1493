"""The beat at every moment: how the waves of lead II follow potassium, heart rate, day and posture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulation.cohort import parameters as table
from simulation.cohort.conditions import Effects
from simulation.cohort.patient import Patient

Array = npt.NDArray[np.float64]
Lead = Literal["II", "V", "MCL1"]

T_END_SIGMAS = 2.3  # from the peak of T to its end, in sigmas of its falling side: as the tangent finds it


@dataclass(frozen=True)
class Shape:
    """One beat after the other: arrays (n_beats,). Amplitudes in mV, times in s; widths are sigmas.

    ``qt`` holds at an RR interval of 1 s, ``t_width`` (falling side) at 0.7 s. ``ventricular`` and the
    quantities after it are those of beats that begin in the ventricles, early or paced.
    """

    rate: Array
    p: Array
    q: Array
    r: Array
    s: Array
    t: Array
    u: Array
    st: Array
    pr: Array
    qt: Array
    qrs_width: Array
    notch: Array
    s_width: Array
    p_width: Array
    t_width: Array
    t_asymmetry: Array
    sagging: Array
    ventricular: Array
    ventricular_width: Array
    ventricular_st: Array
    ventricular_t: Array
    spike: Array


def rate_at(patient: Patient, potassium: Array, effects: Effects) -> Array:
    """Heart rate, beats per minute: float64 (n,). Slower above 5.5 mEq/L; fixed with a pacemaker."""
    if patient.paced:
        return np.full(len(potassium), patient.beat.rate)
    high = np.maximum(potassium - table.ONSET_POTASSIUM, 0.0)
    severe = np.maximum(potassium - table.SEVERE_POTASSIUM, 0.0)
    responds = min(patient.sensitivity.pr / table.K_PR.value, 2.0)
    slower = np.minimum(table.K_RATE * high + table.SEVERE_RATE * responds * severe, table.MOST_SLOWING)
    return np.clip(patient.beat.rate + effects.rate - slower, *table.RATE_RANGE)


def shape_at(patient: Patient, potassium: Array, effects: Effects) -> Shape:
    """Compute the beats of a patient at some potassium levels.

    T grows, narrows and comes earlier over the whole range. Above 5.5 mEq/L P flattens, QRS widens and most
    of the lengthening of PR begins; from 7 to 9, depending on the patient, P is lost and QRS and T become
    one wave. An inverted T loses depth instead (pseudo-normalization). Below 3.5 T is flat and U shows.

    Parameters
    ----------
    patient : baseline beat and sensitivity.
    potassium : float64 (n,), true potassium, mEq/L.
    effects : conditions at the same moments, arrays (n,).

    Source: SCIENCE sections 3 and 4.3; numbers in ``parameters``.
    """
    beat, k = patient.beat, patient.sensitivity
    potassium = np.asarray(potassium, np.float64)
    above = potassium - table.REFERENCE_POTASSIUM
    high = np.maximum(potassium - table.ONSET_POTASSIUM, 0.0)
    severe = np.maximum(potassium - table.SEVERE_POTASSIUM, 0.0)
    low = np.maximum(table.HYPOKALEMIA - potassium, 0.0)
    conducted = np.minimum(potassium, table.PR_LAST_POTASSIUM)
    delay = table.PR_BELOW_ONSET * (conducted - table.REFERENCE_POTASSIUM)
    delay += table.PR_ABOVE_ONSET * np.maximum(conducted - table.ONSET_POTASSIUM, 0.0)
    responds = float(np.clip(k.qrs / table.K_QRS.value, 0.3, 2.5)) ** 0.5
    sine = _smooth((potassium - table.SINE_POTASSIUM) / table.SINE_RANGE * responds)
    lost = _smooth((potassium - table.P_LOSS_POTASSIUM) / table.P_LOSS_RANGE * responds)
    rate = rate_at(patient, potassium, effects)

    growth = np.clip(1.0 + k.t_amplitude * _saturating(above), 0.15, 3.5)
    if beat.t > 0:
        faster = np.clip(1.0 - table.T_LESS_PER_BPM * (rate - table.HEART_RATE.value), 0.6, 1.4)
        t = beat.t * effects.t * faster * growth
    else:
        t = beat.t * effects.t + table.INVERTED_SHARE * abs(beat.t) * k.t_amplitude * _saturating(above)
    widening = np.minimum(1.0 + k.qrs * (high + table.SEVERE_QRS * severe**2), 3.0) * (1.0 + sine)
    width = beat.qrs_width * widening
    narrow = beat.t_width * effects.t_width / np.maximum(1.0 + k.t_width * np.maximum(above, -2.0), 0.7)
    u_seen = np.clip((table.U_GONE_RATE - rate) / table.U_FADES_OVER, 0.0, 1.0)
    responds_low = min(k.t_amplitude / table.K_T_AMPLITUDE.value, 2.0)
    r = beat.r * effects.r
    one = np.ones(len(potassium))
    return Shape(
        rate=rate,
        p=beat.p * effects.p * np.clip(1.0 - k.p * high, 0.1, 1.0) * (1.0 - lost),
        q=beat.q * effects.q * (1.0 - sine),
        r=r * (1.0 - table.SINE_R_LOSS * sine),
        s=beat.s * effects.s - table.SINE_S * r * sine,
        t=t + effects.ischemia + table.SINE_T * r * sine,
        u=beat.u * u_seen + table.HYPOKALEMIA_U * responds_low * low * (0.4 + 0.6 * u_seen),
        st=(beat.st + effects.st + table.ISCHEMIA_ST_SHARE * effects.ischemia + table.HYPOKALEMIA_ST * low)
        * (1.0 - sine),
        pr=np.clip(beat.pr + k.pr * delay + effects.pr, *table.PR_RANGE),
        qt=beat.qtc
        + effects.qt
        - k.qt * above
        - T_END_SIGMAS * (beat.t_width * effects.t_width - narrow)
        + 4.0 * (width - beat.qrs_width),
        qrs_width=width,
        notch=beat.notch * one,
        s_width=(beat.s_width + table.SINE_S_WIDTH * sine) * one,
        p_width=beat.p_width * (1.0 + table.P_BROADER * high),
        t_width=narrow * (1.0 + table.SINE_T_WIDTH * sine),
        t_asymmetry=1.0 + (beat.t_asymmetry - 1.0) * np.exp(-table.T_SYMMETRY * high) * one,
        sagging=np.full(len(potassium), float(beat.sagging)),
        ventricular=beat.ventricular * effects.r * (1.0 - table.SINE_R_LOSS * sine),
        ventricular_width=table.VENTRICULAR_WIDTH * widening,
        ventricular_st=table.VENTRICULAR_ST * beat.ventricular * (1.0 - sine),
        ventricular_t=table.VENTRICULAR_T * beat.ventricular * effects.t * growth,
        spike=beat.spike * one,
    )


def seen_from(shape: Shape, lead: Lead) -> Shape:
    """Turn beats in lead II to another lead of the monitor: small R, deep S; taller T in V than in MCL1."""
    if lead == "II":
        return shape
    t = 1.4 if lead == "V" else 0.5
    return replace(
        shape,
        p=0.6 * shape.p,
        r=(0.5 if lead == "V" else 0.25) * shape.r,
        s=np.minimum(4.0 * shape.s, -0.5 * shape.r),
        t=t * shape.t,
        u=t * shape.u,
        ventricular=-0.8 * shape.ventricular,
        ventricular_st=-0.8 * shape.ventricular_st,
        ventricular_t=-0.8 * shape.ventricular_t,
    )


def _saturating(above: Array) -> Array:
    """Potassium above the reference as T amplitude sees it: proportional at first, then less and less."""
    start, more = table.T_PROPORTIONAL, table.T_SATURATION
    beyond = np.maximum(above - start, 0.0)
    return np.asarray(np.minimum(above, start) + more * -np.expm1(-beyond / more))


def _smooth(share: Array) -> Array:
    """Turn a number into a share that rises smoothly from 0 at 0 to 1 at 1."""
    inside = np.clip(share, 0.0, 1.0)
    return np.asarray(inside * inside * (3.0 - 2.0 * inside))

"""The signals of one stretch and the records of one stay: heart, noise and monitor put together.

One stretch, at most an hour, is in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from simulation.cohort import device
from simulation.cohort import monitor_parameters as table
from simulation.cohort.heart import Heart, heart_of, lead_signal
from simulation.cohort.noise import Signal, movement, noise
from simulation.cohort.profile import Monitor
from simulation.cohort.shape import Lead
from simulation.cohort.stay import PatientPlan, Stretch

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """One run of the monitor (a WFDB record), of which the stretches are stored.

    Attributes
    ----------
    number : position in the stay, from 0.
    begin_s : seconds after the start of the stay, true time.
    start : the same by the monitor's clock.
    seconds : length, s.
    rate_hz : stored sampling rate, Hz.
    stretches : what is stored, in order of time.
    """

    number: int
    begin_s: int
    start: datetime
    seconds: int
    rate_hz: float
    stretches: tuple[Stretch, ...]

    @property
    def length(self) -> int:
        """Samples, gaps included."""
        return round(self.seconds * self.rate_hz)

    def first_sample(self, stretch: Stretch) -> int:
        """Position of a stretch in the record, samples."""
        return round((stretch.start_s - self.begin_s) * self.rate_hz)


@dataclass(frozen=True)
class Wiring:
    """Which signals one record holds.

    Attributes
    ----------
    other : lead that is recorded where lead II is not.
    second : lead that is recorded besides, if any.
    respiration, pleth : whether these are recorded.
    gains : the monitor's, in units per mV, as far as somebody left them to it.
    """

    other: Lead
    second: Lead | None
    respiration: bool
    pleth: bool
    gains: tuple[int, ...]


def records_of(plan: PatientPlan) -> tuple[Record, ...]:
    """Find the records of a stay.

    A record begins up to a minute before its first stretch and ends up to a minute and a half after its last
    one; it never overlaps the next, and no two begin in the same minute, which is their name.
    """
    numbers = sorted({stretch.record for stretch in plan.stretches})
    groups = [tuple(s for s in plan.stretches if s.record == number) for number in numbers]
    found: list[Record] = []
    free_s = 0
    for position, group in enumerate(groups):
        rng = plan.rng("record", numbers[position])
        lead_in, lead_out = int(rng.integers(*table.LEAD_IN_S)), int(rng.integers(*table.LEAD_OUT_S))
        begin = max(group[0].start_s - lead_in, min(free_s, group[0].start_s))
        last = group[-1].end_s
        end = last + lead_out
        if position + 1 < len(groups):
            end = min(end, (last + groups[position + 1][0].start_s) // 2)
        start = plan.stay.monitor_base + timedelta(seconds=begin)
        rate = plan.profile.monitor.rate_hz
        found.append(Record(numbers[position], begin, start, end - begin, rate, group))
        # Not before the next minute of the monitor's clock.
        free_s = max(end + 1, begin + 60 - start.second)
    return tuple(found)


def wiring_of(plan: PatientPlan, record: Record) -> Wiring:
    """Decide which signals a record holds."""
    rng = plan.rng("wiring", record.number)
    other: Lead = "MCL1" if rng.random() < table.MCL1_SHARE else "V"
    second: Lead | None = "V" if rng.random() < table.SECOND_ECG_SHARE else None
    gains = tuple(sorted(plan.profile.monitor.gains, reverse=True))
    return Wiring(
        other=other,
        second=second,
        respiration=bool(rng.random() < table.RESPIRATION_SHARE),
        pleth=bool(rng.random() < table.PLETH_SHARE),
        gains=gains[1:] if rng.random() < table.COARSER and len(gains) > 1 else gains,
    )


def leads_of(wiring: Wiring, stretch: Stretch) -> tuple[Lead, ...]:
    """ECG leads of a stretch; the first is lead II, or the one that is there instead."""
    first: Lead = "II" if stretch.lead_ii else wiring.other
    return (first,) if wiring.second is None or wiring.second == first else (first, wiring.second)


def analog_of(plan: PatientPlan, stretch: Stretch, heart: Heart, lead: Lead = "II") -> Signal:
    """Make one lead as it reaches the monitor: heart and noise, at the rate at which the monitor samples.

    Returns
    -------
    float32 (round(seconds · acquired_hz),), mV.
    """
    rate = plan.profile.monitor.acquired_hz
    signal = lead_signal(heart, lead, stretch.seconds, rate)
    signal += disturbance_of(plan, stretch, heart, lead, len(signal))
    return signal


def disturbance_of(plan: PatientPlan, stretch: Stretch, heart: Heart, lead: Lead, n: int) -> Signal:
    """Everything in a lead that is not the heart: float32 (n,), mV, at the rate the monitor samples at."""
    monitor, rhythm = plan.profile.monitor, heart.rhythm
    rng = plan.rng("noise", stretch.index, lead)
    out = noise(
        rng,
        n,
        monitor.acquired_hz,
        plan.patient.muscle_mv,
        monitor.mains_hz,
        rhythm.respiration_hz,
        rhythm.respiration_phase,
        monitor.noise,
    )
    if stretch.noisy:
        out += movement(rng, n, monitor.acquired_hz)
    return out


def monitored(monitor: Monitor, analog: Signal) -> Signal:
    """Pass a lead through the monitor: its band, and fewer samples where it keeps only turning points.

    Parameters
    ----------
    monitor : of the site.
    analog : float32 (n,), mV, at ``acquired_hz``.

    Returns
    -------
    float32, mV, at ``rate_hz``.
    """
    signal = device.monitor_band(analog, monitor.band_hz, monitor.acquired_hz)
    return signal[device.turning_points(signal)] if monitor.turning_point else signal


def signal_of(plan: PatientPlan, stretch: Stretch, lead: Lead = "II") -> Signal:
    """Return one lead of a stretch as the monitor holds it before it is digitized: float32, mV.

    Electrodes that come off, gains and gaps are not in it.
    """
    return monitored(plan.profile.monitor, analog_of(plan, stretch, heart_of(plan, stretch), lead))


def segments_of(
    plan: PatientPlan, record: Record, stretch: Stretch, heart: Heart, wiring: Wiring
) -> list[device.Segment]:
    """Make the stored segments of one stretch.

    Parameters
    ----------
    plan, record, stretch : what to make.
    heart : ``heart_of(plan, stretch)``.
    wiring : ``wiring_of(plan, record)``.
    """
    monitor = plan.profile.monitor
    rng = plan.rng("monitor", stretch.index)
    leads = []
    for name in leads_of(wiring, stretch):
        signal = monitored(monitor, analog_of(plan, stretch, heart, name))
        low, high = device.typical_range(signal, monitor.rate_hz)
        scale = device.choose_scale(low, high, wiring.gains, monitor.bits)
        other = scale
        if rng.random() < table.OTHER_GAIN:
            other = device.choose_scale(2 * low, 2 * high, _others(monitor.gains, scale[0]), monitor.bits)
        leads.append(device.LeadSignal(name, device.lead_off(rng, signal, monitor.rate_hz), scale, other))
    n, rhythm = len(leads[0].signal), heart.rhythm
    others = []
    if wiring.respiration:
        hz, phase = rhythm.respiration_hz, rhythm.respiration_phase
        others.append(device.respiration(hz, phase, n, monitor.rate_hz, monitor.bits))
    if wiring.pleth:
        others.append(device.pleth(rhythm.times, n, monitor.rate_hz, monitor.bits))
    return device.cut(rng, record.first_sample(stretch), monitor.rate_hz, monitor.bits, leads, others)


def minute_rates(heart: Heart, seconds: float) -> Array:
    """Heart rate minute by minute: float64 (n, 2), middle of the minute in s and beats per minute."""
    edges = np.append(np.arange(0.0, max(seconds - 30.0, 1.0), 60.0), seconds)
    beats, _ = np.histogram(heart.rhythm.times, edges)
    return np.stack([(edges[1:] + edges[:-1]) / 2, 60.0 * beats / np.diff(edges)], axis=1)


def _others(gains: tuple[int, ...], gain: int) -> tuple[int, ...]:
    """Gains of the monitor other than one; that one where there is no other."""
    return tuple(g for g in gains if g != gain) or (gain,)

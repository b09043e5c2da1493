"""What a monitor picks up besides the heart: breathing, drift, muscle, mains, pulled electrodes, movement.

Everything is made at the rate at which the monitor samples, before its filters. What changes slowly is made
on a coarse grid of steps and interpolated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.signal import sosfilt

from simulation.cohort import monitor_parameters as table
from simulation.cohort.processes import relaxing, sections

Signal = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

KNOTS_HZ = 12.5  # steps per second of what changes slowly; a line between them misses breathing by 0.3 %
MOVEMENT_KNOTS_HZ = 62.5


def noise(
    rng: np.random.Generator,
    n: int,
    rate_hz: float,
    muscle_mv: float,
    mains_hz: float,
    respiration_hz: float,
    respiration_phase: float,
    factor: float = 1.0,
) -> Signal:
    """Everything that disturbs one lead of an ordinary stretch.

    Parameters
    ----------
    rng : stream of the lead.
    n, rate_hz : samples, and the rate at which the monitor samples, Hz.
    muscle_mv : the patient's muscle noise, see ``muscle``.
    mains_hz : 50 or 60.
    respiration_hz, respiration_phase : breathing, as in the rhythm of the same stretch.
    factor : of the site, on muscle and baseline.

    Returns
    -------
    float32 (n,), mV.
    """
    out = muscle(rng, n, rate_hz, factor * muscle_mv * table.STRETCH_MUSCLE.lognormal(rng))
    breathing = factor * table.BREATHING.lognormal(rng)
    drift = factor * table.DRIFT.lognormal(rng)
    out += wander(rng, n, rate_hz, breathing, drift, respiration_hz, respiration_phase)
    out += mains(rng, n, rate_hz, mains_hz, table.MAINS.lognormal(rng))
    add_jolts(rng, out, rate_hz)
    return out


def muscle(rng: np.random.Generator, n: int, rate_hz: float, level_mv: float) -> Signal:
    """Muscle noise: nothing slow, flat above 20 Hz, swelling now and then for some seconds.

    Parameters
    ----------
    rng : stream.
    n, rate_hz : samples, and their rate, Hz.
    level_mv : root mean square, at rest, of white noise of the same density in 0 to 62.5 Hz. Of that, four
        fifths are left above 20 Hz; at higher rates there is more above.
    """
    white = rng.standard_normal(n, dtype=np.float32)
    sos = sections(2, table.MUSCLE_FROM_HZ, "highpass", rate_hz)
    out = np.asarray(sosfilt(sos.astype(np.float32), white), np.float32)
    step = knot_step(rate_hz)
    count = n // step + 2
    tension = np.exp(table.TENSION.spread * relaxing(rng, count, table.TENSION_S * rate_hz / step))
    for begin, length in _episodes(rng, n / rate_hz, table.BURST_EVERY_S, table.BURST_S):
        first, last = round(begin * rate_hz / step), round((begin + length) * rate_hz / step)
        swell = np.hanning(last - first + 3)[1:-1][: max(count - first, 0)]
        tension[first : first + len(swell)] *= 1.0 + (rng.uniform(*table.BURST_FACTOR) - 1.0) * swell
    tension *= level_mv * np.sqrt(rate_hz / 2 / table.MUSCLE_WIDTH_HZ)
    out *= between(tension, step, n)
    return out


def wander(
    rng: np.random.Generator,
    n: int,
    rate_hz: float,
    breathing_mv: float,
    drift_mv: float,
    respiration_hz: float,
    respiration_phase: float,
) -> Signal:
    """Baseline of one lead: breaths that differ in depth, and drift with a 1/f spectrum.

    Parameters
    ----------
    rng : stream.
    n, rate_hz : samples, and their rate, Hz.
    breathing_mv : amplitude of the breaths.
    drift_mv : standard deviation of the drift.
    respiration_hz, respiration_phase : breathing; the phase is that at the first sample.
    """
    step = knot_step(rate_hz)
    count = n // step + 2
    phase = 2 * np.pi * respiration_hz * np.arange(count) * (step / rate_hz) + respiration_phase
    depth = np.exp(table.BREATH_DEPTH.spread * relaxing(rng, count, table.BREATH_DEPTH_S * rate_hz / step))
    out = breathing_mv * depth * (np.sin(phase) + 0.2 * np.sin(2 * phase + 1.0))
    share = drift_mv / np.sqrt(len(table.DRIFT_TIMES_S))
    for time_s in table.DRIFT_TIMES_S:
        out += share * relaxing(rng, count, time_s * rate_hz / step)
    return between(out, step, n)


def mains(rng: np.random.Generator, n: int, rate_hz: float, mains_hz: float, level_mv: float) -> Signal:
    """Hum of the mains: its frequency drifts by hundredths of a hertz, its amplitude comes and goes."""
    step = knot_step(rate_hz)
    count = n // step + 2
    hertz = mains_hz + table.MAINS_DRIFT_HZ * relaxing(rng, count, table.MAINS_DRIFT_S * rate_hz / step)
    turns = 2 * np.pi * hertz * (step / rate_hz)
    # Phases are whole turns away from zero after an hour: taken away here, while they are exact.
    start = (np.cumsum(turns) - turns[0] + rng.uniform(0, 2 * np.pi)) % (2 * np.pi)
    ramp = np.arange(step, dtype=np.float32) / np.float32(step)
    phase = start[:-1, None].astype(np.float32) + turns[:-1, None].astype(np.float32) * ramp
    swell = np.exp(table.MAINS_SWELL.spread * relaxing(rng, count, table.MAINS_SWELL_S * rate_hz / step))
    out: Signal = np.sin(phase, out=phase).reshape(-1)[:n]
    out *= between(level_mv * swell, step, n)
    return out


def add_jolts(rng: np.random.Generator, signal: Signal, rate_hz: float) -> None:
    """Pull an electrode now and then, in place: a swing within a second, and another offset after it."""
    seconds = len(signal) / rate_hz
    for begin, length in _episodes(rng, seconds, table.JOLT_EVERY_S, table.JOLT_S):
        first, count = round(begin * rate_hz), max(round(length * rate_hz), 2)
        height = table.JOLT.lognormal(rng) * (1.0 if rng.random() < 0.5 else -1.0)
        swing = np.sin(np.linspace(0.0, np.pi, count, dtype=np.float32))
        place = signal[first : first + count]
        place += np.float32(height) * swing[: len(place)]
        signal[first + count // 2 :] += np.float32(rng.normal(0.0, table.JOLT_OFFSET_MV))


def movement(rng: np.random.Generator, n: int, rate_hz: float) -> Signal:
    """Artefact of a restless patient: as large as the ECG and in its band, with short pauses.

    Returns
    -------
    float32 (n,), mV.
    """
    step = max(round(rate_hz / MOVEMENT_KNOTS_HZ), 1)
    count, knots_hz = n // step + 2, rate_hz / step
    sos = sections(1, table.MOVEMENT_BAND_HZ, "bandpass", knots_hz)
    raw = sosfilt(sos, rng.standard_normal(count + 64))[64:]
    low, high = table.MOVEMENT_BAND_HZ
    raw *= rng.uniform(*table.MOVEMENT_MV) / np.sqrt((high - low) * np.pi / knots_hz)
    raw *= np.exp(table.EFFORT.spread * relaxing(rng, count, table.EFFORT_S * knots_hz))
    moving = np.zeros(count)
    begin = 0
    while begin < count:
        length = int(rng.uniform(*table.MOVING_S) * knots_hz)
        moving[begin : begin + length] = 1.0
        begin += length + int(rng.exponential(table.STILL_S) * knots_hz)
    return between(raw * moving, step, n)


def knot_step(rate_hz: float) -> int:
    """Return the samples from one coarse step to the next."""
    return max(round(rate_hz / KNOTS_HZ), 1)


def between(knots: Array, step: int, n: int) -> Signal:
    """Draw straight lines between knots that lie ``step`` samples apart: float32 (n,)."""
    ramp = np.arange(step, dtype=np.float32) / np.float32(step)
    level = knots.astype(np.float32)
    out = np.diff(level)[:, None] * ramp
    out += level[:-1, None]
    return out.reshape(-1)[:n]


def _episodes(
    rng: np.random.Generator, seconds: float, every_s: float, length_s: tuple[float, float]
) -> Iterator[tuple[float, float]]:
    """Begin and length of episodes that come by chance, s."""
    for _ in range(rng.poisson(seconds / every_s)):
        yield float(rng.uniform(0.0, seconds)), float(rng.uniform(*length_s))

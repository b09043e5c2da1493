"""From the ideal ECG to what a bedside monitor stores: noise, band, movement, 8-bit samples, segments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfilt, sosfilt_zi

from simulation.cohort import parameters as table
from simulation.cohort.ecg import Signal
from simulation.cohort.rhythm import Rhythm

Samples = npt.NDArray[np.int8]

INVALID = -128  # format 80: no signal
RAIL = 127
RATE_HZ = 125


@dataclass(frozen=True)
class Channel:
    """One digitized signal of a segment: physical value = (sample − baseline) / gain."""

    name: str
    units: str
    gain: int
    baseline: int
    samples: Samples


@dataclass(frozen=True)
class Segment:
    """Channels that ran together from ``start``, in samples from the start of the recording."""

    start: int
    channels: tuple[Channel, ...]

    @property
    def length(self) -> int:
        """Samples per channel."""
        return len(self.channels[0].samples)


def noise(rng: np.random.Generator, rhythm: Rhythm, n: int, muscle_mv: float, mains_hz: int) -> Signal:
    """Muscle noise, wander with breathing and slow drift, and mains hum: float32 (n,), mV.

    Muscle noise swells now and then for some seconds, as with any patient who moves a little.
    """
    time = np.arange(n, dtype=np.float32) / np.float32(RATE_HZ)
    out = rng.standard_normal(n, dtype=np.float32)
    out *= np.float32(muscle_mv * table.STRIP_MUSCLE.lognormal(rng))
    for _ in range(rng.poisson(n / (180.0 * RATE_HZ))):
        begin = int(rng.integers(0, n))
        out[begin : begin + int(rng.uniform(1.0, 4.0) * RATE_HZ)] *= np.float32(rng.uniform(2.0, 5.0))

    wander = table.WANDER.lognormal(rng)
    phase = np.float32(2 * np.pi * rhythm.respiration_hz) * time + np.float32(rhythm.respiration_phase)
    out += np.float32(wander) * np.sin(phase)
    knots = rng.normal(0.0, 1.5 * wander, n // (4 * RATE_HZ) + 2).astype(np.float32)
    out += np.interp(time, np.arange(len(knots)) * 4.0, knots).astype(np.float32)

    second = np.arange(RATE_HZ) / RATE_HZ
    hum = table.MAINS.lognormal(rng) * np.sin(2 * np.pi * mains_hz * second + rng.uniform(0, 2 * np.pi))
    out += np.resize(hum.astype(np.float32), n)
    return out


def movement(rng: np.random.Generator, n: int) -> Signal:
    """Artefact of a restless patient over most of a stretch: float32 (n,), mV, as large as the ECG."""
    sos = butter(1, (1.0, 12.0), "bandpass", fs=RATE_HZ, output="sos")
    raw = sosfilt(sos, rng.standard_normal(n)) * rng.uniform(0.8, 2.0)
    moving = np.zeros(n, np.float32)
    begin = 0
    while begin < n:
        begin += int(rng.exponential(8.0) * RATE_HZ)
        length = int(rng.uniform(15.0, 60.0) * RATE_HZ)
        moving[begin : begin + length] = 1.0
        begin += length
    out: Signal = (raw * moving).astype(np.float32)
    return out


def monitor_band(signal: Signal, band_hz: tuple[float, float]) -> Signal:
    """Analogue front end of the monitor: first-order high pass, second-order low pass.

    A high-pass corner of 0.5 Hz (monitoring mode) bends the ST segment; 0.05 Hz does not.
    """
    sos = np.concatenate(
        [
            butter(1, band_hz[0], "highpass", fs=RATE_HZ, output="sos"),
            butter(2, band_hz[1], "lowpass", fs=RATE_HZ, output="sos"),
        ]
    )
    start = sosfilt_zi(sos) * float(signal[: RATE_HZ * 4].mean())
    out, _ = sosfilt(sos, signal, zi=start)
    return np.asarray(out, np.float32)


def choose_gain(low: float, high: float, gains: tuple[int, ...]) -> tuple[int, int]:
    """Gain and baseline for a signal between ``low`` and ``high`` mV.

    The largest of the monitor's gains (units per mV) at which the signal fills no more than 85 % of the
    scale; the smallest if none does. The baseline (sample of 0 mV) is a multiple of 8 that centers it.
    """
    offered = sorted(gains, reverse=True)
    gain = next((g for g in offered if (high - low) * g <= 0.85 * 2 * RAIL), offered[-1])
    baseline = int(np.clip(-8 * round((high + low) / 2 * gain / 8), -96, 96))
    return gain, baseline


def digitize(signal: Signal, gain: float, baseline: int) -> Samples:
    """8-bit samples of a signal in physical units; NaN becomes ``INVALID``, the rest is clipped at ±127.

    Inside the rails the error is at most half a unit, 0.5 / gain.
    """
    scaled = np.rint(signal * np.float32(gain))
    scaled += np.float32(baseline)
    np.clip(scaled, -RAIL, RAIL, out=scaled)
    out: Samples = np.nan_to_num(scaled, copy=False, nan=INVALID).astype(np.int8)
    return out


def lead_off(rng: np.random.Generator, signal: Signal) -> Signal:
    """Replace, in one stretch of ten, a few seconds by NaN: the electrode came off."""
    if rng.random() < 0.1:
        begin = int(rng.integers(0, len(signal)))
        signal[begin : begin + int(rng.uniform(2.0, 25.0) * RATE_HZ)] = np.nan
    return signal


def respiration(rhythm: Rhythm, n: int) -> Channel:
    """Impedance respiration of the same stretch."""
    time = np.arange(n, dtype=np.float32) / np.float32(RATE_HZ)
    phase = np.float32(2 * np.pi * rhythm.respiration_hz) * time + np.float32(rhythm.respiration_phase)
    wave: Signal = np.float32(0.5) + np.float32(0.3) * np.sin(phase)
    return Channel("RESP", "pm", 255, -128, digitize(wave, 255, -128))


def pleth(rhythm: Rhythm, n: int) -> Channel:
    """Make a finger plethysmogram that follows the beats by a fifth of a second."""
    time = np.arange(n) / RATE_HZ
    beat = np.interp(time - 0.2, rhythm.times, np.arange(len(rhythm.times)))
    wave = 0.5 - 0.4 * np.cos(2 * np.pi * np.power(beat % 1.0, 0.7))
    return Channel("PLETH", "NU", 255, -128, digitize(wave.astype(np.float32), 255, -128))


def cut(
    rng: np.random.Generator,
    start: int,
    leads: dict[str, tuple[Signal, tuple[int, int], tuple[int, int]]],
    others: list[Channel],
) -> list[Segment]:
    """Cut one stretch into segments, as monitors do.

    One stretch in six is interrupted for up to 40 s or not at all, and runs at another gain afterwards;
    one in eight begins with a segment of seconds that has no ECG.

    Parameters
    ----------
    rng : stream of the stretch's device.
    start : first sample of the stretch in the recording.
    leads : by name: signal in mV, and the (gain, baseline) before and after an interruption.
    others : channels that are digitized already, as long as the leads.
    """
    n = len(others[0].samples) if others else len(next(iter(leads.values()))[0])
    pieces = [(0, n)]
    if rng.random() < 1 / 6 and n > 60 * RATE_HZ:
        middle = int(rng.uniform(0.1, 0.9) * n)
        pause = int(rng.choice([0.0, 1.0, 5.0, 40.0]) * RATE_HZ)
        pieces = [(0, middle), (min(middle + pause, n - RATE_HZ), n)]
    segments = []
    if others and leads and rng.random() < 1 / 8:
        tiny = int(rng.integers(1, 16)) * RATE_HZ
        if tiny < pieces[0][1] - RATE_HZ:
            segments.append(Segment(start, tuple(_part(channel, 0, tiny) for channel in others)))
            pieces[0] = (tiny, pieces[0][1])
    for number, (begin, end) in enumerate(pieces):
        channels = [
            Channel(name, "mV", scales[number][0], scales[number][1], digitize(x[begin:end], *scales[number]))
            for name, (x, *scales) in leads.items()
        ]
        channels += [_part(channel, begin, end) for channel in others]
        segments.append(Segment(start + begin, tuple(channels)))
    return segments


def _part(channel: Channel, begin: int, end: int) -> Channel:
    return Channel(channel.name, channel.units, channel.gain, channel.baseline, channel.samples[begin:end])

"""What a bedside monitor stores of a signal: its band, fewer samples, 8 or 16 bits, segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import sosfilt, sosfilt_zi

from simulation.cohort import monitor_parameters as table
from simulation.cohort.noise import Signal
from simulation.cohort.processes import sections

Samples = npt.NDArray[np.int8] | npt.NDArray[np.int16]
Index = npt.NDArray[np.int64]
Scale = tuple[int, int]  # gain in units per mV, and the sample of 0 mV

INVALID = {8: -128, 16: -32768}  # no signal, in WFDB formats 80 and 16
HIGHEST = {8: 127, 16: 32767}
REDUCTION = 4


@dataclass(frozen=True)
class Channel:
    """One digitized signal of a segment: physical value = (sample − baseline) / gain."""

    name: str
    units: str
    gain: int
    baseline: int
    samples: Samples

    def part(self, begin: int, end: int) -> Channel:
        """Return the samples from ``begin`` up to, not including, ``end``."""
        return Channel(self.name, self.units, self.gain, self.baseline, self.samples[begin:end])


@dataclass(frozen=True)
class Segment:
    """Channels that ran together from ``start``, in samples from the start of the record."""

    start: int
    channels: tuple[Channel, ...]

    @property
    def length(self) -> int:
        """Samples per channel."""
        return len(self.channels[0].samples)


@dataclass(frozen=True)
class LeadSignal:
    """An ECG lead as the monitor holds it before it is digitized.

    Attributes
    ----------
    name : ``II``, ``V`` or ``MCL1``.
    signal : float32 (n,), mV; NaN where there is none.
    scale : gain and baseline that fit the signal.
    other : those after an interruption; the same or others.
    """

    name: str
    signal: Signal
    scale: Scale
    other: Scale


def monitor_band(signal: Signal, band_hz: tuple[float, float], rate_hz: float) -> Signal:
    """Analogue front end of the monitor: first-order high pass, second-order low pass.

    A high-pass corner of 0.5 Hz (monitoring mode) bends the ST segment; 0.05 Hz does not.

    Parameters
    ----------
    signal : float32 (n,), mV.
    band_hz : corners, Hz.
    rate_hz : sampling rate, Hz.
    """
    sos = np.concatenate(
        [
            sections(1, band_hz[0], "highpass", rate_hz),
            sections(2, band_hz[1], "lowpass", rate_hz),
        ]
    )
    # As if the first seconds' mean had been there for long: no step at the start.
    start = sosfilt_zi(sos) * float(signal[: round(rate_hz * 4)].mean())
    out, _ = sosfilt(sos, signal, zi=start)
    return np.asarray(out, np.float32)


def turning_points(signal: Signal) -> Index:
    """Choose one sample of every four by two turning-point reductions of 2:1, one after the other.

    Each reduction looks at pairs and keeps the first sample where the signal turns there, seen from the
    sample kept before, else the second. Peaks survive that, and the spacing is no longer even: 1 to 7
    samples, 2 to 14 ms at 500 Hz.

    Parameters
    ----------
    signal : float32 (n,); samples beyond the last whole four are left out.

    Returns
    -------
    int64 (n // 4,), positions of the kept samples.

    Source: the turning-point algorithm; for the spacing, SCIENCE section 2.2.
    """
    half = _one_of_two(signal)
    return half[_one_of_two(signal[half])][: len(signal) // REDUCTION]


def _one_of_two(signal: Signal) -> Index:
    """Return positions of the samples that one 2:1 reduction keeps: int64 (n // 2,).

    What a pair keeps depends on the pair before only through which of its samples was kept. So each pair is
    a map from {first, second} to {first, second}: constant, the same or the opposite. The choice after any
    number of pairs is the last constant, turned as often as an opposite followed it.
    """
    pairs = signal[: len(signal) // 2 * 2].reshape(-1, 2)
    if len(pairs) == 0:
        return np.empty(0, np.int64)
    first, second = pairs[:, 0], pairs[:, 1]
    rises, falls = second > first, second < first
    # Whether the first sample is a turning point: seen from the first and from the second of the pair before.
    takes = [
        (falls[1:] & (first[1:] > before)) | (rises[1:] & (first[1:] < before))
        for before in (first[:-1], second[:-1])
    ]
    constant = takes[0] == takes[1]
    opposite = ~constant & ~takes[0]
    # The first pair of all keeps its second sample.
    value = np.concatenate([[False], takes[0]])
    place = np.zeros(len(pairs), np.int32)
    np.multiply(np.arange(1, len(pairs), dtype=np.int32), constant, out=place[1:])
    last = np.maximum.accumulate(place)
    turned = np.zeros(len(pairs), np.bool_)
    np.logical_xor.accumulate(opposite, out=turned[1:])
    chosen = value[last] ^ turned ^ turned[last]
    return np.asarray(np.arange(0, 2 * len(pairs), 2) + ~chosen, np.int64)


def typical_range(signal: Signal, rate_hz: float) -> tuple[float, float]:
    """Lowest and highest value of a signal in ordinary seconds: nineteen of twenty stay inside."""
    step = max(round(2 * rate_hz), 1)
    if len(signal) < step:
        return float(np.min(signal)), float(np.max(signal))
    windows = signal[: len(signal) // step * step].reshape(-1, step)
    lowest, highest = windows.min(axis=1), windows.max(axis=1)
    return float(np.quantile(lowest, 0.05)), float(np.quantile(highest, 0.95))


def choose_scale(low: float, high: float, gains: Sequence[int], bits: int) -> Scale:
    """Gain and baseline for a signal between ``low`` and ``high`` mV.

    The largest of the monitor's gains (units per mV) at which the signal fills no more than 85 % of the
    scale; the smallest if none does. With 8 bits the baseline is a multiple of 8 that centers the signal.
    """
    offered = sorted(gains, reverse=True)
    room = table.FILL * 2 * HIGHEST[bits]
    gain = next((g for g in offered if (high - low) * g <= room), offered[-1])
    if bits == 16:
        return gain, 0
    return gain, int(np.clip(-8 * round((high + low) / 2 * gain / 8), -96, 96))


def digitize(signal: Signal, gain: float, baseline: int, bits: int) -> Samples:
    """Convert a signal in physical units to samples; NaN becomes ``INVALID``.

    Inside the rails the error is at most half a unit, 0.5 / gain. The rails are those of the converter; an
    ECG is limited to the input range before it comes here (``lead_off``).
    """
    scaled = np.rint(signal * np.float32(gain))
    scaled += np.float32(baseline)
    np.clip(scaled, -HIGHEST[bits], HIGHEST[bits], out=scaled)
    np.nan_to_num(scaled, copy=False, nan=INVALID[bits])
    return np.asarray(scaled, np.int8) if bits == 8 else np.asarray(scaled, np.int16)


def lead_off(rng: np.random.Generator, signal: Signal, rate_hz: float) -> Signal:
    """Take electrodes off for seconds, once in hours, in place.

    Meanwhile the monitor stores zeros or marks samples as invalid. When the electrode is back, the signal
    comes from beyond the rails and settles. Then everything is limited to the input range of a monitor.

    Parameters
    ----------
    rng : stream.
    signal : float32 (n,), mV.
    rate_hz : stored sampling rate, Hz.
    """
    n = len(signal)
    for _ in range(rng.poisson(table.LEAD_OFF_PER_HOUR * n / (3600 * rate_hz))):
        begin = int(rng.integers(0, n))
        end = begin + int(rng.uniform(*table.LEAD_OFF_S) * rate_hz)
        tau = rng.uniform(*table.SETTLING_S) * rate_hz
        back = signal[end : end + int(8 * tau)]
        back += (rng.normal(0.0, table.SETTLING_MV) * np.exp(-np.arange(len(back)) / tau)).astype(np.float32)
        signal[begin:end] = 0.0 if rng.random() < table.LEAD_OFF_FLAT else np.nan
    np.clip(signal, -table.AMPLIFIER_MV, table.AMPLIFIER_MV, out=signal)
    return signal


def respiration(hz: float, phase: float, n: int, rate_hz: float, bits: int) -> Channel:
    """Impedance respiration of a stretch."""
    turns = 2 * np.pi * hz * np.arange(n) / rate_hz + phase
    return _unit_channel("RESP", "pm", (0.5 + 0.3 * np.sin(turns)).astype(np.float32), bits)


def pleth(beats: npt.NDArray[np.float64], n: int, rate_hz: float, bits: int) -> Channel:
    """Make a finger plethysmogram that follows the beats (R peaks, s) by a fifth of a second."""
    seconds = np.arange(n) / rate_hz - table.PLETH_DELAY_S
    beat = np.interp(seconds, beats, np.arange(len(beats))) % 1.0
    wave = 0.5 - 0.4 * np.cos(2 * np.pi * np.power(beat, 0.7))
    return _unit_channel("PLETH", "NU", wave.astype(np.float32), bits)


def _unit_channel(name: str, units: str, wave: Signal, bits: int) -> Channel:
    """Digitize a wave between 0 and 1."""
    gain, baseline = (255, -128) if bits == 8 else (20_000, 0)
    return Channel(name, units, gain, baseline, digitize(wave, gain, baseline, bits))


def cut(
    rng: np.random.Generator,
    start: int,
    rate_hz: float,
    bits: int,
    leads: Sequence[LeadSignal],
    others: Sequence[Channel],
) -> list[Segment]:
    """Cut one stretch into segments, as monitors do.

    One stretch in six is interrupted for up to 40 s or not at all, and often runs at another gain afterwards.
    One in eight begins with a segment of seconds: without ECG if there is another channel, else at the other
    gain.

    Parameters
    ----------
    rng : stream of the stretch's device.
    start : first sample of the stretch in the record.
    rate_hz, bits : of what is stored.
    leads : at least one.
    others : channels that are digitized already, as long as the leads.
    """
    n = len(leads[0].signal)

    def second(count: float) -> int:
        return round(count * rate_hz)

    pieces = [(0, n)]
    if rng.random() < table.INTERRUPTED and n > second(60):
        middle = int(rng.uniform(0.1, 0.9) * n)
        pause = second(float(rng.choice(table.PAUSES_S)))
        pieces = [(0, middle), (min(middle + pause, n - second(1)), n)]
    segments = []
    if rng.random() < table.TINY:
        tiny = second(float(rng.integers(*table.TINY_S)))
        if tiny < pieces[0][1] - second(1):
            parts = [channel.part(0, tiny) for channel in others] or [
                _digital(lead, lead.other, 0, tiny, bits) for lead in leads
            ]
            segments.append(Segment(start, tuple(parts)))
            pieces[0] = (tiny, pieces[0][1])
    for number, (begin, end) in enumerate(pieces):
        parts = [_digital(lead, lead.other if number else lead.scale, begin, end, bits) for lead in leads] + [
            channel.part(begin, end) for channel in others
        ]
        segments.append(Segment(start + begin, tuple(parts)))
    return segments


def _digital(lead: LeadSignal, scale: Scale, begin: int, end: int, bits: int) -> Channel:
    return Channel(lead.name, "mV", *scale, digitize(lead.signal[begin:end], *scale, bits))

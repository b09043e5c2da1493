"""What the monitor does to a signal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from common.seeding import stream
from simulation.cohort import device
from simulation.cohort import monitor_parameters as table

Signal = npt.NDArray[np.float32]


@pytest.mark.parametrize(
    ("gain", "baseline", "bits"), [(127, -64, 8), (55, 0, 8), (26, 16, 8), (200, 0, 16), (500, 0, 16)]
)
def test_quantisation_error_is_at_most_half_a_unit(gain: int, baseline: int, bits: int) -> None:
    signal = stream("q").uniform(-0.45, 0.9, 5000).astype(np.float32)
    samples = device.digitize(signal, gain, baseline, bits)
    assert samples.dtype.itemsize * 8 == bits
    back = (samples.astype(float) - baseline) / gain
    assert np.abs(back - signal).max() <= 0.5 / gain + 1e-6


def test_missing_signal_is_marked_and_loud_signal_is_clipped() -> None:
    wave = np.array([np.nan, 9.0, -9.0, 0.0], np.float32)
    assert device.digitize(wave, 127, -64, 8).tolist() == [-128, 127, -127, -64]
    assert device.digitize(wave, 5000, 0, 16).tolist() == [-32768, 32767, -32767, 0]


def test_the_largest_gain_that_fits_is_chosen() -> None:
    assert device.choose_scale(-0.3, 1.0, (55, 127, 83), 8)[0] == 127
    assert device.choose_scale(-0.5, 1.9, (55, 127, 83), 8)[0] == 83
    assert device.choose_scale(-2.0, 4.0, (55, 127, 83), 8)[0] == 55
    assert device.choose_scale(-2.0, 4.0, (500, 250), 16) == (500, 0)


@pytest.mark.parametrize(("low", "high"), [(-0.3, 1.0), (-1.2, 0.2), (-0.5, 1.9)])
def test_a_signal_that_fits_is_not_clipped(low: float, high: float) -> None:
    gain, baseline = device.choose_scale(low, high, (127, 83, 55), 8)
    ends = np.array([low, high]) * gain + baseline
    assert ends.min() > -127
    assert ends.max() < 127


def test_the_gain_follows_the_ecg_and_not_one_artefact() -> None:
    signal = (0.9 * (np.arange(60 * 125) % 100 == 50) - 0.1).astype(np.float32)
    quiet = device.typical_range(signal, 125.0)
    signal[3000:3020] = 20.0
    assert device.typical_range(signal, 125.0) == pytest.approx(quiet)
    assert quiet == pytest.approx((-0.1, 0.8), abs=0.01)


@pytest.mark.parametrize("rate", [125.0, 249.89, 500.0])
def test_monitor_band_keeps_the_middle_and_loses_drift(rate: float) -> None:
    time = np.arange(round(60 * rate)) / rate

    def passed(hz: float) -> float:
        wave = np.sin(2 * np.pi * hz * time).astype(np.float32)
        held = device.monitor_band(wave, (0.5, 40.0), rate)[round(16 * rate) : -round(4 * rate)]
        return float(np.sqrt(2) * held.std())

    assert passed(10.0) == pytest.approx(1.0, abs=0.03)
    assert passed(0.05) < 0.12
    assert passed(0.5) == pytest.approx(np.sqrt(0.5), abs=0.02)
    assert passed(40.0) == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_monitoring_mode_bends_the_st_segment_and_the_wide_band_does_not() -> None:
    rate = 250.0
    plateau = np.zeros(round(20 * rate), np.float32)
    plateau[2500:2550] = 0.2  # 200 ms, as long as an ST segment
    narrow = device.monitor_band(plateau, (0.5, 40.0), rate)
    wide = device.monitor_band(plateau, (0.05, 40.0), rate)
    assert narrow[2548] < 0.12
    assert wide[2548] > 0.185


def test_the_start_of_a_stretch_is_no_step() -> None:
    still = np.full(2500, 0.8, np.float32)
    assert np.abs(device.monitor_band(still, (0.05, 40.0), 250.0)).max() < 1e-4


def one_of_two_by_hand(signal: Signal) -> list[int]:
    """Reduce 2:1 sample by sample, as a monitor does."""
    kept: list[int] = []
    before = signal[0]
    for at in range(0, len(signal) - 1, 2):
        first, second = signal[at], signal[at + 1]
        turns = (first > before and second < first) or (first < before and second > first)
        kept.append(at if turns else at + 1)
        before = signal[kept[-1]]
    return kept


@pytest.mark.parametrize("kind", ["noise", "steps", "still", "slow", "pulses"])
@pytest.mark.parametrize("n", [4, 7, 8, 4001])
def test_turning_points_are_those_found_sample_by_sample(kind: str, n: int) -> None:
    rng = stream("turn", kind, n)
    signal = {
        "noise": rng.normal(size=n),
        "steps": rng.integers(-1, 2, n),  # full of ties
        "still": np.zeros(n),
        "slow": np.cumsum(rng.integers(-1, 2, n)),
        "pulses": rng.random(n) < 0.1,
    }[kind].astype(np.float32)
    half = np.array(one_of_two_by_hand(signal))
    quarter = half[one_of_two_by_hand(signal[half])]
    assert device.turning_points(signal).tolist() == quarter.tolist()


def test_of_every_four_samples_one_is_kept_and_the_spacing_is_2_to_14_ms() -> None:
    signal = stream("spacing").normal(size=40_000).astype(np.float32)
    kept = device.turning_points(signal)
    assert (kept // 4 == np.arange(10_000)).all()
    spacing_ms = np.diff(kept) * 2
    assert set(np.unique(spacing_ms)) == {2, 4, 6, 8, 10, 12, 14}
    assert spacing_ms.mean() == pytest.approx(8.0, abs=0.01)


def test_turning_points_keep_r_peaks_that_plain_decimation_misses() -> None:
    """R waves of 1 mV with a sigma of 5 ms, their peaks anywhere between the samples."""
    time = np.arange(120 * 500) / 500
    peaks = np.arange(1.0, 119.0, 0.8137)
    signal = np.exp(-0.5 * ((time - peaks[np.abs(time[:, None] - peaks).argmin(axis=1)]) / 0.005) ** 2)
    signal = signal.astype(np.float32)
    kept = device.turning_points(signal)

    def heights(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        near = np.round(peaks * 500).astype(int)
        inside = [(positions > peak - 20) & (positions < peak + 20) for peak in near]
        return np.array([signal[positions[part]].max() for part in inside])

    reduced, plain = heights(kept), heights(np.arange(0, len(signal), 4))
    assert (reduced >= plain - 1e-6).all()
    assert reduced.mean() > plain.mean() + 0.05
    assert reduced.min() > 0.95
    assert plain.min() < 0.80


def test_turning_points_of_a_scaled_or_shifted_signal_are_the_same() -> None:
    signal = stream("meta").integers(-90, 90, 4000).astype(np.float32)
    kept = device.turning_points(signal)
    assert (device.turning_points(signal * 8) == kept).all()
    assert (device.turning_points(-signal) == kept).all()
    assert (device.turning_points(signal + 64) == kept).all()


def test_electrodes_come_off_flat_or_invalid_and_settle_from_beyond_the_rails() -> None:
    rate, n = 125.0, 3600 * 125
    flat = invalid = railed = touched = 0
    for i in range(60):
        held = device.lead_off(stream("off", i), np.full(n, 0.3, np.float32), rate)
        gone = np.isnan(held)
        zero = held == 0.0
        invalid += bool(gone.any())
        flat += bool(zero.sum() > 2 * rate)
        railed += bool((device.digitize(held, 127, 0, 8)[~gone] >= 127).any())
        touched += bool((held != np.float32(0.3)).any())
        assert (gone | zero).sum() < 180 * rate
        assert np.nanmax(np.abs(held)) <= table.AMPLIFIER_MV
        assert np.median(held[~gone]) == np.float32(0.3)
    assert 5 < touched < 30  # of 60 hours
    assert flat > 1
    assert invalid > 2
    assert railed > 2


def segments_with(others: list[device.Channel], count: int = 200) -> list[list[device.Segment]]:
    signal = np.full(120 * 125, 0.25, np.float32)
    lead = device.LeadSignal("II", signal, (127, -64), (83, 0))
    return [device.cut(stream("cut", i), 500, 125.0, 8, [lead], others) for i in range(count)]


@pytest.mark.parametrize("with_respiration", [True, False])
def test_segments_are_in_order_and_hold_what_was_recorded(with_respiration: bool) -> None:
    n = 120 * 125
    others = [device.respiration(0.3, 0.0, n, 125.0, 8)] if with_respiration else []
    tiny = gain_changes = gaps = 0
    for segments in segments_with(others):
        assert segments[0].start == 500
        ends = [s.start + s.length for s in segments]
        assert ends[-1] == 500 + n
        assert all(s.length > 0 for s in segments)
        assert all(later.start >= end for later, end in zip(segments[1:], ends, strict=False))
        gaps += any(later.start > end for later, end in zip(segments[1:], ends, strict=False))
        leads = [c for s in segments for c in s.channels if c.name == "II"]
        for lead in leads:
            assert np.abs((lead.samples - float(lead.baseline)) / lead.gain - 0.25).max() <= 0.5 / lead.gain
        tiny += segments[0].length <= 16 * 125
        gain_changes += len({lead.gain for lead in leads}) > 1
        if with_respiration and segments[0].length <= 16 * 125:
            assert [c.name for c in segments[0].channels] == ["RESP"]
    assert 10 < tiny < 50
    assert gain_changes > 10
    assert 5 < gaps < 60


@pytest.mark.parametrize("bits", [8, 16])
def test_the_pulse_follows_the_heart_by_a_fifth_of_a_second(bits: int) -> None:
    beats = np.arange(-1.0, 32.0, 0.8)
    channel = device.pleth(beats, 30 * 125, 125.0, bits)
    wave = (channel.samples.astype(float) - channel.baseline) / channel.gain
    assert wave.min() == pytest.approx(0.1, abs=0.02)
    assert wave.max() == pytest.approx(0.9, abs=0.02)
    feet = np.flatnonzero((wave[1:-1] <= wave[:-2]) & (wave[1:-1] < wave[2:])) / 125 + 1 / 125
    nearest = np.abs(feet[:, None] - beats - 0.2).min(axis=1)
    assert np.median(nearest) < 0.02

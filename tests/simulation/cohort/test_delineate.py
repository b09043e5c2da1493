"""The delineator finds known waves in made-up beats, and measures plausible ones in real recordings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pandas, while wfdb is imported
    import wfdb

from simulation.cohort.proof.delineate import Measures, mean_beat, measure_strip

Wave = tuple[float, float, float, float]  # center from the R peak s, mV, left and right sigma s
Array = npt.NDArray[np.float64]
HALF = 2.3548 / 2  # sigmas from the peak of a Gaussian to half its height
ONE_BYTE_LSB = 1 / 55  # mV, a low gain of the real monitors
P, Q, R, S = (
    (-0.140, 0.10, 0.021, 0.021),
    (-0.024, -0.06, 0.008, 0.008),
    (0.0, 0.8, 0.010, 0.010),
    (0.025, -0.15, 0.010, 0.011),
)


def t_wave(rate: float, amplitude: float = 0.3, narrower: float = 1.0) -> Wave:
    return (0.33 * np.cbrt(60 / rate) - 0.05, amplitude, 0.052 / narrower, 0.036 / narrower)


def train(
    waves: Sequence[Wave],
    rate: float,
    rate_hz: float = 125.0,
    noise_mv: float = 0.0,
    lsb_mv: float = 0.0,
    seconds: float = 60.0,
) -> Array:
    """One minute of beats, two-sided Gaussians each, RR intervals with 2 % variation."""
    rng = np.random.default_rng(1)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    signal = np.zeros(len(time))
    beats = 0.7 + np.cumsum(60 / rate * (1 + 0.02 * rng.normal(size=int(seconds * rate / 60) + 3)))
    for beat in beats:
        for center, height, left, right in waves:
            away = time - beat - center
            signal += height * np.exp(-0.5 * (away / np.where(away < 0, left, right)) ** 2)
    signal += noise_mv * rng.normal(size=len(signal))
    return np.round(signal / lsb_mv) * lsb_mv if lsb_mv else signal


MONITOR = {"noise_mv": 0.03, "lsb_mv": ONE_BYTE_LSB}
CLEAN = {"noise_mv": 0.005}  # no amplifier is quieter, and R-peak detectors count on that


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("rate", [50, 60, 75, 90, 105, 120])
def test_known_waves_are_found(rate: float, disturbed: bool) -> None:
    """Allowed: 0.02 mV, 8 ms at a peak, 12 ms at an edge, 9 % of a slope; with noise and 8 bits too."""
    t = t_wave(rate)
    found = measure_strip(train([P, Q, R, S, t], rate, **(MONITOR if disturbed else CLEAN)), 125.0)
    assert found.rate_bpm == pytest.approx(rate, rel=0.02)
    assert found.r_mv == pytest.approx(0.78, abs=0.03)  # Q and S overlap R
    assert found.t_mv == pytest.approx(0.3, abs=0.02)
    assert found.p_mv == pytest.approx(0.1, abs=0.02)
    assert found.t_peak_ms == pytest.approx(1e3 * t[0], abs=8)
    assert found.t_half_ms == pytest.approx(1e3 * HALF * (t[2] + t[3]), abs=6)
    assert found.t_base_ms == pytest.approx(2e3 * (t[2] + t[3]), abs=10)
    assert found.slope_over_amplitude == pytest.approx(np.exp(-0.5) / t[3], rel=0.09)
    # Tangents meet the baseline two sigmas from a peak; QRS is where Q and S have 5 % of the steepest slope.
    assert found.qt_ms == pytest.approx(1e3 * (t[0] + 2 * t[3] + 0.040), abs=12)
    assert found.pr_ms == pytest.approx(1e3 * (0.140 + 2 * 0.021 - 0.040), abs=12)
    assert found.qrs_ms == pytest.approx(88, abs=10)


@pytest.mark.parametrize("rate_hz", [125.0, 249.89, 250.0, 360.0, 500.0])
def test_the_sampling_rate_does_not_matter(rate_hz: float) -> None:
    waves = [P, Q, R, S, t_wave(75)]
    found, reference = (measure_strip(train(waves, 75, hz), hz) for hz in (rate_hz, 1000.0))
    assert found.t_mv == pytest.approx(reference.t_mv, abs=0.006)
    assert found.pr_ms == pytest.approx(reference.pr_ms, abs=6)
    assert found.qrs_ms == pytest.approx(reference.qrs_ms, abs=6)
    assert found.t_base_ms == pytest.approx(reference.t_base_ms, abs=4)


@pytest.mark.parametrize("rate", [60, 90])
def test_changes_are_seen_as_they_are(rate: float) -> None:
    """What the check compares: a taller, narrower T, a longer PR, a wider QRS."""
    before = measure_strip(train([P, Q, R, S, t_wave(rate)], rate, **MONITOR), 125.0)
    later = (P[0] - 0.021, *P[1:])
    wide = [(1.3 * c, a, 1.3 * left, 1.3 * right) for c, a, left, right in (Q, R, S)]
    taller = measure_strip(train([later, Q, R, S, t_wave(rate, 0.45, 1.2)], rate, **MONITOR), 125.0)
    widened = measure_strip(train([P, *wide, t_wave(rate)], rate, **MONITOR), 125.0)
    assert taller.t_mv - before.t_mv == pytest.approx(0.15, abs=0.02)
    assert taller.t_base_ms / before.t_base_ms == pytest.approx(1 / 1.2, abs=0.05)
    assert taller.slope_over_amplitude / before.slope_over_amplitude == pytest.approx(1.2, abs=0.08)
    assert taller.pr_ms - before.pr_ms == pytest.approx(21, abs=8)
    assert widened.qrs_ms / before.qrs_ms == pytest.approx(1.3, abs=0.12)


def test_an_inverted_t_wave_is_negative() -> None:
    found = measure_strip(train([P, Q, R, S, t_wave(75, -0.25)], 75, **MONITOR), 125.0)
    assert found.t_mv == pytest.approx(-0.25, abs=0.02)
    assert found.t_slope < 0  # it rises behind its peak
    assert found.slope_over_amplitude == pytest.approx(np.exp(-0.5) / 0.036, rel=0.08)


def test_what_is_not_there_is_not_measured() -> None:
    without_p = measure_strip(train([Q, R, S, t_wave(75)], 75, **MONITOR), 125.0)
    without_t = measure_strip(train([P, Q, R, S], 75, **MONITOR), 125.0)
    assert np.isnan(without_p.pr_ms)
    assert np.isnan(without_p.p_mv)
    assert np.isnan(without_t.t_slope)
    assert np.isnan(without_t.qt_ms)
    assert np.isfinite(without_t.pr_ms)
    assert np.isnan(measure_strip(np.zeros(7500), 125.0).rate_bpm)
    assert np.isnan(measure_strip(np.full(7500, np.nan), 125.0).rate_bpm)


def test_the_answer_follows_the_gain_and_not_the_level() -> None:
    signal = train([P, Q, R, S, t_wave(75)], 75, noise_mv=0.01)
    once, shifted, doubled = (measure_strip(x, 125.0) for x in (signal, signal + 3.0, 2 * signal))
    assert shifted.t_mv == pytest.approx(once.t_mv, abs=1e-3)
    assert doubled.t_mv == pytest.approx(2 * once.t_mv, rel=0.01)
    assert doubled.pr_ms == pytest.approx(once.pr_ms, abs=4)
    assert doubled.t_over_r == pytest.approx(once.t_over_r, rel=0.01)


def test_early_beats_are_left_out_of_the_mean_beat() -> None:
    rng = np.random.default_rng(3)
    clean = train([P, Q, R, S, t_wave(60)], 60)
    spoiled = clean.copy()
    for at in rng.choice(np.arange(300, 7000, 125 * 8), 6, replace=False):
        away = np.arange(len(clean)) / 125 - at / 125
        spoiled += 1.4 * np.exp(-0.5 * (away / 0.03) ** 2)
    beat, other = mean_beat(clean, 125.0), mean_beat(spoiled, 125.0)
    assert beat is not None
    assert other is not None
    assert other.beats < beat.beats
    assert measure_strip(spoiled, 125.0).t_mv == pytest.approx(0.3, abs=0.03)


SINUS_WITHOUT_MORE = "426783006"  # the only diagnosis of the record


def real_strip(path: Path, lead: str, start_s: float = 0.0, seconds: float | None = None) -> Measures:
    rate = wfdb.rdheader(str(path)).fs
    last = None if seconds is None else int((start_s + seconds) * rate)
    record = wfdb.rdrecord(str(path), sampfrom=int(start_s * rate), sampto=last, channel_names=[lead])
    return measure_strip(record.p_signal[:, 0], record.fs)


@pytest.mark.data
def test_normal_recordings_have_normal_intervals(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten-second ECGs whose only diagnosis is sinus rhythm, and patients of MIT-BIH with sinus rhythm.

    MIT-BIH are two hospitals' referrals, not healthy people: most, not all, are in the normal ranges.
    """
    folder = real_data / "cinc2021"
    normal = [
        path.with_suffix("")
        for path in sorted(folder.glob("*.hea"))
        if f"# Dx: {SINUS_WITHOUT_MORE}\n" in path.read_text() + "\n"
    ]
    sinus = ["101", "112", "115", "116", "122", "205", "209", "215", "220", "223", "230"]
    found = [real_strip(path, "II") for path in normal]
    found += [real_strip(real_data / "mitdb" / name, "MLII", 300, 60) for name in sinus]
    ranges = {
        "PR 120 to 200 ms": [120 <= m.pr_ms <= 200 for m in found],
        "QRS 65 to 120 ms": [65 <= m.qrs_ms <= 120 for m in found],
        "QTc 350 to 470 ms": [350 <= m.qtc_ms <= 470 for m in found],
        "T slope/amplitude 10 to 25 per s": [10 <= m.slope_over_amplitude <= 25 for m in found],
    }
    with capsys.disabled():
        print(f"\n{len(found)} real recordings in sinus rhythm, lead II:")
        for name, inside in ranges.items():
            print(f"  {name:36}{np.mean(inside):6.0%}")
    assert len(found) >= 14
    assert all(np.mean(inside) >= 0.7 for inside in ranges.values())


@pytest.mark.data
def test_paced_beats_are_wide_and_fibrillation_has_no_pr(real_data: Path) -> None:
    paced = real_strip(real_data / "mitdb" / "107", "MLII", 300, 60)
    fibrillating = real_strip(real_data / "mitdb" / "201", "MLII", 300, 60)
    assert paced.qrs_ms > 140
    assert np.isnan(fibrillating.pr_ms)

"""The T wave of single beats: known waves are found, gain and level do what they should, nothing is NaN."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # pandas, while wfdb is imported
    import wfdb

from client.data.ecg.strip import beats_at
from client.learning.waves import T_WAVE_FEATURES, T_WAVE_RESOLUTION, t_wave_features
from common.config import Settings
from common.seeding import stream
from simulation.cohort.conditions import Effects
from simulation.cohort.ecg import synthesize
from simulation.cohort.patient import Beat, Patient, Sensitivity, make_patient
from simulation.cohort.profile import PROFILES
from simulation.cohort.proof.delineate import measure_strip
from simulation.cohort.rhythm import LEAD_IN_S, Rhythm
from simulation.cohort.shape import Shape, shape_at

Beats = npt.NDArray[np.float32]
RATE = 125
SECONDS = 12.0
AMPLITUDE, SLOPE, PER_AMPLITUDE, OVER_R = range(4)
STEEPEST_OF_GAUSSIAN = float(np.exp(-0.5))  # slope at one sigma over height and sigma
PERSON = make_patient(PROFILES["north"], "personal", 1, np.random.default_rng(0))


def patient(**beat: float) -> Patient:
    """Return one with an ordinary beat, but for what is told, whose ECG does not follow potassium."""
    ordinary = Beat(
        p=0.1, q=-0.06, r=0.8, s=-0.15, t=0.3, u=0.0, st=0.0, pr=0.165, qtc=0.425, qrs_width=0.0115,
        notch=0.0, s_width=1.0, p_width=0.021, t_width=0.036, t_asymmetry=1.45, sagging=False,
        ventricular=1.1, spike=0.0, rate=75.0,
    )  # fmt: skip
    return replace(
        PERSON, paced=False, beat=replace(ordinary, **beat), sensitivity=Sensitivity(0, 0, 0, 0, 0, 0)
    )


def beats_of(someone: Patient, potassium: float = 4.2) -> tuple[Beats, float, Shape]:
    """Return a dozen seconds of regular beats of the generator, their rate, and the shape behind them."""
    n = 60
    shape = shape_at(someone, np.full(n, potassium), Effects.none(n))
    rr = round(60 / float(shape.rate[0]) * RATE) / RATE
    # R peaks on samples, and no breathing: each beat has the amplitudes of the shape.
    rhythm = Rhythm(rr * np.arange(n) - round(LEAD_IN_S * RATE) / RATE, np.zeros(n, np.int8), False, 0.0, 0.0)
    signal = synthesize(shape, rhythm, SECONDS, RATE)
    peaks = np.rint(rhythm.times * RATE).astype(int)
    peaks = peaks[(peaks >= 40) & (peaks + 80 <= len(signal))]
    return signal[peaks[:, None] + np.arange(-40, 80)], 60 / rr, shape


def mean_features(someone: Patient, potassium: float = 4.2, noise_mv: float = 0.0) -> npt.NDArray[np.float64]:
    beats, rate, _ = beats_of(someone, potassium)
    noisy = np.repeat(beats, 20, axis=0)
    noisy = noisy + stream("muscle").normal(0, 1, noisy.shape) * noise_mv
    return t_wave_features(noisy.astype(np.float32), rate).mean(axis=0)


@pytest.mark.parametrize("noise_mv", [0.0, 0.02])
@pytest.mark.parametrize("rate", [45.0, 60.0, 75.0, 95.0, 120.0, 135.0])
def test_a_known_wave_is_measured_at_every_rate(rate: float, noise_mv: float) -> None:
    """From 95 a minute on the next P wave, soon QRS, is among the 120 samples; at 135 P rises on T's fall."""
    found = mean_features(patient(rate=rate, t=0.3), noise_mv=noise_mv)
    height = 0.3 * np.clip(1 - 0.004 * (rate - 86), 0.6, 1.4)  # the generator's T is lower at fast rates
    width = 0.036 * (60 / rate / 0.7) ** 0.25
    assert found[AMPLITUDE] == pytest.approx(height, abs=0.025)
    assert found[PER_AMPLITUDE] == pytest.approx(
        STEEPEST_OF_GAUSSIAN / width, rel=0.3 if rate > 120 else 0.15
    )
    assert found[SLOPE] == pytest.approx(found[AMPLITUDE] * found[PER_AMPLITUDE], rel=0.05)
    assert found[OVER_R] == pytest.approx(height / 0.8, abs=0.04)


@pytest.mark.parametrize("rate", [60.0, 100.0])
def test_an_inverted_t_wave_has_negative_numbers_and_a_positive_ratio_to_its_slope(rate: float) -> None:
    found = mean_features(patient(rate=rate, t=-0.25), noise_mv=0.01)
    assert found[AMPLITUDE] == pytest.approx(-0.25, abs=0.02)
    assert found[SLOPE] < -3
    assert found[PER_AMPLITUDE] > 10
    assert found[OVER_R] == pytest.approx(-0.25 / 0.8, abs=0.03)


@pytest.mark.parametrize("t", [0.9, 1.5, 2.5])
def test_t_waves_several_times_as_tall_as_their_complexes_are_found(t: float) -> None:
    found = mean_features(patient(t=t, r=0.45, rate=86.0, t_width=0.028), noise_mv=0.02)
    assert found[AMPLITUDE] == pytest.approx(t, rel=0.04)
    assert found[OVER_R] == pytest.approx(t / 0.45, rel=0.1)


@pytest.mark.parametrize(
    "wide",
    [
        {"qrs_width": 0.018, "notch": 0.78, "t": -0.15, "st": -0.04, "qtc": 0.455},
        {"s_width": 2.6, "s": -0.3, "qtc": 0.455},
        {"qrs_width": 0.023, "t": 0.6, "qtc": 0.47},
    ],
    ids=["left bundle branch block", "right bundle branch block", "twice as wide"],
)
def test_wide_complexes_are_not_taken_for_t(wide: dict[str, float]) -> None:
    someone = patient(**wide)
    _, rate, shape = beats_of(someone)
    found = mean_features(someone, noise_mv=0.01)
    assert found[AMPLITUDE] == pytest.approx(float(shape.t[0]), abs=0.05), rate


def test_in_patients_of_the_generator_the_wave_is_the_one_that_was_made() -> None:
    """Fifty patients at three levels of potassium, with muscle noise: true numbers against found."""
    made, found = [], []
    for number in range(50):
        someone = make_patient(PROFILES["north"], "personal", number, np.random.default_rng(number))
        for potassium in (4.2, 5.5, 6.5):
            _, _, shape = beats_of(someone, potassium)
            t, width = float(shape.t[0]), float(shape.t_width[0])
            if abs(t) > 0.1:  # a shallow inverted wave under a low ST segment is no wave of its own
                made.append([t, STEEPEST_OF_GAUSSIAN / width, t / float(shape.r[0])])
                found.append(mean_features(someone, potassium, noise_mv=0.018))
    true, measured = np.array(made), np.array(found)
    assert len(true) > 120
    away = np.abs(measured[:, AMPLITUDE] - true[:, 0])
    assert np.median(away) < 0.01
    assert np.quantile(away, 0.95) < 0.03
    assert np.corrcoef(measured[:, PER_AMPLITUDE], true[:, 1])[0, 1] > 0.85
    assert np.corrcoef(measured[:, OVER_R], true[:, 2])[0, 1] > 0.98


def test_more_potassium_is_seen_in_all_four_numbers() -> None:
    someone = replace(patient(), sensitivity=Sensitivity(0.33, 0.13, 0.016, 0.05, 0.15, 0.003))
    normal, high = (mean_features(someone, potassium, 0.018) for potassium in (4.2, 6.5))
    assert (high > 1.15 * normal).all()


def test_single_beats_agree_with_the_delineator_of_mean_beats() -> None:
    someone = patient(rate=80.0, t=0.4, st=0.02)
    beats, rate, shape = beats_of(someone)
    n = len(shape.rate)
    rhythm = Rhythm(60 / rate * np.arange(n) - LEAD_IN_S, np.zeros(n, np.int8), False, 0.0, 0.0)
    signal = synthesize(shape, rhythm, SECONDS, RATE)
    reference = measure_strip(signal + stream("amplifier").normal(0, 0.003, len(signal)), RATE)
    found = t_wave_features(beats, rate).mean(axis=0)
    assert found[AMPLITUDE] == pytest.approx(reference.t_mv, abs=0.015)
    assert found[SLOPE] == pytest.approx(reference.t_slope, rel=0.1)
    assert found[PER_AMPLITUDE] == pytest.approx(reference.slope_over_amplitude, rel=0.1)
    assert found[OVER_R] == pytest.approx(reference.t_over_r, abs=0.03)


def gaussians(waves: Sequence[tuple[float, float, float]]) -> Beats:
    """Return one beat (1, 120) of waves: seconds after R, mV, sigma s."""
    time = (np.arange(120) - 40) / RATE
    parts = [height * np.exp(-0.5 * ((time - at) / sigma) ** 2) for at, height, sigma in waves]
    return np.sum(parts, axis=0, dtype=np.float64)[None].astype(np.float32)


QRS = [(-0.15, 0.1, 0.021), (-0.026, -0.06, 0.009), (0.0, 0.8, 0.011), (0.026, -0.15, 0.011)]
GAINS = st.floats(0.5, 8)
LEVELS = st.floats(-3, 3)
HEIGHTS = st.one_of(st.floats(-0.6, -0.15), st.floats(0.15, 2.0))


@settings(max_examples=60, deadline=None)
@given(GAINS, HEIGHTS, st.floats(45, 110))
def test_gain_scales_amplitude_and_slope_and_leaves_the_ratios(gain: float, t: float, rate: float) -> None:
    beat = gaussians([*QRS, (0.30 * np.sqrt(60 / rate), t, 0.036)])
    once, scaled = t_wave_features(beat, rate), t_wave_features(gain * beat, rate)
    np.testing.assert_allclose(scaled[:, :2], gain * once[:, :2], rtol=1e-3)
    np.testing.assert_allclose(scaled[:, 2:], once[:, 2:], rtol=1e-3)


@settings(max_examples=60, deadline=None)
@given(LEVELS, HEIGHTS, st.floats(45, 110))
def test_shifting_the_base_line_changes_nothing(level: float, t: float, rate: float) -> None:
    beat = gaussians([*QRS, (0.30 * np.sqrt(60 / rate), t, 0.036)])
    shifted = (beat + np.float32(level)).astype(np.float32)
    np.testing.assert_allclose(
        t_wave_features(shifted, rate), t_wave_features(beat, rate), rtol=1e-3, atol=1e-4
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(0, 5),
    st.one_of(st.floats(0, 400), st.just(float("nan")), st.just(float("inf"))),
)
def test_whatever_the_beat_the_numbers_are_finite_and_its_own(seed: int, size: float, rate: float) -> None:
    beats = (size * stream("anything", seed).normal(0, 1, (5, 120))).astype(np.float32)
    found = t_wave_features(beats, rate)
    assert found.shape == (5, len(T_WAVE_FEATURES)) == (5, len(T_WAVE_RESOLUTION))
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    assert (found[:, PER_AMPLITUDE] >= 0).all()
    assert (found[:, PER_AMPLITUDE] <= 60).all()
    for row in (0, 3):
        np.testing.assert_array_equal(t_wave_features(beats[row : row + 1], rate), found[row : row + 1])


def test_beats_of_several_strips_have_their_own_rates() -> None:
    parts = [beats_of(patient(rate=rate))[:2] for rate in (60.0, 120.0)]
    rates = np.concatenate([np.full(len(beats), rate) for beats, rate in parts])
    together = t_wave_features(np.concatenate([beats for beats, _ in parts]), rates)
    apart = np.concatenate([t_wave_features(beats, rate) for beats, rate in parts])
    np.testing.assert_array_equal(together, apart)


def test_without_a_rate_it_is_taken_as_sixty() -> None:
    beats, _, _ = beats_of(patient(rate=70.0))
    np.testing.assert_array_equal(t_wave_features(beats, float("nan")), t_wave_features(beats, 60.0))


def test_what_cannot_be_measured_is_zero() -> None:
    broken = gaussians(QRS)
    broken[0, 70] = np.nan
    flat = np.full((1, 120), 0.7, np.float32)
    assert not t_wave_features(np.concatenate([broken, flat]), 75.0).any()
    assert t_wave_features(np.empty((0, 120), np.float32), 75.0).shape == (0, 4)


def test_a_beat_without_t_has_next_to_none() -> None:
    found = t_wave_features(gaussians(QRS), 75.0)[0]
    assert abs(found[AMPLITUDE]) < 0.01
    assert found[PER_AMPLITUDE] == 0.0


def test_a_beat_without_a_complex_has_no_ratio_to_it() -> None:
    found = t_wave_features(gaussians([(0.0, 0.02, 0.011), (0.28, 0.3, 0.036)]), 75.0)[0]
    assert found[AMPLITUDE] == pytest.approx(0.3, abs=0.02)
    assert found[OVER_R] == 0.0


@pytest.mark.data
@pytest.mark.parametrize("name", ["115", "116", "119", "122", "205", "209", "215", "220"])
def test_real_beats_agree_with_the_delineator_of_mean_beats(real_data: Path, name: str) -> None:
    """Five minutes of MIT-BIH, lead MLII: the median over single beats against the mean beat."""
    path = str(real_data / "mitdb" / name)
    record = wfdb.rdrecord(path, sampto=360 * 300, channel_names=["MLII"])
    annotated = wfdb.rdann(path, "atr", sampto=360 * 300)
    peaks = annotated.sample[np.isin(annotated.symbol, list("NLRej"))]
    signal = record.p_signal[:, 0]
    beats, _ = beats_at(signal, 360.0, peaks, Settings())
    found = np.median(t_wave_features(beats, 60 / float(np.median(np.diff(peaks)) / 360)), axis=0)
    reference = measure_strip(signal, 360.0)
    assert found[AMPLITUDE] == pytest.approx(reference.t_mv, abs=0.03)
    assert found[SLOPE] == pytest.approx(reference.t_slope, rel=0.2)
    assert found[OVER_R] == pytest.approx(reference.t_over_r, abs=0.05)

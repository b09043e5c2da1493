"""What disturbs an ECG at the bedside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import wfdb
from scipy.signal import welch

from common.seeding import stream
from simulation.cohort import noise
from simulation.cohort.device import monitor_band, turning_points
from simulation.cohort.processes import relaxing

Array = npt.NDArray[np.float64]
RATES = (125.0, 249.89, 250.0, 500.0)
MINUTE = 60.0


def density(signal: npt.NDArray[np.floating], rate: float, seconds: float = 8.0) -> tuple[Array, Array]:
    frequencies, power = welch(signal.astype(np.float64), rate, nperseg=round(seconds * rate))
    return frequencies, power


def level(
    signal: npt.NDArray[np.floating], rate: float, low: float, high: float, seconds: float = 8.0
) -> float:
    """Root mean square of the part of a signal in a band, mV."""
    frequencies, power = density(signal, rate, seconds)
    inside = (frequencies >= low) & (frequencies < high)
    return float(np.sqrt(power[inside].sum() * (frequencies[1] - frequencies[0])))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hertz", [50, 60])
def test_hum_has_the_frequency_of_the_mains_at_every_rate(rate: float, hertz: int) -> None:
    hum = noise.mains(stream("hum", hertz), round(5 * MINUTE * rate), rate, hertz, 0.01)
    frequencies, power = density(hum, rate)
    assert frequencies[power.argmax()] == pytest.approx(hertz, abs=0.2)
    assert power[np.abs(frequencies - hertz) < 0.5].sum() > 0.99 * power.sum()


def test_mains_drift_by_hundredths_of_a_hertz_and_swell() -> None:
    rate, hertz = 500.0, 50.0
    hum = noise.mains(stream("drift"), round(10 * MINUTE * rate), rate, hertz, 0.01)
    # Brought down to zero frequency, what is left turns with the difference from 50 Hz.
    slow = hum * np.exp(-2j * np.pi * hertz * np.arange(len(hum)) / rate)
    phasor = slow[: len(slow) // 500 * 500].reshape(-1, 500).mean(axis=1)  # per second
    deviation = np.diff(np.unwrap(np.angle(phasor))) / (2 * np.pi)
    assert 0.003 < deviation.std() < 0.1
    assert 0.1 < np.abs(phasor).std() / np.abs(phasor).mean() < 0.8


def test_muscle_has_the_same_density_at_every_rate() -> None:
    """A muscle does not know how fast the monitor samples."""
    levels = [
        np.sqrt(
            np.mean(
                [
                    level(noise.muscle(stream("emg", i), round(MINUTE * rate), rate, 0.02), rate, 25, 55) ** 2
                    for i in range(30)
                ]
            )
        )
        for rate in RATES
    ]
    assert max(levels) < 1.15 * min(levels)
    # White noise of 20 µV in 0 to 62.5 Hz has 13.9 µV in 25 to 55 Hz; swelling adds some.
    assert 0.0125 < np.mean(levels) < 0.020


@pytest.mark.parametrize("rate", RATES)
def test_muscle_leaves_the_t_wave_alone(rate: float) -> None:
    signal = noise.muscle(stream("slow"), round(4 * MINUTE * rate), rate, 0.02)
    assert level(signal, rate, 0.0, 5.0) < 0.05 * level(signal, rate, 20.0, rate / 2)


def test_muscle_comes_in_bursts() -> None:
    rate = 125.0
    signal = noise.muscle(stream("burst"), round(20 * MINUTE * rate), rate, 0.02)
    by_second = signal.reshape(-1, 125).std(axis=1)
    assert by_second.max() > 2.0 * np.median(by_second)
    assert (by_second > 2.0 * np.median(by_second)).mean() < 0.1


@pytest.mark.parametrize("hertz", [0.20, 0.27, 0.35])
def test_baseline_breathes_with_the_patient(hertz: float) -> None:
    rate, n = 125.0, round(10 * MINUTE * 125.0)
    baseline = noise.wander(stream("breath"), n, rate, 0.06, 0.01, hertz, 0.4)
    frequencies, power = density(baseline, rate, 40.0)
    assert frequencies[power.argmax()] == pytest.approx(hertz, abs=0.025)
    # In phase with the breathing that the heart follows.
    assert np.corrcoef(baseline, np.sin(2 * np.pi * hertz * np.arange(n) / rate + 0.4))[0, 1] > 0.7


def test_drift_is_one_over_f() -> None:
    rate = 125.0
    powers = []
    for i in range(12):
        drift = noise.wander(stream("drift", i), round(20 * MINUTE * rate), rate, 0.0, 0.1, 0.25, 0.0)
        frequencies, power = density(drift, rate, 200.0)
        powers.append(power)
    inside = (frequencies >= 0.01) & (frequencies <= 0.5)
    slope = np.polyfit(np.log(frequencies[inside]), np.log(np.mean(powers, axis=0)[inside]), 1)[0]
    assert slope == pytest.approx(-1.0, abs=0.25)


def test_electrodes_are_pulled_some_times_an_hour_and_stay_elsewhere() -> None:
    rate, hours = 125.0, 20
    pulled = 0
    for hour in range(hours):
        signal = np.zeros(round(3600 * rate), np.float32)
        noise.add_jolts(stream("jolt", hour), signal, rate)
        steps = np.abs(np.diff(signal)) > 1e-6
        pulled += int((np.diff(np.flatnonzero(steps)) > rate).sum()) + 1
        assert len(np.unique(signal)) > 3
    assert 8 < pulled / hours < 20


@pytest.mark.parametrize("rate", RATES)
def test_movement_is_as_large_as_the_ecg_and_in_its_band(rate: float) -> None:
    artefact = noise.movement(stream("move"), round(10 * MINUTE * rate), rate)
    moving = np.abs(artefact) > 0
    assert moving.mean() > 0.5
    assert 0.25 < artefact[moving].std() < 1.1
    assert level(artefact, rate, 1.0, 15.0) > 0.7 * level(artefact, rate, 0.0, rate / 2)


def test_a_ruined_strip_is_ruined_from_its_start() -> None:
    for i in range(20):
        assert np.abs(noise.movement(stream("begin", i), 1250, 125.0)).max() > 0.1


def test_a_process_that_forgets_has_unit_variance_and_its_own_memory() -> None:
    runs = np.stack([relaxing(stream("ou", i), 400, 20.0) for i in range(500)])
    assert runs[:, 0].std() == pytest.approx(1.0, abs=0.1)
    assert runs.std() == pytest.approx(1.0, abs=0.05)
    assert np.mean(runs[:, 100] * runs[:, 120]) == pytest.approx(np.exp(-1.0), abs=0.12)


def test_straight_lines_go_through_the_knots() -> None:
    line = noise.between(np.array([0.0, 1.0, -1.0, 3.0]), 4, 10)
    assert line.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0, -0.5, -1.0, 0.0]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", [3, 625, 1237])
def test_noise_is_as_long_as_asked_for(rate: float, n: int) -> None:
    signal = noise.noise(stream("n"), n, rate, 0.018, 60, 0.3, 0.0)
    assert signal.shape == (n,)
    assert signal.dtype == np.float32
    assert np.isfinite(signal).all()


def restlessness(signal: npt.NDArray[np.floating], rate: float = 125.0) -> float:
    """Root mean square of the second differences between QRS complexes, median over seconds, µV."""
    second = round(rate)
    bends = np.abs(np.diff(signal, 2))
    by_second = np.sort(bends[: len(bends) // second * second].reshape(-1, second), axis=1)
    return float(1e3 * np.median(np.sqrt((by_second[:, : int(0.7 * second)] ** 2).mean(axis=1))))


@pytest.mark.data
def test_simulated_noise_is_as_good_and_as_bad_as_that_of_real_bedside_strips(real_data: Path) -> None:
    """Lead II of three patients' real strips against noise alone, through the same monitor."""
    real = []
    for name in ("s00001/3975656_0015", "single/3000003_0003", "p000878/3269321_0002"):
        record = wfdb.rdrecord(str(real_data / "mimic_wfdb" / name), channel_names=["II"])
        signal = record.p_signal[:, 0]
        signal = signal[~np.isnan(signal)]
        real.append((restlessness(signal), 1e3 * level(signal, 125.0, 0.05, 0.5)))
    simulated = []
    for i in range(60):
        rng = stream("strip", i)
        muscle = 0.018 * float(np.exp(rng.normal(0.0, 0.5)))
        analog = noise.noise(rng, 120 * 500, 500.0, muscle, 60, float(rng.uniform(0.2, 0.35)), 0.0)
        held = monitor_band(analog, (0.5, 40.0), 500.0)
        held = held[turning_points(held)]
        simulated.append((restlessness(held), 1e3 * level(held, 125.0, 0.05, 0.5)))
    for measured, ours in zip(np.transpose(real), np.transpose(simulated), strict=True):
        quiet, loud = np.quantile(ours, [0.02, 0.98])
        assert (quiet / 2.5 < measured).all(), (measured, quiet)
        assert (measured < 2.5 * loud).all(), (measured, loud)
        assert np.quantile(ours, 0.1) < np.median(measured) < np.quantile(ours, 0.9)

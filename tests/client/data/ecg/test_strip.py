"""A window becomes beats, or one reason why not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from client.data.ecg.filtering import prepare
from client.data.ecg.strip import StripSignal, beats_at, detect_in_spans, process_strip
from client.data.exclusion import BeatRejection, Exclusion
from common.config import make_settings
from common.errors import SignalError
from common.seeding import stream

Array = npt.NDArray[np.float64]
Make = Callable[..., Array]

SETTINGS = make_settings()
LENIENT = make_settings(overrides={"quality": {"reject": False}})
LENGTH_S = 600.0


@pytest.fixture
def times(regular: Make) -> Array:
    return regular(LENGTH_S)


@pytest.fixture
def signal(make_ecg: Make, times: Array) -> Array:
    return make_ecg(times, LENGTH_S)


def test_a_clean_window_gives_its_beats_at_their_times(signal: Array, times: Array) -> None:
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert strip.quality is not None
    assert strip.n_detected == len(times)
    assert len(strip.beats) >= 0.99 * len(times)
    assert strip.beats.dtype == np.float32
    assert strip.signal_s == LENGTH_S
    nearest = np.abs(strip.r_times_s[:, None] - times[None, :]).min(axis=1)
    assert nearest.max() < 0.012
    assert (np.argmax(strip.beats, axis=1) == 40).mean() > 0.95
    np.testing.assert_allclose(strip.rr_next_s[:-1], strip.rr_prev_s[1:])
    assert strip.quality.heart_rate_bpm == pytest.approx(75, abs=2)
    assert strip.quality.agreement > 0.97


@pytest.mark.parametrize("rate_hz", [249.89, 500.0])
def test_the_beats_do_not_depend_on_the_sampling_rate(make_ecg: Make, regular: Make, rate_hz: float) -> None:
    times = regular(330.0)
    at_125 = process_strip(make_ecg(times, 330.0, noise_mv=0.0), 125.0, SETTINGS)
    other = process_strip(make_ecg(times, 330.0, rate_hz, noise_mv=0.0), rate_hz, SETTINGS)
    assert abs(len(other.beats) - len(at_125.beats)) <= 1
    np.testing.assert_allclose(np.median(other.beats, axis=0), np.median(at_125.beats, axis=0), atol=0.05)


def test_a_gap_takes_its_beats_and_leaves_the_others(signal: Array, times: Array) -> None:
    whole = process_strip(signal, 125.0, SETTINGS)
    signal[25_000:30_000] = np.nan
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert strip.signal_s == pytest.approx(LENGTH_S - 40 - 4)
    assert not ((strip.r_times_s > 198) & (strip.r_times_s < 242)).any()
    # no RR interval reaches across the gap
    assert np.nanmax(strip.rr_prev_s) < 1.0
    distance = np.abs(strip.r_times_s[:, None] - whole.r_times_s[None, :]).min(axis=1)
    assert np.percentile(distance, 98) < 1e-9
    assert distance.max() <= 0.016


def test_lead_off_recorded_as_a_flat_line_is_a_gap(signal: Array) -> None:
    signal[25_000:30_000] = 0.0
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert strip.signal_s == pytest.approx(LENGTH_S - 40 - 4, abs=0.1)
    assert not ((strip.r_times_s > 198) & (strip.r_times_s < 242)).any()


def test_a_flat_window_is_a_flat_line_and_an_empty_one_is_too_little(signal: Array) -> None:
    assert process_strip(np.zeros(75_000), 125.0, SETTINGS).exclusion is Exclusion.FLAT_LINE
    assert process_strip(np.full(75_000, np.nan), 125.0, SETTINGS).exclusion is Exclusion.TOO_LITTLE_SIGNAL
    signal[30_000:] = np.nan  # four minutes
    short = process_strip(signal, 125.0, SETTINGS)
    assert short.exclusion is Exclusion.TOO_LITTLE_SIGNAL
    assert short.quality is None
    assert len(short.beats) == 0


def test_five_minutes_are_enough(signal: Array) -> None:
    assert process_strip(signal[:37_500], 125.0, SETTINGS).exclusion is None


def test_noise_is_excluded(signal: Array) -> None:
    noise = stream("strip of noise").standard_normal(75_000)
    strip = process_strip(noise, 125.0, SETTINGS)
    assert strip.exclusion in {Exclusion.DETECTORS_DISAGREE, Exclusion.BEATS_UNLIKE}
    assert strip.quality is not None
    assert len(strip.beats) == 0


def test_fibrillation_is_excluded(make_ecg: Make, irregular: Make) -> None:
    strip = process_strip(make_ecg(irregular(LENGTH_S), LENGTH_S, p_waves=False), 125.0, SETTINGS)
    assert strip.exclusion is Exclusion.ATRIAL_FIBRILLATION


def test_clipping_is_excluded(signal: Array) -> None:
    strip = process_strip(np.clip(signal, -0.05, 0.15), 125.0, SETTINGS)
    assert strip.exclusion is Exclusion.CLIPPED


def test_a_gain_that_was_read_wrong_is_excluded(signal: Array) -> None:
    assert process_strip(0.01 * signal, 125.0, SETTINGS).exclusion is Exclusion.AMPLITUDE_OUT_OF_RANGE
    assert process_strip(100 * signal, 125.0, SETTINGS).exclusion is Exclusion.AMPLITUDE_OUT_OF_RANGE


def test_too_few_beats_are_excluded(make_ecg: Make, regular: Make) -> None:
    settings = make_settings(overrides={"strip": {"min_signal_s": 60.0}})
    short = process_strip(make_ecg(regular(70.0), 70.0), 125.0, settings)
    assert short.exclusion is Exclusion.TOO_FEW_BEATS
    assert 80 < short.n_detected < 100


def test_beats_unlike_the_others_are_left_out(signal: Array, times: Array) -> None:
    rng = stream("ectopic beats")
    ectopic = rng.choice(len(times) - 2, 30, replace=False) + 1
    time = np.arange(len(signal)) / 125
    for r in times[ectopic]:
        signal += np.where(abs(time - r) < 0.3, -1.5 * np.exp(-0.5 * ((time - r - 0.05) / 0.04) ** 2), 0)
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    for r in times[ectopic]:
        assert np.abs(strip.r_times_s - r).min() > 0.15
    assert len(strip.beats) > 0.85 * len(times)


def test_nothing_is_rejected_where_rejection_is_off(make_ecg: Make, irregular: Make) -> None:
    strip = process_strip(make_ecg(irregular(LENGTH_S), LENGTH_S, p_waves=False), 125.0, LENIENT)
    assert strip.exclusion is None
    assert strip.quality is not None
    assert strip.quality.sample_entropy > -1
    assert len(strip.beats) >= strip.n_detected - 2


def test_annotated_beats_are_cut_where_the_expert_put_them(make_ecg: Make, regular: Make) -> None:
    times = regular(60.0)
    rate_hz = 360.0
    r_samples = np.round(times * rate_hz).astype(np.int64)
    beats, kept = beats_at(make_ecg(times, 60.0, rate_hz), rate_hz, r_samples, SETTINGS)
    np.testing.assert_array_equal(kept, np.arange(len(times)))
    assert (np.abs(np.argmax(beats, axis=1) - 40) <= 1).all()


def test_annotated_beats_at_the_edges_and_in_gaps_are_dropped(make_ecg: Make, regular: Make) -> None:
    signal = make_ecg(regular(60.0), 60.0)
    signal[3000:3500] = np.nan
    beats, kept = beats_at(signal, 125.0, np.array([10, 1000, 3200, 3600, 5000, 7490]), SETTINGS)
    np.testing.assert_array_equal(kept, [1, 4])
    assert beats.shape == (2, 120)
    none, kept = beats_at(np.full(5000, np.nan), 125.0, np.array([100]), SETTINGS)
    assert none.shape == (0, 120)
    assert len(kept) == 0


def test_an_array_of_two_leads_and_a_rate_of_zero_are_refused(signal: Array) -> None:
    with pytest.raises(SignalError, match="one lead"):
        process_strip(np.stack([signal, signal]), 125.0, SETTINGS)
    with pytest.raises(SignalError, match="positive number of Hz"):
        process_strip(signal, 0.0, SETTINGS)
    signal[5] = np.inf
    with pytest.raises(SignalError, match="infinite"):
        process_strip(signal, 125.0, SETTINGS)


def test_a_lead_put_on_upside_down_gives_the_beats_upside_down(signal: Array) -> None:
    strip, inverted = process_strip(signal, 125.0, SETTINGS), process_strip(-signal, 125.0, SETTINGS)
    np.testing.assert_array_equal(inverted.r_times_s, strip.r_times_s)
    np.testing.assert_array_equal(inverted.beats, -strip.beats)


def test_the_recording_is_left_as_it_was(signal: Array) -> None:
    signal[25_000:30_000] = 0.0
    before = signal.copy()
    process_strip(signal, 125.0, SETTINGS)
    np.testing.assert_array_equal(signal, before)


def check_accounts(strip: StripSignal) -> None:
    """Every detected beat is accepted or has one reason, and every strip is usable or has its reasons."""
    assert strip.n_detected == len(strip.detected_s) == len(strip.rejected)
    assert strip.n_detected == strip.rejected.count(None) + sum(strip.beats_rejected.values())
    assert all(n > 0 for n in strip.beats_rejected.values())
    assert (np.diff(strip.detected_s) > 0).all()
    assert strip.exclusion == (strip.reasons[0] if strip.reasons else None)
    assert len(set(strip.reasons)) == len(strip.reasons)
    if strip.exclusion is None:
        kept = [reason is None for reason in strip.rejected]
        np.testing.assert_array_equal(strip.r_times_s, strip.detected_s[kept])
        assert len(strip.beats) == len(strip.r_times_s) == len(strip.rr_prev_s) == len(strip.rr_next_s)
    else:
        assert len(strip.beats) == len(strip.r_times_s) == 0


def reason_at(strip: StripSignal, time_s: float) -> BeatRejection | None:
    """Return the reason of the detected beat nearest to a time."""
    nearest = int(np.argmin(np.abs(strip.detected_s - time_s)))
    assert abs(strip.detected_s[nearest] - time_s) < 0.1
    return strip.rejected[nearest]


def test_every_detected_beat_is_accounted_for(signal: Array) -> None:
    for gap in (None, (25_000, 30_000), (0, 20_000)):
        if gap is not None:
            signal[gap[0] : gap[1]] = np.nan
        strip = process_strip(signal, 125.0, SETTINGS)
        check_accounts(strip)
        assert strip.exclusion is None
    check_accounts(process_strip(signal, 125.0, LENIENT))


def test_excluded_strips_are_accounted_for_as_far_as_they_got(
    signal: Array, make_ecg: Make, irregular: Make, regular: Make
) -> None:
    fibrillation = make_ecg(irregular(LENGTH_S), LENGTH_S, p_waves=False)
    short = make_settings(overrides={"strip": {"min_signal_s": 60.0}})
    strips = [
        process_strip(fibrillation, 125.0, SETTINGS),
        process_strip(stream("strip of noise").standard_normal(75_000), 125.0, SETTINGS),
        process_strip(np.clip(signal, -0.05, 0.15), 125.0, SETTINGS),
        process_strip(0.01 * signal, 125.0, SETTINGS),
        process_strip(make_ecg(regular(70.0), 70.0), 125.0, short),
        process_strip(np.zeros(75_000), 125.0, SETTINGS),
        process_strip(np.full(75_000, np.nan), 125.0, SETTINGS),
    ]
    for strip in strips:
        check_accounts(strip)
        assert strip.exclusion is not None
    # The rules for beats do not depend on those for strips.
    assert strips[0].rejected.count(None) > 0.8 * strips[0].n_detected
    assert strips[3].beats_rejected[BeatRejection.AMPLITUDE] > 0.9 * strips[3].n_detected
    assert strips[4].n_detected > 80
    assert strips[5].n_detected == strips[6].n_detected == 0


def test_every_rule_that_fails_is_a_reason_and_the_first_is_the_exclusion(signal: Array) -> None:
    noise = process_strip(stream("strip of noise").standard_normal(75_000), 125.0, SETTINGS)
    assert noise.reasons[0] is noise.exclusion is Exclusion.DETECTORS_DISAGREE
    assert noise.reasons[-1] is Exclusion.TOO_FEW_BEATS
    assert Exclusion.BEATS_UNLIKE in noise.reasons
    signal[2000:60_000] = 0.0
    flat = process_strip(np.clip(signal, -0.05, 0.15), 125.0, SETTINGS)
    assert flat.reasons == (Exclusion.FLAT_LINE, Exclusion.CLIPPED)


def test_the_reason_of_a_beat_at_the_edge(signal: Array, times: Array) -> None:
    signal[25_000:30_000] = np.nan
    strip = process_strip(signal, 125.0, SETTINGS)
    at_edge = [t for t, r in zip(strip.detected_s, strip.rejected, strict=True) if r is BeatRejection.EDGE]
    # The window leaves the strip, or reaches the half filter length that is dropped beside a gap.
    for time_s in at_edge:
        assert min(abs(time_s - edge) for edge in (0.0, 198.0, 242.0, LENGTH_S)) < 0.65
    assert len(at_edge) > 0


@pytest.mark.parametrize("height", [1.5, -1.5])
def test_a_jump_of_the_base_line_takes_the_beats_that_hold_it(
    signal: Array, times: Array, height: float
) -> None:
    at = times[300] + 0.35  # between the T wave of one beat and the P wave of the next
    signal[round(at * 125) :] += height
    strip = process_strip(signal, 125.0, SETTINGS)
    check_accounts(strip)
    assert strip.exclusion is None
    assert reason_at(strip, times[300]) is BeatRejection.STEP
    assert 1 <= strip.beats_rejected[BeatRejection.STEP] <= 3
    assert reason_at(strip, times[297]) is None
    assert reason_at(strip, times[304]) is None


def test_breathing_rejects_no_beat(signal: Array) -> None:
    time = np.arange(len(signal)) / 125
    strip = process_strip(signal + 0.5 * np.sin(2 * np.pi * 0.25 * time), 125.0, SETTINGS)
    assert set(strip.beats_rejected) <= {BeatRejection.EDGE}


def test_a_beat_of_impossible_size_is_rejected_for_it(signal: Array, times: Array) -> None:
    time = np.arange(len(signal)) / 125
    signal += 8.0 * np.exp(-0.5 * ((time - times[300]) / 0.010) ** 2)
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert reason_at(strip, times[300]) is BeatRejection.AMPLITUDE


def test_an_ectopic_beat_is_unlike_the_others(signal: Array, times: Array) -> None:
    time = np.arange(len(signal)) / 125
    signal -= 1.5 * np.exp(-0.5 * ((time - times[300] - 0.05) / 0.04) ** 2)
    assert reason_at(process_strip(signal, 125.0, SETTINGS), times[300]) is BeatRejection.UNLIKE


def test_an_offset_changes_nothing(signal: Array) -> None:
    strip, raised = process_strip(signal, 125.0, SETTINGS), process_strip(signal + 3.0, 125.0, SETTINGS)
    np.testing.assert_array_equal(raised.detected_s, strip.detected_s)
    assert raised.rejected == strip.rejected
    # The filter lets a 250th of a constant pass.
    np.testing.assert_allclose(raised.beats, strip.beats, atol=3.0 / 200)


def test_gain_changes_the_size_of_beats_and_nothing_else(signal: Array) -> None:
    strip, doubled = process_strip(signal, 125.0, SETTINGS), process_strip(2 * signal, 125.0, SETTINGS)
    np.testing.assert_array_equal(doubled.detected_s, strip.detected_s)
    assert doubled.rejected == strip.rejected
    np.testing.assert_allclose(doubled.beats, 2 * strip.beats, rtol=1e-6, atol=1e-6)


def test_a_flat_stretch_after_the_signal_changes_nothing_before_it(make_ecg: Make, regular: Make) -> None:
    signal = make_ecg(regular(400.0), 400.0)
    whole = process_strip(signal, 125.0, SETTINGS)
    longer = process_strip(np.concatenate([signal, np.zeros(2500)]), 125.0, SETTINGS)
    before = whole.detected_s < 396
    np.testing.assert_allclose(longer.detected_s[: before.sum()], whole.detected_s[before], atol=1e-9)
    assert longer.rejected[: before.sum()] == tuple(np.array(whole.rejected, dtype=object)[before])


@pytest.mark.parametrize("rate_hz", [200.0, 250.0, 360.0])
def test_the_same_beats_are_accepted_at_every_sampling_rate(
    make_ecg: Make, regular: Make, rate_hz: float
) -> None:
    times = regular(330.0)
    at_125, other = (process_strip(make_ecg(times, 330.0, rate), rate, SETTINGS) for rate in (125.0, rate_hz))
    assert abs(other.n_detected - at_125.n_detected) <= 1
    assert abs(len(other.beats) - len(at_125.beats)) <= 2
    nearest = np.abs(other.r_times_s[:, None] - times[None, :]).min(axis=1)
    assert nearest.max() < 0.012


@pytest.mark.parametrize("seed", range(8))
def test_nan_never_reaches_a_filter_or_a_detector(signal: Array, seed: int) -> None:
    """Filter and detectors refuse NaN with an error; whatever the gaps are, none is raised."""
    rng = stream("gaps", seed)
    for start in rng.integers(0, 75_000, rng.integers(1, 60)):
        signal[start : start + int(10 ** rng.uniform(0, 3.8))] = np.nan
    if seed % 2:
        signal[:500] = np.nan  # a leading gap
    for span, found in zip(
        spans := prepare(signal, 125.0, SETTINGS.signal), detect_in_spans(spans), strict=True
    ):
        assert np.isfinite(span.samples).all()
        assert (found < len(span.samples)).all()
    strip = process_strip(signal, 125.0, SETTINGS)
    check_accounts(strip)
    assert np.isfinite(strip.beats).all()
    assert np.isfinite(strip.detected_s).all()


def test_tall_t_waves_are_accepted(times: Array, make_ecg: Make) -> None:
    """The sign of hyperkalemia: T as tall as R, and a strip is accepted like any other."""
    time, signal = np.arange(75_000) / 125, make_ecg(times, LENGTH_S)
    for r in times:
        near = slice(max(0, round((r - 0.5) * 125)), round((r + 1) * 125))
        signal[near] += 0.8 * np.exp(-0.5 * ((time[near] - r - 0.24) / 0.045) ** 2)
    strip = process_strip(signal, 125.0, SETTINGS)
    assert strip.exclusion is None
    assert abs(strip.n_detected - len(times)) <= 1
    assert len(strip.beats) > 0.98 * len(times)

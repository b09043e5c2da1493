"""R peaks and rhythm against the experts' annotations on real recordings; the numbers are printed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from client.data.ecg.filtering import bandpass, resample
from client.data.ecg.rpeaks import detect_r_peaks, find_complexes, match
from common.config import SignalSettings

pytestmark = pytest.mark.data
BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


def load(name: str) -> ModuleType:
    """Load a benchmark itself, so that what is quoted is what is tested."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("rpeaks")


def test_r_peaks_meet_every_bar(
    real_data: Path,
    benchmark: ModuleType,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    """98.8 / 98.8 and no worse than the raw detector at both rates; 99.7 % of accepted beats are real."""
    results = benchmark.measure(real_data / "mitdb")
    with capsys.disabled():
        print("\n" + benchmark.table(results, "MIT-BIH"))
    for way, value in benchmark.totals(results, flutter=False).items():
        record_property(f"{', '.join(way)}: sensitivity", value.sensitivity)
        record_property(f"{', '.join(way)}: predictivity", value.predictivity)
    assert len(results) == 24
    assert [what for what, reached in benchmark.verdicts(results) if not reached] == []
    beats = benchmark.total_accepted(results)
    assert beats.accepted > 0.8 * beats.detected
    assert beats.usable_strips > 0.8 * beats.strips
    with_flutter = benchmark.totals(results, flutter=True)[benchmark.OURS, benchmark.AT_125]
    assert (
        with_flutter.reference
        == benchmark.totals(results, flutter=False)[benchmark.OURS, benchmark.AT_125].reference
    )
    assert with_flutter.predictivity > 0.98


def test_an_accepted_beat_the_experts_do_not_know_is_counted_as_false(
    real_data: Path, benchmark: ModuleType
) -> None:
    """The share of real beats is not right by construction: with every tenth annotation gone it is 0.9."""
    [record] = list(benchmark.read_records(real_data / "mitdb", "122"))
    fewer = np.delete(record.beats, np.arange(0, len(record.beats), 10))
    counted = benchmark.accepted(replace(record, beats=fewer))
    assert counted.accepted_real / counted.accepted == pytest.approx(0.9, abs=0.01)
    assert counted.usable == counted.accepted


def test_another_device_is_as_good(real_data: Path, benchmark: ModuleType) -> None:
    """Holter strips at 200 Hz of patients in atrial fibrillation."""
    results = benchmark.measure(real_data / "cpsc2021", lead="II")
    value = benchmark.totals(results, flutter=False)[benchmark.OURS, benchmark.NATIVE]
    assert len(results) == 9
    assert value.sensitivity > 0.99
    assert value.predictivity > 0.99


def test_peaks_lie_within_a_sample_of_the_experts(real_data: Path, benchmark: ModuleType) -> None:
    """On a clean record the spread is that of a 125 Hz grid and a 360 Hz grid."""
    [record] = list(benchmark.read_records(real_data / "mitdb", "122"))
    signal = resample(bandpass(record.signal, record.rate_hz, SignalSettings()), record.rate_hz)
    peaks = detect_r_peaks(signal) / 125
    distance = np.abs(record.beats[:, None] - peaks[None, :]).min(axis=0)
    assert len(peaks) > 2400
    assert np.percentile(distance, 95) < 0.0085


@pytest.mark.parametrize("name", ["108", "208"])
def test_a_lead_put_on_upside_down_is_as_good(real_data: Path, benchmark: ModuleType, name: str) -> None:
    """The detector alone loses a fifth of the beats of these two records when they are turned over."""
    [record] = list(benchmark.read_records(real_data / "mitdb", name))
    signal = resample(bandpass(record.signal, record.rate_hz, SignalSettings()), record.rate_hz)
    upright, inverted, raw = (
        benchmark.Score(*match(peaks / 125, record.beats, benchmark.TOLERANCE_S))
        for peaks in (detect_r_peaks(signal), detect_r_peaks(-signal), find_complexes(-signal))
    )
    assert raw.sensitivity < 0.82
    assert inverted.sensitivity == pytest.approx(upright.sensitivity, abs=0.003)
    assert inverted.predictivity == pytest.approx(upright.predictivity, abs=0.003)


@pytest.fixture(scope="module")
def rhythm() -> ModuleType:
    return load("rhythm")


@pytest.fixture(scope="module")
def of_mitdb(real_data: Path, rhythm: ModuleType) -> Any:
    """Return strips and windows of MIT-BIH as the decision of ingest calls them."""
    return rhythm.measure(real_data / "mitdb", "MLII")


def test_fibrillation_is_told_apart(
    real_data: Path,
    rhythm: ModuleType,
    of_mitdb: Any,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    """The decision of ingest itself: MIT-BIH without the paced records, and another device."""
    measured = {"mitdb": of_mitdb, "cpsc2021": rhythm.measure(real_data / "cpsc2021", "II")}
    for folder, least in (("mitdb", (15, 250)), ("cpsc2021", (8, 1))):
        strips, windows = measured[folder]
        with capsys.disabled():
            print("\n" + rhythm.table(strips, windows, folder))
        windows = [a for a in windows if a.record not in rhythm.PACED]
        for kind, right, at_least in zip(
            (rhythm.FIBRILLATION, rhythm.OTHER), (True, False), least, strict=True
        ):
            called = [a.called is right for a in windows if a.kind == kind]
            record_property(
                f"atrial fibrillation, {folder}, {kind}, {len(called)} windows", float(np.mean(called))
            )
            assert len(called) >= at_least
            assert np.mean(called) > 0.9
            called = [a.called is right for a in strips if a.kind == kind and a.record not in rhythm.PACED]
            assert not called or np.mean(called) > 0.9


def test_false_alarms_of_fibrillation_have_many_ectopic_beats(of_mitdb: Any) -> None:
    """What is wrongly taken for fibrillation would not give complete cycles either."""
    _, windows = of_mitdb
    wrong = [a for a in windows if a.kind == "other rhythm" and a.called]
    assert 0 < len(wrong) < 16
    assert min(a.ectopic_share for a in wrong) > 0.25

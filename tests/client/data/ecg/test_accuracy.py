"""R peaks and rhythm against the experts' annotations on real recordings; the numbers are printed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest
import wfdb

from client.data.ecg.filtering import bandpass, resample
from client.data.ecg.rhythm import coefficient_of_sample_entropy
from client.data.ecg.rpeaks import detect_r_peaks, find_complexes, match
from common.config import QualitySettings, SignalSettings

pytestmark = pytest.mark.data
BAR = 0.988
BENCHMARK = Path(__file__).parents[4] / "benchmarks" / "rpeaks.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """Load the benchmark itself, so that what is quoted is what is tested."""
    spec = importlib.util.spec_from_file_location("benchmark_rpeaks", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_r_peaks_meet_the_bar_and_the_raw_detector(
    real_data: Path,
    benchmark: ModuleType,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    scores = benchmark.measure(real_data / "mitdb")
    totals = benchmark.totals(scores)
    with capsys.disabled():
        print("\n" + benchmark.table(scores))
    for name, value in totals.items():
        record_property(f"{name[0]}, {name[1]}: sensitivity", value.sensitivity)
        record_property(f"{name[0]}, {name[1]}: predictivity", value.predictivity)
    ours, raw = totals["ours", "without flutter"], totals["raw sleepecg", "without flutter"]
    assert len(scores) == 24
    assert ours.reference > 55_000
    assert ours.sensitivity >= max(BAR, raw.sensitivity)
    assert ours.predictivity >= max(BAR, raw.predictivity)


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


WINDOW_S = 120
Rhythm = npt.NDArray[np.bool_]


def fibrillation(notes: wfdb.Annotation, n_samples: int) -> Rhythm:
    """Mark the samples the experts called atrial fibrillation or flutter."""
    changes = [
        (sample, note)
        for sample, note in zip(notes.sample, notes.aux_note, strict=True)
        if note and note.startswith("(")
    ]
    marked = np.zeros(n_samples, dtype=bool)
    for (start, note), stop in zip(changes, [*(sample for sample, _ in changes[1:]), n_samples], strict=True):
        marked[start:stop] = note.startswith(("(AFIB", "(AFL"))
    return marked


def entropies(path: Path, lead: str) -> Iterator[tuple[bool, float]]:
    """Yield the truth and the entropy of every two minutes that are clearly the one or the other."""
    record, notes = wfdb.rdrecord(str(path), channel_names=[lead]), wfdb.rdann(str(path), "atr")
    marked = fibrillation(notes, record.sig_len)
    signal = resample(bandpass(record.p_signal[:, 0], record.fs, SignalSettings()), record.fs)
    peaks = detect_r_peaks(signal) / 125
    for start in range(0, int(record.sig_len / record.fs) - WINDOW_S + 1, WINDOW_S):
        share = marked[round(start * record.fs) : round((start + WINDOW_S) * record.fs)].mean()
        rr = np.diff(peaks[(peaks >= start) & (peaks < start + WINDOW_S)])
        if not 0.05 <= share <= 0.8:
            yield bool(share > 0.8), coefficient_of_sample_entropy(rr)


def test_fibrillation_is_told_apart(
    real_data: Path, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    """Fixed threshold, our own peaks: MIT-BIH without the paced records, and CPSC 2021 (another device)."""
    paced = {"102", "104", "107", "217"}
    mitdb = sorted(path for path in (real_data / "mitdb").glob("*.hea") if path.stem not in paced)
    windows = [window for path in mitdb for window in entropies(path.with_suffix(""), "MLII")]
    cpsc = sorted((real_data / "cpsc2021").glob("*.hea"))
    elsewhere = [entropy for path in cpsc for af, entropy in entropies(path.with_suffix(""), "II") if af]
    af = np.array([entropy for is_af, entropy in windows if is_af])
    other = np.array([entropy for is_af, entropy in windows if not is_af])
    limit = QualitySettings().max_sample_entropy
    shares = {
        f"sensitivity, MIT-BIH, {len(af)} windows": float((af > limit).mean()),
        f"specificity, MIT-BIH, {len(other)} windows": float((other <= limit).mean()),
        f"sensitivity, CPSC 2021, {len(elsewhere)} windows": float((np.array(elsewhere) > limit).mean()),
    }
    with capsys.disabled():
        print(f"\natrial fibrillation, CosEn above {limit:g} in two minutes:")
        for name, share in shares.items():
            print(f"  {name:40}{share:8.1%}")
            record_property(f"atrial fibrillation: {name}", share)
    assert len(af) >= 10
    assert len(other) >= 200
    assert len(elsewhere) >= 5
    assert min(shares.values()) > 0.9

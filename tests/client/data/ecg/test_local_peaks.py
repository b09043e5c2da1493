"""The faster search for local maxima finds what XQRS's own finds."""

from __future__ import annotations

import numpy as np
import pytest
from wfdb.processing.peaks import find_local_peaks

from client.data.ecg.local_peaks import local_peaks
from common.seeding import stream


@pytest.mark.parametrize("radius", [1, 2, 6])
@pytest.mark.parametrize("kind", ["noise", "steps", "plateaus", "squares"])
def test_the_same_places_as_wfdb(kind: str, radius: int) -> None:
    values = stream("peaks", kind, radius).normal(size=400)
    signal = {
        "noise": values,
        "steps": np.rint(values),
        "plateaus": np.repeat(values[:100], 4),
        "squares": values**2,
    }[kind]
    np.testing.assert_array_equal(local_peaks(signal, radius), find_local_peaks(signal, radius), strict=True)


def test_a_flat_signal_has_none() -> None:
    np.testing.assert_array_equal(local_peaks(np.ones(20), 3), find_local_peaks(np.ones(20), 3), strict=True)


def test_the_detector_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from wfdb.processing import qrs

    from client.data.ecg.rpeaks import second_opinion

    monkeypatch.setattr(qrs, "find_local_peaks", find_local_peaks)
    second_opinion(stream("peaks").normal(size=500))
    assert qrs.find_local_peaks is local_peaks

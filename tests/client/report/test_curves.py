"""Figures of calibration and votes: what is drawn, and what is said where nothing can be."""

from __future__ import annotations

import numpy as np

from client.report.calibrated import Group
from client.report.curves import reliability_curves, votes_of_group
from client.report.evidence import StripVote
from client.report.reading_votes import Scored
from common.page import inline_svg
from common.task import HYPERKALEMIA, VENTRICULAR


def group(n: int, method: str = "selected", personal: bool = True) -> Group:
    """Make n strips whose logit says their label with the certainty it claims."""
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, n)
    positive = rng.random(n) < 1 / (1 + np.exp(-logits))
    votes = [
        StripVote(i % 9, "positive" if p else "negative", 6.0 if p else 4.0, 10, 5, float(logit))
        for i, (logit, p) in enumerate(zip(logits, positive, strict=True))
    ]
    return Group(method, personal, tuple(Scored(vote, 0.5) for vote in votes))


def test_a_calibrated_model_lies_on_the_line_within_its_bars() -> None:
    drawn = reliability_curves([group(400)], HYPERKALEMIA)
    assert drawn is not None
    axes = drawn.canvas.axes[0]
    forecast, seen = axes.lines[1].get_data()
    assert len(forecast) == 10
    assert np.all(np.diff(forecast) > 0)
    bars = [segment[:, 1] for segment in axes.collections[0].get_segments()]
    assert all(low <= share <= high for (low, high), share in zip(bars, seen, strict=True))
    assert np.abs(np.asarray(forecast) - seen).mean() < 0.08
    assert "10 groups of 40 strips" in [text.get_text() for text in axes.texts]


def test_small_groups_are_named_and_not_drawn() -> None:
    drawn = reliability_curves([group(30, "generic", personal=False), group(60)], HYPERKALEMIA)
    assert drawn is not None
    assert sum(axes.axison for axes in drawn.canvas.axes) == 1
    assert "Not drawn, with fewer than 50 strips: generic model, test patients (30)." in drawn.caption
    assert reliability_curves([group(49)], HYPERKALEMIA) is None


def test_what_is_drawn_is_also_said_to_those_who_do_not_see_it() -> None:
    drawn = reliability_curves([group(60)], HYPERKALEMIA)
    assert drawn is not None
    svg = inline_svg(drawn.canvas, drawn.name, drawn.title, drawn.text)
    assert "Selected models, personal patients, forecast and share seen:" in svg


def test_votes_along_the_scale_need_a_scale() -> None:
    drawn = votes_of_group(group(12), HYPERKALEMIA)
    assert drawn is not None
    assert "the patient’s selected model" in drawn.caption
    assert "12 strips, 9 patients" in drawn.caption
    assert votes_of_group(group(12), VENTRICULAR) is None
    assert votes_of_group(group(12, "threshold"), HYPERKALEMIA) is None

import math

import pytest

from common.config import make_settings
from common.procedures import not_run
from simulation.beside import beside_lines
from simulation.summary import estimate, personal_figures
from simulation.tally import PatientTally, SiteTally

SETTINGS = make_settings()


def test_below_six_patients_there_is_a_point_and_no_interval():
    five = estimate([0.5, 0.6, 0.7, 0.8, math.nan, 0.9], SETTINGS)
    assert (five.n, five.mean) == (5, 0.7)
    assert (five.low, five.high) == (None, None)


def test_an_interval_of_a_share_ends_where_shares_do():
    high = estimate([1.0] * 8 + [0.2], SETTINGS)
    assert high.high == 1.0
    assert high.low is not None
    assert 0 < high.low < high.mean < 1
    assert "small sample" in high.method


def test_a_difference_may_be_negative():
    lower = estimate([-0.5, 0.1, -0.2, -0.1, 0.0, -0.3], SETTINGS, lowest=-1.0)
    assert lower.low is not None
    assert lower.low < -0.3


def test_nobody_is_no_number():
    nobody = estimate([], SETTINGS)
    assert (nobody.n, nobody.mean, nobody.sd) == (0, None, None)


def patient(number: int, outcome: str = "personal", auc: float = 0.5, **methods: float) -> PatientTally:
    """Make a patient with one round, whose methods reach a strip accuracy."""
    figures = {method: {1: {"strip_accuracy": value, "beat_auc": auc}} for method, value in methods.items()}
    return PatientTally("north", number, "main", outcome, 1, 8, 400, "generic", figures)


def site(auc: float) -> SiteTally:
    """Make a site: eight patients of the primary result, one set apart, and what was run beside it."""
    spread = [i / 100 for i in range(8)]
    own = [patient(i, generic=0.5 + s, selected=0.6 + s, t_wave=0.7 + s) for i, s in enumerate(spread)]
    apart = patient(8, "not_interleaved", generic=0.1, selected=0.1)
    beside = {
        "paper": [patient(i, generic=0.7 + s, selected=0.9 + s) for i, s in enumerate([*spread, 0.09])],
        "control_permuted": [
            patient(i, "not_interleaved", auc + s, generic=0.5, selected=0.5 + s, closed_form=0.5)
            for i, s in enumerate(spread)
        ],
        "control_days": [],
    }
    return SiteTally("north", {}, {}, {}, None, [*own, apart], beside)


def test_simpler_ways_the_paper_and_controls_stand_beside_the_result():
    found = personal_figures([site(auc=0.47)], SETTINGS)
    assert found.patients == 8
    assert found.difference["selected-t_wave"]["strip_accuracy"].mean == pytest.approx(-0.1)
    paper = found.paper["selected"]["strip_accuracy"]
    assert (paper.n, paper.mean) == (8, pytest.approx(0.935)), "over the patients of the primary result"
    assert list(found.controls) == ["control_permuted"]
    control = found.controls["control_permuted"]
    assert (control.patients, control.flagged) == (8, False)
    assert control.gain["strip_accuracy"].mean == pytest.approx(0.035)
    assert list(control.beat_auc) == ["closed_form", "selected"]
    assert personal_figures([site(auc=0.55)], SETTINGS).controls["control_permuted"].flagged


def test_the_last_words_of_a_run_name_them():
    quick = make_settings(preset="quick").personalization
    personal = personal_figures([site(auc=0.55)], SETTINGS)

    def written(one):
        return "-" if one is None else f"{one.mean:.3f}"

    text = "\n".join(beside_lines(personal, not_run(quick), "strip_accuracy", written, written))
    assert "T-wave features" in text
    assert "selected - this -0.100" in text
    assert "Paper's protocol, selected model" in text
    assert "Control: labels of other days" in text
    assert "  flagged; gain 0.035" in text
    assert "not run with these settings: the personal network trained from scratch" in text
    nobody = personal_figures([], SETTINGS)
    assert beside_lines(nobody, (), "strip_accuracy", written, written) == []

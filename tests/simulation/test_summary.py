import math

from common.config import make_settings
from simulation.summary import estimate

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

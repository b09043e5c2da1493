"""Grad-CAM on a task whose answer lies in the T wave, and its share on P, QRS and ST-T."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.data.ecg.beats import BEAT_SAMPLES, R_INDEX, RATE_HZ
from client.learning.attention import (
    ATTENTION_STAGES,
    Wave,
    attention,
    grad_cam,
    stretch,
    wave_shares,
    wave_windows,
)
from client.learning.dataset import Beats, labelled
from client.learning.training import train_generic
from common.config import ModelSettings, TrainingSettings
from common.errors import ModelError
from common.model import STAGES, ResNet1d, build_model
from common.seeding import stream, torch_stream
from common.task import Label

SLOW = 1.0  # seconds from beat to beat: every window has its full length


@pytest.fixture(scope="module")
def case(patients: Any) -> tuple[ResNet1d, Beats, Any]:
    """Train a network that knows that the T wave, samples 60 to 90, decides."""
    strips, store = patients(4, 6, spread=0.05)
    network = build_model(ModelSettings(width=4), torch_stream("explained"))
    train_generic(
        network, strips, store, TrainingSettings(batch_size=16, local_epochs=3, learning_rate=3e-3), (1,)
    )
    positive = np.repeat([s.positive for s in labelled(strips)], 6)
    return network, store.beats, positive


def slow(n: int) -> Any:
    return np.full(n, SLOW)


def test_the_network_looks_at_the_t_wave(case: Any) -> None:
    network, beats, positive = case
    own = beats[positive]
    seen = attention(network, own, slow(len(own)), Label.POSITIVE, ["stage2"])["stage2"]
    assert seen.curve.shape == (120,)
    assert seen.curve.max() == 1
    assert seen.curve.min() >= 0
    assert 55 <= int(np.argmax(seen.curve)) <= 95
    assert seen.share[Wave.ST_T] > 0.8
    assert seen.share[Wave.ST_T] > seen.even[Wave.ST_T]
    assert seen.share[Wave.P] < seen.even[Wave.P]


def test_stages_are_asked_together_and_the_network_is_left_as_it_was(case: Any) -> None:
    network, beats, positive = case
    network.zero_grad()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    together = grad_cam(network, beats[~positive], Label.NEGATIVE, STAGES)
    assert {stage: cells.shape[1] for stage, cells in together.items()} == dict(
        zip(STAGES, (120, 120, 60, 30, 15), strict=True)
    )
    for stage, cells in together.items():
        alone = grad_cam(network, beats[~positive], Label.NEGATIVE, [stage])[stage]
        np.testing.assert_allclose(cells, alone, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_grad_cam_is_what_its_definition_says(case: Any) -> None:
    """One beat, its gradients by finite differences."""
    network, beats, _ = case
    (found,) = grad_cam(network, beats[:1], Label.POSITIVE, ["stage3"])["stage3"]
    with torch.no_grad():
        hidden = network.prefix(torch.from_numpy(beats[:1]), "stage3")
        step = 1e-2
        change = torch.zeros(hidden.shape[2])
        for channel in range(hidden.shape[2]):
            # The same step at all positions: the sum of the gradient over positions.
            moved = [hidden.clone(), hidden.clone()]
            moved[0][:, :, channel] += step
            moved[1][:, :, channel] -= step
            up, down = (network.suffix(one, "stage3")[0] for one in moved)
            change[channel] = (up - down) / (2 * step)
        expected = torch.relu((hidden[0] * change / hidden.shape[1]).sum(1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.02 * expected.max())


def test_attention_does_not_change_when_all_beats_are_there_twice(case: Any) -> None:
    network, beats, positive = case
    own = beats[positive]
    once = attention(network, own, slow(len(own)), Label.POSITIVE)
    twice = attention(network, np.concatenate([own] * 2), slow(2 * len(own)), Label.POSITIVE)
    assert tuple(once) == ATTENTION_STAGES
    for stage in once:
        np.testing.assert_allclose(once[stage].curve, twice[stage].curve, rtol=1e-4, atol=1e-5)
        for wave in Wave:
            assert once[stage].share[wave] == pytest.approx(twice[stage].share[wave], abs=1e-4)


def test_a_stage_says_how_wide_its_cells_are(case: Any) -> None:
    network, beats, _ = case
    seen = attention(network, beats[:4], slow(4), Label.POSITIVE)
    assert [one.cell_ms for one in seen.values()] == [16, 32, 64]
    paper = build_model(ModelSettings(width=4, stem="paper"), torch_stream("paper stem"))
    assert attention(paper, beats[:4], slow(4), Label.POSITIVE)["stage4"].cell_ms == 240


def test_where_nothing_speaks_for_a_label_there_are_no_shares(case: Any) -> None:
    _, beats, _ = case
    deaf = build_model(ModelSettings(width=4), torch_stream("deaf"))
    with torch.no_grad():
        deaf.head.weight.zero_()
    seen = attention(deaf, beats[:4], slow(4), Label.POSITIVE)["stage4"]
    assert not seen.curve.any()
    assert all(np.isnan(share) for share in seen.share.values())


@pytest.mark.parametrize("stages", [["stage5"], ["stage4", "none"], []])
def test_an_unknown_stage_is_refused(case: Any, stages: list[str]) -> None:
    network, beats, _ = case
    with pytest.raises(ModelError, match="allowed: stem, stage1"):
        grad_cam(network, beats, Label.POSITIVE, stages)


def test_cells_are_stretched_around_their_centres() -> None:
    np.testing.assert_allclose(stretch(np.array([1.0, 3.0]), 4), [1.0, 1.5, 2.5, 3.0])
    np.testing.assert_allclose(stretch(np.array([[1.0, 3.0], [0.0, 0.0]]), 4)[1], 0)
    np.testing.assert_array_equal(stretch(np.arange(120.0), 120), np.arange(120.0))


def test_windows_at_a_slow_rate_are_those_of_the_constants() -> None:
    waves = {wave: np.flatnonzero(inside[0]) for wave, inside in wave_windows(np.array([SLOW])).items()}
    assert (waves[Wave.P][0], waves[Wave.P][-1]) == (10, 32)  # -240 to -64 ms
    assert (waves[Wave.QRS][0], waves[Wave.QRS][-1]) == (33, 47)  # -56 to 56 ms
    assert (waves[Wave.ST_T][0], waves[Wave.ST_T][-1]) == (48, 99)  # 64 to 472 ms
    assert R_INDEX in waves[Wave.QRS]


def test_the_next_beat_is_no_part_of_st_t_and_the_one_before_no_part_of_p() -> None:
    """At 120 a minute the cycle reaches from 200 ms before the R peak to 300 ms after it."""
    waves = wave_windows(np.array([0.5]))
    assert np.flatnonzero(waves[Wave.ST_T][0])[-1] == R_INDEX + 37  # 296 ms
    assert np.flatnonzero(waves[Wave.P][0])[0] == R_INDEX - 25


def test_an_unknown_rate_gives_the_longest_windows() -> None:
    unknown, known = wave_windows(np.array([np.nan])), wave_windows(np.array([SLOW]))
    assert all(np.array_equal(unknown[wave], known[wave]) for wave in Wave)


@given(st.lists(st.one_of(st.just(float("nan")), st.floats(0.2, 3)), min_size=1, max_size=20))
def test_no_sample_is_of_two_waves_and_a_slower_beat_has_no_shorter_one(rr: list[float]) -> None:
    rr_s = np.array(rr)
    waves, slower = wave_windows(rr_s), wave_windows(rr_s * 1.2)
    assert np.sum(list(waves.values()), axis=0).max() <= 1
    for wave in Wave:
        assert not (waves[wave] & ~slower[wave]).any()


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_even_activation_gives_the_share_of_duration_and_scale_does_not_matter(
    seed: int, scale: float
) -> None:
    generator = stream("rates", seed)
    waves = wave_windows(generator.uniform(0.3, 1.5, 8))
    flat = wave_shares(np.full((8, BEAT_SAMPLES), scale), waves)
    assert flat == pytest.approx({wave: inside.mean() for wave, inside in waves.items()})
    activation = generator.random((8, BEAT_SAMPLES))
    shares = wave_shares(activation, waves)
    assert wave_shares(activation * scale, waves) == pytest.approx(shares)
    assert 0 < sum(shares.values()) <= 1


@pytest.mark.parametrize(("time_ms", "wave"), [(-160, Wave.P), (0, Wave.QRS), (280, Wave.ST_T), (560, None)])
def test_activation_at_a_wave_is_that_waves(time_ms: float, wave: Wave | None) -> None:
    time = (np.arange(BEAT_SAMPLES) - R_INDEX) / RATE_HZ * 1000
    bump = np.exp(-(((time - time_ms) / 20) ** 2))[None]
    shares = wave_shares(bump, wave_windows(np.array([SLOW])))
    for one in Wave:
        assert shares[one] == pytest.approx(1 if one == wave else 0, abs=0.01)

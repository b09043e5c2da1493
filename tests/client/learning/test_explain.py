"""What a model sees before and after: what cannot differ is not shown as if it could."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select

from client.data.beatstore import BeatStore
from client.database.tables import PersonalizationRun, Run, Strip
from client.learning.attention import ATTENTION_STAGES, Wave
from client.learning.dataset import LABELLED, labelled
from client.learning.explain import (
    LabelledBeats,
    equal_but_for,
    explain,
    explain_both,
    explain_patient,
    read_beats,
)
from client.learning.training import train_generic
from common.config import ModelSettings, TrainingSettings
from common.errors import ModelError
from common.model import ResNet1d, build_model
from common.seeding import torch_stream
from common.task import Label

NAMES = (0, "explain")


@pytest.fixture(scope="module")
def case(patients: Any) -> tuple[ResNet1d, LabelledBeats]:
    """Train a network that knows that the T wave decides."""
    strips, store = patients(4, 6, spread=0.05)
    network = build_model(ModelSettings(width=4), torch_stream("explained"))
    train_generic(
        network, strips, store, TrainingSettings(batch_size=16, local_epochs=3, learning_rate=3e-3), (1,)
    )
    positive = np.repeat([s.positive for s in labelled(strips)], 6)
    return network, LabelledBeats(store.beats, positive, np.full(len(positive), 0.9))


def changed(network: ResNet1d, name: str) -> ResNet1d:
    """Return a copy in which one array is another."""
    other = deepcopy(network)
    values = other.get_parameter(name)
    with torch.no_grad():
        values.add_(torch.linspace(-1, 2, values.numel()).view_as(values))
    return other


def test_an_explanation_has_mean_beats_every_stage_and_the_map(case: Any) -> None:
    network, data = case
    result = explain(network, data, NAMES, max_beats=40)
    expected = data.beats[~data.positive].mean(0, dtype=np.float64)
    np.testing.assert_allclose(result.mean_beat[Label.NEGATIVE], expected)
    assert tuple(result.attention) == ATTENTION_STAGES
    assert all(set(by_label) == set(LABELLED) for by_label in result.attention.values())
    assert result.beats.points.shape == (40, 2)
    assert result.beats.purity > 0.8
    assert result.beats.silhouette > 0


@pytest.mark.parametrize(
    ("name", "same_map", "same_attention"),
    [
        ("head.bias", True, True),  # threshold
        ("head.weight", True, False),  # closed form
        ("stage4.1.conv2.weight", False, False),  # fine-tuned
    ],
)
def test_what_the_selected_model_shares_is_said(
    case: Any, name: str, same_map: bool, same_attention: bool
) -> None:
    network, data = case
    result = explain_both(network, changed(network, name), data, "selected", NAMES, max_beats=30)
    assert (result.same_map, result.same_attention) == (same_map, same_attention)
    assert (result.after.beats is result.before.beats) == same_map
    assert np.array_equal(result.before.beats.points, result.after.beats.points) == same_map
    last = [one.attention["stage4"][Label.POSITIVE].curve for one in (result.before, result.after)]
    assert np.array_equal(*last) == same_attention
    assert result.n_positive + result.n_negative == len(data.beats)


def test_computed_apart_what_is_called_the_same_is_the_same(case: Any) -> None:
    """The threshold moves no evidence, and no head moves the embedding."""
    network, data = case
    whole = explain_both(network, changed(network, "head.bias"), data, "threshold", NAMES, max_beats=30)
    alone = explain(changed(network, "head.bias"), data, NAMES, max_beats=30)
    np.testing.assert_array_equal(whole.after.beats.points, alone.beats.points)
    for stage in ATTENTION_STAGES:
        for label in LABELLED:
            shared, own = (one.attention[stage][label] for one in (whole.after, alone))
            np.testing.assert_array_equal(shared.curve, own.curve)


def test_statistics_of_batch_normalization_change_the_embedding(case: Any) -> None:
    network, _ = case
    other = deepcopy(network)
    other.norm.running_mean += 0.1
    assert not equal_but_for(("head.weight", "head.bias"), network, other)
    assert equal_but_for((), network, deepcopy(network))


def test_the_heart_rate_decides_where_the_cycle_ends(case: Any) -> None:
    network, data = case
    fast = LabelledBeats(data.beats, data.positive, np.full(len(data.beats), 0.4))
    slow, quick = (explain(network, one, NAMES, max_beats=10).attention["stage2"] for one in (data, fast))
    for label in LABELLED:
        np.testing.assert_array_equal(slow[label].curve, quick[label].curve)
        assert quick[label].share[Wave.ST_T] < slow[label].share[Wave.ST_T]
        assert quick[label].even[Wave.ST_T] < slow[label].even[Wave.ST_T]


def test_beats_are_read_with_the_rr_interval_of_their_strip(toy_site: Any) -> None:
    with toy_site.factory() as session:
        strips = session.scalars(
            select(Strip).where(Strip.patient_id == 9, Strip.label.in_(LABELLED)).order_by(Strip.start)
        ).all()
        strips[0].heart_rate_bpm = 100.0
        ids = [strip.id for strip in strips]
        store = BeatStore(toy_site.site.beats)
        data = read_beats(session, store, ids[::-1])
        assert len(data.beats) == 6 * len(ids)
        np.testing.assert_array_equal(data.rr_s[:6], 0.6)
        assert np.isnan(data.rr_s[6:]).all()
        np.testing.assert_array_equal(data.positive, np.repeat([s.label == "positive" for s in strips], 6))
        with pytest.raises(ModelError, match="both labels are needed"):
            read_beats(session, store, [s.id for s in strips if s.label == "positive"])
        strips[3].exclusion = "noise"
        with pytest.raises(ModelError, match=r"of 16 test strips 15 are still there"):
            read_beats(session, store, ids)


def test_no_other_protocol_is_explained_with_the_models_of_this_one(toy_site: Any) -> None:
    with toy_site.factory() as session:
        run = session.scalars(select(Run)).first()
        assert run is not None
        row = PersonalizationRun(run_id=run.id, patient_id=9, protocol="paper", selected_method="fine_tuned")
        with pytest.raises(ModelError, match="of the protocol prospective, not of paper"):
            explain_patient(toy_site.site, session, row)

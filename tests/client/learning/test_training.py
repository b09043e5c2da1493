"""Local training of the generic model on toy strips."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from client.learning.dataset import StripRef
from client.learning.evaluation import figures, score_strips
from client.learning.training import batches, beat_weights, train_generic
from common.config import TrainingSettings
from common.errors import CohortError, ModelError
from common.model import ResNet1d
from common.task import Label
from common.weights import pack

FAST = TrainingSettings(beats_per_strip=4, batch_size=16, learning_rate=3e-3)


def trained(network: ResNet1d, strips: list[StripRef], store: Any, **changes: Any) -> Any:
    model = deepcopy(network)
    outcome = train_generic(model, strips, store, FAST.model_copy(update=changes), (0, "train", "a", 1))
    return model, outcome


def test_training_learns_to_tell_tall_t_waves_on_patients_it_has_not_seen(
    network: ResNet1d, patients: Any
) -> None:
    strips, store = patients(6, 4, spread=0.05)
    model, _ = trained(network, strips[:-8], store, local_epochs=6)
    assert figures(score_strips(model, strips[-8:], store))["beat-auc"] > 0.95


def test_equal_inputs_give_equal_weights_bit_for_bit_whatever_the_global_generator_did(
    network: ResNet1d, patients: Any
) -> None:
    strips, store = patients(3, 2)
    first, _ = trained(network, strips, store)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    second, _ = trained(network, strips, store)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert pack(first).digest() == pack(second).digest()


def test_another_name_of_the_stream_gives_other_weights(network: ResNet1d, patients: Any) -> None:
    strips, store = patients(3, 2)
    other = deepcopy(network)
    train_generic(other, strips, store, FAST, (0, "train", "a", 2))
    assert pack(other).digest() != pack(trained(network, strips, store)[0]).digest()


def test_gap_strips_change_nothing(network: ResNet1d, patients: Any, strip: Callable[..., StripRef]) -> None:
    strips, store = patients(3, 2)
    with_gap = [strip(1, "gap", patient=9, n=6), *strips]
    assert (
        pack(trained(network, with_gap, store)[0]).digest()
        == pack(trained(network, strips, store)[0]).digest()
    )


def test_the_sums_count_what_an_epoch_saw(network: ResNet1d, patients: Any) -> None:
    strips, store = patients(3, 2)
    model, outcome = trained(network, strips, store)
    assert (outcome.patients, outcome.strips, outcome.beats) == (3, 12, 48)
    change = pack(model).trainable.astype(np.float64) - pack(network).trainable
    assert outcome.update_norm == pytest.approx(float(np.sqrt(np.sum(change**2))))
    assert 0 < outcome.loss_total / outcome.beats < 2


def test_one_label_is_a_sentence_about_the_cohort(network: ResNet1d, patients: Any) -> None:
    strips, store = patients(3, 2)
    only = [s for s in strips if s.label == Label.NEGATIVE]
    with pytest.raises(CohortError, match="0 positive and 6 negative"):
        train_generic(network, only, store, FAST, (0,))


def test_a_diverging_rate_is_a_sentence(network: ResNet1d, patients: Any) -> None:
    strips, store = patients(3, 2)
    store.beats[:] = np.nan
    with pytest.raises(ModelError, match="diverged at learning rate"):
        trained(network, strips, store)


def test_balanced_labels_weigh_the_same_and_no_beat_is_discarded(strip: Callable[..., StripRef]) -> None:
    strips = [strip(0, "positive", n=3), strip(1, n=60), strip(2, n=30)]
    owner = np.repeat([0, 1, 2], [3, 20, 20])
    weights = beat_weights(strips, owner, "strips")
    assert weights[:3].sum() == pytest.approx(weights[3:].sum(), rel=1e-6)
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    assert (weights > 0).all()


def test_natural_weights_stand_for_the_beats_a_strip_has(strip: Callable[..., StripRef]) -> None:
    strips = [strip(0, "positive", n=3), strip(1, n=60)]
    weights = beat_weights(strips, np.repeat([0, 1], [3, 20]), "natural")
    assert weights[3:].sum() / weights[:3].sum() == pytest.approx(60 / 3, rel=1e-6)
    assert weights.mean() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("n", "sizes"), [(100, [64, 36]), (90, [90]), (5, [5]), (128, [64, 64]), (0, [0])])
def test_batches_hold_every_beat_once_and_none_is_tiny(n: int, sizes: list[int]) -> None:
    parts = list(batches(np.arange(n), 64))
    assert [len(part) for part in parts] == sizes
    assert np.concatenate(parts).tolist() == list(range(n))

"""Rounds, methods and the guard on one toy patient."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from client.learning.activations import Activations
from client.learning.dataset import StripRef
from client.learning.guard import METHODS, pair_loss
from client.learning.personalization import PersonalResult, personalize
from client.learning.personalizers import Head, Scaling
from client.learning.planning import Plan, plan_patient
from client.learning.protocols import HEART_RATE, PUBLISHED, SCRATCH, T_WAVE, procedures
from client.learning.training import train_generic
from common.config import ModelSettings, PersonalizationSettings, TrainingSettings
from common.model import ResNet1d, build_model
from common.seeding import torch_stream
from common.weights import pack

SETTINGS = PersonalizationSettings(epochs=3, batch_size=16, gap_s=3600, learning_rate=3e-3)


@pytest.fixture(scope="module")
def case(patients: Any) -> tuple[ResNet1d, Plan, Any, Scaling]:
    """Make a generic model that knows the task, and a patient whose T waves are all taller."""
    strips, store = patients(4, 8, spread=0.05)
    network = build_model(ModelSettings(width=4, stem="paper"), torch_stream("case"))
    train_generic(
        network,
        strips[:-16],
        store,
        TrainingSettings(batch_size=32, local_epochs=3, learning_rate=3e-3),
        (0, "train"),
    )
    own = strips[-16:]
    store.beats[own[0].offset :] *= np.linspace(1.0, 1.5, 120, dtype=np.float32)
    return network, plan_patient(own, SETTINGS), store, Scaling(np.zeros(32), np.ones(32))


@pytest.fixture(scope="module")
def result(case: Any) -> PersonalResult:
    """Run all rounds of that patient."""
    return run(case)


def run(
    case: Any, settings: PersonalizationSettings = SETTINGS, protocol: str = "prospective"
) -> PersonalResult:
    network, plan, store, scaling = case
    (procedure,) = (one for one in procedures(settings) if one.name == protocol)
    activations = Activations(network, store, settings)
    names = (0, "personalize", "a", "p")
    return personalize(network, plan, activations, settings, procedure, scaling, names)


def test_every_method_is_scored_after_every_round_on_the_same_test_strips(case: Any, result: Any) -> None:
    plan = case[1]
    assert [(e.round, e.method) for e in result.rounds[:2]] == [(0, "generic"), (0, "selected")]
    assert [(e.round, e.method) for e in result.rounds[2:]] == [
        (round_, method)
        for round_ in range(1, 6)
        for method in (*METHODS, T_WAVE, HEART_RATE, SCRATCH, "selected")
    ]
    for entry in result.rounds:
        assert [s.strip_id for s in entry.test] == [s.strip_id for s in plan.test]


def test_a_pair_is_scored_before_it_is_trained_on(case: Any, result: Any) -> None:
    plan = case[1]
    for entry in result.rounds:
        candidate = entry.method in (*METHODS, "selected")
        coming = plan.pairs[entry.round] if entry.round < 5 and candidate else ()
        assert [s.strip_id for s in entry.guard] == [s.strip_id for s in coming]
        trained = sum(s.n_beats for pair in plan.pairs[: entry.round] for s in pair)
        method = entry.chosen or entry.method
        assert entry.train_beats == (0 if method == "generic" else trained)


def test_the_guard_knows_pairs_two_and_later_only(result: Any) -> None:
    for method in METHODS:
        expected = tuple(pair_loss(result.at(round_, method).guard) for round_ in range(1, 5))
        assert result.guard_losses[method] == expected
    assert [result.at(round_, "selected").chosen for round_ in (0, 1, 2)] == ["generic"] * 3


def test_selected_repeats_the_method_behind_it(case: Any) -> None:
    result = run(case, SETTINGS.model_copy(update={"guard_margin": 0.0}))
    for entry in result.rounds:
        if entry.method == "selected":
            same = result.at(entry.round, str(entry.chosen))
            assert all(np.array_equal(a.logits, b.logits) for a, b in zip(entry.test, same.test, strict=True))
    assert result.at(5, "selected").chosen == result.selected_method


def test_a_round_does_not_depend_on_the_rounds_after_it(case: Any, result: Any) -> None:
    network, plan, store, scaling = case
    short = Plan(plan.outcome, pairs=plan.pairs[:2], test=plan.test)
    first = run((network, short, store, scaling)).at(2, "fine_tuned").test
    second = result.at(2, "fine_tuned").test
    assert all(np.array_equal(a.logits, b.logits) for a, b in zip(first, second, strict=True))


def test_the_answer_depends_on_names_only_and_leaves_the_generic_model_alone(case: Any, result: Any) -> None:
    network = case[0]
    before = pack(network).digest()
    torch.manual_seed(4)
    second = run(case)
    for method in METHODS[1:]:
        for name, values in result.suffixes[method].items():
            np.testing.assert_array_equal(values, second.suffixes[method][name])
    assert pack(network).digest() == before


def test_a_suffix_on_the_generic_model_is_the_personal_model(case: Any, result: Any) -> None:
    network, plan, store, _ = case
    for method in METHODS[1:]:
        model = deepcopy(network)
        state = model.state_dict()
        for name, values in result.suffixes[method].items():
            state[name].copy_(torch.from_numpy(values))
        strip = plan.test[0]
        logits = model.eval()(torch.from_numpy(store.read(strip.offset, strip.n_beats))).detach().numpy()
        np.testing.assert_allclose(logits, result.at(5, method).test[0].logits, rtol=1e-3, atol=1e-4)
    assert set(result.suffixes["threshold"]) == {"head.weight", "head.bias"}
    assert not any(name.startswith(("stem", "stage1", "stage2")) for name in result.suffixes["fine_tuned"])


def test_the_threshold_moves_every_logit_by_the_same(result: Any) -> None:
    for a, b in zip(result.at(1, "generic").test, result.at(1, "threshold").test, strict=True):
        np.testing.assert_allclose(b.logits - a.logits, (b.logits - a.logits)[0], atol=1e-4)


def test_gap_strips_are_scored_by_the_generic_and_the_selected_model_after_the_last_round(
    case: Any, strip: Callable[..., StripRef]
) -> None:
    network, plan, store, scaling = case
    late = strip(999, "gap", strip_id=77, offset=plan.test[0].offset)
    with_gap = Plan(plan.outcome, pairs=plan.pairs, test=plan.test, gap=(late,))
    result = run((network, with_gap, store, scaling))
    shown = [(e.round, e.method) for e in result.rounds if e.gap]
    assert shown == [(5, "generic"), (5, "selected")]


def test_a_full_cache_changes_nothing(case: Any) -> None:
    network, plan, store, _ = case
    kept = Activations(network, store, SETTINGS)
    nothing_kept = Activations(network, store, SETTINGS, cache_bytes=0)
    for own in (plan.test[0], plan.test[0], plan.pairs[0][0]):
        assert torch.equal(kept.hidden(own), nothing_kept.hidden(own))
        np.testing.assert_array_equal(kept.embedding(own), nothing_kept.embedding(own))
    assert kept.hidden(plan.test[0]) is kept.hidden(plan.test[0])


def test_beats_per_strip_limits_training_and_scoring(case: Any) -> None:
    result = run(case, SETTINGS.model_copy(update={"beats_per_strip": 2}))
    assert result.at(3, "closed_form").train_beats == 3 * 2 * 2
    assert all(score.n_beats == 2 for score in result.at(3, "fine_tuned").test)


def test_the_generic_head_on_the_embedding_is_the_network(case: Any) -> None:
    network, plan, store, _ = case
    activations = Activations(network, store, SETTINGS)
    by_head = activations.apply(Head.of(network), plan.test)
    by_network = activations.score(network, plan.test)
    for a, b in zip(by_head, by_network, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-4, atol=1e-5)


def test_the_paper_s_protocol_continues_from_round_to_round(case: Any, result: Any) -> None:
    """With the published rate nearly nothing moves; in the first round it does not matter how to begin."""
    paper = run(case, protocol="paper")
    assert {entry.method for entry in paper.rounds} == {*METHODS, PUBLISHED, "selected"}
    again = run(case, SETTINGS.model_copy(update={"paper_start": "restart"}), protocol="paper")
    for round_, same in ((1, True), (3, False)):
        a, b = (one.at(round_, "fine_tuned").test for one in (paper, again))
        assert all(np.array_equal(x.logits, y.logits) for x, y in zip(a, b, strict=True)) is same

    def moved(method: str) -> float:
        return float(np.abs(paper.at(1, method).test[0].logits - paper.at(2, method).test[0].logits).max())

    assert 0 < moved(PUBLISHED) < moved("fine_tuned")


def test_a_network_from_scratch_shares_nothing_with_the_generic_model(case: Any, result: Any) -> None:
    network, plan, store, scaling = case
    other = build_model(network.settings, torch_stream("another")).eval()
    second = run((other, plan, store, scaling))
    a, b = (one.at(2, SCRATCH).test for one in (result, second))
    assert all(np.array_equal(x.logits, y.logits) for x, y in zip(a, b, strict=True))
    assert any(
        not np.array_equal(x.logits, y.logits)
        for x, y in zip(result.at(2, "fine_tuned").test, second.at(2, "fine_tuned").test, strict=True)
    )


def test_baselines_are_never_selected_and_leave_no_model(case: Any, result: Any) -> None:
    assert set(result.guard_losses) == set(METHODS)
    assert set(result.suffixes) == set(METHODS[1:])
    for method in (T_WAVE, HEART_RATE, SCRATCH):
        assert all(not result.at(round_, method).guard for round_ in range(1, 6))
    # Nothing is known of the heart rate here, so it tells no strip from another.
    assert max(abs(float(score.logits[0])) for score in result.at(5, HEART_RATE).test) < 1e-6


def test_quick_leaves_out_what_is_named(case: Any) -> None:
    quick = SETTINGS.model_copy(update={"depth": "quick"})
    assert {e.method for e in run(case, quick).rounds} == {*METHODS, T_WAVE, HEART_RATE, "selected"}
    assert [one.name for one in procedures(quick)] == ["prospective", "paper", "control_permuted"]

"""Choosing a generic model from noisy validation: facts of SCIENCE section 9."""

from __future__ import annotations

from itertools import pairwise

import pytest

from common.config import FederationSettings
from server import schedule
from server.schedule import Evaluation

ALL = ("a", "b", "c")


def evaluations(losses: list[float], sites: tuple[str, ...] = ALL, patients: int = 20) -> list[Evaluation]:
    return [Evaluation(i, loss * patients, patients, 1000, sites) for i, loss in enumerate(losses)]


def rates(federation: FederationSettings, history: list[Evaluation]) -> list[float]:
    """Learning rates of rounds 1 to R, each seeing what is known when it begins."""
    return [
        schedule.learning_rate(1.0, federation, history[: number - 1], number)
        for number in range(1, federation.rounds + 1)
    ]


def test_a_loss_that_falls_all_the_way_selects_the_last_weights() -> None:
    chosen = schedule.select(FederationSettings(rounds=5), evaluations([6, 5, 4, 3, 2, 1]), 5)
    assert (chosen.round, chosen.rule) == (5, schedule.BEST)


def test_one_lucky_round_is_not_chosen_over_a_steady_valley() -> None:
    # round 2 dips below everything, but its neighbours are poor; rounds 6 to 8 are steadily good
    losses = [9.0, 8.0, 0.1, 8.0, 7.0, 3.0, 1.0, 1.0, 1.0, 4.0]
    chosen = schedule.best(evaluations(losses), 10)
    assert chosen is not None
    assert chosen.round in {6, 7, 8}


def test_a_round_worse_than_its_neighbours_is_never_chosen_for_their_sake() -> None:
    losses = [5.0, 1.0, 1.0, 9.0, 6.0, 6.0]
    chosen = schedule.best(evaluations(losses), 10)
    assert chosen is not None
    assert chosen.round == 2


def test_before_any_training_is_never_the_choice() -> None:
    chosen = schedule.best(evaluations([0.1, 5.0, 6.0, 7.0, 6.5]), 10)
    assert chosen is None or chosen.round > 0


def test_too_few_validation_patients_take_the_last_weights_of_a_decaying_schedule() -> None:
    federation = FederationSettings(rounds=4)
    history = evaluations([1, 9, 9, 9, 9], patients=federation.min_validation_patients - 1)
    chosen = schedule.select(federation, history, 4)
    assert (chosen.round, chosen.rule) == (4, schedule.LAST_OF_DECAY)
    falling = rates(federation, history)
    assert falling[0] == 1.0
    assert all(later < earlier for earlier, later in pairwise(falling))


def test_no_validation_patients_at_all_is_the_same_as_too_few() -> None:
    federation = FederationSettings(rounds=3)
    history = evaluations([0, 0, 0, 0], sites=(), patients=0)
    chosen = schedule.select(federation, history, 3)
    assert (chosen.round, chosen.rule, chosen.loss) == (3, schedule.LAST_OF_DECAY, None)


def test_fewer_than_three_comparable_rounds_choose_nothing() -> None:
    chosen = schedule.select(FederationSettings(rounds=1), evaluations([2, 1]), 1)
    assert (chosen.round, chosen.rule) == (1, schedule.LAST_FEW_ROUNDS)


def test_rounds_answered_by_other_sites_are_not_compared() -> None:
    # Site c has hard patients. Where it is missing the loss is low, and that is no progress.
    history = evaluations([5, 4, 3, 2.5])
    without_c = [Evaluation(4 + i, 0.1 * 20, 20, 1000, ("a", "b")) for i in range(3)]
    chosen = schedule.best([*history, *without_c], 10)
    assert chosen is not None
    assert chosen.sites == ALL


def test_the_sites_that_answered_most_often_judge() -> None:
    history = evaluations([5, 4, 3])
    later = [Evaluation(3 + i, 9.0 * 20, 20, 1000, ("a", "b")) for i in range(6)]
    chosen = schedule.best([*history, *later], 10)
    assert chosen is not None
    assert chosen.sites == ("a", "b")


def test_the_rate_is_halved_after_three_rounds_without_improvement() -> None:
    federation = FederationSettings(rounds=12, schedule="plateau", plateau_rounds=3)
    flat = rates(federation, evaluations([5, 4, 3] + [3] * 9))
    assert flat[:5] == [1.0] * 5
    assert flat[-1] == pytest.approx(0.5**2)
    assert sorted(flat, reverse=True) == flat


def test_the_rate_stays_while_the_loss_falls() -> None:
    federation = FederationSettings(rounds=10, schedule="plateau")
    assert rates(federation, evaluations([10 - i for i in range(10)])) == [1.0] * 10


def test_a_change_of_sites_is_neither_progress_nor_plateau() -> None:
    federation = FederationSettings(rounds=9, schedule="plateau", plateau_rounds=3)
    history = evaluations([5, 5, 5])
    changing = [Evaluation(3 + i, 5.0 * 20, 20, 1000, (f"s{i}",)) for i in range(6)]
    assert rates(federation, [*history, *changing]) == [1.0] * 9


def test_early_stop_waits_for_its_rounds_and_never_ends_a_fixed_schedule() -> None:
    flat = evaluations([3.0] * 8)
    stopping = FederationSettings(rounds=50, stop_rounds=4)
    stopped = [schedule.should_stop(stopping, flat[:n]) for n in range(1, 9)]
    assert stopped.index(True) == 6  # three rounds for the first median, then four without a lower one
    cosine = FederationSettings(rounds=50, stop_rounds=4, schedule="cosine")
    assert not schedule.should_stop(cosine, flat)
    assert not schedule.should_stop(FederationSettings(rounds=50), flat)

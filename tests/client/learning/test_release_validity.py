"""Simpler ways, the paper's protocol and controls on their way out. Five is the smallest cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from client.database.runs import latest_run
from client.database.tables import PersonalizationRun
from client.learning import protocols, release_validity
from client.learning.answer import answer
from client.learning.differencing import Sizes
from client.learning.guard import METHODS
from client.learning.planning import PAPER
from client.learning.release import PatientFigures, Release
from client.learning.release_validity import release_control, tellable
from client.learning.rounds import personalize_site
from common import procedures, protocol
from common.metrics import Moments
from common.page.words import BASELINES, headline
from common.page.words import METHODS as METHOD_WORDS
from common.task import TASKS
from common.weights import Weights

HEADLINE = "strip-accuracy"


def patient(
    value: float = 0.8, auc: float = 0.5, methods: Iterable[str] = METHODS, **last: float
) -> PatientFigures:
    """Make a patient with one round, whose methods all reach the same; ``last`` changes headlines."""
    figures = {m: {HEADLINE: last.get(m, value), "beat-auc": auc} for m in (*methods, "selected")}
    return PatientFigures({(1, m): own for m, own in figures.items()}, "generic", True, True)


def control(
    who: Mapping[int, PatientFigures], primary: set[int], *known: set[int], min_cell: int = 5
) -> dict[str, Any]:
    release, sizes = Release(min_cell), Sizes(min_cell)
    sizes.know(primary, *known)
    release_control(release, "permuted", who, HEADLINE, "north", primary, sizes)
    return dict(release.flat())


def test_a_control_is_the_gain_and_the_auc_of_what_could_learn() -> None:
    who = {i: patient(auc=0.5 + i / 100, selected=0.8 + i / 100, generic=0.7) for i in range(8)}
    sent = control(who, set(who))
    gain = Moments.from_flat(sent, f"control.permuted.gain.{HEADLINE}")
    assert (gain.n, gain.mean) == (8, pytest.approx(0.1 + 0.035))
    for method in procedures.LEARNING:
        auc = Moments.from_flat(sent, f"control.permuted.{method}.beat-auc")
        assert (auc.n, auc.mean) == (8, pytest.approx(0.535))
    protocol.check(protocol.reply(sent), protocol.PERSONALIZE, "reply")


def test_a_method_that_was_not_run_has_no_key_and_takes_no_other_away() -> None:
    quick = [method for method in METHODS if method != "fine_tuned"]
    sent = control({i: patient(methods=quick) for i in range(8)}, set(range(8)))
    assert not any("fine_tuned" in key for key in sent)
    assert sent["control.permuted.closed_form.beat-auc.n"] == 8
    assert sent["suppressed"] == 0


def test_a_control_of_all_but_one_patient_is_of_five_fewer() -> None:
    """The sums of all but one would tell that there is one without a control, and count it."""
    everybody = {i: patient(auc=i / 100) for i in range(20)}
    nearly = {p: one for p, one in everybody.items() if p != 7}
    sent = control(nearly, set(everybody))
    assert sent["control.permuted.closed_form.beat-auc.n"] == 15
    assert sent == control(nearly, set(everybody)), "the same patients whenever it is asked"
    few = {p: everybody[p] for p in range(9)}
    assert control({p: few[p] for p in range(8)}, set(few)) == {"suppressed": 4}


def test_a_control_of_others_too_does_not_count_the_others() -> None:
    """Two more patients have a control than are in the primary result."""
    who = {i: patient() for i in range(12)}
    sent = control(who, set(range(10)))
    assert sent["control.permuted.closed_form.beat-auc.n"] == 11  # one of the primary result gave way
    sent = control(who, set(range(10)), set(range(10, 30)))
    assert sent["control.permuted.closed_form.beat-auc.n"] <= 11
    assert control({i: patient() for i in range(4)}, set(range(4))) == {"suppressed": 4}


def test_a_patient_without_one_figure_is_in_none() -> None:
    who = {i: patient(auc=math.nan if i >= 10 else 0.5) for i in range(16)}
    sent = control(who, set(range(16)))
    assert {value for key, value in sent.items() if key.endswith(".n")} == {10}


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 11)), st.lists(st.sets(st.integers(0, 11)), max_size=3), st.integers(2, 5))
def test_no_small_group_follows_from_the_part_that_is_told(
    whole: set[int], known: list[set[int]], smallest: int
) -> None:
    primary = known[0] if known else set()
    sizes = Sizes(smallest)
    told = [group for group in known if sizes.tell(group) and group]
    before = sizes.small(told)
    part = tellable(whole, primary, sizes, ("north", "days"))
    assert part <= whole
    assert not part or len(part) >= smallest
    if part:
        assert sizes.small([*told, part]) == before == set()


# --- a whole site -----------------------------------------------------------------------------------------


def again(toy: Any, session: Any) -> dict[str, Any]:
    run = latest_run(session, "personalization", "main")
    cohort = latest_run(session, "cohort", "main")
    return dict(answer(session, toy.site, run, cohort, []).flat())


def test_a_site_tells_what_its_rows_say_and_nothing_of_a_part_of_its_patients(
    toy_site: Any, toy_weights: Weights
) -> None:
    toy = toy_site.with_settings(
        personalization={"protocols": ("prospective", "paper"), "depth": "full", "rounds": 1, "epochs": 1},
        policy={"min_cell": 2},
    )
    sent = personalize_site(toy.site, toy_weights, toy.run)
    protocol.check(protocol.reply(sent), protocol.PERSONALIZE, "reply")
    with toy.factory() as session:
        run = latest_run(session, "personalization", "main")
        found = {
            name: release_validity.results_of(session, run, name)
            for name in ("prospective", PAPER, protocols.PERMUTED)
        }
    primary, paper = found["prospective"], found[PAPER]
    assert len(primary) == sent["last.selected.beat-auc.n"] == 3

    def mean(prefix: str) -> float:
        return Moments.from_flat(sent, prefix).mean

    for way in procedures.SIMPLER:
        values = [one.last(way)["beat-auc"] for one in primary.values()]
        assert mean(f"last.{way}.beat-auc") == pytest.approx(np.mean(values))
        apart = [one.last("selected")[HEADLINE] - one.last(way)[HEADLINE] for one in primary.values()]
        assert mean(f"difference.selected-{way}.{HEADLINE}") == pytest.approx(np.mean(apart))
    for method in procedures.PAPER_METHODS:
        values = [one.last(method)[HEADLINE] for one in paper.values()]
        assert mean(f"paper.{method}.{HEADLINE}") == pytest.approx(np.mean(values))
    assert sent["control.permuted.fine_tuned.beat-auc.n"] == len(found[protocols.PERMUTED])
    # Neither other figures nor closed form in the paper's protocol: fewer keys, not more.
    beside = {key.rsplit(".", 1)[0] for key in sent if key.startswith(("paper.", "control."))}
    assert len(beside) <= 2 * len(procedures.PAPER_METHODS) + 2 * (1 + len(procedures.LEARNING))
    assert "paper.generic.beat-auc.n" in sent
    with toy.factory.begin() as session:
        one = (PersonalizationRun.protocol == PAPER, PersonalizationRun.patient_id == 9)
        session.execute(update(PersonalizationRun).where(*one).values(outcome="too_few_strips"))
        told = again(toy, session)
    assert not any(key.startswith("paper.") for key in told), "two of three patients would tell of the third"
    assert told["last.t_wave.beat-auc.n"] == 3
    with toy.factory() as session:
        told = again(toy.with_settings(policy={"min_cell": 4}), session)
    assert not any(key.startswith(("last.", "difference.", "paper.", "control.")) for key in told)


# --- both sides have one vocabulary -----------------------------------------------------------------------


def test_names_are_those_of_the_site() -> None:
    assert (
        set(procedures.SIMPLER)
        == {protocols.T_WAVE, protocols.HEART_RATE, protocols.SCRATCH}
        == set(BASELINES)
    )
    assert tuple(f"control_{name}" for name in procedures.CONTROLS) == protocols.CONTROLS
    assert {*procedures.PAPER_METHODS} == {*METHOD_WORDS, protocols.PUBLISHED} - {"closed_form"}
    assert {name: headline(name).wire for name in TASKS} == procedures.HEADLINES

"""A federated round and the second phase at a whole toy site: files, rows and what is answered."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, select

from client import cli
from client.database.runs import finish_run, start_run
from client.database.tables import (
    CohortMember,
    Draw,
    FederatedRound,
    Model,
    PersonalizationRound,
    PersonalizationRun,
    Run,
    Strip,
    StripPrediction,
)
from client.learning import patient_jobs
from client.learning import patients as phase
from client.learning.explain import explain_patient
from client.learning.models import generic_path, load_personal
from client.learning.rounds import federated_round, personalize_site
from common import protocol
from common.errors import CohortError, ModelError, PolicyError, PreprocessingError
from common.generic import load_generic
from common.metrics import Moments
from common.weights import Weights


def count(toy: Any, table: Any) -> int:
    with toy.factory() as session:
        return int(session.scalar(select(func.count()).select_from(table)))


def rows(toy: Any, table: Any) -> list[dict[str, Any]]:
    """Read all rows of a table without their numbers and times."""
    hidden = {"id", "run_id", "personalization_run_id", "seconds", "started_at", "finished_at"}
    with toy.factory() as session:
        return [
            {c.name: getattr(row, c.key) for c in table.__table__.columns if c.name not in hidden}
            for row in session.scalars(select(table).order_by(table.id))
        ]


def outcomes_of(toy: Any) -> dict[int, str]:
    """Read the patients' outcomes under the primary protocol."""
    found = rows(toy, PersonalizationRun)
    return {row["patient_id"]: row["outcome"] for row in found if row["protocol"] == "prospective"}


def test_a_round_answers_validation_of_what_came_and_training_of_what_goes(
    toy_site: Any, toy_weights: Weights
) -> None:
    reply = federated_round(toy_site.site, toy_weights, toy_site.round())
    assert reply.weights is not None
    assert reply.weights.digest() != toy_weights.digest()
    numbers = reply.metrics
    # Four beats of each strip: 4 patients with 4 strips and one with 16; 2 patients with 4 strips.
    assert (numbers["train-patients"], numbers["train-strips"], numbers["train-beats"]) == (5, 32, 128)
    assert (numbers["validation-patients"], numbers["validation-beats"]) == (2, 32)
    protocol.check(protocol.reply(numbers, reply.weights), protocol.ROUND, "reply")
    (row,) = rows(toy_site, FederatedRound)
    assert row["received_sha256"] == toy_weights.digest()
    assert row["returned_sha256"] == reply.weights.digest()
    assert row["validation_loss"] == pytest.approx(numbers["validation-loss-total"] / 2)


def test_the_same_round_again_gives_the_same_answer_and_one_row(toy_site: Any, toy_weights: Weights) -> None:
    first = federated_round(toy_site.site, toy_weights, toy_site.round())
    again = federated_round(toy_site.site, toy_weights, toy_site.round())
    assert first.weights is not None
    assert again.weights is not None
    assert first.weights.digest() == again.weights.digest()
    assert {k: v for k, v in first.metrics.items() if k != "seconds"} == {
        k: v for k, v in again.metrics.items() if k != "seconds"
    }
    assert count(toy_site, FederatedRound) == 1


def test_a_federation_that_begins_anew_is_another_run(toy_site: Any, toy_weights: Weights) -> None:
    federated_round(toy_site.site, toy_weights, toy_site.round())
    federated_round(
        toy_site.site, Weights(toy_weights.trainable * 0.5, toy_weights.statistics), toy_site.round()
    )
    with toy_site.factory() as session:
        runs = session.scalars(select(Run).where(Run.kind == "federation").order_by(Run.id)).all()
    assert [run.status for run in runs] == ["interrupted", "running"]
    assert count(toy_site, FederatedRound) == 2


def test_what_counts_against_the_limit_of_rounds_is_what_left(toy_site: Any, toy_weights: Weights) -> None:
    """A coordinator may call every message round 1; the site counts its own answers."""
    toy = toy_site.with_settings(policy={"max_rounds": 2})

    def scaled(factor: float) -> Weights:
        return Weights(toy_weights.trainable * np.float32(factor), toy_weights.statistics)

    for factor in (1.0, 0.9):
        assert federated_round(toy.site, scaled(factor), toy.round(1)).weights is not None
    with pytest.raises(PolicyError, match=r"answered 2 times with weights; policy\.max_rounds is 2"):
        federated_round(toy.site, scaled(0.8), toy.round(1))
    again = federated_round(toy.site, scaled(0.9), toy.round(1))
    assert again.weights is not None, "the same question again, as after an interruption, is no new answer"
    assert federated_round(toy.site, scaled(0.8), toy.round(1, train=False)).weights is None
    assert count(toy, FederatedRound) == 3


def test_another_answer_to_the_same_weights_is_another_row(toy_site: Any, toy_weights: Weights) -> None:
    for seed in (0, 0, 1):
        federated_round(toy_site.site, toy_weights, replace(toy_site.round(), seed=seed))
    training = toy_site.round().training.model_copy(update={"learning_rate": 1e-5})
    federated_round(toy_site.site, toy_weights, replace(toy_site.round(), seed=1, training=training))
    assert count(toy_site, FederatedRound) == 3


def test_an_evaluate_only_round_returns_no_weights(toy_site: Any, toy_weights: Weights) -> None:
    reply = federated_round(toy_site.site, toy_weights, toy_site.round(2, train=False))
    assert reply.weights is None
    assert "train-beats" not in reply.metrics
    assert reply.metrics["validation-patients"] == 2


def test_a_site_below_its_minimum_of_training_patients_only_evaluates(
    toy_site: Any, toy_weights: Weights
) -> None:
    toy = toy_site.with_settings(policy={"min_training_patients": 6})
    reply = federated_round(toy.site, toy_weights, toy.round())
    assert reply.weights is None
    assert reply.metrics["validation-patients"] == 2


def test_below_the_minimum_of_validation_patients_no_validation_number_leaves(
    toy_site: Any, toy_weights: Weights
) -> None:
    toy = toy_site.with_settings(policy={"min_validation_patients": 3})
    reply = federated_round(toy.site, toy_weights, toy.round())
    assert not any(key.startswith("validation") for key in reply.metrics)
    assert reply.weights is not None


def test_an_update_longer_than_allowed_is_scaled_down_and_the_row_tells_of_it(
    toy_site: Any, toy_weights: Weights
) -> None:
    free = federated_round(toy_site.site, toy_weights, toy_site.round())
    limit = free.metrics["update-norm"] / 8
    toy = toy_site.with_settings(policy={"max_update_norm": limit})
    reply = federated_round(toy.site, toy_weights, toy.round())
    assert reply.weights is not None
    norm = float(np.linalg.norm(reply.weights.trainable.astype(float) - toy_weights.trainable))
    assert norm <= limit
    assert norm == pytest.approx(limit, rel=1e-5)
    row = rows(toy, FederatedRound)[-1]
    assert row["update_norm"] == reply.metrics["update-norm"] == pytest.approx(norm, rel=1e-9)
    assert row["returned_sha256"] == reply.weights.digest()


def test_a_site_that_may_only_validate_keeps_the_learning_rate_of_the_round(
    toy_site: Any, toy_weights: Weights
) -> None:
    toy = toy_site.with_settings(policy={"min_training_patients": 6})
    federated_round(toy.site, toy_weights, toy.round())
    federated_round(toy.site, toy_weights, toy.round(2, train=False))
    asked, last = rows(toy, FederatedRound)
    assert (asked["learning_rate"], asked["train_beats"]) == (toy.site.settings.training.learning_rate, 0)
    assert last["learning_rate"] is None  # nobody trains in the last exchange


def test_requests_that_do_not_fit_are_refused_before_any_work(toy_site: Any, toy_weights: Weights) -> None:
    site, plan = toy_site.site, toy_site.round()
    with pytest.raises(PreprocessingError, match="other settings"):
        federated_round(site, toy_weights, replace(plan, preprocessing="0" * 64))
    with pytest.raises(ModelError, match="schema"):
        federated_round(site, toy_weights, replace(plan, schema="0" * 64))
    with pytest.raises(ModelError, match="values are expected"):
        federated_round(site, Weights(toy_weights.trainable[:-1], toy_weights.statistics), plan)
    with pytest.raises(CohortError, match="no frozen cohort 'other'"):
        federated_round(site, toy_weights, replace(plan, name="other"))
    assert count(toy_site, FederatedRound) == 0
    assert PreprocessingError.code in protocol.FAILURES


def test_every_candidate_has_an_outcome_and_sums_are_those_of_the_rows(
    toy_site: Any, toy_weights: Weights
) -> None:
    numbers = personalize_site(toy_site.site, toy_weights, toy_site.run)
    protocol.check(protocol.reply(numbers), protocol.PERSONALIZE, "reply")
    outcomes = outcomes_of(toy_site)
    assert outcomes == {9: "personal", 10: "personal", 11: "personal", 12: "trained_generic"}
    assert (numbers["outcome.personal"], numbers["outcome.trained_generic"]) == (3, 1)
    assert numbers["generic.patients"] == 3
    with toy_site.factory() as session:
        last = session.scalars(
            select(PersonalizationRound.beat_f1)
            .join(PersonalizationRound.personalization_run)
            .where(PersonalizationRun.protocol == "prospective")
            .where(PersonalizationRound.round == 3, PersonalizationRound.method == "fine_tuned")
        ).all()
    moments = Moments.from_flat(numbers, "last.fine_tuned.beat-f1")
    assert moments.n == 3
    assert moments.mean == pytest.approx(np.mean([float(value or 0.0) for value in last]))
    assert numbers["cohort.train.patients"] == 5
    assert numbers["flow.accepted"] == 8 * 5 + 4 * 17


def test_who_came_after_the_cohort_was_frozen_has_an_outcome_the_site_alone_is_told(
    toy_site: Any, toy_weights: Weights
) -> None:
    with toy_site.factory() as session:
        session.execute(delete(CohortMember).where(CohortMember.patient_id == 10))
        session.commit()
    numbers = personalize_site(toy_site.site, toy_weights, toy_site.run)
    assert outcomes_of(toy_site) == {
        9: "personal", 10: "after_cohort", 11: "personal", 12: "trained_generic"
    }  # fmt: skip
    assert not [key for key in numbers if "after" in key]
    assert numbers["cohort.personal.patients"] == 2
    with toy_site.factory() as session:
        row = session.scalars(select(PersonalizationRun).where(PersonalizationRun.patient_id == 10)).one()
        assert (row.protocol, row.rounds, row.selected_method) == ("prospective", 0, None)


#: The toy cohort again, with those who trained in the test list: patient 12 has the strips of a personal one.
SWAPPED = {
    **dict.fromkeys((1, 5), ("generic", "test")),
    **dict.fromkeys((7, 8), ("generic", "test")),
    **dict.fromkeys((2, 10), ("generic", "train")),
    **dict.fromkeys((9, 11, 12), ("personal", "test")),
}


def freeze_again(toy: Any, name: str, places: dict[int, tuple[str, str]] = SWAPPED) -> Any:
    """Freeze another cohort under a name; return the plan of a run that uses it."""
    with toy.factory.begin() as session:
        run = start_run(session, "cohort", toy.site.settings, name=name)
        for patient, (role, split) in places.items():
            n = 8 if patient > 8 else 2
            counts = {"n_positive": n, "n_negative": n, "n_gap": 1}
            session.add(CohortMember(run_id=run.id, patient_id=patient, role=role, split=split, **counts))
        finish_run(session, run)
    return replace(toy.run, name=name)


def who_tested(toy: Any) -> set[int]:
    """Return who tested the generic model as an unseen patient."""
    unseen = select(Strip.patient_id).join(StripPrediction, StripPrediction.strip_id == Strip.id)
    with toy.factory() as session:
        return set(session.scalars(unseen.where(StripPrediction.personalization_run_id.is_(None))))


@pytest.mark.parametrize("name", ["main", "second"])
@pytest.mark.parametrize("last_exchange", [True, False])
def test_nobody_is_tested_on_a_model_they_helped_to_make(
    toy_site: Any, toy_weights: Weights, name: str, last_exchange: bool
) -> None:
    made = federated_round(toy_site.site, toy_weights, toy_site.round()).weights
    assert made is not None
    if last_exchange:
        federated_round(toy_site.site, made, toy_site.round(2, train=False))
    elif name == "second":
        personalize_site(toy_site.site, made, toy_site.run)
        with toy_site.factory.begin() as session:
            for table in (StripPrediction, PersonalizationRound, PersonalizationRun):
                session.query(table).delete()
    numbers = personalize_site(toy_site.site, made, freeze_again(toy_site, name))
    outcomes = outcomes_of(toy_site)
    # 1 and 12 trained and 5 chose the model; 10 trains in the new cohort. 9 and 11 it does not know.
    assert outcomes == {
        9: "personal", 10: "trained_generic", 11: "personal", 12: "trained_generic"
    }  # fmt: skip
    assert who_tested(toy_site) == {7, 8, 9, 11}
    assert numbers["generic.patients"] == 4
    assert numbers["outcome.trained_generic"] == 2


def test_who_trained_one_model_may_test_the_next_one(toy_site: Any, toy_weights: Weights) -> None:
    made = federated_round(toy_site.site, toy_weights, toy_site.round()).weights
    assert made is not None
    federated_round(toy_site.site, made, toy_site.round(2, train=False))
    plan = freeze_again(toy_site, "main")
    again = replace(toy_site.round(), **vars(plan))
    other = federated_round(toy_site.site, toy_weights, again).weights
    assert other is not None
    federated_round(toy_site.site, other, replace(again, round=2, train=False))
    personalize_site(toy_site.site, other, plan)
    assert who_tested(toy_site) == {1, 5, 7, 8, 9, 11, 12}


def test_the_embedding_is_never_measured_on_test_patients(
    toy_site: Any, toy_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = phase.read_strip

    def listen(store: Any, strip: Any, count: int = 0) -> Any:
        read.append(strip.patient_id)
        return real(store, strip, count)

    monkeypatch.setattr(phase, "read_strip", listen)
    personalize_site(toy_site.site, toy_weights, toy_site.run)
    assert set(read) == {1, 2, 3, 4, 12}
    for splits, expected in ((("validation", "test"), {3}), (("test", "test"), set())):
        read.clear()
        places = {3: ("generic", splits[0]), 4: ("generic", splits[1]), 9: ("personal", "test")}
        personalize_site(toy_site.site, toy_weights, freeze_again(toy_site, "few", places))
        assert set(read) == expected


def test_the_primary_result_and_the_cohort_do_not_give_the_others_away(
    toy_site: Any, toy_weights: Weights
) -> None:
    toy = toy_site.with_settings(policy={"min_cell": 2})
    with toy.factory.begin() as session:
        # All positive strips of patient 10 come after its negative ones.
        for strip in session.scalars(select(Strip).where(Strip.patient_id == 10, Strip.label == "positive")):
            strip.start += timedelta(days=100)
            strip.end += timedelta(days=100)
    numbers = personalize_site(toy.site, toy_weights, toy.run)
    assert outcomes_of(toy)[10] != "personal"
    assert numbers["last.selected.beat-f1.n"] == numbers["outcome.personal"] == 2
    # Three personal patients less two of the primary result would be the one who is left.
    assert "cohort.personal.patients" not in numbers
    assert "outcome.not_interleaved" not in numbers


def test_draws_and_strips_are_suppressed_apart(toy_site: Any, toy_weights: Weights) -> None:
    toy = toy_site.with_settings(policy={"min_cell": 3})

    def draw(patient: int, exclusion: str | None) -> Draw:
        return Draw(
            patient_id=patient, run_id=1, source_row=f"{patient}{exclusion}", item="50971", specimen="serum",
            specimen_time=datetime(2150, 1, 1), label=None if exclusion else "negative", exclusion=exclusion,
        )  # fmt: skip

    with toy.factory.begin() as session:
        session.add_all(draw(patient, None) for patient in range(1, 13))
        session.add(draw(1, "low_potassium"))
        session.add_all(draw(patient, "wrong_unit") for patient in range(1, 10))
        spoiled = select(Strip).where(Strip.patient_id.in_((1, 2, 3)), Strip.label == "gap")
        for strip in session.scalars(spoiled):
            strip.exclusion = "flat_line"
    numbers = personalize_site(toy.site, toy_weights, toy.run)
    flow = {key: n for key, n in numbers.items() if key.startswith("flow.") and key.count(".") == 1}
    assert flow.pop("flow.suspected-kept") == 0
    # One patient with low potassium: the next smallest of the draws hides it, not one of the strips.
    assert flow == {"flow.labelled": 12, "flow.accepted": 8 * 5 + 4 * 17 - 3, "flow.flat_line": 3}


def test_nobody_is_counted_out_of_a_small_cell(toy_site: Any, toy_weights: Weights) -> None:
    toy = toy_site.with_settings(policy={"min_cell": 5})
    numbers = personalize_site(toy.site, toy_weights, toy.run)
    assert "outcome.personal" not in numbers
    assert not any(
        key.startswith(("last.", "personal.", "difference.", "generic.patient.")) for key in numbers
    )
    assert numbers["suppressed"] > 0
    assert "generic.histogram.positive" not in numbers
    with toy.factory() as session:
        (run,) = session.scalars(select(Run).where(Run.kind == "personalization")).all()
    assert sum(run.details["generic.histogram.positive"]) > 0
    assert run.details["sent"]["suppressed"] == numbers["suppressed"]


def test_stored_models_are_the_ones_that_were_scored(toy_site: Any, toy_weights: Weights) -> None:
    personalize_site(toy_site.site, toy_weights, toy_site.run)
    stored = [row for row in rows(toy_site, Model) if row["kind"] == "personal"]
    assert len(stored) == 3 * 3
    generic = generic_path(toy_site.site, "main", toy_weights.digest())
    for row in stored:
        personal = load_personal(toy_site.site.folder / row["path"], generic)
        assert (personal.method, personal.round) == (row["method"], 3)
        assert row["generic_sha256"] == toy_weights.digest()


def test_models_of_an_earlier_run_stay_what_their_rows_say(toy_site: Any, toy_weights: Weights) -> None:
    for toy in (toy_site, toy_site.with_settings(personalization={"rounds": 2})):
        personalize_site(toy.site, toy_weights, toy.run)
    other = Weights(toy_weights.trainable * 0.5, toy_weights.statistics)
    personalize_site(toy_site.site, other, toy_site.run)
    stored = rows(toy_site, Model)
    assert len(stored) == 3 * (1 + 3 * 3)
    for row in stored:
        assert sha256((toy_site.site.folder / row["path"]).read_bytes()).hexdigest() == row["sha256"]
    assert len({row["path"] for row in stored if row["kind"] == "personal"}) == 3 * 9


def test_the_command_takes_the_generic_model_last_used_under_the_name(
    toy_site: Any, toy_weights: Weights
) -> None:
    with pytest.raises(ModelError, match=r"'main' yet; name the file with --model"):
        cli._last_generic(toy_site.site, "main")
    for weights in (toy_weights, Weights(toy_weights.trainable * 0.5, toy_weights.statistics)):
        personalize_site(toy_site.site, weights, toy_site.run)
        assert load_generic(cli._last_generic(toy_site.site, "main")).weights.digest() == weights.digest()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_rows(
    toy_site: Any, toy_weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = (PersonalizationRun, PersonalizationRound, StripPrediction)
    whole = personalize_site(toy_site.site, toy_weights, toy_site.run)
    expected = [rows(toy_site, table) for table in tables]
    with toy_site.factory() as session:
        for table in (StripPrediction, PersonalizationRound, PersonalizationRun, Model):
            session.query(table).delete()
        session.commit()

    real, calls = patient_jobs.personalize, []

    def stop_at_third(
        *values: Any,
    ) -> Any:  # the first of the second patient: each has a protocol and a control
        calls.append(values)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(patient_jobs, "personalize", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        personalize_site(toy_site.site, toy_weights, toy_site.run)
    assert count(toy_site, PersonalizationRun) == 2
    again = personalize_site(toy_site.site, toy_weights, toy_site.run)
    assert len(calls) == 1 + sum(row["rounds"] > 0 for row in expected[0])
    assert [rows(toy_site, table) for table in tables] == expected
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in whole.items() if k != "seconds"
    }
    with toy_site.factory() as session:
        runs = session.scalars(select(Run).where(Run.kind == "personalization").order_by(Run.id)).all()
    assert [run.status for run in runs] == ["finished", "finished"]


def test_personalizing_ends_the_federation(toy_site: Any, toy_weights: Weights) -> None:
    federated_round(toy_site.site, toy_weights, toy_site.round())
    personalize_site(toy_site.site, toy_weights, toy_site.run)
    with toy_site.factory() as session:
        (run,) = session.scalars(select(Run).where(Run.kind == "federation")).all()
    assert run.status == "finished"


def test_a_patient_can_be_explained_from_what_is_stored(toy_site: Any, toy_weights: Weights) -> None:
    personalize_site(toy_site.site, toy_weights, toy_site.run)
    with toy_site.factory() as session:
        row = session.scalars(
            select(PersonalizationRun).where(
                PersonalizationRun.outcome == "personal", PersonalizationRun.protocol == "prospective"
            )
        ).first()
        assert row is not None
        row.selected_method = "fine_tuned"
        result = explain_patient(toy_site.site, session, row)
        assert (result.n_positive, result.n_negative) == (row.n_test_positive * 6, row.n_test_negative * 6)
        stored = row.generic_sha256
        row.generic_sha256 = "0" * 64
        with pytest.raises(ModelError, match=r"generic-main-000000000000\.safetensors"):
            explain_patient(toy_site.site, session, row)
        row.generic_sha256 = stored[:12] + "0" * 52
        with pytest.raises(ModelError, match="another generic model"):
            explain_patient(toy_site.site, session, row)
        trained = session.scalars(
            select(PersonalizationRun).where(PersonalizationRun.outcome == "trained_generic")
        ).one()
        with pytest.raises(ModelError, match="no personal models"):
            explain_patient(toy_site.site, session, trained)


def test_protocols_and_controls_have_rows_of_their_own_and_leave_the_answer_alone(
    toy_site: Any, toy_weights: Weights
) -> None:
    """What is told of the primary protocol is the same, whatever else is run."""
    all_of_it = toy_site.with_settings(
        personalization={"protocols": ("prospective", "paper"), "depth": "full"}
    )
    sent = [personalize_site(toy.site, toy_weights, toy.run) for toy in (toy_site, all_of_it)]
    same = [key for key in sent[0] if not key.startswith(("control.", "seconds"))]
    assert {key: sent[0][key] for key in same} == {key: sent[1][key] for key in same}
    assert any(key.startswith("paper.") for key in sent[1])
    assert not any(key.startswith("paper.") for key in sent[0])
    with toy_site.factory() as session:
        query = select(PersonalizationRun.protocol, PersonalizationRun.patient_id, PersonalizationRun.outcome)
        last = select(func.max(PersonalizationRun.run_id)).scalar_subquery()
        found = session.execute(query.where(PersonalizationRun.run_id == last)).all()
        kept = session.execute(
            select(PersonalizationRun.protocol, func.count(StripPrediction.id))
            .join(StripPrediction, StripPrediction.personalization_run_id == PersonalizationRun.id)
            .where(PersonalizationRun.run_id == last)
            .group_by(PersonalizationRun.protocol)
        ).all()
    by_protocol = {name: {row.patient_id for row in found if row.protocol == name} for name, *_ in found}
    assert by_protocol["paper"] == by_protocol["control_permuted"] == {9, 10, 11}
    assert by_protocol["prospective"] == {9, 10, 11, 12}
    assert {name for name, _ in kept} == {"prospective", "paper"}

"""A federated round and the second phase at a whole toy site: files, rows and what is answered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from client.database.tables import (
    FederatedRound,
    Model,
    PersonalizationRound,
    PersonalizationRun,
    Run,
    StripPrediction,
)
from client.learning import patients as phase
from client.learning.explain import explain_patient
from client.learning.models import generic_path, load_personal
from client.learning.rounds import federated_round, personalize_site
from common import protocol
from common.errors import CohortError, ModelError, PolicyError, PreprocessingError
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


def test_local_epochs_are_cut_to_what_the_site_allows(toy_site: Any, toy_weights: Weights) -> None:
    one = federated_round(toy_site.site, toy_weights, toy_site.round())
    toy = toy_site.with_settings(policy={"max_local_epochs": 1})
    plan = toy.round()
    many = replace(plan, training=plan.training.model_copy(update={"local_epochs": 50}))
    cut = federated_round(toy.site, toy_weights, many)
    assert one.weights is not None
    assert cut.weights is not None
    assert cut.weights.digest() == one.weights.digest()


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
    with pytest.raises(PolicyError, match=r"policy\.max_rounds"):
        federated_round(site, toy_weights, toy_site.round(1001))
    assert count(toy_site, FederatedRound) == 0
    assert PreprocessingError.code in protocol.FAILURES


def test_every_candidate_has_an_outcome_and_sums_are_those_of_the_rows(
    toy_site: Any, toy_weights: Weights
) -> None:
    numbers = personalize_site(toy_site.site, toy_weights, toy_site.run)
    protocol.check(protocol.reply(numbers), protocol.PERSONALIZE, "reply")
    outcomes = {row["patient_id"]: row["outcome"] for row in rows(toy_site, PersonalizationRun)}
    assert outcomes == {9: "personal", 10: "personal", 11: "personal", 12: "trained_generic"}
    assert (numbers["outcome.personal"], numbers["outcome.trained_generic"]) == (3, 1)
    assert numbers["generic.patients"] == 3
    last = [
        row["beat_f1"]
        for row in rows(toy_site, PersonalizationRound)
        if (row["round"], row["method"]) == (5, "fine_tuned")
    ]
    moments = Moments.from_flat(numbers, "last.fine_tuned.beat-f1")
    assert moments.n == 3
    assert moments.mean == pytest.approx(np.mean(last))
    assert numbers["cohort.train.patients"] == 5
    assert numbers["flow.accepted"] == 8 * 5 + 4 * 17


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
    generic = generic_path(toy_site.site, "main")
    for row in stored:
        personal = load_personal(toy_site.site.folder / row["path"], generic)
        assert (personal.method, personal.round) == (row["method"], 5)
        assert row["generic_sha256"] == toy_weights.digest()


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

    real, calls = phase.personalize, []

    def stop_at_second(*values: Any) -> Any:
        calls.append(values)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(phase, "personalize", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        personalize_site(toy_site.site, toy_weights, toy_site.run)
    assert count(toy_site, PersonalizationRun) == 1
    again = personalize_site(toy_site.site, toy_weights, toy_site.run)
    assert len(calls) == 2 + 2
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
            select(PersonalizationRun).where(PersonalizationRun.outcome == "personal")
        ).first()
        assert row is not None
        row.selected_method = "fine_tuned"
        result = explain_patient(toy_site.site, session, row)
        assert (result.n_positive, result.n_negative) == (row.n_test_positive * 6, row.n_test_negative * 6)
        row.generic_sha256 = "0" * 64
        with pytest.raises(ModelError, match="another generic model"):
            explain_patient(toy_site.site, session, row)
        trained = session.scalars(
            select(PersonalizationRun).where(PersonalizationRun.outcome == "trained_generic")
        ).one()
        with pytest.raises(ModelError, match="no personal models"):
            explain_patient(toy_site.site, session, trained)

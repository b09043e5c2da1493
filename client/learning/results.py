"""Results of personalization as rows of the site database, and rows as the figures of one patient."""

from __future__ import annotations

from collections.abc import Sequence

from client.database.tables import PersonalizationRound, PersonalizationRun, StripPrediction
from client.learning.evaluation import (
    StripScore,
    beat_confusion,
    figures,
    figures_of,
    optional,
    strip_confusion,
)
from client.learning.guard import as_good_as_best
from client.learning.personalization import MethodRound, PersonalResult
from client.learning.planning import Plan
from client.learning.release import PatientFigures
from common.config import PersonalizationSettings
from common.metrics import Confusion


def outcome_row(
    run_id: int,
    patient_id: int,
    protocol: str,
    plan: Plan,
    settings: PersonalizationSettings,
    generic_sha256: str,
) -> PersonalizationRun:
    """Return the row of one patient under one protocol or control, without results yet."""
    return PersonalizationRun(
        run_id=run_id,
        patient_id=patient_id,
        protocol=protocol,
        outcome=plan.outcome.value,
        generic_sha256=generic_sha256,
        cut=plan.cut,
        gap_s=settings.gap_s,
        n_train_positive=plan.n_train_positive,
        n_train_negative=plan.n_train_negative,
        n_test_positive=plan.n_test_positive,
        n_test_negative=plan.n_test_negative,
        episodes_positive=plan.episodes_positive,
        episodes_negative=plan.episodes_negative,
        rounds=len(plan.pairs),
        details={
            "pairs": [[positive.strip_id, negative.strip_id] for positive, negative in plan.pairs],
            "test": [strip.strip_id for strip in plan.test],
            "gap": [strip.strip_id for strip in plan.gap],
        },
    )


def add_result(row: PersonalizationRun, result: PersonalResult, settings: PersonalizationSettings) -> None:
    """Put what was computed for a patient on its row, with one row per method and round."""
    row.selected_method, row.selected_round = result.selected_method, result.selected_round
    row.personalization_rounds = [round_row(entry) for entry in result.rounds]
    candidates = result.guard_losses
    last = {method: figures(result.at(row.rounds, method).test)["beat-f1"] for method in candidates}
    row.details = row.details | {
        "guard-losses": {method: list(losses) for method, losses in result.guard_losses.items()},
        "guard-decided": len(result.guard_losses["generic"]) >= settings.guard_pairs,
        "guard-hit": as_good_as_best(result.selected_method, last),
    }


def round_row(entry: MethodRound) -> PersonalizationRound:
    """Return the row of one method after one round."""
    beat, strip, values = beat_confusion(entry.test), strip_confusion(entry.test), figures(entry.test)
    return PersonalizationRound(
        round=entry.round,
        method=entry.method,
        chosen=entry.chosen,
        guard_loss=entry.guard_loss,
        tp=beat.tp,
        fp=beat.fp,
        tn=beat.tn,
        fn=beat.fn,
        strip_tp=strip.tp,
        strip_fp=strip.fp,
        strip_tn=strip.tn,
        strip_fn=strip.fn,
        beat_auc=optional(values["beat-auc"]),
        beat_f1=optional(values["beat-f1"]),
        strip_accuracy=optional(values["strip-accuracy"]),
        strip_auc=optional(values["strip-auc"]),
        brier=optional(values["brier"]),
        train_beats=entry.train_beats,
    )


def prediction_rows(
    run_id: int, personalization_run_id: int | None, entries: Sequence[MethodRound]
) -> list[StripPrediction]:
    """Return what each method said about every strip it was scored on.

    What the generic model says about test strips before the first round is left to the rows of ``selected``:
    in a run on folds the same strips are also those of an unseen patient, stored once for the whole run.
    """
    return [
        prediction_row(run_id, personalization_run_id, score, entry.method, entry.round, purpose)
        for entry in entries
        for purpose, scores in (("test", entry.test), ("guard", entry.guard), ("gap", entry.gap))
        if (entry.method, entry.round, purpose) != ("generic", 0, "test")
        for score in scores
    ]


def prediction_row(
    run_id: int,
    personalization_run_id: int | None,
    score: StripScore,
    method: str,
    round_: int,
    purpose: str,
) -> StripPrediction:
    """Return what one model said about one strip."""
    return StripPrediction(
        run_id=run_id,
        personalization_run_id=personalization_run_id,
        strip_id=score.strip_id,
        method=method,
        round=round_,
        purpose=purpose,
        n_beats=score.n_beats,
        n_positive_beats=score.n_positive_beats,
        mean_logit=score.mean_logit,
    )


def patient_figures(row: PersonalizationRun) -> PatientFigures:
    """Return one patient's figures by round and method."""
    return PatientFigures(
        by_round={(entry.round, entry.method): row_figures(entry) for entry in row.personalization_rounds},
        selected=row.selected_method or "generic",
        decided=bool(row.details.get("guard-decided")),
        as_good_as_best=bool(row.details.get("guard-hit")),
    )


def row_figures(entry: PersonalizationRound) -> dict[str, float]:
    """Return the figures of one row, named as in ``evaluation.FIGURES``."""
    nan = float("nan")
    return figures_of(
        Confusion(entry.tp, entry.fp, entry.tn, entry.fn),
        Confusion(entry.strip_tp, entry.strip_fp, entry.strip_tn, entry.strip_fn),
        nan if entry.beat_auc is None else entry.beat_auc,
        nan if entry.strip_auc is None else entry.strip_auc,
        nan if entry.brier is None else entry.brier,
    )

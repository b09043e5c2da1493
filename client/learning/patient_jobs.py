"""What a worker process does for personalization: everything that is computed for one patient.

A job can be sent to another process, and so can its result. A patient's random streams are named after the
patient, and every network starts from the same file: the answer depends neither on the process nor on what
it did before. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from client.data.beatstore import BeatStore
from client.learning.activations import Activations
from client.learning.dataset import StripRef
from client.learning.models import load_network
from client.learning.personalization import PersonalResult, personalize
from client.learning.personalizers import Scaling
from client.learning.planning import Outcome, Plan
from client.learning.protocols import Procedure, plan_of
from common.config import PersonalizationSettings


@dataclass(frozen=True)
class PatientJob:
    """One patient, and what is to be run for this patient.

    Attributes
    ----------
    patient_id : database id.
    generic : file of the generic model.
    beats : folder of the beat store.
    strips : of the patient.
    procedures : protocols and controls to run.
    seen : whether the patient may have helped to make the generic model: then nothing is fitted.
    settings : of personalization.
    threads : of the computation; the site's setting, the same in every process.
    scaling : of the generic embedding.
    names : of the patient's random streams.
    """

    patient_id: int
    generic: Path
    beats: Path
    strips: Sequence[StripRef]
    procedures: Sequence[Procedure]
    seen: bool
    settings: PersonalizationSettings
    threads: int
    scaling: Scaling
    names: tuple[object, ...]


@dataclass(frozen=True)
class Personalized:
    """What came of a patient under one protocol or control; without pairs there is no result."""

    procedure: Procedure
    plan: Plan
    result: PersonalResult | None = None


def run_patient(job: PatientJob) -> list[Personalized]:
    """Do one job: plan, fit and score, protocol by protocol.

    Raises
    ------
    ModelError, StorageError
        If the generic model or the beats cannot be read.
    """
    if job.seen:
        return [Personalized(one, Plan(Outcome.TRAINED_GENERIC)) for one in job.procedures]
    torch.set_num_threads(job.threads)
    network, _ = load_network(job.generic)
    activations = Activations(network, BeatStore(job.beats), job.settings)
    done = []
    for procedure in job.procedures:
        plan = plan_of(procedure.name, job.strips, job.settings, job.names)
        result = None
        if plan.pairs:
            result = personalize(network, plan, activations, job.settings, procedure, job.scaling, job.names)
        done.append(Personalized(procedure, plan, result))
    return done

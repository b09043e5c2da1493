"""What a personalization runs: protocols and controls, each with its methods and its way of training.

A protocol says which strips train and how; a control is the same procedure where there is nothing to find.
The depth ``quick`` leaves out what costs most and changes no answer; the report names what was not run.
Source: SCIENCE section 9; settings ``personalization``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.learning.controls import with_permuted_days, with_two_stretches_of_days
from client.learning.dataset import StripRef
from client.learning.guard import METHODS
from client.learning.personalizers import Recipe
from client.learning.planning import PAPER, PROSPECTIVE, Outcome, Plan, plan_patient, plan_randomly
from common.config import PersonalizationSettings
from common.seeding import stream

#: Labels of one day are given to another day of the same patient: whatever is learned is not potassium.
PERMUTED = "control_permuted"
#: Two stretches of days with negative strips only, taken for two labels: what is learned is the day.
DAYS = "control_days"
CONTROLS = (PERMUTED, DAYS)

#: Baselines on the same strips; the guard never chooses them.
T_WAVE, HEART_RATE, SCRATCH = "t_wave", "heart_rate", "scratch"
#: Fine-tuning with the published learning rate and batch.
PUBLISHED = "published"


@dataclass(frozen=True)
class Procedure:
    """How the strips of one plan become models.

    Attributes
    ----------
    name : protocol or control, as in the database.
    methods : in the order in which they are fitted and stored.
    recipe : of ``fine_tuned`` and ``scratch``.
    published : of the method of that name; None where it is not run.
    keeps : whether models and what they say about each strip are kept, not figures alone.
    """

    name: str
    methods: tuple[str, ...]
    recipe: Recipe
    published: Recipe | None = None
    keeps: bool = True


def procedures(settings: PersonalizationSettings) -> tuple[Procedure, ...]:
    """Return the protocols and controls that the settings ask for, the primary one first."""
    full = settings.depth == "full"
    own = Recipe.of(settings, settings.start, settings.statistics)
    scratch = (SCRATCH,) if full else ()
    found = [Procedure(PROSPECTIVE, (*METHODS, T_WAVE, HEART_RATE, *scratch), own)]
    if PAPER in settings.protocols:
        usable = Recipe.of(settings, settings.paper_start, settings.paper_statistics)
        published = usable.at(settings.paper_learning_rate, settings.paper_batch_size) if full else None
        methods = (*METHODS, PUBLISHED) if full else METHODS
        found.append(Procedure(PAPER, methods, usable, published))
    controls = CONTROLS if full else (PERMUTED,)
    tried = METHODS if full else tuple(method for method in METHODS if method != "fine_tuned")
    return (*found, *(Procedure(name, tried, own, keeps=False) for name in controls))


def plan_of(
    procedure: str, strips: Sequence[StripRef], settings: PersonalizationSettings, names: tuple[object, ...]
) -> Plan:
    """Divide one patient's strips as a protocol or control wants it.

    Parameters
    ----------
    procedure : its name.
    strips : of the patient.
    settings : of personalization.
    names : of the patient's random streams.
    """
    if procedure == PAPER:
        return plan_randomly(strips, settings, stream(*names, "held out"))
    if procedure == PROSPECTIVE:
        return plan_patient(strips, settings)
    if procedure == PERMUTED:
        other = with_permuted_days(strips, stream(*names, "permuted days"))
    else:
        other = with_two_stretches_of_days(strips)
    return Plan(Outcome.NOT_COMPUTABLE) if other is None else plan_patient(other, settings)

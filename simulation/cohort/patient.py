"""Who lies in the bed: demographics, diseases, baseline beat, and sensitivity to potassium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulation.cohort import parameters as table
from simulation.cohort.profile import SiteProfile

Role = Literal["usual", "episode", "personal"]

MINORITIES = (
    ("BLACK/AFRICAN AMERICAN", 0.34),
    ("HISPANIC OR LATINO", 0.10),
    ("HISPANIC/LATINO - PUERTO RICAN", 0.04),
    ("ASIAN - CHINESE", 0.05),
    ("ASIAN", 0.06),
    ("AMERICAN INDIAN/ALASKA NATIVE", 0.02),
    ("OTHER", 0.10),
    ("UNKNOWN/NOT SPECIFIED", 0.21),
    ("UNABLE TO OBTAIN", 0.05),
    ("PATIENT DECLINED TO ANSWER", 0.03),
)


@dataclass(frozen=True)
class Beat:
    """Lead II beat at 4.2 mEq/L. Amplitudes in mV, times in s, rate in beats per minute.

    ``qrs_width`` is the sigma of the R wave; ``t_width`` the sigma of the falling side of T at an RR of
    0.7 s, ``t_asymmetry`` the ratio of rising to falling sigma; ``qtc`` by Fridericia.
    """

    p: float
    q: float
    r: float
    s: float
    t: float
    st: float
    pr: float
    qtc: float
    qrs_width: float
    t_width: float
    t_asymmetry: float
    rate: float


@dataclass(frozen=True)
class Sensitivity:
    """Change per mEq/L: relative for amplitudes and widths, in seconds for PR and QT."""

    t_amplitude: float
    t_width: float
    pr: float
    qrs: float
    p: float
    qt: float


@dataclass(frozen=True)
class Patient:
    """One synthetic patient. ``role`` says why the generator made them; no file of the site holds it."""

    subject_id: int
    role: Role
    age: float
    sex: Literal["F", "M"]
    ethnicity: str
    height_cm: float
    weight_kg: float
    esrd: bool
    aki: bool
    lvh: bool
    strain: bool
    bundle_branch_block: bool
    amiodarone: bool
    digoxin: bool
    fibrillation: bool
    ectopic_share: float
    muscle_mv: float
    beat: Beat
    sensitivity: Sensitivity


def make_patient(profile: SiteProfile, role: Role, subject_id: int, rng: np.random.Generator) -> Patient:
    """Draw one patient.

    Parameters
    ----------
    profile : the site.
    role : ``usual`` (ordinary potassium), ``episode`` (one or more hyperkalemic episodes) or ``personal``
        (weeks of intermittent dialysis). Personal patients are never in atrial fibrillation: a patient
        who is cannot reach eight strips of each label.
    subject_id : identifier at the site.
    rng : the patient's own stream.
    """
    sex: Literal["F", "M"] = "F" if rng.random() < profile.female_share else "M"
    # The source paper's personal patients were 14 years younger than its generic ones (50 against 64).
    age = float(np.clip(rng.normal(profile.age_mean - 12.0 * (role == "personal"), 15.0), 19.0, 97.0))
    ethnicity = "WHITE"
    if rng.random() >= profile.white_share:
        names, weights = zip(*MINORITIES, strict=True)
        ethnicity = str(rng.choice(names, p=np.array(weights) / sum(weights)))
    height = float(rng.normal(163.0 if sex == "F" else 176.0, 7.0))
    weight = float(np.clip(height**2 / 1e4 * rng.lognormal(np.log(27.0), 0.2), 40.0, 180.0))

    esrd = bool(rng.random() < {"usual": 0.12, "episode": 0.35, "personal": 0.7}[role])
    aki = not esrd and bool(rng.random() < {"usual": 0.15, "episode": 0.8, "personal": 1.0}[role])
    lvh = bool(rng.random() < (0.45 if esrd else 0.15))
    strain = bool((lvh and rng.random() < 0.35) or rng.random() < 0.05)
    block = bool(rng.random() < 0.08)
    amiodarone = bool(rng.random() < 0.08)
    digoxin = bool(rng.random() < 0.05)
    fibrillation = bool(rng.random() < profile.fibrillation_share) and role != "personal"
    return Patient(
        subject_id=subject_id,
        role=role,
        age=age,
        sex=sex,
        ethnicity=ethnicity,
        height_cm=height,
        weight_kg=weight,
        esrd=esrd,
        aki=aki,
        lvh=lvh,
        strain=strain,
        bundle_branch_block=block,
        amiodarone=amiodarone,
        digoxin=digoxin,
        fibrillation=fibrillation,
        ectopic_share=min(table.ECTOPIC_SHARE.lognormal(rng), 0.1),
        muscle_mv=table.MUSCLE.lognormal(rng) * profile.noise,
        beat=_beat(rng, esrd, lvh, strain, block, amiodarone, digoxin),
        sensitivity=make_sensitivity(rng),
    )


def make_sensitivity(rng: np.random.Generator) -> Sensitivity:
    """Draw how strongly a patient's ECG follows potassium: one shared factor, and one per effect."""
    common = _mean_one(rng, table.SENSITIVITY_COMMON)
    return Sensitivity(
        t_amplitude=common * _mean_one(rng, table.K_T_AMPLITUDE),
        t_width=common * _mean_one(rng, table.K_T_WIDTH),
        pr=common * _mean_one(rng, table.K_PR),
        qrs=common * _mean_one(rng, table.K_QRS),
        p=common * _mean_one(rng, table.K_P),
        qt=common * table.K_QT.value,
    )


def _mean_one(rng: np.random.Generator, parameter: table.Parameter) -> float:
    """Draw a log-normal value whose mean, not median, is the parameter's value."""
    return parameter.lognormal(rng) * float(np.exp(-0.5 * parameter.spread**2))


def _beat(
    rng: np.random.Generator,
    esrd: bool,
    lvh: bool,
    strain: bool,
    block: bool,
    amiodarone: bool,
    digoxin: bool,
) -> Beat:
    t = table.T_AMPLITUDE.lognormal(rng) * (0.75 if amiodarone else 1.0)
    return Beat(
        r=table.R_AMPLITUDE.lognormal(rng) * (table.LVH_R_FACTOR if lvh else 1.0),
        p=table.P_AMPLITUDE.lognormal(rng),
        q=-table.Q_AMPLITUDE.lognormal(rng),
        s=-table.S_AMPLITUDE.lognormal(rng),
        t=table.STRAIN_T_FACTOR * t if strain else t,
        st=table.ST_LEVEL.normal(rng) - (0.06 if strain or digoxin else 0.0),
        pr=table.PR_INTERVAL.normal(rng) + 0.005 * esrd,
        qtc=table.QTC.normal(rng) + 0.015 * esrd + 0.035 * amiodarone - 0.020 * digoxin + 0.030 * block,
        qrs_width=table.QRS_WIDTH.lognormal(rng) * (1.6 if block else 1.0),
        t_width=table.T_WIDTH.lognormal(rng),
        t_asymmetry=table.T_ASYMMETRY.lognormal(rng),
        rate=float(np.clip(table.HEART_RATE.normal(rng), 50.0, 130.0)),
    )

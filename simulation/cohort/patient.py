"""Who lies in the bed: demographics, diseases, baseline beat, and sensitivity to potassium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulation.cohort import parameters as table
from simulation.cohort.profile import SiteProfile

Role = Literal["usual", "injury", "dialysis", "personal"]
Block = Literal["none", "left", "right"]

OTHERS = (
    ("HISPANIC OR LATINO", 0.15),
    ("HISPANIC/LATINO - PUERTO RICAN", 0.06),
    ("ASIAN - CHINESE", 0.08),
    ("ASIAN", 0.09),
    ("AMERICAN INDIAN/ALASKA NATIVE", 0.03),
    ("OTHER", 0.15),
    ("UNKNOWN/NOT SPECIFIED", 0.32),
    ("UNABLE TO OBTAIN", 0.08),
    ("PATIENT DECLINED TO ANSWER", 0.04),
)


@dataclass(frozen=True)
class Beat:
    """Lead II beat at 4.2 mEq/L. Amplitudes in mV, times in s, rate in beats per minute.

    Attributes
    ----------
    p, q, r, s, t, u, st : amplitudes; ``st`` is the level of the ST segment.
    pr, qtc : intervals from the begin of P, and of QRS to the end of T (Fridericia).
    qrs_width : sigma of the R wave.
    notch : second summit of R over the first; zero but in left bundle branch block.
    s_width : sigma of S over that of R; wide in right bundle branch block.
    p_width : sigma of P.
    t_width : sigma of the falling side of T at an RR of 0.7 s.
    t_asymmetry : rising over falling sigma of T.
    sagging : ST is deepest halfway to T, as with digoxin, and not at its begin.
    ventricular : main deflection of beats that begin in the ventricles, early or paced; signed.
    spike : pacing spike, signed; zero without a pacemaker.
    rate : heart rate; the programmed rate of a pacemaker.
    """

    p: float
    q: float
    r: float
    s: float
    t: float
    u: float
    st: float
    pr: float
    qtc: float
    qrs_width: float
    notch: float
    s_width: float
    p_width: float
    t_width: float
    t_asymmetry: float
    sagging: bool
    ventricular: float
    spike: float
    rate: float


@dataclass(frozen=True)
class Sensitivity:
    """Change per mEq/L: relative for amplitudes and widths, in seconds for PR and the peak of T (``qt``)."""

    t_amplitude: float
    t_width: float
    pr: float
    qrs: float
    p: float
    qt: float


@dataclass(frozen=True)
class Patient:
    """One synthetic patient. ``role`` says why the generator made them; no file of the site holds it.

    ``ischemia`` is coronary disease: prone to ischemic episodes. ``rhythm`` is sinus, sinus with paroxysms of
    atrial fibrillation, or always fibrillation. ``muscle_mv`` is the muscle noise at an average monitor.
    """

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
    ischemia: bool
    amiodarone: bool
    digoxin: bool
    rhythm: Literal["sinus", "paroxysmal", "fibrillation"]
    paced: bool
    ectopic_share: float
    muscle_mv: float
    beat: Beat
    sensitivity: Sensitivity


def make_patient(profile: SiteProfile, role: Role, subject_id: int, rng: np.random.Generator) -> Patient:
    """Draw one patient.

    Parameters
    ----------
    profile : the site.
    role : ``usual`` (ordinary potassium), ``injury`` (acute kidney injury), ``dialysis`` (end-stage renal
        disease, ordinary stay) or ``personal`` (weeks of intermittent dialysis). Personal patients are
        neither paced nor ever in atrial fibrillation: who is cannot reach eight usable strips of each label.
    subject_id : identifier at the site.
    rng : the patient's own stream.
    """
    mix = profile.patients
    sex: Literal["F", "M"] = "F" if rng.random() < mix.female_share else "M"
    younger = table.PERSONAL_YEARS_YOUNGER * (role == "personal")
    age = float(np.clip(rng.normal(mix.age_mean - younger, mix.age_sd), 19.0, 97.0))
    ethnicity = _ethnicity(rng, mix.white_share, mix.black_share)
    height = float(rng.normal(163.0 if sex == "F" else 176.0, 7.0))
    weight = float(np.clip(height**2 / 1e4 * rng.lognormal(np.log(27.0), 0.2), 40.0, 180.0))

    esrd = bool(rng.random() < table.ESRD_SHARE[role])
    aki = bool(rng.random() < table.INJURY_SHARE[role]) and not esrd
    lvh = bool(rng.random() < table.LVH_SHARE[esrd])
    strain = bool(rng.random() < (table.STRAIN_SHARE if lvh else table.INVERTED_T_SHARE))
    block = _block(rng)
    ischemia = bool(rng.random() < table.CORONARY_SHARE)
    amiodarone = bool(rng.random() < table.AMIODARONE_SHARE)
    digoxin = bool(rng.random() < table.DIGOXIN_SHARE)
    rhythm, paced = _rhythm(rng, mix.fibrillation_share, mix.paced_share)
    if role == "personal":
        rhythm, paced = "sinus", False
    ectopic_share = min(table.ECTOPIC_SHARE.lognormal(rng), table.MOST_ECTOPIC_SHARE)
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
        bundle_branch_block=block != "none",
        ischemia=ischemia,
        amiodarone=amiodarone,
        digoxin=digoxin,
        rhythm=rhythm,
        paced=paced,
        ectopic_share=0.0 if paced else ectopic_share,
        muscle_mv=table.MUSCLE.lognormal(rng),
        beat=make_beat(
            rng,
            esrd=esrd,
            lvh=lvh,
            strain=strain,
            block=block,
            amiodarone=amiodarone,
            digoxin=digoxin,
            paced=paced,
        ),
        sensitivity=make_sensitivity(rng),
    )


def make_sensitivity(rng: np.random.Generator) -> Sensitivity:
    """Draw how strongly a patient's ECG follows potassium: one shared factor, and one per effect.

    One patient in ten (an assumption) hardly responds: every effect is 0.15 of what it would be. The mean
    over all patients is the published effect.
    """
    hardly = rng.random() < table.HARDLY_SHARE
    mean = 1.0 - table.HARDLY_SHARE * (1.0 - table.HARDLY_FACTOR)
    common = _mean_one(rng, table.SENSITIVITY_COMMON) * (table.HARDLY_FACTOR if hardly else 1.0) / mean
    return Sensitivity(
        t_amplitude=common * _mean_one(rng, table.K_T_AMPLITUDE),
        t_width=common * _mean_one(rng, table.K_T_WIDTH),
        pr=common * _mean_one(rng, table.K_PR),
        qrs=common * _mean_one(rng, table.K_QRS),
        p=common * _mean_one(rng, table.K_P),
        qt=common * table.K_QT.value,
    )


def make_beat(
    rng: np.random.Generator,
    *,
    esrd: bool = False,
    lvh: bool = False,
    strain: bool = False,
    block: Block = "none",
    amiodarone: bool = False,
    digoxin: bool = False,
    paced: bool = False,
) -> Beat:
    """Draw the beat of a patient at 4.2 mEq/L. The same number of draws, whatever the diseases."""
    r = table.R_AMPLITUDE.lognormal(rng) * (table.LVH_R_FACTOR if lvh else 1.0)
    p, q = table.P_AMPLITUDE.lognormal(rng), -table.Q_AMPLITUDE.lognormal(rng)
    s, u = -table.S_AMPLITUDE.lognormal(rng), table.U_AMPLITUDE.lognormal(rng)
    t = table.T_AMPLITUDE.lognormal(rng) * (table.AMIODARONE_T if amiodarone else 1.0)
    st = table.ST_LEVEL.normal(rng)
    width, asymmetry = table.QRS_WIDTH.lognormal(rng), table.T_ASYMMETRY.lognormal(rng)
    broad_s, u_drug = table.RIGHT_BLOCK_S.lognormal(rng), table.AMIODARONE_U.lognormal(rng)
    sag, spike = table.DIGOXIN_ST.lognormal(rng), table.PACING_SPIKE.lognormal(rng)
    second = float(np.clip(table.LEFT_BLOCK_NOTCH.normal(rng), 0.4, 1.1))
    ventricular = table.VENTRICULAR_AMPLITUDE.lognormal(rng)
    down = rng.random() < (table.NEGATIVE_PACED_SHARE if paced else table.NEGATIVE_ECTOPIC_SHARE)
    rate = float(np.clip(table.HEART_RATE.normal(rng), 50.0, 130.0))
    programmed = float(rng.choice(table.PACED_RATES))
    if digoxin:
        t, st = table.DIGOXIN_T * t, st - sag
    if strain:
        t, st, asymmetry = table.STRAIN_T_FACTOR * t, st + table.STRAIN_ST, table.STRAIN_ASYMMETRY * asymmetry
    if block == "left":
        t, st = table.LEFT_BLOCK_T * r - 0.5 * abs(t), st + table.LEFT_BLOCK_ST * r
        q, s, width = 0.0, 0.1 * s, table.LEFT_BLOCK_WIDTH * width
    return Beat(
        p=p,
        q=q,
        r=r,
        s=-broad_s if block == "right" else s,
        t=t,
        u=u + u_drug * amiodarone,
        st=st,
        pr=table.PR_INTERVAL.normal(rng),
        qtc=table.QTC.normal(rng)
        + table.QTC_ESRD * esrd
        + table.QTC_AMIODARONE * amiodarone
        + table.QTC_DIGOXIN * digoxin
        + table.QTC_BLOCK * (block != "none"),
        qrs_width=width,
        notch=second if block == "left" else 0.0,
        s_width=table.RIGHT_BLOCK_S_WIDTH if block == "right" else 1.0,
        p_width=table.P_WIDTH.lognormal(rng),
        t_width=table.T_WIDTH.lognormal(rng),
        t_asymmetry=asymmetry,
        sagging=digoxin,
        ventricular=-ventricular if down else ventricular,
        spike=spike if paced else 0.0,
        rate=programmed if paced else rate,
    )


def _mean_one(rng: np.random.Generator, parameter: table.Parameter) -> float:
    """Draw a log-normal value whose mean, not median, is the parameter's value."""
    return parameter.lognormal(rng) * float(np.exp(-0.5 * parameter.spread**2))


def _ethnicity(rng: np.random.Generator, white: float, black: float) -> str:
    at, other = rng.random(), rng.random()
    if at < white:
        return "WHITE"
    if at < white + black:
        return "BLACK/AFRICAN AMERICAN"
    names, weights = zip(*OTHERS, strict=True)
    edges = np.cumsum(weights) / sum(weights)
    return str(names[int(np.searchsorted(edges, other))])


def _block(rng: np.random.Generator) -> Block:
    blocked, left = rng.random() < table.BLOCK_SHARE, rng.random() < table.LEFT_BLOCK_SHARE
    if not blocked:
        return "none"
    return "left" if left else "right"


def _rhythm(
    rng: np.random.Generator, fibrillation_share: float, paced_share: float
) -> tuple[Literal["sinus", "paroxysmal", "fibrillation"], bool]:
    at, permanent = rng.random(), rng.random() < table.PERMANENT_SHARE
    if at < fibrillation_share:
        return ("fibrillation" if permanent else "paroxysmal"), False
    return "sinus", bool(at < fibrillation_share + paced_share)

"""What makes one synthetic hospital differ from the next."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from common.config import Section


class SiteProfile(Section):
    """Patients, habits, monitors and file style of one site. Unknown keys are errors."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="Name of the site")
    location: str = Field("micu", description="Care unit, as in the waveform headers")
    # Patients
    age_mean: float = Field(63.0, ge=18.0, le=90.0, description="Mean age, years")
    female_share: float = Field(0.43, ge=0.0, le=1.0, description="Share of women")
    white_share: float = Field(0.64, ge=0.0, le=1.0, description="Share of the largest ethnic group")
    positive_share: float = Field(
        0.55, ge=0.0, le=1.0, description="Share of generic patients with a hyperkalemia episode"
    )
    fibrillation_share: float = Field(0.06, ge=0.0, le=1.0, description="Patients in atrial fibrillation")
    height_missing: float = Field(0.3, ge=0.0, le=1.0, description="Patients without a charted height")
    weight_missing: float = Field(0.1, ge=0.0, le=1.0, description="Patients without a charted weight")
    # Laboratory
    draw_interval_h: float = Field(8.6, ge=2.0, le=48.0, description="Median hours between draws")
    assay_offset: float = Field(0.0, ge=-0.5, le=0.5, description="Bias of the potassium assay, mEq/L")
    whole_blood_share: float = Field(0.1, ge=0.0, le=1.0, description="Serum draws with a blood-gas twin")
    unit: str = Field("mEq/L", pattern=r"^(mEq/L|mmol/L)$", description="Unit as printed")
    # Monitors
    mains_hz: int = Field(60, ge=50, le=60, description="Mains frequency")
    band_hz: tuple[float, float] = Field((0.5, 40.0), description="Pass band of the monitor, Hz")
    gains: tuple[int, ...] = Field((127, 83, 55), min_length=1, description="Gains, units per mV")
    noise: float = Field(1.0, ge=0.0, le=10.0, description="Factor on muscle noise")
    noisy_share: float = Field(0.05, ge=0.0, le=1.0, description="Strips ruined by movement")
    lead_ii_missing: float = Field(0.04, ge=0.0, lt=1.0, description="Patient days without lead II")
    # Files
    upper_case: bool = Field(True, description="Table names and headers in upper case")
    compressed: bool = Field(True, description="Tables as .csv.gz")


class CohortSizes(Section):
    """How much of a site is written."""

    generic_patients: int = Field(80, ge=0, le=5000, description="Patients with one to four recorded draws")
    personal_patients: int = Field(
        8, ge=0, le=500, description="Patients on dialysis with many draws of both labels"
    )
    personal_strips: int = Field(
        11, ge=1, le=100, description="Usable strips of each label after which a personal stay may end"
    )
    minutes_before: float = Field(10.5, ge=1.0, le=120.0, description="ECG written before a draw")
    minutes_after: float = Field(0.5, ge=0.0, le=60.0, description="ECG written after a draw")


PROFILES: Mapping[str, SiteProfile] = {
    profile.name: profile
    for profile in (
        SiteProfile(name="north"),
        SiteProfile(
            name="harbor",
            location="ccu",
            age_mean=67.0,
            white_share=0.48,
            positive_share=0.60,
            fibrillation_share=0.08,
            draw_interval_h=7.0,
            whole_blood_share=0.25,
            band_hz=(0.05, 40.0),
            gains=(107, 83, 55),
            noise=1.25,
            noisy_share=0.07,
            lead_ii_missing=0.06,
        ),
        SiteProfile(
            name="valley",
            location="sicu",
            age_mean=58.0,
            female_share=0.47,
            white_share=0.72,
            positive_share=0.50,
            fibrillation_share=0.05,
            height_missing=0.15,
            draw_interval_h=9.5,
            assay_offset=0.1,
            whole_blood_share=0.05,
            unit="mmol/L",
            mains_hz=50,
            gains=(55, 26),
            noise=0.85,
            noisy_share=0.04,
            lead_ii_missing=0.08,
            upper_case=False,
            compressed=False,
        ),
    )
}

"""Synthetic ICU sites in the MIMIC-III file layout.

Patient, potassium course, draws, ECG, monitor and files are one module each. The numbers are in
``parameters``, with their sources; ``write_site`` puts them together.
"""

from simulation.cohort.profile import PROFILES, CohortSizes, SiteProfile
from simulation.cohort.site import plan_site, write_site
from simulation.cohort.truth import SiteTruth

__all__ = ["PROFILES", "CohortSizes", "SiteProfile", "SiteTruth", "plan_site", "write_site"]

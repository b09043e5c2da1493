"""In which files a site's plans are written: one ``Layout`` for each reader of such a hospital.

A layout decides names, columns and formats. Patients, draws, potassium and the ECG behind them are the same
in each of them for one profile and seed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from common.config import validated
from simulation.cohort import mimic4_files, mimic4_rows, tables, vitaldb_files, vitaldb_rows, waveforms
from simulation.cohort.profile import LAYOUT_MONITORS, LAYOUT_TABLES, FileStyle, LayoutName, SiteProfile
from simulation.cohort.recording import Record, records_of
from simulation.cohort.stay import PatientPlan

# Highest frequency that a monitor of another rate lets pass, by its rate.
BAND_BY_RATE = 0.4


@dataclass(frozen=True)
class Layout:
    """How the plans of a site become files.

    Attributes
    ----------
    name : of the layout; ``source.kind`` of a site that reads it.
    columns : columns of each table by its path below the clinical folder, without extension.
    counted : tables whose first column is a running number, added when the tables are put together.
    item_rows : lines of the tables that belong to no patient.
    patient_rows : lines of all tables of one patient, without running numbers.
    subject : number of a patient in these files, by SUBJECT_ID of the plan.
    patient_folder : folder below the waveform folder that holds this patient's files and no other's.
    record_path : path of a record below the waveform folder.
    write_waveforms : writes a patient's waveforms (folder, plan, position of the patient in the site);
        returns what ``write_indexes`` needs of them.
    write_indexes : writes the lists of the records of all patients.
    records : the recordings of a plan.
    """

    name: LayoutName
    columns: Mapping[str, tuple[str, ...]]
    counted: Collection[str]
    item_rows: Callable[[FileStyle], dict[str, list[str]]]
    patient_rows: Callable[[PatientPlan], dict[str, list[str]]]
    subject: Callable[[int], int]
    patient_folder: Callable[[int], str]
    record_path: Callable[[PatientPlan, Record], str]
    write_waveforms: Callable[[Path, PatientPlan, int], list[str]]
    write_indexes: Callable[[Path, Iterable[str]], None]
    records: Callable[[PatientPlan], tuple[Record, ...]] = records_of


LAYOUTS: Mapping[LayoutName, Layout] = MappingProxyType(
    {
        "mimic3": Layout(
            name="mimic3",
            columns=tables.COLUMNS,
            counted=frozenset(tables.COLUMNS),
            item_rows=tables.item_rows,
            patient_rows=tables.patient_rows,
            subject=lambda subject_id: subject_id,
            patient_folder=waveforms.patient_folder,
            record_path=waveforms.record_path,
            write_waveforms=waveforms.write_waveforms,
            write_indexes=waveforms.write_indexes,
        ),
        "mimic4": Layout(
            name="mimic4",
            columns=mimic4_rows.COLUMNS,
            counted=mimic4_rows.COUNTED,
            item_rows=mimic4_rows.item_lines,
            patient_rows=mimic4_rows.patient_lines,
            subject=mimic4_rows.subject,
            patient_folder=mimic4_files.patient_folder,
            record_path=mimic4_files.record_path,
            write_waveforms=mimic4_files.write_waves,
            write_indexes=mimic4_files.write_lists,
        ),
        "vitaldb": Layout(
            name="vitaldb",
            columns=vitaldb_rows.COLUMNS,
            counted=frozenset(),
            item_rows=vitaldb_rows.no_items,
            patient_rows=vitaldb_rows.patient_lines,
            subject=lambda subject_id: subject_id,
            patient_folder=vitaldb_files.own_folder,
            record_path=vitaldb_files.case_path,
            write_waveforms=vitaldb_files.write_cases,
            write_indexes=vitaldb_files.write_lists,
            records=vitaldb_files.cases_of,
        ),
    }
)


def layout_of(profile: SiteProfile) -> Layout:
    """Return the layout in which a site is written."""
    return LAYOUTS[profile.files.layout]


def in_layout(profile: SiteProfile, name: LayoutName) -> SiteProfile:
    """Return a profile whose files are in a layout, with the monitors that this layout asks for.

    Raises
    ------
    ConfigurationError
        If the rest of the profile does not go with it.
    """
    values = profile.model_dump(mode="json")
    values["files"] |= {"layout": name, **LAYOUT_TABLES[name]}
    values["monitor"] |= LAYOUT_MONITORS[name]
    low, high = values["monitor"]["band_hz"]
    values["monitor"]["band_hz"] = (low, min(high, BAND_BY_RATE * values["monitor"]["rate_hz"]))
    return validated(SiteProfile, values, profile.name)

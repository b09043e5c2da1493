"""A hospital in the MIMIC-III layout: clinical tables beside the matched waveforms."""

from __future__ import annotations

from pathlib import Path

from client.data.sources.mimic import MimicSource
from client.data.sources.mimic3_tables import ClinicalTables
from client.data.sources.mimic3_waveforms import WaveformIndex


class Mimic3Source(MimicSource):
    """Reader of one data root; see ``client.data.sources.base.LabSource``.

    Parameters
    ----------
    clinical : folder of the tables.
    waveforms : folder of the matched waveforms.
    whole_blood : take potassium from blood gas analyzers too.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'.

    Raises
    ------
    SourceError
        If a folder or needed table is missing or damaged, or there is no blood potassium or no record.
    """

    def __init__(
        self, clinical: Path, waveforms: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0
    ) -> None:
        index = WaveformIndex(waveforms)  # first, because the tables take minutes
        tables = ClinicalTables(clinical, whole_blood=whole_blood, lab_clock_ahead_min=lab_clock_ahead_min)
        super().__init__(tables, index)

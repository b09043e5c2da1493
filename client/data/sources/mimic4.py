"""A hospital in the MIMIC-IV layout: tables in hosp and icu beside the waveforms.

Tested on synthetic files only, because no real file of this layout was at hand.
"""

from __future__ import annotations

from pathlib import Path

from client.data.sources.flac import flac_package
from client.data.sources.mimic import MimicSource
from client.data.sources.mimic4_tables import Mimic4Tables
from client.data.sources.mimic4_waveforms import WaveIndex


class Mimic4Source(MimicSource):
    """Reader of one data root; see ``client.data.sources.base.LabSource``.

    Parameters
    ----------
    clinical : folder with ``hosp`` and ``icu``, or with the tables themselves.
    waveforms : folder with ``waves``.
    whole_blood : take potassium from blood gas analyzers too.
    lab_clock_ahead_min : minutes the laboratory's clock is ahead of the monitors'.

    Raises
    ------
    SourceError
        If a folder or needed table is missing or damaged, there is no blood potassium or no record, or FLAC
        cannot be decoded here.
    """

    def __init__(
        self, clinical: Path, waveforms: Path, *, whole_blood: bool = True, lab_clock_ahead_min: int = 0
    ) -> None:
        flac_package()  # before anything is read: without it every segment would look damaged
        index = WaveIndex(waveforms)  # first, because the tables take minutes
        tables = Mimic4Tables(clinical, whole_blood=whole_blood, lab_clock_ahead_min=lab_clock_ahead_min)
        super().__init__(tables, index)

"""Readers of hospital files, one per layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from client.data.problems import Problem
from client.data.sources.base import AnnotatedSource, LabSource, Source
from client.data.sources.folder import FolderSource
from client.data.sources.mimic3 import Mimic3Source
from client.data.sources.mimic4 import Mimic4Source
from client.data.sources.mitbih import MitbihSource
from client.data.sources.vitaldb_source import VitaldbSource
from client.site import Site
from common.errors import ConfigurationError, SourceError

__all__ = ["AnnotatedSource", "LabSource", "Source", "open_source"]

TASK_OF_KIND = {
    "mimic3": "hyperkalemia",
    "mimic4": "hyperkalemia",
    "folder": "hyperkalemia",
    "vitaldb": "hyperkalemia",
    "mitbih": "ventricular",
}
#: Layouts with a folder of tables and one of waveforms.
LAYOUTS: Mapping[str, Callable[..., LabSource]] = MappingProxyType(
    {"mimic3": Mimic3Source, "mimic4": Mimic4Source, "vitaldb": VitaldbSource}
)
#: Layouts whose readers met synthetic files only, because no real file was at hand.
SYNTHETIC_ONLY = ("mimic4", "vitaldb")


def open_source(site: Site) -> Source:
    """Open the reader a site's settings name.

    Raises
    ------
    ConfigurationError
        If the task of the site needs another layout.
    SourceError
        If the data root or something in it is missing or damaged.
    """
    kind, task = site.source.kind, TASK_OF_KIND[site.source.kind]
    if site.settings.task != task:
        raise ConfigurationError(
            f"source.kind = {kind!r} belongs to task {task!r}, but the settings say {site.settings.task!r}; "
            "change one of them in site.toml"
        )
    if not site.data_root.is_dir():
        raise SourceError(
            f"the data root {site.data_root} does not exist; "
            f"set source.folder in {site.folder / 'site.toml'}",
            problem=Problem.MISSING_FOLDER,
        )
    if kind == "mitbih":
        return MitbihSource(site.data_root, site.source.records)
    if kind == "folder":
        return FolderSource(
            site.data_root,
            whole_blood=site.settings.label.whole_blood,
            lab_clock_ahead_min=site.source.lab_clock_ahead_min,
        )
    return LAYOUTS[kind](
        site.data_root / site.source.clinical,
        site.data_root / site.source.waveforms,
        whole_blood=site.settings.label.whole_blood,
        lab_clock_ahead_min=site.source.lab_clock_ahead_min,
    )

"""One site: its folder, its settings and where its data are.

A site folder holds ``site.toml`` and everything this software writes for the site. The data root is
only ever read. The database URL comes from an environment variable or a secret file, never from a
command line or from ``site.toml``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from common.config import Section, Settings, make_settings, nearest, read_toml, validated
from common.errors import ConfigurationError
from common.files import write_atomic

DATABASE_VARIABLE = "FEDKALEMIA_DATABASE_URL"
SITE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
SECTIONS = ("site", "source", "gate", "settings")


class SourceSettings(Section):
    """Where a site's files are and in which layout."""

    kind: Literal["mimic3", "mimic4", "vitaldb", "folder", "mitbih"] = Field(
        "mimic3", description="Layout of the data root"
    )
    folder: str = Field(..., description="Data root; relative paths start at the site folder")
    clinical: str = Field("clinical", description="Folder of the lab tables inside the data root")
    waveforms: str = Field("waveforms", description="Folder of the waveforms inside the data root")
    lab_clock_ahead_min: int = Field(
        0, ge=-180, le=180, description="Minutes the laboratory's clock is ahead of the monitors'"
    )
    records: tuple[str, ...] = Field((), description="mitbih: records of this site; empty for all")
    detect: bool = Field(False, description="mitbih: use the detector, not the annotated R peaks")


class GateSettings(Section):
    """Whose code runs here, and where the node's messages come from."""

    code: Literal["local", "pin"] = Field(
        "local", description="local: this installation's own code; pin: bundles approved by their SHA-256"
    )
    approved_bundles: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = Field(
        (), description="pin: SHA-256 of each bundle this site has reviewed"
    )
    node_address: str = Field("127.0.0.1:9094", description="Runtime address of this site's node, host:port")
    workers: int = Field(
        1, ge=1, le=256, description="Processes that fit patients' models when a server asks; local code only"
    )

    @model_validator(mode="after")
    def _one_process_for_bundles(self) -> Self:
        if self.code == "pin" and self.workers > 1:
            raise ValueError("workers above 1 needs code = 'local': other processes would not run the bundle")
        return self


@dataclass(frozen=True)
class Site:
    """A site's name, settings and places. Paths are absolute."""

    name: str
    folder: Path
    settings: Settings
    source: SourceSettings
    database_url: str
    gate: GateSettings = field(default_factory=GateSettings)

    @property
    def data_root(self) -> Path:
        """The hospital's own files, read only."""
        return (self.folder / self.source.folder).resolve()

    @property
    def beats(self) -> Path:
        """Folder of the memory-mapped beat store."""
        return self.folder / "beats"

    @property
    def models(self) -> Path:
        """Folder of the generic and personal models."""
        return self.folder / "models"

    @property
    def report(self) -> Path:
        """The site report."""
        return self.folder / "report" / "index.html"

    @property
    def report_copy(self) -> Path:
        """The pseudonymous copy of the site report."""
        return self.folder / "report-pseudonymous" / "index.html"

    @property
    def node(self) -> Path:
        """Folder of the node: its private key, the federation's authority; no data, no database."""
        return self.folder / "node"

    @property
    def gate_folder(self) -> Path:
        """Folder of the gate: the ledger, its key, the secret shared with the node."""
        return self.folder / "gate"

    @property
    def log(self) -> Path:
        """The site's own log; full error texts go here and nowhere else."""
        return self.folder / "site.log"


def load_site(folder: Path, environment: Mapping[str, str] = os.environ) -> Site:
    """Read a site folder, named by itself or by its ``site.toml``.

    Raises
    ------
    ConfigurationError
        If the folder or its ``site.toml`` is missing or wrong.
    """
    folder = folder.resolve()
    if folder.name == "site.toml":
        folder = folder.parent
    path = folder / "site.toml"
    if not path.is_file():
        raise ConfigurationError(
            f"{folder} is not a site folder: it has no site.toml; run 'fedkalemia-site init {folder}' first"
        )
    values = read_toml(path)
    if unknown := sorted(set(values) - set(SECTIONS)):
        hint = nearest(unknown[0], list(SECTIONS))
        raise ConfigurationError(f"{path}: unknown section {unknown[0]!r}{hint}")
    for section, inside in values.items():
        if not isinstance(inside, dict):
            raise ConfigurationError(f"{path}: {section} is a section; write [{section}] and its keys below")
    name, url_file = _site_section(values.get("site", {}), path)
    return Site(
        name=name,
        folder=folder,
        settings=_settings(values.get("settings", {}), f"{path}, section settings"),
        source=validated(SourceSettings, values.get("source", {}), f"{path}, section source"),
        database_url=_database_url(folder, url_file, environment),
        gate=validated(GateSettings, values.get("gate", {}), f"{path}, section gate"),
    )


def _site_section(section: Mapping[str, Any], path: Path) -> tuple[str, str | None]:
    known = ["name", "database_url_file"]
    if unknown := sorted(set(section) - set(known)):
        raise ConfigurationError(f"{path}: unknown key 'site.{unknown[0]}'{nearest(unknown[0], known)}")
    name = str(section.get("name", ""))
    if not SITE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"{path}: site.name = {name!r}; a site name is 1 to 32 lower-case letters, digits and "
            "hyphens and starts with a letter"
        )
    url_file = section.get("database_url_file")
    if not isinstance(url_file, str | None):
        raise ConfigurationError(f"{path}: site.database_url_file must be the path of a file, in quotes")
    return name, url_file


def _settings(section: Mapping[str, Any], where: str) -> Settings:
    values = dict(section)
    task, preset = values.pop("task", "hyperkalemia"), values.pop("preset", "standard")
    return make_settings(str(task), str(preset), values, where)


def _database_url(folder: Path, url_file: str | None, environment: Mapping[str, str]) -> str:
    if url_file is not None:
        path = folder / url_file
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(
                f"site.database_url_file: cannot read {path}: {error.strerror}"
            ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(
                f"site.database_url_file: {path} is not text; it holds one line, a URL like "
                "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            ) from None
    return environment.get(DATABASE_VARIABLE) or f"sqlite:///{folder / 'site.sqlite'}"


def write_site_file(
    folder: Path,
    *,
    name: str,
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    gate: Mapping[str, Any] | None = None,
    database_url_file: Path | None = None,
) -> Path:
    """Write ``site.toml``, after checking that it can be read back.

    Parameters
    ----------
    folder : the site folder.
    database_url_file : secret file that holds the database's URL; may be written later.
    name, source, settings, gate : its sections; without a ``gate`` the defaults hold, and no section is
        written.

    Raises
    ------
    ConfigurationError
        If a value is wrong, or the folder already has another ``site.toml``.
    """
    path = folder / "site.toml"
    own = {"name": name} | ({"database_url_file": str(database_url_file)} if database_url_file else {})
    sections = {"site": own, "source": source, **({"gate": gate} if gate else {})}
    text = _toml({**sections, "settings": settings})
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigurationError(f"{path} exists and differs; edit it, or choose another folder")
    _site_section({"name": name}, path)
    validated(SourceSettings, source, "section source")
    validated(GateSettings, gate or {}, "section gate")
    _settings(settings, "section settings")
    write_atomic(path, text)
    return path


def _toml(values: Mapping[str, Any], prefix: str = "") -> str:
    """Write nested mappings of scalars and lists as TOML tables."""
    scalars = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in scalars.items()]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = _toml(value, f"{prefix}{key}.")
            header = f"[{prefix}{key}]\n" if any(not isinstance(v, Mapping) for v in value.values()) else ""
            text += ("\n" if text and header else "") + header + inner
    return text


def _toml_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # JSON scalars are TOML scalars

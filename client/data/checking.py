"""What a look through a hospital's files found, before anything is written: findings, and a summary.

Everything is collected, not only the first thing. Of each kind a bounded number is kept and all are counted,
so that a table of ten million wrong lines makes a page and not a book. The texts name files, lines and
values: they are for the terminal of the hospital, never for a log.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from client.data.exclusion import EXCLUSION_SHORT, Exclusion
from common.errors import SourceError
from common.task import Label
from common.wording import plural

#: Findings of one kind that are kept; the others are counted.
MOST_KEPT: Final = 20

_LINE = re.compile(r"(?:, )?line (\d+): ")


class Level(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"


LEVEL_TEXT: Final[Mapping[Level, str]] = MappingProxyType(
    {
        Level.ERROR: "must be fixed before an ingest can run",
        Level.WARNING: "an ingest leaves that out, or excludes it with a reason",
    }
)


@dataclass(frozen=True)
class Finding:
    """Something that does not fit.

    Attributes
    ----------
    level : whether it must be fixed.
    kind : code of the documentation's page where there is one, otherwise a word.
    text : what it is, and what is expected.
    file, line : where, relative to the folder that was checked.
    value : what stands there.
    """

    level: Level
    kind: str
    text: str
    file: str | None = None
    line: int | None = None
    value: str | None = None

    def sentence(self) -> str:
        """Say it on one line; what a file holds is written so that no terminal obeys it."""
        where = "" if self.file is None else ascii(self.file)[1:-1]
        where += "" if self.line is None else f", line {self.line}"
        told = SourceError(self.text, problem=self.kind, value=self.value).told()
        return f"{self.level}: {where}{': ' if where else ''}{told}"


class Findings:
    """Collects findings below one folder.

    Parameters
    ----------
    root : the folder; files are named relative to it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[tuple[Level, str], list[Finding]] = {}
        self._counts: Counter[tuple[Level, str]] = Counter()

    def add(
        self,
        level: Level,
        kind: str,
        text: str,
        file: Path | None = None,
        line: int | None = None,
        value: str | None = None,
    ) -> None:
        """Count a finding, and keep it if it is among the first of its kind."""
        kept = self._kept.setdefault((level, kind), [])
        self._counts[level, kind] += 1
        if len(kept) < MOST_KEPT:
            kept.append(Finding(level, kind, text, self._relative(file), line, value))

    def error(self, error: SourceError, level: Level, file: Path | None = None) -> None:
        """Count an error of a reader, which says itself where it is.

        Parameters
        ----------
        error : its sentence begins with ``file``, or names a line of it, or neither.
        level : whether it stops an ingest.
        file : the file that was read.
        """
        text = str(error)
        if file is not None:
            text = text.removeprefix(str(file)).removeprefix(": ").lstrip()
        match = _LINE.match(text)
        line = int(match[1]) if match else None
        text = text[match.end() :] if match else text
        self.add(level, error.problem or "unreadable", text, file, line, error.value)

    def count(self, level: Level) -> int:
        """Return how many findings there are of a level."""
        return sum(n for (of, _), n in self._counts.items() if of is level)

    def kinds(self) -> Iterator[tuple[Level, str, int, list[Finding]]]:
        """Yield level, kind, number and first findings of every kind, errors first."""
        for level in Level:
            for (of, kind), kept in self._kept.items():
                if of is level:
                    yield level, kind, self._counts[of, kind], kept

    def lines(self) -> Iterator[str]:
        """Say all on lines for a terminal."""
        for level, kind, number, kept in self.kinds():
            yield from (finding.sentence() for finding in kept)
            if number > len(kept):
                yield f"{level}: and {number - len(kept):,d} more like this [{kind}]"

    def _relative(self, file: Path | None) -> str | None:
        if file is None:
            return None
        return file.relative_to(self._root).as_posix() if file.is_relative_to(self._root) else str(file)


@dataclass
class Report:
    """The result of a check.

    Attributes
    ----------
    folder : what was checked.
    layout : which layout it is, None if unknown.
    findings : what does not fit.
    patients, draws : in the table of draws; draws without a time are not counted.
    by_label : draws by label or by reason of exclusion, as an ingest with default settings labels them.
    whole, part, none : labelled draws with a recording of lead II over the whole window before them, over a
        part of it, over nothing; None where that was not looked at for all draws.
    recordings, hours : recordings with lead II that can be read, and their length.
    counts : what the layout's reader says of its files as a whole.
    notes : sentences on what was and was not looked at.
    """

    folder: Path
    layout: str | None
    findings: Findings
    patients: int = 0
    draws: int = 0
    by_label: Mapping[str, int] = field(default_factory=dict)
    whole: int | None = None
    part: int | None = None
    none: int | None = None
    recordings: int = 0
    hours: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Nothing must be fixed."""
        return self.findings.count(Level.ERROR) == 0

    def lines(self) -> Iterator[str]:
        """Say all on lines for a terminal: findings, then the summary."""
        yield from self.findings.lines()
        yield from self.notes
        if self.draws:
            yield f"{plural(self.draws, 'draw')} of {plural(self.patients, 'patient')}: {self._labels()}"
        if self.whole is not None:
            yield (
                f"of the draws with a label, {self.whole:,d} have a recording of lead II over the whole "
                f"window before them, {self.part:,d} over a part of it, {self.none:,d} over none of it"
            )
        if self.recordings:
            yield f"{plural(self.recordings, 'recording')} with lead II, {self.hours:,.1f} h"
        errors, warnings = self.findings.count(Level.ERROR), self.findings.count(Level.WARNING)
        if errors:
            yield f"{plural(errors, 'error')}: {LEVEL_TEXT[Level.ERROR]}"
        if warnings:
            yield f"{plural(warnings, 'warning')}: {LEVEL_TEXT[Level.WARNING]}"
        if not errors:
            yield f"can be ingested as source.kind = {str(self.layout)!r}"

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        found = [
            {"level": level, "kind": kind, "count": number, "first": [asdict(one) for one in kept]}
            for level, kind, number, kept in self.findings.kinds()
        ]
        return {
            "folder": str(self.folder),
            "layout": self.layout,
            "fits": self.fits,
            "errors": self.findings.count(Level.ERROR),
            "warnings": self.findings.count(Level.WARNING),
            "findings": found,
            "patients": self.patients,
            "draws": self.draws,
            "draws_by_label": dict(self.by_label),
            "windows": {"whole": self.whole, "part": self.part, "none": self.none},
            "recordings": self.recordings,
            "hours": round(self.hours, 4),
            "files": dict(self.counts),
            "notes": list(self.notes),
        }

    def _labels(self) -> str:
        labels = {str(label): f"{self.by_label.get(label, 0):,d} {label}" for label in Label}
        excluded = {name: n for name, n in self.by_label.items() if name not in labels}
        reasons = [f"{n:,d} {EXCLUSION_SHORT[Exclusion(name)]}" for name, n in excluded.items()]
        return f"{', '.join(labels.values())}; excluded: {', '.join(reasons) or 'none'}"

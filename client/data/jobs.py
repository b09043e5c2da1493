"""What a worker process does for ingest: read some windows of one patient, return their strips.

A job can be sent to another process, and so can its result. Whatever the number of workers, the results come
back in the order of the jobs, so that rows and beats on the disk are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from client.data.annotated import annotated_strips
from client.data.labels import LabelledDraw
from client.data.sources.base import AnnotatedSource, Recordings
from client.data.strips import FoundStrip, strip_of_draw
from common.config import Settings
from common.task import Label

#: Windows per job: a strip has some 800 beats of 480 bytes, and several jobs wait in memory.
DRAWS_PER_JOB = 8


@dataclass(frozen=True)
class DrawJob:
    """Some labelled draws of a patient, with what opens its recordings.

    Attributes
    ----------
    opener : opens the patient's recordings in the process that works.
    draws : (position in the patient's list, draw) of each draw to read.
    settings : of the site.
    """

    opener: Callable[[], Recordings]
    draws: Sequence[tuple[int, LabelledDraw]]
    settings: Settings


@dataclass(frozen=True)
class AnnotatedJob:
    """One person of an annotated source."""

    source: AnnotatedSource
    key: str
    settings: Settings
    detect: bool


Job = DrawJob | AnnotatedJob


@dataclass(frozen=True)
class JobResult:
    """The strips of a job, in its order, and sentences about records whose headers cannot be read."""

    strips: Sequence[FoundStrip]
    unreadable_records: Sequence[str] = ()


def run_job(job: Job) -> JobResult:
    """Do one job.

    Raises
    ------
    SourceError
        If an annotated record, which is public and was asked for by name, is damaged. The files of patients
        never raise: a draw without signal is a strip with a reason.
    """
    if isinstance(job, AnnotatedJob):
        return JobResult(list(annotated_strips(job.source, job.key, job.settings, detect=job.detect)))
    recordings = job.opener()
    strips = [
        strip_of_draw(draw, Label(draw.label), position, recordings, job.settings)
        for position, draw in job.draws
        if draw.label is not None
    ]
    return JobResult(strips, list(recordings.unreadable_records))


def draw_jobs(
    opener: Callable[[], Recordings], draws: Sequence[tuple[int, LabelledDraw]], settings: Settings
) -> list[DrawJob]:
    """Divide a patient's draws into jobs; at least one, so that damaged records are counted."""
    parts = [draws[first : first + DRAWS_PER_JOB] for first in range(0, len(draws), DRAWS_PER_JOB)]
    return [DrawJob(opener, part, settings) for part in parts or [()]]

"""What of a stored answer the summary may show: what the protocol lists, over enough patients.

Every reply was checked when it arrived, and every site suppresses by its own policy. The file that lies
between them and the page is checked again: it may have been changed, or a site's own limit may be lower than
that of the run. What is wrong is never quoted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flwr.app import MetricRecord, RecordDict

from common import protocol
from common.errors import FederationError, ProtocolError

#: Keys that count patients; those of strips and beats do not say how many patients are behind them.
OF_PATIENTS = re.compile(
    r".*\.(patients|missing)|flow\.patients\..*|table-one\.[a-z]+\.(label|sex|ethnicity)\..*|outcome\..*"
    r"|selected\..*|worse-than-generic|guard\..*"
)
MOMENTS = ("n", "total", "total-sq")
#: A node that never told its name is known by its number.
NODE = re.compile(r"node [0-9]{1,20}")


def check_story(story: Mapping[str, Any], where: str) -> None:
    """Check the names of sites and their answers in a server's story.

    Parameters
    ----------
    story : as in ``server.json``.
    where : the file, for error texts.

    Raises
    ------
    FederationError
        If a name is none of a site, or an answer holds what the protocol does not list.
    """
    answers, failures = story["personalize"], story["personalize_failures"]
    named = [*story["sites"], *answers, *failures]
    named += [name for name in story["refused"] if not NODE.fullmatch(str(name))]
    if not all(isinstance(name, str) and protocol.SITE_NAME.fullmatch(name) for name in named):
        raise FederationError(
            f"{where} calls a site by what is no name of a site; it was changed after it was written: run "
            "the federation again"
        )
    for number, flat in enumerate(answers.values(), start=1):
        try:
            content = RecordDict({"metrics": MetricRecord(dict(flat))})
            protocol.check(content, protocol.PERSONALIZE, "reply")
        except (ProtocolError, TypeError, ValueError):
            raise FederationError(
                f"{where}: answer number {number} holds what is not in the protocol; it was changed after it "
                "arrived: run the federation again"
            ) from None


def admitted(flat: Mapping[str, Any], min_cell: int) -> dict[str, Any]:
    """Return the numbers of an answer that are not about fewer patients than the run's smallest cell."""
    small = {key for key, value in flat.items() if OF_PATIENTS.fullmatch(key) and 0 < value < min_cell}
    for key, value in flat.items():
        prefix, _, last = key.rpartition(".")
        if last == "n" and 0 < value < min_cell:
            small |= {f"{prefix}.{name}" for name in (*MOMENTS, "missing")}
    return {key: value for key, value in flat.items() if key not in small}

"""Whether the executor is alive, for a container's health check: quick, without torch and without Flower."""

from __future__ import annotations

import time
from pathlib import Path

from client.site import load_site
from common.errors import ConfigurationError
from common.logs import duration

HEARTBEAT = "heartbeat"


def check_alive(folder: Path, max_age_s: float) -> str:
    """Return a sentence on when the executor of a site was last seen.

    Parameters
    ----------
    folder : the site folder.
    max_age_s : seconds; the executor gives a sign about four times a second, also while it works.

    Raises
    ------
    ConfigurationError
        If it has not been seen for longer.
    """
    path = load_site(folder).gate_folder / HEARTBEAT
    if not path.is_file():
        raise ConfigurationError(f"{path} does not exist: no executor has run here yet")
    age = max(time.time() - path.stat().st_mtime, 0.0)
    if age > max_age_s:
        raise ConfigurationError(
            f"the executor was last seen {duration(age)} ago, more than {duration(max_age_s)}; see its own "
            "output and start it again"
        )
    return f"the executor was seen {duration(age)} ago"

"""A long-lived worker for Flower's tasks: warm, one fork per task, only the types it names.

Stock Flower starts a new Python for every message, which costs seconds before any work. Here the heavy
modules are imported once; a task is taken, a child is forked for it, and the child ends with it. A few names
of Flower that are not public are used; ``check_engine`` says so at the start if one of them is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CLIENT_TASK, AGENT_TASK, SERVER_TASK = "flwr-clientapp", "flwr-agentapp", "flwr-serverapp"
POLL_S = 0.25


@dataclass(frozen=True)
class Runtime:
    """Where tasks come from: the runtime API of a SuperNode or of the SuperLink.

    Parameters
    ----------
    address : ``host:port``.
    secret : shared with the SuperNode or SuperLink; without it no task is handed out.
    root_certificates : authority that signed the other side's certificate; None speaks plain HTTP.
    """

    address: str
    secret: bytes
    root_certificates: Path | None = None

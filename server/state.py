"""What a federation needs to go on, in one file that is whole or absent; and its story as JSON.

``last.safetensors`` holds the weights and everything the round loop remembers. It holds no times, so an
interrupted federation ends with the same bytes as one that ran through. Random streams are named and need no
state. ``server.json`` is for people and for the cross-site summary; nothing is read back from it but what
sites answered to personalization and the heads of their ledgers.

Keys of ``server.json``
-----------------------
format, version : ``fedkalemia-server``, 1
status, failure : ``running``, ``finished``, ``interrupted`` or ``failed``, with the sentence of the failure
name, task, preset, seed, settings, settings_sha256, software, protocol : what was run
sites : names of the sites that take part; ``refused`` : sentence by site or node; ``absent`` : names of the
    registered sites that were not connected when last asked (none where sites are not registered)
rounds : one entry per federated round: ``round``, ``learning_rate``, ``asked`` to train, ``trained``,
    ``answered``, ``failures`` (code by site), ``train_loss``, ``train_patients``, ``train_strips``,
    ``train_beats`` and ``seconds`` (null for rounds before an interruption)
evaluations : validation of the weights after ``round`` rounds (0: before any training): ``loss``,
    ``patients``, ``beats``, ``sites``
schedule : ``plateau`` or ``cosine``; ``failure_sentences`` : the sentence of every code that occurs
selected : ``round``, ``rule``, ``loss``, ``patients``, ``sha256`` (of the weights); null until chosen
personalize : a site's flat sums (``common.protocol``) by site; ``personalize_failures`` : code by site
ledgers : the heads of each site's ledger of what left it, in the order they came: ``step`` (``hello``,
    ``round``, ``evaluate`` or ``personalize``), the number ``round`` where there is one, ``entries`` and
    ``head``. A site that later cuts or rewrites its ledger cannot make these fit again. Heads of an
    interrupted run are kept; sites without a gate, as in a simulation, have none
ledger_warnings : sentences by site whose ledger went back, or had another head than before at the same entry,
    compared with the head that came before in this run or in the coordinator's other runs
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common import protocol
from common.checkpoint import load_checkpoint, save_checkpoint
from common.config import Settings
from common.errors import ConfigurationError, StorageError
from common.files import read_json, write_json
from common.logs import say
from server.schedule import Evaluation, Selection, kind

if TYPE_CHECKING:  # whoever only reads a story must not wait for torch
    from common.weights import Weights

Head = tuple[int, str]
FORMAT, VERSION = "fedkalemia-server", 1
LAST, BEST, STORY = "last.safetensors", "best.safetensors", "server.json"


@dataclass(frozen=True)
class Round:
    """What happened in one federated round."""

    round: int
    learning_rate: float
    asked: tuple[str, ...]
    trained: tuple[str, ...]
    answered: tuple[str, ...]
    failures: Mapping[str, str]
    train_loss: float | None
    train_patients: int
    train_strips: int
    train_beats: int


@dataclass
class State:
    """Where a federation stands after a federated round.

    Attributes
    ----------
    weights : the global model after the last round.
    best : weights of the round that ``schedule.best`` names, None before there is one.
    rounds, evaluations : the history.
    trained : no further round will follow, and the last weights were evaluated.
    """

    weights: Weights
    best: Weights | None = None
    rounds: list[Round] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    trained: bool = False

    @property
    def round(self) -> int:
        """Number of rounds done."""
        return len(self.rounds)


def save_state(out: Path, state: State, identity: Mapping[str, str]) -> None:
    """Write ``last.safetensors``, atomically; ``identity`` says which federation it belongs to."""
    arrays = {f"weights.{key}": getattr(state.weights, key) for key in protocol.WEIGHT_KEYS}
    if state.best is not None:
        arrays |= {f"best.{key}": getattr(state.best, key) for key in protocol.WEIGHT_KEYS}
    save_checkpoint(
        out / LAST,
        arrays,
        {
            "kind": "federation",
            "identity": dict(identity),
            "rounds": [asdict(entry) for entry in state.rounds],
            "evaluations": [asdict(entry) for entry in state.evaluations],
            "trained": state.trained,
        },
    )


def load_state(out: Path, identity: Mapping[str, str]) -> State | None:
    """Read the state of an interrupted federation; None if there is none.

    Raises
    ------
    ConfigurationError
        If the folder belongs to a federation with other settings, name or model.
    ModelError
        If the file is damaged.
    """
    from common.weights import Weights

    if not (out / LAST).exists():
        return None
    arrays, metadata = load_checkpoint(out / LAST)
    if metadata.get("kind") != "federation" or metadata["identity"] != dict(identity):
        raise ConfigurationError(
            f"{out} holds a federation with other settings; choose another output folder, or start anew "
            "there with fresh=true"
        )

    def weights(prefix: str) -> Weights | None:
        if f"{prefix}.trainable" not in arrays:
            return None
        return Weights(*(np.asarray(arrays[f"{prefix}.{key}"], np.float32) for key in protocol.WEIGHT_KEYS))

    current = weights("weights")
    if current is None:
        raise ConfigurationError(f"{out / LAST} holds no weights; start anew there with fresh=true")
    return State(
        weights=current,
        best=weights("best"),
        rounds=[Round(**_tuples(entry)) for entry in metadata["rounds"]],
        evaluations=[Evaluation(**_tuples(entry)) for entry in metadata["evaluations"]],
        trained=metadata["trained"],
    )


@dataclass
class Story:
    """What ``server.json`` says beyond the state."""

    settings: Settings
    name: str
    status: str = "running"
    failure: str | None = None
    sites: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    selection: Selection | None = None
    sha256: str | None = None
    personalize: dict[str, dict[str, Any]] = field(default_factory=dict)
    personalize_failures: dict[str, str] = field(default_factory=dict)
    ledgers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ledger_warnings: dict[str, list[str]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    heads: dict[str, Head] = field(default_factory=dict)

    def hear(self, site: str, head: tuple[int, str] | None, step: str, number: int | None = None) -> None:
        """Keep the head of a site's ledger that came with its answer, if one did.

        A ledger only grows: one that does not fit the head before is said, and kept as a warning. From then
        on the new head is what the next one is compared with, so that each break is said once.
        """
        if head is None:
            return
        where = {"step": step} if number is None else {"step": step, "round": number}
        self.ledgers.setdefault(site, []).append({**where, "entries": head[0], "head": head[1]})
        if warning := broken(site, self.heads.get(site), head):
            say(warning)
            self.ledger_warnings.setdefault(site, []).append(warning)
        self.heads[site] = head

    def go_on_from(self, story: Mapping[str, Any]) -> None:
        """Take over what an interrupted run of this federation has heard of the sites' ledgers."""
        self.ledgers = story.get("ledgers", {})
        self.ledger_warnings = story.get("ledger_warnings", {})
        self.heads = {**last_heads(story), **self.heads}

    def write(self, out: Path, state: State | None) -> None:
        """Write ``server.json``."""
        rounds = state.rounds if state else []
        evaluations = state.evaluations if state else []
        codes = {code for entry in rounds for code in entry.failures.values()}
        codes |= set(self.personalize_failures.values())
        selected = None
        if self.selection is not None:
            selected = {**asdict(self.selection), "sha256": self.sha256}
        story = {
            "format": FORMAT,
            "version": VERSION,
            "status": self.status,
            "failure": self.failure,
            "name": self.name,
            "task": self.settings.task,
            "preset": self.settings.preset,
            "seed": self.settings.seed,
            "settings": self.settings.model_dump(mode="json"),
            "settings_sha256": self.settings.digest(),
            "software": protocol.software(),
            "protocol": protocol.VERSION,
            "sites": list(self.sites),
            "refused": dict(self.refused),
            "absent": list(self.absent),
            "rounds": [{**asdict(entry), "seconds": self.seconds.get(entry.round)} for entry in rounds],
            "evaluations": [
                {"loss": entry.loss, **_without(asdict(entry), "loss_total")} for entry in evaluations
            ],
            "schedule": kind(self.settings.federation, evaluations) if evaluations else None,
            "failure_sentences": {code: protocol.sentence(code) for code in sorted(codes)},
            "selected": selected,
            "personalize": self.personalize,
            "personalize_failures": self.personalize_failures,
            "ledgers": self.ledgers,
            "ledger_warnings": self.ledger_warnings,
        }
        write_json(out / STORY, story)


def read_story(out: Path, settings: Settings, name: str) -> dict[str, Any] | None:
    """Return ``server.json`` if it tells of this very federation, else None."""
    if not (out / STORY).exists():
        return None
    try:
        story: dict[str, Any] = read_json(out / STORY)
        same = (story["settings_sha256"], story["name"]) == (settings.digest(), name)
    except (StorageError, KeyError, TypeError):
        return None  # written again before long
    return story if same else None


def story_of(out: Path) -> dict[str, Any] | None:
    """Return the story in a run's folder as far as it is told, whatever run it tells of; None if none is."""
    try:
        story = read_json(out / STORY) if (out / STORY).exists() else None
    except StorageError:
        return None
    needed = {"status", "failure", "rounds", "sites", "settings", "settings_sha256", "personalize"}
    return story if isinstance(story, dict) and needed <= set(story) else None


def broken(site: str, before: Head | None, head: Head) -> str | None:
    """Return the sentence for a ledger whose head does not fit the one before; None if it may have grown."""
    if before is None or head[0] > before[0] or head == before:
        return None
    if head[0] < before[0]:
        what = f"went back from entry {before[0]} to {head[0]}"
    else:
        what = f"has another head at entry {head[0]} than before"
    return f"ledger of {site} {what}: ask the site to run 'fedkalemia-site audit verify'"


def last_heads(story: Mapping[str, Any]) -> dict[str, Head]:
    """Return the last head of each site's ledger that a story holds."""
    heads = {}
    for site, held in story.get("ledgers", {}).items():
        if held:
            heads[site] = (int(held[-1]["entries"]), str(held[-1]["head"]))
    return heads


def heads_of_runs(folder: Path) -> dict[str, Head]:
    """Return the last head of each site's ledger that came in any run in a folder of runs.

    The runs are told apart by when their stories were written last; one that cannot be read is passed over.
    """
    written = []
    for path in folder.glob(f"*/{STORY}"):
        with suppress(OSError):
            written.append((path.stat().st_mtime_ns, path))
    heads: dict[str, Head] = {}
    for _, path in sorted(written):
        if story := story_of(path.parent):
            with suppress(AttributeError, KeyError, TypeError, ValueError):
                heads |= last_heads(story)
    return heads


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def _without(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != name}

"""Messages to sites and their answers: bounded waits, one answer in memory at a time, a fixed order.

Which node is which site is learned by saying hello; node numbers differ from deployment to deployment, names
do not. Where sites are registered, a node may only use the name that was registered with its key. Everything
that could depend on an order goes by site name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from common import protocol
from common.config import Settings
from common.errors import FederationError, FedkalemiaError, ProtocolError
from common.logs import LINE_EVERY_S, say
from server.patience import until
from server.state import Head

POLL_MIN_S = 0.01
POLL_MAX_S = 1.0
POLL_GROWTH = 1.5
JOIN_POLL_S = 0.5
#: A site that gave no answer to the first hello gets so long for each later one.
HELLO_AGAIN_S = 15.0
#: How often a node's restart is looked for while its answer is waited for, and how long it is given then.
RESTART_POLL_S, RESTART_GRACE_S = 5.0, 30.0
#: The engine forgets a message, and the answer that waits for it, when its time is over. The answers that are
#: there must outlive the wait for the one that never comes, and the time in which they are folded.
FOLD_S = 600.0

Activations = Callable[[], Mapping[int, str]]


@dataclass(frozen=True)
class Answer:
    """A site's answer: its content, or the code of its failure; the head of its ledger, if any."""

    site: str
    content: RecordDict | None
    failure: str | None = None
    ledger: Head | None = None


class Restarts:
    """Which nodes were started again since their message was sent: they have forgotten it.

    The engine reports a dead node only if it is asked while the node is away. One that is back at once would
    be waited for until the time is over.

    Parameters
    ----------
    activations : returns when each node last came online, by node id, as the engine wrote it; None where
        that cannot be known. What it leaves out has not changed.
    """

    def __init__(self, activations: Activations | None) -> None:
        self._activations = activations
        self._before = dict(activations()) if activations else {}
        self._asked = time.monotonic()
        self._since: dict[int, float] = {}

    def forgot(self, node: int) -> bool:
        """Return whether a node came online again, long enough ago to have fetched what still waited."""
        now = time.monotonic()
        if self._activations is not None and now - self._asked >= RESTART_POLL_S:
            for each, when in self._activations().items():
                if self._before.setdefault(each, when) != when:
                    self._since.setdefault(each, now)
            self._asked = now
        return node in self._since and now - self._since[node] >= RESTART_GRACE_S


def ask(
    grid: Grid,
    requests: Mapping[str, tuple[int, RecordDict]],
    message_type: str,
    timeout_s: float,
    group: str,
    activations: Activations | None = None,
) -> Iterator[Answer]:
    """Send one message to each site and yield the answers in the order of site names.

    All messages leave at once; answers are fetched one by one, so the others wait at the SuperLink and not
    in this process. The content of an answer is emptied when the next one is asked for.

    Parameters
    ----------
    requests : node id and content by site name.
    timeout_s : for all answers together; a site that needs longer has failed with ``no_answer``.
    group : what the engine groups messages by, the federated round.
    activations : see ``Restarts``; the answer of a node that was started again is ``unreachable``.
    """
    names = sorted(requests)
    restarts = Restarts(activations)
    messages = []
    for name in names:
        node, content = requests[name]
        protocol.check(content, message_type, "request")
        messages.append(Message(content, node, message_type, ttl=timeout_s + FOLD_S, group_id=group))
    ids = list(grid.push_messages(messages))
    del messages
    if len(ids) != len(names):
        raise FederationError("the engine did not take all messages; look at the SuperLink's log")
    deadline = time.monotonic() + timeout_s
    for name, message_id in zip(names, ids, strict=True):
        node = requests[name][0]
        try:
            reply = _wait(grid, message_id, deadline, node, restarts) if message_id else None
        except _UnreadableError:
            yield Answer(name, None, "bad_reply")
            continue
        there = bool(message_id) and not restarts.forgot(node)
        yield _judge(name, reply, message_type, there=there)
        _release(reply)


class _UnreadableError(Exception):
    """The bytes of a reply are no message."""


def _wait(grid: Grid, message_id: str, deadline: float, node: int, restarts: Restarts) -> Message | None:
    pause = POLL_MIN_S
    while True:
        try:
            with until(deadline):
                replies = list(grid.pull_messages([message_id]))
        except (httpx.HTTPError, FedkalemiaError):
            raise
        except Exception as error:
            # The engine checks the length of what a site sends and builds it here: whatever goes wrong with
            # it is a failure of that site and must not end the run of the others.
            raise _UnreadableError from error
        if replies:
            return replies[0]
        left = deadline - time.monotonic()
        if left <= 0 or restarts.forgot(node):
            return None
        time.sleep(min(pause, left))
        pause = min(pause * POLL_GROWTH, POLL_MAX_S)


def _judge(name: str, reply: Message | None, message_type: str, *, there: bool) -> Answer:
    """Turn a reply into an answer. The engine's own error text may quote a site: it is not looked at."""
    if reply is None:
        return Answer(name, None, "no_answer" if there else "unreachable")
    if reply.has_error():
        return Answer(name, None, "unreachable")
    try:
        protocol.check(reply.content, message_type, "reply")
    except ProtocolError:
        return Answer(name, None, "bad_reply")
    code, head = protocol.failure_code(reply.content), protocol.ledger_head(reply.content)
    return Answer(name, None, code, head) if code else Answer(name, reply.content, None, head)


def _release(reply: Message | None) -> None:
    """Empty a reply: its records sit in reference cycles and would keep the weights until a collection."""
    if reply is not None and reply.has_content():
        for record in list(reply.content.values()):
            record.clear()
        reply.content.clear()


class Sites:
    """Who takes part: the connected sites by name, and who was refused and why.

    Parameters
    ----------
    grid : Flower's connection to the sites.
    settings : settings of the run.
    names : registered name by node id; None where nodes are not registered, as in a simulation.
    activations : see ``Restarts``.
    heard : called with the name of a site and the head of its ledger that came with its answer to hello.

    Attributes
    ----------
    nodes : node id by site name.
    refused : a sentence by site or node name.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        names: Mapping[int, str] | None = None,
        heard: Callable[[str, Head | None], None] | None = None,
        activations: Activations | None = None,
    ) -> None:
        self.nodes: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self._grid, self._settings, self._names, self._heard = grid, settings, names, heard
        self._activations = activations
        self._present: set[int] = set()
        self._known: set[int] = set()

    def join(self) -> None:
        """Wait for the registered sites, or for enough nodes where none are, then say hello to all.

        Raises
        ------
        FederationError
            If two nodes have one name, or too few sites connect in time or may take part.
        """
        federation = self._settings.federation
        self._wait_for_nodes(federation.join_timeout_s)
        self.refresh(first=True)
        missing = self.missing()
        if len(self.nodes) < federation.min_sites:
            absent = f"; not connected: {', '.join(missing)}" if missing else ""
            raise FederationError(
                f"{len(self.nodes)} of at least {federation.min_sites} sites can take part after "
                f"{federation.join_timeout_s:g} s{absent}{listed(self.refused)}; check that every site's "
                f"node is connected ({self._how_to_check()}) and set up for this run"
            )
        if self.refused:
            say(f"not taking part{listed(self.refused)}")
        if missing:
            say(f"going on without {', '.join(missing)}; a site that connects later takes part from then on")

    def _wait_for_nodes(self, timeout_s: float) -> None:
        began = time.monotonic()
        deadline, said = began + timeout_s, began - LINE_EVERY_S + 2 * JOIN_POLL_S  # silent if nobody waits
        while True:
            self._present = set(self._grid.get_node_ids())
            missing = self.missing()
            enough = len(self._present) >= self._settings.federation.min_sites
            now = time.monotonic()
            if (enough if self._names is None else not missing) or now >= deadline:
                return
            if self._names is not None and now - said >= LINE_EVERY_S:
                said, all_ = now, len(self._names)
                say(
                    f"waiting for {', '.join(missing)} ({all_ - len(missing)} of {all_} registered sites "
                    f"connected), {deadline - now:.0f} s left"
                )
            time.sleep(min(JOIN_POLL_S, deadline - now))

    def missing(self) -> list[str]:
        """Return the names of the registered sites that were not connected when last asked, sorted."""
        return sorted(name for node, name in (self._names or {}).items() if node not in self._present)

    def _how_to_check(self) -> str:
        return "'flwr supernode list'" if self._names is None else "'fedkalemia-server status HOME'"

    def refresh(self, *, first: bool = False) -> None:
        """Forget nodes that left and say hello to those that came, or that gave no answer so far."""
        self._present = present = set(self._grid.get_node_ids())
        before = set(self.nodes)
        self.nodes = {name: node for name, node in self.nodes.items() if node in present}
        for name in sorted(before - set(self.nodes)):
            say(f"{name} is no longer connected; going on without it until it is back")
        new = sorted(present - self._known)
        self._known = set(present)  # a node that left and came back is greeted again
        if new:
            self._greet(new, first=first)

    def _greet(self, nodes: list[int], *, first: bool) -> None:
        hello = ConfigRecord({"protocol": protocol.VERSION, "software": protocol.software()})
        requests: dict[str, tuple[int, RecordDict]] = {}
        for node in nodes:
            if self._names is not None and node not in self._names:
                self.refused[f"node {node}"] = "is not in this coordinator's list of registered sites"
            else:
                requests[f"node {node:020d}"] = (node, RecordDict({"config": hello}))
        if not requests:
            return
        timeout_s = self._settings.federation.join_timeout_s
        if first and self._names is not None:  # a node may be there while its executor is not
            asked = ", ".join(sorted(self._called(node) for node, _ in requests.values()))
            say(f"asking {asked} to take part; an answer may take up to {timeout_s:g} s")
        for answer in ask(
            self._grid,
            requests,
            protocol.HELLO,
            timeout_s if first else min(timeout_s, HELLO_AGAIN_S),
            "hello",
            self._activations,
        ):
            node = requests[answer.site][0]
            known_as = self._called(node)
            if answer.content is None:
                self.refused[known_as] = protocol.sentence(answer.failure or "site_error")
                self._known.discard(node)  # its executor may be there by the next round
            else:
                self._admit(dict(answer.content.config_records["config"]), node, first)
            if self._heard is not None and self._names is not None:
                self._heard(known_as, answer.ledger)

    def _called(self, node: int) -> str:
        """Return what a node is called as long as it has not said so itself."""
        return f"node {node}" if self._names is None else self._names.get(node, f"node {node}")

    def _admit(self, info: Mapping[str, object], node: int, first: bool) -> None:
        name = str(info["site"])
        if self._names is not None and name != (registered := self._names[node]):
            # Kept under the registered name: the site whose name was claimed must not be blamed for it.
            self.refused[registered] = (
                f"{protocol.sentence('name_refused')}: it says {name!r}, registered is {registered!r}"
            )
        elif why := self._mismatch(info):
            self.refused[name] = why
        elif name not in self.nodes:
            self.refused.pop(name, None)
            self.refused.pop(f"node {node}", None)
            self.nodes[name] = node
            if not first:
                say(f"{name} is connected and takes part from now on")
        elif first:
            raise FederationError(
                f"two nodes call themselves {name!r}: give every site its own name in site.toml, or stop "
                "the node that does not belong here"
            )
        else:  # a late comer cannot end a run by taking a name
            self.refused[f"node {node}"] = f"{protocol.sentence('name_taken')} ({name})"

    def _mismatch(self, info: Mapping[str, object]) -> str | None:
        mine = (protocol.VERSION, protocol.software())
        theirs = (info["protocol"], info["software"])
        if theirs != mine:
            return (
                f"runs protocol {theirs[0]} of software {theirs[1]}, this server protocol {mine[0]} of "
                f"software {mine[1]}; install the same version on both"
            )
        if info["task"] != self._settings.task:
            return f"is set up for the task {info['task']}, this run is {self._settings.task}"
        if info["preprocessing"] != self._settings.preprocessing_digest():
            return (
                f"prepares its beats with settings {str(info['preprocessing'])[:12]}, this run with "
                f"{self._settings.preprocessing_digest()[:12]}; give both the same settings and ingest again"
            )
        return None


def listed(sentences: Mapping[str, str]) -> str:
    """Return ``": a: why; b: why"``, or nothing."""
    return "".join(f"{'; ' if i else ': '}{name}: {why}" for i, (name, why) in enumerate(sentences.items()))

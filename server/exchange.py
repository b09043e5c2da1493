"""Messages to sites and their answers: bounded waits, one answer in memory at a time, a fixed order.

Which node is which site is learned by saying hello; node numbers differ from deployment to deployment, names
do not. Everything that could depend on an order goes by site name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from common import protocol
from common.config import Settings
from common.errors import FederationError, ProtocolError

POLL_MIN_S = 0.01
POLL_MAX_S = 1.0
POLL_GROWTH = 1.5
JOIN_POLL_S = 0.5


@dataclass(frozen=True)
class Answer:
    """A site's answer: its content, or the code of its failure."""

    site: str
    content: RecordDict | None
    failure: str | None = None


def ask(
    grid: Grid,
    requests: Mapping[str, tuple[int, RecordDict]],
    message_type: str,
    timeout_s: float,
    group: str,
) -> Iterator[Answer]:
    """Send one message to each site and yield the answers in the order of site names.

    All messages leave at once; answers are fetched one by one, so the others wait at the SuperLink and not
    in this process. The content of an answer is emptied when the next one is asked for.

    Parameters
    ----------
    requests : node id and content by site name.
    timeout_s : for all answers together; a site that needs longer has failed with ``no_answer``.
    group : what the engine groups messages by, the federated round.
    """
    names = sorted(requests)
    messages = []
    for name in names:
        node, content = requests[name]
        protocol.check(content, message_type, "request")
        messages.append(Message(content, node, message_type, ttl=timeout_s, group_id=group))
    ids = list(grid.push_messages(messages))
    del messages
    if len(ids) != len(names):
        raise FederationError("the engine did not take all messages; look at the SuperLink's log")
    deadline = time.monotonic() + timeout_s
    for name, message_id in zip(names, ids, strict=True):
        reply = _wait(grid, message_id, deadline) if message_id else None
        answer = _judge(name, reply, message_type, pushed=bool(message_id))
        yield answer
        _release(reply)


def _wait(grid: Grid, message_id: str, deadline: float) -> Message | None:
    pause = POLL_MIN_S
    while True:
        for reply in grid.pull_messages([message_id]):
            return reply
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause = min(pause * POLL_GROWTH, POLL_MAX_S)


def _judge(name: str, reply: Message | None, message_type: str, *, pushed: bool) -> Answer:
    """Turn a reply into an answer. The engine's own error text may quote a site: it is not looked at."""
    if reply is None:
        return Answer(name, None, "no_answer" if pushed else "unreachable")
    if reply.has_error():
        return Answer(name, None, "unreachable")
    try:
        protocol.check(reply.content, message_type, "reply")
    except ProtocolError:
        return Answer(name, None, "bad_reply")
    code = protocol.failure_code(reply.content)
    return Answer(name, None, code) if code else Answer(name, reply.content)


def _release(reply: Message | None) -> None:
    """Empty a reply: its records sit in reference cycles and would keep the weights until a collection."""
    if reply is not None and reply.has_content():
        for record in list(reply.content.values()):
            record.clear()
        reply.content.clear()


class Sites:
    """Who takes part: the connected sites by name, and who was refused and why.

    Attributes
    ----------
    nodes : node id by site name.
    refused : a sentence by site or node name.
    """

    def __init__(self, grid: Grid, settings: Settings) -> None:
        self.nodes: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self._grid, self._settings = grid, settings
        self._known: set[int] = set()

    def join(self) -> None:
        """Wait for enough nodes, then say hello to all of them.

        Raises
        ------
        FederationError
            If two nodes have one name, or too few sites connect in time or may take part.
        """
        federation = self._settings.federation
        deadline = time.monotonic() + federation.join_timeout_s
        while len(list(self._grid.get_node_ids())) < federation.min_sites:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(JOIN_POLL_S, left))
        self.refresh(first=True)
        if len(self.nodes) < federation.min_sites:
            raise FederationError(
                f"{len(self.nodes)} of at least {federation.min_sites} sites can take part after "
                f"{federation.join_timeout_s:g} s{listed(self.refused)}; check that every site's node is "
                "connected ('flwr supernode list') and set up for this run"
            )

    def refresh(self, *, first: bool = False) -> None:
        """Forget nodes that left and say hello to those that came."""
        present = set(self._grid.get_node_ids())
        self.nodes = {name: node for name, node in self.nodes.items() if node in present}
        new = sorted(present - self._known)
        self._known = present  # a node that left and came back is greeted again
        if not new:
            return
        hello = ConfigRecord({"protocol": protocol.VERSION, "software": protocol.software()})
        requests = {f"node {node:020d}": (node, RecordDict({"config": hello})) for node in new}
        timeout_s = self._settings.federation.join_timeout_s
        for answer in ask(self._grid, requests, protocol.HELLO, timeout_s, "hello"):
            node = requests[answer.site][0]
            if answer.content is None:
                self.refused[f"node {node}"] = protocol.sentence(answer.failure or "site_error")
            else:
                self._admit(dict(answer.content.config_records["config"]), node, first)

    def _admit(self, info: Mapping[str, object], node: int, first: bool) -> None:
        name = str(info["site"])
        if why := self._mismatch(info):
            self.refused[name] = why
        elif name not in self.nodes:
            self.refused.pop(name, None)
            self.nodes[name] = node
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

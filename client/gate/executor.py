"""The site's executor: takes the messages its node received, and answers them with code the site trusts.

Long-lived: torch and Flower are imported once, and a child is forked for every message. Every task that a
node can hand out is taken, because one that nobody takes would block the node for good; but only messages of
this federation are answered with anything other than a failure code, and neither the bundle nor the settings
of a run decide what runs here. Every reply passes the door. The engine's own error path is replaced: no text
of an error, and none of its context, goes back to the node.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flwr.supernode.runtime.run_clientapp as engine
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.supercore.runtime import RuntimeHttpClient
from httpx import HTTPError

from client.database.session import EmptyDatabaseError, open_database
from client.gate.alive import HEARTBEAT
from client.gate.code import App, bundle_digest, check_bundle, load, local_app
from client.gate.door import leave
from client.gate.folders import SECRET
from client.gate.ledger import ledger_of
from client.gate.policy import check_request, clamp
from client.gate.telling import told
from client.site import Site, load_site
from common.command import FLOWER_ENVIRONMENT
from common.errors import FedkalemiaError, ProtocolError, StorageError, TaskError
from common.files import write_atomic
from common.identity import read_secret
from common.logs import say, site_log
from common.protocol import ALLOWED, HELLO, check, failure
from common.taskloop import (
    AGENT_TASK,
    CLIENT_TASK,
    Runtime,
    Uses,
    check_engine,
    engine_lacks,
    serve,
    stops_later,
)

if TYPE_CHECKING:
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
    from flwr.proto.task_pb2 import Task
    from flwr.supercore.fab import Fab
    from flwr.supercore.run import Run

#: Every type of task that a node makes for a message.
TASKS = (CLIENT_TASK, AGENT_TASK)
SEEN = "bundle.seen"
#: The engine keeps this next to a task; it never holds anything of the reply.
DETAILS = "see the site's own log"

_ENGINE = "flwr.supernode.runtime.run_clientapp"
#: Names of Flower's module that are replaced: what fetches, unpacks and loads, and what sends.
REPLACED: Uses = {
    "pull_task_input": ("client",),
    "install_from_fab": ("fab_file", "skip_prompt"),
    "get_project_dir": ("fab_id", "fab_version", "fab_hash"),
    "get_load_client_app_fn": ("default_app_ref", "app_path", "multi_app"),
    "push_message": ("client", "message", "context"),
    "push_task_output": ("client", "context", "sub_status", "details"),
}
USES: Uses = {
    f"{_ENGINE}:run_clientapp": (
        *("runtime_api_address", "token", "insecure", "certificates", "parent_pid"),
        "runtime_dependency_install",
    ),
    **{f"{_ENGINE}:{name}": parameters for name, parameters in REPLACED.items()},
    "flwr.cli.install:install_from_fab": ("fab_file", "install_dir", "skip_prompt"),
    "flwr.common.config:get_project_config": (),
    "flwr.common.serde:message_from_proto": (),
    "flwr.supercore.runtime:RuntimeHttpClient.PullMessages": ("request",),
}


def run_executor(folder: Path, node_address: str | None = None) -> None:
    """Answer the messages of a site's node until told to stop.

    Parameters
    ----------
    folder : the site folder.
    node_address : ``host:port`` of the node's runtime API; None for ``gate.node_address`` of ``site.toml``.

    Raises
    ------
    FedkalemiaError
        Before anything is answered: the site folder, the secret, the ledger, the database or the engine is
        not right.
    KeyboardInterrupt
        When told to stop.
    """
    site = load_site(folder)
    address = node_address or site.gate.node_address
    runtime = Runtime(address, read_secret(site.gate_folder / SECRET))
    ledger_of(site.gate_folder)
    check_database(site)
    prepare(site)
    say(f"site {site.name}: ready; code: {site.gate.code}, node: {address}")
    serve(
        runtime,
        TASKS,
        lambda runtime, task, token: answer(site, runtime, task, token),
        heartbeat=site.gate_folder / HEARTBEAT,
    )


def check_database(site: Site) -> None:
    """Open the site database once: one that is out of reach ends this, one that is still empty is said.

    Where a site is set up in containers, its executor may run before anything was ingested.

    Raises
    ------
    DatabaseError, StorageError
        If the database cannot be reached, or is of another schema version.
    """
    try:
        open_database(site.database_url).dispose()
    except EmptyDatabaseError as error:
        say(f"warning: {error}; until then every round is answered with a failure")


def prepare(site: Site) -> None:
    """Import once what every message needs and check the engine; no thread is started, nothing trained."""
    os.environ.update(FLOWER_ENVIRONMENT)
    os.environ["FLWR_HOME"] = str(site.gate_folder / "flower")
    check_engine(USES)
    check_messages()
    import_module("torch._dynamo")  # the first optimizer step would, in every child
    local_app()
    for module in ("client.learning.rounds", "client.learning.personalization"):
        import_module(module)


def check_messages() -> None:
    """Check what is relied on inside Flower's messages and its client, and that no signature shows.

    Raises
    ------
    ConfigurationError
        Naming the first thing that is gone.
    """
    sent = MessageProto(metadata=MetadataProto(message_type=HELLO))
    sent.content.SetInParent()
    message = message_from_proto(sent)
    client = RuntimeHttpClient.__new__(RuntimeHttpClient)
    if "_metadata" not in message.__dict__ or _kept(message).metadata is message.metadata:
        raise engine_lacks("Message.__dict__['_metadata']")
    message.metadata.__dict__["_message_id"] = SEEN
    if message.metadata.message_id != SEEN:
        raise engine_lacks("Metadata.__dict__['_message_id']")
    try:
        client.PullMessages = _kept  # type: ignore[method-assign,assignment]
    except AttributeError:
        raise engine_lacks("RuntimeHttpClient whose PullMessages can be replaced") from None


def answer(site: Site, runtime: Runtime, task: Task, token: str) -> int:
    """Answer one message; runs in a process of its own and ends it."""
    import torch

    torch.set_num_threads(site.settings.threads)
    # What the engine would log holds the text of errors; the gate writes its own lines.
    logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)
    _Answer(site, task).install()
    engine.run_clientapp(
        runtime_api_address=runtime.address,
        token=token,
        insecure=runtime.insecure,
        certificates=runtime.certificates(),
        parent_pid=os.getppid(),
        runtime_dependency_install=False,
    )
    return 0


@dataclass
class _Answer:
    """One message on its way in and out: what the engine's process calls in place of its own functions.

    Everything that decides is bound here before any code of a bundle is loaded.
    """

    site: Site
    task: Task
    request: Message | None = None
    app: App | None = None
    unreadable: str = ""
    tried: bool = False
    left: bool = False
    real: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def install(self) -> None:
        """Put this in the place of what the engine calls."""
        ours: dict[str, Callable[..., Any]] = {
            "pull_task_input": self.pull,
            "install_from_fab": lambda *_, **__: None,
            "get_project_dir": lambda *_, **__: "",
            "get_load_client_app_fn": lambda *_, **__: self.loaded,
            "push_message": self.push,
            "push_task_output": self.finish,
        }
        for name in REPLACED:
            self.real[name] = getattr(engine, name)
            setattr(engine, name, ours[name])

    def pull(self, client: RuntimeHttpClient) -> tuple[Message, Context, Run, Fab]:
        """Fetch the message, and choose what answers it before anything of it is used."""
        with ExitStack() as held:
            # The node answers for a process that died only what that process had fetched; a task that is
            # begun and whose message is not fetched blocks it. Told to stop in between, this fetches first.
            held.enter_context(stops_later())
            self._keep_envelope(client, held)
            try:
                message, context, run, fab = self.real["pull_task_input"](client)
            except Exception as error:
                self._not_read(error)
                raise
        self.request = message
        try:
            message.content = self._admitted(message, fab.content)
            self.request = _kept(message)
            self.app = load(self.site, fab.content)
        except FedkalemiaError as error:
            self._refuse(error.code, str(error))
        except Exception as error:
            self._refuse("site_error", type(error).__name__)
        # Nothing from outside decides where a site's data are, and nothing is kept for the next message.
        context.node_config = {"site-folder": str(self.site.folder)}
        context.run_config = {}
        context.state = RecordDict()
        return message, context, run, fab

    def _keep_envelope(self, client: RuntimeHttpClient, held: ExitStack) -> None:
        """Know what is asked before its content has arrived: from then on this answers if told to stop."""
        ask = client.PullMessages

        def pull_messages(request: PullAppMessagesRequest) -> PullAppMessagesResponse:
            answer = ask(request)
            for message, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
                self.request = message_from_proto(message)
                self.request.metadata.__dict__["_message_id"] = tree.object_id
            held.close()  # a stop that was held back is acted on here
            return answer

        client.PullMessages = pull_messages  # type: ignore[method-assign]

    def _not_read(self, error: Exception) -> None:
        """Keep with which code a message is answered whose content did not arrive as it was sent."""
        if self.request is None:
            return
        lost = isinstance(error, HTTPError)
        self.unreadable = "site_error" if lost else ProtocolError.code
        why = "the node did not hand it out" if lost else "it is not what its sender announced"
        self._tell(self.unreadable, f"the message's content cannot be read: {why} ({type(error).__name__})")

    def _tell(self, code: str, why: str) -> None:
        self._log().error("refused (%s): %s", code, why)
        say(f"refused ({code}): {why}")

    def _refuse(self, code: str, why: str) -> None:
        self._tell(code, why)
        self.app = lambda message, _: Message(failure(code), reply_to=message)

    def _admitted(self, message: Message, bundle: bytes) -> RecordDict:
        """Return the content that may come in: the site's folder, the bundle, the protocol, the policy."""
        kind, digest = message.metadata.message_type, bundle_digest(bundle)
        # Read again for every message: what an operator changes holds from the next one on.
        self.site = load_site(self.site.folder)
        self._tell_bundle(message.metadata.run_id, digest)
        if self.task.type != CLIENT_TASK:
            raise TaskError("a task of another kind than a ClientApp's was handed over; nothing of it runs")
        policy, now = self.site.settings.policy, datetime.now().astimezone()
        if not message.has_content():
            raise ProtocolError("a message without content is not in the protocol")
        if kind not in ALLOWED:
            raise TaskError(f"message type {kind[:64]!r} is not one of this federation's")
        check(message.content, kind, "request")
        check_request(policy, kind, message.content, now)
        check_bundle(self.site.gate, digest)
        return clamp(policy, kind, message.content)

    def loaded(self, *_: object) -> App:
        """Stand in for the engine's loader."""
        return self.run

    def run(self, message: Message, context: Context) -> Message:
        """Answer with the chosen app; what it raises stays here, its text as well."""
        assert self.app is not None
        try:
            return self.app(message, context)
        except Exception as error:
            self._log().error("the app raised %s", told(error))
            return Message(failure("site_error"), reply_to=message)

    def push(self, client: RuntimeHttpClient, message: Message, context: Context) -> None:
        """Send a reply through the door; the engine's own error replies come here too."""
        assert self.request is not None
        self.tried = True
        # A reply that is half sent would hold up the node: from here on it goes out whole, for as long as the
        # loop waits for a child that it told to stop (taskloop.STOP_S).
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            reply = leave(self.site, self.request, message)
        except Exception as error:
            why = str(error) if isinstance(error, FedkalemiaError) else type(error).__name__
            self._log().critical("nothing leaves: %s", why)
            say(f"nothing leaves: {why}")
            raise
        self.real["push_message"](client, reply, context)
        self.left = True

    def finish(
        self, client: RuntimeHttpClient, context: Context | None, sub_status: str, details: str
    ) -> None:
        """Tell the node that the task is over.

        A task that ends without a reply would leave the node waiting for ever. If the message could not be
        read, or this process is told to stop before it has answered, it answers that. If even that may not
        leave, the task is not reported as over: its claim runs out and the node answers with an error of its
        own.
        """
        if not self.tried and self.request is not None:
            to, code = self.request.metadata, self.unreadable or "interrupted"
            own = Context(to.run_id, to.dst_node_id, {}, RecordDict(), {})
            with suppress(Exception):
                self.push(client, Message(failure(code), reply_to=self.request), own)
        if self.left:
            self.real["push_task_output"](client, None, sub_status, DETAILS if details else "")

    def _tell_bundle(self, run_id: int, digest: str) -> None:
        """Say once per run which bundle came with it."""
        path, line = self.site.gate_folder / SEEN, f"{run_id} {digest}\n"
        if path.is_file() and path.read_text(encoding="utf-8") == line:
            return
        use = "not used" if self.site.gate.code == "local" else "checked against the approved ones"
        self._log().info("run %s came with the bundle of SHA-256 %s, %s", run_id, digest, use)
        say(f"run {run_id} came with the bundle of SHA-256 {digest}, {use}")
        with suppress(StorageError):
            write_atomic(path, line)

    def _log(self) -> logging.Logger:
        return site_log(self.site.log)


def _kept(message: Message) -> Message:
    """Return the request as it came in, out of reach of the app that is handed the message itself."""
    kept = copy(message)
    kept.__dict__["_metadata"] = copy(message.metadata)
    kept.content = RecordDict({name: _copied(record) for name, record in message.content.items()})
    return kept


def _copied(record: Any) -> Any:
    if isinstance(record, ArrayRecord):
        # The bytes themselves cannot change, so they are shared: weights are not held twice.
        return ArrayRecord({name: copy(array) for name, array in record.items()})
    return type(record)(dict(record))

"""The site decides: a real node and SuperLink, and a coordinator that sends what it should not.

The test itself plays the coordinator: it submits bundles and pushes messages as anybody could who has taken
over the SuperLink.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from client.gate.audit import verify
from common import protocol
from common.model import build_model
from common.protocol import RoundPlan
from common.seeding import torch_stream
from common.taskloop import AGENT_TASK, SERVER_TASK, Runtime, _client
from common.weights import Weights, pack, schema_of
from server.bundle import digest, make_bundle
from server.control import Control
from server.coordinator import load_coordinator
from server.registry import read_registry

pytestmark = [pytest.mark.deployment, pytest.mark.filterwarnings("ignore:GitWildMatchPattern")]

ROOT = Path(__file__).parents[2]
ANSWER_S = 60.0
LIE = "impostor"
PULL_MESSAGES, PULL_OBJECT = "/v1/runtime/pull-messages", "/v1/runtime/pull-object"


def support() -> Any:
    spec = importlib.util.spec_from_file_location("executor_deployment", ROOT / "tests/support/deployment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start everything but the runner: this test is the coordinator."""
    made = support().Deployment(tmp_path_factory.mktemp("executor"), ["north"], wires=False)
    try:
        made.prepare()
        made.start("superlink")
        made.wait(lambda: made.healthy(made.superlink), ANSWER_S, "the SuperLink answers", ("superlink",))
        made.register("north")
        for part in ("front", "executor-north"):  # the executor first: it waits for its node
            made.start(part)
        made.wait(
            lambda: made.healthy(f"127.0.0.1:{made.front_port}"), ANSWER_S, "the front answers", ("front",)
        )
        made.start("node-north")
        made.wait_connected("north")
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, None)


class Intruder:
    """Whoever holds the SuperLink: starts a run with any bundle and sends any message."""

    def __init__(self, deployment: Any, bundle: bytes) -> None:
        coordinator = load_coordinator(deployment.home)
        request = StartRunRequest(fab=Fab(hash_str=digest(bundle), content=bundle), user_prompt="anything")
        with Control(coordinator) as control:
            assert control._client is not None
            self.run_id = int(control._client.StartRun(request).run_id)
        runtime = Runtime(coordinator.superlink, coordinator.secret.read_bytes(), coordinator.authority)
        client = _client(runtime)
        asked = AcquireTaskRequest(supported_task_types=[SERVER_TASK, AGENT_TASK])
        until = time.monotonic() + ANSWER_S
        while not (taken := client.AcquireTask(asked)).token:
            assert time.monotonic() < until, "the SuperLink handed out no task"
            time.sleep(0.1)
        client.close()
        self.kind = taken.task.type
        self.node = read_registry(coordinator.registry)["north"].node_id
        self._grid = HttpGrid(
            runtime_api_address=runtime.address, root_certificates=runtime.certificates(), token=taken.token
        )
        begun = self._grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = begun.task_id, begun.run.run_id
        TaskIdentity.node_id = begun.context.node_id
        self._grid.set_run(run_from_proto(begun.run))
        self._heart = HeartbeatSender(make_task_heartbeat_fn_http(self._grid._runtime_client))
        self._heart.start()

    def ask(self, content: RecordDict, message_type: str, limit_s: float = ANSWER_S) -> Message:
        """Send one message to the site and wait for its answer."""
        (answer,) = self.answers(self.send(content, message_type), limit_s)
        return answer

    def send(self, content: RecordDict, message_type: str) -> list[str]:
        """Send one message."""
        return list(self._grid.push_messages([Message(content, self.node, message_type)]))

    def answers(self, ids: list[str], limit_s: float = ANSWER_S) -> list[Message]:
        """Wait for the answers."""
        until = time.monotonic() + limit_s
        found: list[Message] = []
        while len(found) < len(ids):
            assert time.monotonic() < until, "the site did not answer"
            pulled = self._grid.pull_messages(ids)  # of an agent's run, the prompt comes along
            found += [message for message in pulled if message.metadata.reply_to_message_id in ids]
            time.sleep(0.1)
        return found

    def close(self) -> None:
        """End the run."""
        self._heart.stop()
        self._grid.close()


class Between:
    """Stands between an executor and its node; holds up what fetches a message, or spoils its content."""

    def __init__(self, node: str) -> None:
        self.reached, self.let_go, self.spoil = threading.Event(), threading.Event(), False
        self.let_go.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == PULL_MESSAGES:
                    outer.reached.set()
                    outer.let_go.wait(ANSWER_S)
                line = http.client.HTTPConnection(node, timeout=ANSWER_S)
                with contextlib.closing(line):
                    line.request("POST", self.path, body, dict(self.headers))
                    answer = line.getresponse()
                    data = answer.read()
                if self.path == PULL_OBJECT and outer.spoil:
                    pulled = PullObjectResponse.FromString(data)
                    pulled.object_content = b"nothing of ours"
                    data = pulled.SerializeToString()
                with contextlib.suppress(OSError):  # whoever asked may have ended
                    self.send_response(answer.status)
                    self.send_header("content-type", answer.headers["content-type"])
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take it away."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def intrude(deployment: Any) -> Iterator[Callable[[bytes], Intruder]]:
    made: list[Intruder] = []

    def start(bundle: bytes) -> Intruder:
        made.append(Intruder(deployment, bundle))
        return made[-1]

    yield start
    for intruder in made:
        with Control(load_coordinator(deployment.home)) as control:
            control.stop_run(intruder.run_id)
        intruder.close()


def tampered(components: str | None = None) -> bytes:
    """Return the bundle of this installation with a hello that lies about the site's name."""
    files: dict[str, bytes | Path] = {}
    for room in ("common", "client", "server"):
        for path in sorted((ROOT / room).rglob("*.py")):
            files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    app = files["client/app.py"]
    assert isinstance(app, bytes)
    assert b'"site": site.name' in app
    files["client/app.py"] = app.replace(b'"site": site.name', b'"site": "%s"' % LIE.encode())
    named = components or 'serverapp = "server.app:app"\nclientapp = "client.app:app"'
    files["pyproject.toml"] = (
        '[project]\nname = "other"\nversion = "0.0.1"\nlicense = "Apache-2.0"\n'
        f'[tool.flwr.app]\npublisher = "other"\n[tool.flwr.app.components]\n{named}\n[tool.flwr.app.config]\n'
    ).encode()
    bundle, _ = build_fab_from_files(files)
    return bundle


def hello() -> RecordDict:
    return RecordDict(
        {"config": ConfigRecord({"protocol": protocol.VERSION, "software": protocol.software()})}
    )


def said(deployment: Any) -> str:
    """Return the site's own log."""
    log = deployment.sites["north"].log
    return str(log.read_text()) if log.exists() else ""


def name_in(answer: Message) -> str:
    return str(answer.content.config_records["config"]["site"])


def settings(deployment: Any, **gate: Any) -> contextlib.AbstractContextManager[None]:
    """Change the gate of the site for a while; the executor reads site.toml for every message."""

    @contextlib.contextmanager
    def changed() -> Iterator[None]:
        path = deployment.sites["north"].folder / "site.toml"
        before = path.read_text()
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in gate.items())
        path.write_text(f"{before}\n[gate]\n{lines}\n")
        try:
            yield
        finally:
            path.write_text(before)

    return changed()


def test_a_tampered_bundle_is_not_even_looked_at(deployment: Any, intrude: Any) -> None:
    bundle = tampered()
    answer = intrude(bundle).ask(hello(), protocol.HELLO)
    assert name_in(answer) == "north"
    entries, head = protocol.ledger_head(answer.content) or (0, "")
    assert entries > 0
    assert re.fullmatch("[0-9a-f]{64}", head)
    assert said(deployment).count(f"bundle of SHA-256 {digest(bundle)}, not used") == 1
    assert digest(bundle) in deployment.parts["executor-north"].text()
    home = deployment.sites["north"].gate_folder / "flower"
    assert not [*home.rglob("*.py")]


def test_pinned_a_bundle_runs_only_if_the_site_approved_it(deployment: Any, intrude: Any) -> None:
    ours, theirs = make_bundle(), tampered()
    with settings(deployment, code="pin", approved_bundles=[digest(ours)]):
        refused = intrude(theirs).ask(hello(), protocol.HELLO)
        assert protocol.failure_code(refused.content) == "bundle_refused"
        assert digest(theirs) in said(deployment)
        assert "approved_bundles = [" in said(deployment)
        home = deployment.sites["north"].gate_folder / "flower"
        assert not [path for path in home.rglob("*.py") if digest(theirs) in str(path)]
        intruder = intrude(ours)
        assert name_in(intruder.ask(hello(), protocol.HELLO)) == "north"
        plan, weights = small_round(deployment.sites["north"])
        trained = intruder.ask(protocol.request(plan, weights), protocol.ROUND)
        assert protocol.sums(trained.content)["train-beats"] > 0
        # What answered was the bundle's own code, not the preloaded one.
        assert [path for path in home.rglob("client/app.py") if digest(ours) in str(path)]


def test_an_approved_bundle_cannot_lie_about_its_name(deployment: Any, intrude: Any) -> None:
    bundle = tampered()
    with settings(deployment, code="pin", approved_bundles=[digest(bundle)]):
        answer = intrude(bundle).ask(hello(), protocol.HELLO)
    assert protocol.failure_code(answer.content) == "bad_message"


def test_an_agent_run_is_refused_and_the_node_stays_usable(deployment: Any, intrude: Any) -> None:
    agent = intrude(tampered('agentapp = "client.app:app"\nclientapp = "client.app:app"'))
    assert agent.kind == AGENT_TASK
    answer = agent.ask(hello(), protocol.HELLO)
    assert protocol.failure_code(answer.content) == "task_refused"
    assert "refused (task_refused)" in said(deployment)
    assert name_in(intrude(make_bundle()).ask(hello(), protocol.HELLO)) == "north"


def test_an_unknown_message_type_is_refused(deployment: Any, intrude: Any) -> None:
    intruder = intrude(make_bundle())
    for kind in ("query.database", "train"):
        answer = intruder.ask(hello(), kind)
        assert answer.has_content(), answer.error
        assert protocol.failure_code(answer.content) == "task_refused"
        assert f"{kind!r} is not one of this federation's" in said(deployment)
    assert name_in(intruder.ask(hello(), protocol.HELLO)) == "north"


def test_a_message_outside_the_protocol_reaches_no_app(deployment: Any, intrude: Any) -> None:
    content = hello()
    content["more"] = ConfigRecord({"path": "/etc/passwd"})
    answer = intrude(make_bundle()).ask(content, protocol.HELLO)
    assert protocol.failure_code(answer.content) == "bad_message"
    assert "/etc/passwd" not in said(deployment)


def test_in_its_maintenance_window_a_site_only_says_hello(deployment: Any, intrude: Any) -> None:
    path = deployment.sites["north"].folder / "site.toml"
    before = path.read_text()
    assert "[settings.policy]" in before
    path.write_text(before.replace("[settings.policy]", '[settings.policy]\nmaintenance = "00:00-00:00"'))
    try:
        intruder = intrude(make_bundle())
        plan, weights = small_round(deployment.sites["north"])
        answer = intruder.ask(protocol.request(plan, weights), protocol.ROUND)
        assert protocol.failure_code(answer.content) == "maintenance"
        assert name_in(intruder.ask(hello(), protocol.HELLO)) == "north"
    finally:
        path.write_text(before)


def test_a_stopped_executor_answers_that_it_was_stopped(deployment: Any, intrude: Any) -> None:
    plan, weights = small_round(deployment.sites["north"], local_epochs=10, batch_size=2)
    intruder = intrude(make_bundle())
    ids = intruder.send(protocol.request(plan, weights), protocol.ROUND)
    deployment.wait(lambda: f"run {intruder.run_id} came" in said(deployment), ANSWER_S, "the site works")
    part = deployment.parts["executor-north"]
    os.kill(part.pid, signal.SIGTERM)
    try:
        assert part.process.wait(30) == 143
        assert "Stopped." in part.text()
    finally:
        part.start()
    (answer,) = intruder.answers(ids)
    assert protocol.failure_code(answer.content) == "interrupted"
    assert name_in(intruder.ask(hello(), protocol.HELLO)) == "north"


@pytest.fixture
def between(deployment: Any) -> Iterator[Between]:
    """Start the executor anew with something between it and its node."""
    part = deployment.parts["executor-north"]
    command, place = part.command, part.command.index("--node-address") + 1
    part.end()
    made = Between(command[place])
    part.command = [*command[:place], made.address, *command[place + 1 :]]
    part.start()
    try:
        yield made
    finally:
        made.let_go.set()
        part.end()
        made.close()
        part.command = command
        part.start()


def test_stopped_while_it_fetches_a_message_it_answers_all_the_same(
    deployment: Any, intrude: Any, between: Between
) -> None:
    intruder = intrude(make_bundle())
    between.let_go.clear()
    ids = intruder.send(hello(), protocol.HELLO)
    assert between.reached.wait(ANSWER_S)
    part = deployment.parts["executor-north"]
    (child,) = deployment.children("executor-north")
    os.kill(child, signal.SIGTERM)
    os.kill(part.pid, signal.SIGTERM)
    time.sleep(1)  # whoever ends at once has ended by now
    between.let_go.set()
    assert part.process.wait(30) == 143
    (answer,) = intruder.answers(ids)
    assert protocol.failure_code(answer.content) == "interrupted"
    part.start()
    assert name_in(intruder.ask(hello(), protocol.HELLO)) == "north"


def test_a_message_whose_content_is_not_what_was_announced_is_refused(
    deployment: Any, intrude: Any, between: Between
) -> None:
    intruder = intrude(make_bundle())
    between.spoil = True
    answer = intruder.ask(hello(), protocol.HELLO)
    assert protocol.failure_code(answer.content) == "bad_message"
    assert "refused (bad_message): the message's content cannot be read" in said(deployment)
    between.spoil = False
    assert name_in(intruder.ask(hello(), protocol.HELLO)) == "north"


def test_the_ledger_holds_every_reply_and_the_heart_beats(deployment: Any) -> None:
    site = deployment.sites["north"]
    assert verify(site.gate_folder) == []
    assert deployment.site("executor", str(site.folder), "--check").code == 0
    beat, part = site.gate_folder / "heartbeat", deployment.parts["executor-north"]

    def beats() -> bool:
        return bool(beat.stat().st_mtime > 0)

    os.utime(beat, (0, 0))
    deployment.wait(beats, ANSWER_S, "the executor beats", ("executor-north",))
    # It hangs: there, but without a beat.
    os.kill(part.pid, signal.SIGSTOP)
    try:
        state = Path(f"/proc/{part.pid}/stat")
        deployment.wait(lambda: state.read_text().rpartition(") ")[2][0] == "T", ANSWER_S, "it hangs")
        os.utime(beat, (0, 0))
        hung = deployment.site("executor", str(site.folder), "--check", check=False)
    finally:
        os.kill(part.pid, signal.SIGCONT)
    assert hung.code == 2
    assert "last seen" in hung.output
    deployment.wait(beats, ANSWER_S, "the executor beats again", ("executor-north",))


def small_round(site: Any, **training: int) -> tuple[RoundPlan, Weights]:
    network = build_model(site.settings.model, torch_stream("test"))
    plan = RoundPlan(
        name="main",
        seed=0,
        schema=schema_of(network).digest,
        preprocessing=site.settings.preprocessing_digest(),
        model=site.settings.model,
        round=1,
        train=True,
        training=site.settings.training.model_copy(update={**training, "beats_per_strip": 0}),
    )
    return plan, pack(network)

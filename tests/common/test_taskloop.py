"""The loop that takes tasks: one child per task, a heartbeat, and no giving up while the other side is away.

The other side is a small server that speaks the engine's own protocol; a real node and a real SuperLink are
behind it in the deployment tests.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.proto.task_pb2 import Task

from common import taskloop
from common.errors import ConfigurationError, IdentityError
from common.taskloop import CLIENT_TASK, check_engine
from server import pki
from server.coordinator import make_coordinator

LOOP = """
import os, signal, sys, threading, time
from pathlib import Path
from common import command, taskloop
from common.logs import say
import typer

folder, address, interrupted = Path(sys.argv[1]), sys.argv[2], sys.argv.pop()
fork = os.fork

def fork_and_stop():
    child = fork()
    if child:
        (folder / "forked").write_text(str(child))
    here = "parent" if child else "child"
    if here == interrupted and not (folder / "told").exists():
        (folder / "told").touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return child

os.fork = fork_and_stop

def fail():
    raise ValueError("patient 4711")

def work(runtime, task, token):
    (folder / f"{task.task_id}.pid").write_text(f"{os.getpid()} {token}")
    match task.task_id:
        case 2: os.kill(os.getpid(), signal.SIGKILL)
        case 3: raise ValueError("patient 4711")
        case 4: time.sleep(60)
        case 7:  # told to stop once more while it ends
            sys.stdout.flush = lambda: os.kill(os.getpid(), signal.SIGTERM)
            raise KeyboardInterrupt
        case 6:
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
    return 0

app = typer.Typer()

@app.command()
def main(folder: Path, address: str) -> None:
    runtime = taskloop.Runtime(address, b"x" * 32)
    say("begin")
    taskloop.serve(runtime, {"flwr-clientapp"}, work, heartbeat=folder / "heartbeat")

command.run_app(app)
"""


Start = Callable[..., subprocess.Popen[str]]


class Node:
    """A runtime API that hands out tasks one after the other."""

    def __init__(self, port: int = 0) -> None:
        self.tasks: list[int] = []
        self.asked: list[list[str]] = []
        self.status = 200
        node = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                node.asked.append(list(AcquireTaskRequest.FromString(body).supported_task_types))
                answer = AcquireTaskResponse()
                if node.status == 200 and node.tasks:
                    number = node.tasks.pop(0)
                    answer.task.CopyFrom(Task(task_id=number, type=CLIENT_TASK))
                    answer.token = f"token-{number}"
                data = answer.SerializeToString()
                self.send_response(node.status)
                self.send_header("content-type", "application/protobuf")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def over(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(port: int, interrupted: str = "nobody") -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", LOOP, str(tmp_path), f"127.0.0.1:{port}", interrupted],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.communicate(timeout=20)


def wait(condition: Callable[[], Any], limit_s: float = 60.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def stopped(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=40)
    return process.returncode, out


def test_each_task_has_a_child_of_its_own_and_a_killed_one_ends_only_itself(
    node: Node, start: Start, tmp_path: Path
) -> None:
    node.tasks = [1, 2, 3, 6, 7, 5]
    process = start(node.port)
    wait(lambda: (tmp_path / "5.pid").exists())
    count = len(node.asked)
    wait(lambda: len(node.asked) > count)
    code, out = stopped(process)
    assert code == 143
    pids = [(tmp_path / f"{number}.pid").read_text().split() for number in (1, 2, 3, 6, 7, 5)]
    assert len({pid for pid, _ in pids} | {str(process.pid)}) == 7
    assert [token for _, token in pids] == [f"token-{number}" for number in (1, 2, 3, 6, 7, 5)]
    assert node.asked[0] == [CLIENT_TASK]
    assert "ended by SIGKILL" in out
    assert "the task's process failed: ValueError" in out
    assert "a thread of the task's process failed: ValueError" in out
    assert "Traceback" not in out
    assert "4711" not in out  # the text of an error may say anything
    assert out.count("Stopped.") == 1


def test_told_to_stop_it_ends_its_child_first_and_beats_while_the_child_works(
    node: Node, start: Start, tmp_path: Path
) -> None:
    node.tasks = [4]
    process = start(node.port)
    beat = tmp_path / "heartbeat"
    wait(lambda: (tmp_path / "4.pid").exists() and (tmp_path / "4.pid").read_text())
    os.utime(beat, (0, 0))
    wait(lambda: beat.stat().st_mtime > 0)
    child = int((tmp_path / "4.pid").read_text().split()[0])
    code, _ = stopped(process)
    assert code == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_told_to_stop_right_after_the_fork_no_child_is_left_behind(
    node: Node, start: Start, tmp_path: Path
) -> None:
    node.tasks = [4]
    out, _ = (process := start(node.port, "parent")).communicate(timeout=60)
    assert process.returncode == 143
    assert out.count("Stopped.") == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "forked").read_text()), 0)


def test_a_child_told_to_stop_right_after_the_fork_ends_only_itself(
    node: Node, start: Start, tmp_path: Path
) -> None:
    node.tasks = [4, 1]
    process = start(node.port, "child")
    wait(lambda: (tmp_path / "1.pid").exists())
    assert not (tmp_path / "4.pid").exists()
    code, out = stopped(process)
    assert code == 143
    assert "task 4: ended with an error" in out
    assert out.count("Stopped.") == 1


def test_long_away_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch, node: Node) -> None:
    monkeypatch.setattr(taskloop, "AWAY_LINE_S", -1.0)
    node.status = 503
    source = taskloop._Source(taskloop.Runtime(f"127.0.0.1:{node.port}", b"x" * 32), [CLIENT_TASK])
    said: list[str] = []
    monkeypatch.setattr(taskloop, "say", said.append)
    assert source.acquire() is None
    assert source.acquire() is None
    node.close()
    assert source.acquire() is None
    assert said[0].endswith("answers with status 503; asking again until it does")
    assert "has answered with status 503 for 0" in said[1]
    assert "has not answered for 0" in said[2]


def test_while_the_other_side_is_away_it_goes_on_asking(start: Start, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(port)
    wait(lambda: (tmp_path / "heartbeat").exists())
    node = Node(port)
    try:
        node.tasks = [1]
        wait(lambda: (tmp_path / "1.pid").exists())
        code, out = stopped(process)
    finally:
        node.close()
    assert code == 143
    assert out.count("asking again until it does") == 1
    assert "is back after" in out


def test_a_certificate_of_another_authority_is_not_asked_again(tmp_path: Path) -> None:
    ours, theirs = (make_coordinator(tmp_path / name, ("localhost",)) for name in ("ours", "theirs"))
    for coordinator in (ours, theirs):
        pki.init(coordinator)
    node = Node()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.certificate, theirs.key)
    node.over(context)
    try:
        trusted = taskloop.Runtime(f"localhost:{node.port}", b"x" * 32, theirs.authority)
        assert taskloop._Source(trusted, [CLIENT_TASK]).acquire() is not None
        refused = taskloop.Runtime(f"localhost:{node.port}", b"x" * 32, ours.authority)
        with pytest.raises(IdentityError, match=r"ca\.crt did not sign for it \("):
            taskloop._Source(refused, [CLIENT_TASK]).acquire()
    finally:
        node.close()


@pytest.mark.parametrize(("status", "sentence"), [(401, "does not accept the secret"), (404, "status 404")])
def test_a_refusal_ends_it_with_a_sentence(node: Node, start: Start, status: int, sentence: str) -> None:
    node.status = status
    out, _ = (process := start(node.port)).communicate(timeout=60)
    assert process.returncode == 2
    assert sentence in out
    assert "Traceback" not in out


def test_what_is_relied_on_in_the_engine_is_checked_by_name_and_parameter() -> None:
    from client.gate.executor import USES

    check_engine(USES)
    for wrong in (
        {"flwr.supernode.runtime.run_clientapp:push_everything": ()},
        {"flwr.supernode.nowhere:push_message": ()},
        {"flwr.supernode.runtime.run_clientapp:push_message": ("client", "envelope")},
    ):
        with pytest.raises(ConfigurationError, match=r"Flower 1\.\d+\.\d+ has no"):
            check_engine(wrong)

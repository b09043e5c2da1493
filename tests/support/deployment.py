"""A whole deployment on one machine: our own commands as real processes, on loopback, over TLS.

Every process is started as an operator would start it, in a process group of its own, and writes a log of its
own. Whatever happens, everything that was started is ended again. Every wait has a limit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

SUPPORT = Path(__file__).parent
BINARIES = Path(sys.executable).parent
READY_S = 90.0
RUN_S = 240.0
COMMAND_S = 60.0
STOP_S = 15.0
POLL_S = 0.1
TAIL = 3000


def load(name: str) -> ModuleType:
    """Load a module of the tests' support folder, once."""
    known = f"fedkalemia_test_{name}"
    with _loading:
        if known not in sys.modules:
            spec = importlib.util.spec_from_file_location(known, SUPPORT / f"{name}.py")
            if spec is None or spec.loader is None:
                raise FileNotFoundError(SUPPORT / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[known] = module
            spec.loader.exec_module(module)
        return sys.modules[known]


_loading = threading.Lock()


class TooLong(AssertionError):  # noqa: N818
    """Something did not happen in time; says what, with the ends of the logs."""


@dataclass
class Part:
    """One process of a deployment and how to start it.

    Attributes
    ----------
    name : ``superlink``, ``front``, ``runner``, ``node-SITE`` or ``executor-SITE``.
    command : one of our own commands with its arguments.
    log : what it wrote, over all its starts.
    prefix : what to put before the command, such as a network namespace.
    keep : start it again whenever it ends, as a service manager does.
    stamped : put the time, Unix seconds, before each line of the log.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    prefix: Sequence[str] = ()
    keep: bool = False
    stamped: bool = False
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process in a group of its own."""
        executable = str(BINARIES / self.command[0])
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*self.prefix, executable, *self.command[1:]],
                env=dict(self.environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.stamped else out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.starts += 1
        if self.stamped:
            threading.Thread(target=self._stamp, args=(self.process,), daemon=True).start()

    def _stamp(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout, self.log.open("ab") as out:
            for line in process.stdout:
                out.write(f"{time.time():.3f} ".encode() + line)
                out.flush()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Number of the process."""
        if self.process is None:
            raise AssertionError(f"{self.name} was never started")
        return self.process.pid

    def text(self) -> str:
        """Return the log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send(self, how: signal.Signals) -> None:
        """Send a signal to the whole group."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the whole group; return the exit code."""
        self.keep = False
        if self.process is None:
            return 0
        self.send(how)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            code = self.process.wait(STOP_S)
        self.send(signal.SIGKILL)  # whatever the process left behind in its group
        return code


@dataclass
class Ended:
    """How a run ended: exit code, what the command wrote, and ``server.json`` if there is one."""

    code: int
    output: str
    story: dict[str, Any] = field(default_factory=dict)


class Run:
    """A ``fedkalemia-server run`` or ``resume`` under way."""

    def __init__(self, process: subprocess.Popen[str], log: Path, story: Path) -> None:
        self._process, self._log, self._story = process, log, story

    @property
    def story(self) -> dict[str, Any]:
        """Return ``server.json`` as it is now, empty if there is none."""
        try:
            story: dict[str, Any] = json.loads(self._story.read_text())
        except (OSError, ValueError):
            return {}
        return story

    @property
    def output(self) -> str:
        """Return what the command wrote so far."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether the command is still there."""
        return self._process.poll() is None

    def wait(self, limit_s: float = RUN_S) -> Ended:
        """Wait for the end."""
        try:
            code = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TooLong(f"the run did not end in {limit_s:g} s\n{self.output[-TAIL:]}") from None
        return Ended(code, self.output, self.story)

    def kill(self) -> None:
        """End the command; the run itself may go on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_S)


class Deployment:
    """A coordinator and its sites.

    Parameters
    ----------
    folder : an empty or absent folder; everything is inside.
    sites : names of the sites, or what ``make_tiny_site`` takes for each.
    settings : laid over the tiny sites' settings, at every site and for the runs.
    make : further arguments of ``make_tiny_site`` for every site.
    maker : makes a site in place of ``make_tiny_site``, with its arguments.
    wires : put a ``Wire`` between each node and the front end, which ``cut`` and ``join`` need.
    tap : record what passes between node and executor of each site to ``tap-SITE.bin``.
    debug : all processes log all they can.
    prefix : what to put before a command, by the name of the part; ``commands`` for those that are not parts.
    hosts : names in the certificate; the first is where the coordinator itself finds the front end.
    places : hosts at which a site's node finds the front end, and its executor finds the node.
    stamped : put the time before each line of the logs.
    """

    def __init__(
        self,
        folder: Path,
        sites: Sequence[str] | Mapping[str, Mapping[str, Any]],
        *,
        settings: Mapping[str, Any] | None = None,
        make: Mapping[str, Any] | None = None,
        maker: Callable[..., Any] | None = None,
        wires: bool = True,
        tap: bool = False,
        debug: bool = False,
        prefix: Mapping[str, Sequence[str]] | None = None,
        hosts: Sequence[str] = ("127.0.0.1", "localhost"),
        places: Mapping[str, tuple[str, str]] | None = None,
        stamped: bool = False,
    ) -> None:
        self.folder, self.home = folder, folder / "coordinator"
        self.logs_folder = folder / "logs"
        self.parts: dict[str, Part] = {}
        self.sites: dict[str, Any] = {}
        self.wires: dict[str, Any] = {}
        self.taps: dict[str, Any] = {}
        self._specs = {name: {} for name in sites} if not isinstance(sites, Mapping) else dict(sites)
        self._settings, self._make = dict(settings or {}), dict(make or {})
        self._maker = maker or load("sites").make_tiny_site
        self._wired, self._tapped, self._debug = wires, tap, debug
        self._prefix, self._hosts, self._stamped = dict(prefix or {}), tuple(hosts), stamped
        self._places = dict(places or {})
        self._stack = contextlib.ExitStack()
        self._ended = threading.Event()
        self._runs = 0

    # --- from nothing to a running deployment -------------------------------------------------------------

    def __enter__(self) -> Deployment:
        """Make the folders, start everything and wait until it is ready."""
        try:
            self.prepare()
            self.start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that was started."""
        self.close()

    def prepare(self) -> None:
        """Make the coordinator's folder and the sites' folders; start nothing."""
        self.logs_folder.mkdir(parents=True, exist_ok=True)
        superlink, self.front_port = free_ports(2)
        self.superlink = f"127.0.0.1:{superlink}"
        hosts = [part for host in self._hosts for part in ("--host", host)]
        self.server(
            *("pki", "init", str(self.home), *hosts),
            *("--superlink", self.superlink, "--front-port", str(self.front_port)),
        )
        self.authority = self.home / "pki" / "ca.crt"
        self._add("superlink", ["fedkalemia-server", "superlink", str(self.home)])
        self._add("front", ["fedkalemia-server", "front", str(self.home)])
        self._add("runner", ["fedkalemia-server", "runner", str(self.home)])
        for name, spec in self._specs.items():
            self.add_site(name, **spec)

    def add_site(self, name: str, **make: Any) -> None:
        """Make a site's folder, its keys and its parts; it is neither registered nor started.

        Parameters
        ----------
        make : laid over the deployment's own arguments of ``make_tiny_site``.
        """
        from client.gate.folders import make_folders

        host, near = self._places.get(name, (self._hosts[0], "127.0.0.1"))
        front = (host, self.front_port)
        address = f"{front[0]}:{front[1]}"
        if self._wired:
            wire = load("wire").Wire(front)
            self._stack.callback(wire.close)
            self.wires[name], address = wire, wire.address
        (port,) = free_ports(1)
        runtime = f"{near}:{port}"
        site = self._maker(
            self.folder / "sites" / name, name, settings=self._settings, **{**self._make, **make}
        )
        self.sites[name] = site
        make_folders(site.folder, name=name, server=address, authority=self.authority, listen=runtime)
        self._add(f"node-{name}", ["fedkalemia-site", "node", str(site.node)])
        self._add_executor(name, runtime)

    def _add_executor(self, name: str, runtime: str) -> None:
        if self._tapped:
            host, _, port = runtime.rpartition(":")
            tap = load("wire").Wire((host, int(port)), record=self.tap(name))
            self._stack.callback(tap.close)
            self.taps[name], runtime = tap, tap.address
        folder = str(self.sites[name].folder)
        self._add(f"executor-{name}", ["fedkalemia-site", "executor", folder, "--node-address", runtime])

    def _add(self, name: str, command: Sequence[str]) -> None:
        self.parts[name] = Part(
            name,
            command,
            self.logs_folder / f"{name}.log",
            environment(self._debug),
            self._prefix.get(name, ()),
            stamped=self._stamped,
        )

    def start_all(self) -> None:
        """Start the coordinator, register the sites, start them, and wait until all are connected."""
        self.start("superlink")
        self.wait(lambda: self.healthy(self.superlink), READY_S, "the SuperLink answers", ("superlink",))
        for name in self.sites:
            self.register(name)
        for part in ("front", "runner"):
            self.start(part)
        front = f"{self._hosts[0]}:{self.front_port}"
        self.wait(lambda: self.healthy(front), READY_S, "the front end answers", ("front",))
        for name in self.sites:
            self.start(f"node-{name}")
            self.start(f"executor-{name}")
        for name in self.sites:
            self.wait_connected(name)

    def register(self, name: str) -> None:
        """Register a site's public key under its name, as the coordinator's operator does."""
        public = self.sites[name].node / "node.pub"
        self.server("site", "add", str(self.home), name, str(public))

    def freeze(self, name: str, run: str) -> None:
        """Freeze a site's cohort for the runs of another name."""
        from client.data.cohort import freeze_cohort
        from client.database.session import open_database, sessions

        engine = open_database(self.sites[name].database_url)
        freeze_cohort(self.sites[name], sessions(engine), name=run)
        engine.dispose()

    def close(self) -> None:
        """End everything that was started."""
        self._ended.set()
        for part in self.parts.values():
            part.keep = False
        for how in (signal.SIGTERM, signal.SIGKILL):
            for part in self.parts.values():
                part.send(how)
            deadline = time.monotonic() + STOP_S
            for part in self.parts.values():
                if part.process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        part.process.wait(max(0.1, deadline - time.monotonic()))
        self._stack.close()

    # --- parts --------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start one part."""
        self.parts[name].start()

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """End one part and all its children; return its exit code."""
        return self.parts[name].end(how)

    def restart(self, name: str) -> None:
        """Start a part again and again until it stays, as a service manager does.

        A killed node is refused, and ends by itself, until the SuperLink has noticed that it was gone.
        """
        self.keep(name)

    def keep(self, name: str, every_s: float = 2.0) -> None:
        """Keep a part running from now on: whenever it ends it is started again."""
        part = self.parts[name]
        part.keep = True
        if not part.running:
            part.start()

        def watch() -> None:
            while not self._ended.wait(every_s) and part.keep:
                if not part.running and not self._ended.is_set():
                    part.start()

        watcher = threading.Thread(target=watch, name=f"keep {name}", daemon=True)
        watcher.start()
        self._stack.callback(watcher.join, STOP_S)

    def cut(self, name: str) -> None:
        """Cut a site's link to the coordinator."""
        self.wires[name].cut()

    def join(self, name: str) -> None:
        """Give a site its link back."""
        self.wires[name].join()

    def connected(self, name: str) -> int:
        """Return how often a site's node said that it is connected."""
        return self.parts[f"node-{name}"].text().count("SuperNode ID:")

    def wait_connected(self, name: str, times: int = 1, limit_s: float = READY_S) -> None:
        """Wait until a site's node is connected for the given time."""
        self.wait(lambda: self.connected(name) >= times, limit_s, f"{name} is connected", (f"node-{name}",))

    def children(self, name: str) -> list[int]:
        """Return the processes that a part has started and that are there."""
        return children_of(self.parts[name].pid) if self.parts[name].running else []

    # --- commands and runs --------------------------------------------------------------------------------

    def command(self, *arguments: str, check: bool = True) -> Ended:
        """Run one of our commands to its end."""
        done = subprocess.run(
            [*self._prefix.get("commands", ()), str(BINARIES / arguments[0]), *arguments[1:]],
            env=environment(),
            cwd="/",
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}\n{done.stdout}")
        return Ended(done.returncode, done.stdout)

    def server(self, *arguments: str, check: bool = True) -> Ended:
        """Run ``fedkalemia-server``."""
        return self.command("fedkalemia-server", *arguments, check=check)

    def site(self, *arguments: str, check: bool = True) -> Ended:
        """Run ``fedkalemia-site``."""
        return self.command("fedkalemia-site", *arguments, check=check)

    def begin(self, *options: str, name: str = "main", command: str = "run") -> Run:
        """Submit a run with the settings of the sites and do not wait."""
        self._runs += 1
        log = self.logs_folder / f"run-{self._runs}.log"
        arguments = [command, str(self.home), "--name", name]
        if command == "run":
            arguments += ["--settings", str(self.settings_file())]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    *self._prefix.get("commands", ()),
                    *(str(BINARIES / "fedkalemia-server"), *arguments, *options),
                ],
                env=environment(self._debug),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        run = Run(process, log, self.out(name) / "server.json")
        self._stack.callback(run.kill)
        return run

    def run(self, *options: str, name: str = "main", limit_s: float = RUN_S) -> Ended:
        """Submit a run and wait for its end."""
        return self.begin(*options, name=name).wait(limit_s)

    def settings_file(self) -> Path:
        """Write the settings that all sites share, once."""
        path = self.folder / "settings.json"
        if not path.exists():
            first = next(iter(self.sites.values()))
            path.write_text(json.dumps(first.settings.model_dump(mode="json")))
        return path

    def out(self, name: str = "main") -> Path:
        """Return the folder of a run."""
        return self.home / "runs" / name

    def tap(self, name: str) -> Path:
        """Return the file with the bytes that passed between a site's node and executor."""
        return self.folder / f"tap-{name}.bin"

    # --- looking ------------------------------------------------------------------------------------------

    def healthy(self, address: str) -> bool:
        """Return whether a TLS server with the coordinator's certificate answers ``/health``."""
        if prefix := self._prefix.get("commands"):
            command = [*prefix, sys.executable, "-I", "-c", ASK_HEALTH, address, str(self.authority)]
            return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
        context = ssl.create_default_context(cafile=str(self.authority))
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"https://{address}/health", context=context, timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def wait_in_round(self, run: Run, site: str, rounds: int, limit_s: float = READY_S) -> int:
        """Wait until a site computes in the round after the given number; return the computing process."""
        name = f"executor-{site}"

        def computing() -> int:
            if not run.running:
                raise TooLong(f"the run ended before {site} could be found computing\n{run.output[-TAIL:]}")
            if len(run.story.get("rounds", ())) < rounds:
                return 0
            for child in self.children(name):
                if processor_s(child) > WORKING_S:
                    return child
            return 0

        return int(self.wait(computing, limit_s, f"{site} computes after round {rounds}", (name,)))

    def wait(self, condition: Callable[[], Any], limit_s: float, what: str, parts: Sequence[str] = ()) -> Any:
        """Wait until something holds; a part that must be there for it and is not ends the wait."""
        deadline = time.monotonic() + limit_s
        while not (value := condition()):
            gone = [name for name in parts if not (self.parts[name].running or self.parts[name].keep)]
            if gone or time.monotonic() > deadline:
                why = f"{', '.join(gone)} ended" if gone else f"not within {limit_s:g} s"
                raise TooLong(f"{what}: {why}\n{self.tails()}")
            time.sleep(POLL_S)
        return value

    def logs(self) -> dict[str, str]:
        """Return everything every process wrote, by the name of the log."""
        found = sorted(self.logs_folder.glob("*.log"))
        return {path.stem: path.read_text(errors="replace") for path in found}

    def tails(self) -> str:
        """Return the ends of all logs, for a failure's message."""
        return "\n".join(f"--- {name}\n{text[-TAIL:]}" for name, text in self.logs().items())


#: Asks for ``/health`` from another network namespace.
ASK_HEALTH = (
    "import ssl, sys, urllib.request as u; "
    "context = ssl.create_default_context(cafile=sys.argv[2]); "
    "u.urlopen(f'https://{sys.argv[1]}/health', context=context, timeout=5)"
)
#: Processor seconds of a message's process after which it must be computing, and not just starting.
WORKING_S = 0.4


def environment(debug: bool = False) -> dict[str, str]:
    """Return the environment of an operator's shell: one thread per process, our commands on the path."""
    values = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "FEDKALEMIA_"))}
    values |= {
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BINARIES}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
    }
    return values | ({"FLWR_LOG_LEVEL": "DEBUG"} if debug else {})


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that descend from it."""
    yield pid
    for child in children_of(pid):
        yield from family(child)


def processor_s(pid: int) -> float:
    """Return the processor seconds a process has used; 0 if it is gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def proportional_mib(pid: int) -> float:
    """Return a process family's memory in MiB; what processes share is counted once (PSS)."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError, StopIteration):
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
            total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total / 1024

"""What a network lets a site reach, with network namespaces as the hospitals' machines.

One namespace per hospital's node, one link each to the coordinator's front end, and an executor's namespace
behind its node. Nothing here is simulated but the wires: the front end is nginx with the configuration of
``pki init``, the SuperLink is the real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.deployment

LIMIT_S = 30.0
NAMES = ("front", "north", "south", "lab")
#: Every machine is known by name everywhere: a name that cannot be reached is not just one that is unknown.
HOSTS = {
    "coordinator": "10.77.1.1",
    "north-node": "10.77.1.2",
    "south-node": "10.77.2.2",
    "north-lab": "10.77.3.2",
}
OWN_HOSTS = Path("/etc/netns")  # where 'ip netns exec' looks for a namespace's own files


@dataclass
class Network:
    """Namespaces, links and addresses, made and taken away as one.

    ``front`` has a link to each of ``north`` and ``south``; ``lab`` has one to ``north`` and no route on.
    """

    tag: str

    def name(self, short: str) -> str:
        """Return the full name of a namespace."""
        return f"fk{self.tag}-{short}"

    def make(self) -> None:
        """Make everything."""
        for short in NAMES:
            ip("netns", "add", self.name(short))
            own = OWN_HOSTS / self.name(short)
            own.mkdir(parents=True)
            (own / "hosts").write_text("".join(f"{at} {name}\n" for name, at in HOSTS.items()))
            ip("-n", self.name(short), "link", "set", "lo", "up")
            ip(*("netns", "exec", self.name(short), "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"))
        self._link("front", "10.77.1.1", "north", "10.77.1.2")
        self._link("front", "10.77.2.1", "south", "10.77.2.2")
        self._link("north", "10.77.3.1", "lab", "10.77.3.2")
        # As a hospital's router would: everything that is not near goes to the coordinator.
        for short, gateway in (("north", "10.77.1.1"), ("south", "10.77.2.1"), ("lab", None)):
            if gateway:
                ip("-n", self.name(short), "route", "add", "default", "via", gateway)

    def _link(self, one: str, address: str, other: str, far: str) -> None:
        ends = (f"fk{self.tag}{one[0]}{other[0]}", f"fk{self.tag}{other[0]}{one[0]}")
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for short, end, own in ((one, ends[0], address), (other, ends[1], far)):
            ip("link", "set", end, "netns", self.name(short))
            ip("-n", self.name(short), "address", "add", f"{own}/24", "dev", end)
            ip("-n", self.name(short), "link", "set", end, "up")

    def remove(self) -> None:
        """Take everything away; links go with their namespaces."""
        for short in NAMES:
            subprocess.run(["ip", "netns", "delete", self.name(short)], check=False, capture_output=True)
            shutil.rmtree(OWN_HOSTS / self.name(short), ignore_errors=True)

    def inside(self, short: str) -> list[str]:
        """Return what to put before a command so that it runs in a namespace."""
        return ["ip", "netns", "exec", self.name(short)]

    def reaches(self, short: str, host: str, port: int) -> str:
        """Try to connect from a namespace; return ``open`` or the name of the error."""
        code = (
            "import socket, sys\n"
            "try:\n"
            "    socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).close()\n"
            "    print('open')\n"
            "except OSError as error:\n"
            "    print(type(error).__name__)\n"
        )
        return self.python(short, code, host, str(port)).strip()

    def python(self, short: str, code: str, *arguments: str) -> str:
        """Run a few lines in a namespace and return what they print."""
        command = [*self.inside(short), sys.executable, "-I", "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("the program 'ip' is not installed")
    network = Network(f"{os.getpid() % 100000}")
    try:
        network.make()
    except (subprocess.CalledProcessError, PermissionError) as error:
        network.remove()
        why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        pytest.skip(f"network namespaces cannot be made here: {why}")
    try:
        yield network
    finally:
        network.remove()


@pytest.fixture(scope="module")
def deployment(
    harness: ModuleType, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Run a coordinator in one namespace, each node in one, and one executor behind its node."""
    front, north, south, lab = (network.inside(short) for short in NAMES)
    prefix = {
        **dict.fromkeys(("superlink", "front", "runner", "commands"), front),
        "node-north": north,
        "executor-north": lab,
        "node-south": south,
        "executor-south": south,
    }
    with harness.Deployment(
        tmp_path_factory.mktemp("namespaces"),
        ("north", "south"),
        settings={"federation": {"rounds": 1}},
        make={"generic": 5, "personal": 0},
        wires=False,
        prefix=prefix,
        hosts=("127.0.0.1", "10.77.1.1", "10.77.2.1"),
        places={"north": ("10.77.1.1", "10.77.3.1"), "south": ("10.77.2.1", "127.0.0.1")},
    ) as made:
        yield made


def test_a_federation_runs_across_the_namespaces(deployment: Any) -> None:
    ended = deployment.run("--no-personalize")
    assert ended.code == 0, ended.output
    assert [entry["answered"] for entry in ended.story["rounds"]] == [["north", "south"]]


def test_a_hospital_reaches_the_front_end_and_nothing_else_of_the_coordinator(
    deployment: Any, network: Network
) -> None:
    ports = listening(network, "front")
    superlink = int(deployment.superlink.rpartition(":")[2])
    assert {deployment.front_port, superlink} <= ports
    for short, host in (("north", "10.77.1.1"), ("south", "10.77.2.1")):
        found = {port: network.reaches(short, host, port) for port in ports}
        assert found.pop(deployment.front_port) == "open"
        assert set(found.values()) == {"ConnectionRefusedError"}, found


def test_a_hospital_reaches_no_other_hospital(deployment: Any, network: Network) -> None:
    # The nodes' own ports are open at home, so that nothing but the network can be what refuses.
    home = deployment.parts["executor-north"].command[-1]
    host, _, port = home.rpartition(":")
    assert network.reaches("north", host, int(port)) == "open"
    for address in ("10.77.1.2", "10.77.3.1", "north-node", "north-lab"):
        assert network.reaches("south", address, int(port)) not in {"open", "gaierror"}
    for port_ in listening(network, "south"):
        for address in ("10.77.2.2", "south-node"):
            assert network.reaches("north", address, port_) not in {"open", "gaierror"}
    assert network.reaches("north", "coordinator", deployment.front_port) == "open"


def test_an_executor_reaches_its_node_and_nothing_else(deployment: Any, network: Network) -> None:
    host, _, port = deployment.parts["executor-north"].command[-1].rpartition(":")
    assert network.reaches("lab", host, int(port)) == "open"
    others = ("10.77.1.1", "10.77.1.2", "10.77.2.1", "10.77.2.2", "192.0.2.1", "coordinator", "south-node")
    for address in others:
        for port_ in (deployment.front_port, int(port), 443):
            if address != "10.77.1.2" or port_ != int(port):
                assert network.reaches("lab", address, port_) != "open", (address, port_)


def listening(network: Network, short: str) -> set[int]:
    """Return the TCP ports that are listened on in a namespace."""
    code = "import pathlib; print(pathlib.Path('/proc/net/tcp').read_text())"
    lines = [line.split() for line in network.python(short, code).splitlines()[1:]]
    return {int(line[1].rpartition(":")[2], 16) for line in lines if len(line) > 3 and line[3] == "0A"}

"""What the coordinator asks of its SuperLink: which nodes there are, which runs, start one, stop one.

The engine's own client does the talking, over TLS and checked against the federation's authority. Whatever
goes wrong becomes one sentence with the address and what to do.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import flwr.proto.control_pb2 as wire
import httpx

from common.errors import FederationError
from common.identity import read_certificate
from common.taskloop import Uses, check_engine
from server.bundle import digest
from server.coordinator import Coordinator
from server.run_config import DEFAULTS

if TYPE_CHECKING:  # none of these is public: imported once ``check_engine`` has found them
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

Result = TypeVar("Result")
UNREGISTERED, ONLINE = "unregistered", "online"
FINISHED = "finished"
#: A log stream that stays quiet for longer is asked for again, so that a lost connection is noticed.
QUIET_S = 20.0
#: Runs asked for at once; without a limit the SuperLink names the newest 20 only.
PAGE = 200

_CLIENT = "flwr.supercore.control:ControlHttpClient"
_WIRE = "flwr.proto.control_pb2"
USES: Uses = {
    f"{_CLIENT}.from_server_address": ("server_address", "insecure", "root_certificates", "interceptors"),
    **{
        f"{_CLIENT}.{method}": ()
        for method in ("ListNodes", "ListRuns", "RegisterNode", "StartRun", "StopRun", "StreamLogs")
    },
    f"{_CLIENT}.UnregisterNode": (),
    f"{_CLIENT}.close": (),
    "flwr.supercore.interceptors.http:RuntimeVersionHttpInterceptor": ("component_name",),
    "flwr.common.serde:user_config_to_proto": (),
    "flwr.proto.fab_pb2:Fab": (),
    f"{_WIRE}:ListRunsRequest.LIMIT_FIELD_NUMBER": (),
    f"{_WIRE}:ListRunsRequest.SKIP_FIELD_NUMBER": (),
}


@dataclass(frozen=True)
class NodeInfo:
    """What the SuperLink knows about a node.

    Attributes
    ----------
    public_key : PEM, as ``common.identity.read_public`` returns it.
    status : ``registered`` (never seen yet), ``online``, ``offline`` or ``unregistered``.
    activated_at : when its process last came online, as the SuperLink wrote it; empty if never.
    online_until : seconds since 1970 until which its last heartbeat counts; None if never seen.
    """

    node_id: int
    public_key: bytes
    name: str
    status: str
    activated_at: str
    online_until: float | None


@dataclass(frozen=True)
class RunInfo:
    """What the SuperLink knows about a run.

    Attributes
    ----------
    status : ``pending``, ``starting``, ``running`` or ``finished``.
    sub_status : how a finished run ended: ``completed``, ``failed`` or ``stopped``.
    config : the values that were given with it.
    pending_at : when it was submitted, ISO 8601.
    """

    run_id: int
    status: str
    sub_status: str
    details: str
    config: Mapping[str, Any]
    pending_at: str

    @property
    def finished(self) -> bool:
        """It will not change any more."""
        return self.status == FINISHED

    @property
    def name(self) -> str:
        """The name it was given."""
        return str(self.config.get("name", DEFAULTS["name"]))


class Control:
    """The SuperLink of one coordinator, while the ``with`` block lasts."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._client: ControlHttpClient | None = None

    def __enter__(self) -> Self:
        # Checked here because the engine's client would only say that a certificate could not be loaded.
        authority = read_certificate(self._coordinator.authority).path.read_bytes()
        check_engine(USES)
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors.http import RuntimeVersionHttpInterceptor

        self._client = ControlHttpClient.from_server_address(
            server_address=self._coordinator.superlink,
            insecure=False,
            root_certificates=authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI"), _QuietStream()],
        )
        return self

    def __exit__(self, *reason: object) -> None:
        if self._client is not None:
            self._client.close()

    def register(self, public_key: bytes, name: str) -> int:
        """Register a node's public key; return the node's id.

        Raises
        ------
        FederationError
            If the SuperLink cannot be reached or refuses, for one because the key is or was registered.
        """
        request = wire.RegisterNodeRequest(public_key=public_key, name=name)
        answer = self._ask(f"register {name}", lambda client: client.RegisterNode(request))
        if not answer.node_id:
            raise FederationError(f"the SuperLink at {self._address} did not register {name}; try again")
        return int(answer.node_id)

    def unregister(self, node_id: int) -> None:
        """Take a node's registration back; its key can never be registered again."""
        request = wire.UnregisterNodeRequest(node_id=node_id)
        self._ask(f"unregister node {node_id}", lambda client: client.UnregisterNode(request))

    def nodes(self) -> list[NodeInfo]:
        """Return every node, also those that were unregistered."""
        answer = self._ask("list its nodes", lambda client: client.ListNodes(wire.ListNodesRequest()))
        return [
            NodeInfo(
                node_id=int(node.node_id),
                public_key=bytes(node.public_key),
                name=str(node.name),
                status=str(node.status),
                activated_at=str(node.last_activated_at),
                online_until=float(node.online_until) if node.HasField("online_until") else None,
            )
            for node in answer.nodes_info
        ]

    def start_run(self, bundle: bytes, run_config: Mapping[str, bool | int | float | str]) -> int:
        """Submit a run; return its id.

        Parameters
        ----------
        bundle : the packed app (FAB).
        run_config : values for keys that the bundle's own configuration has; others are refused.

        Raises
        ------
        FederationError
            If the SuperLink cannot be reached or refuses.
        """
        from flwr.common.serde import user_config_to_proto
        from flwr.proto.fab_pb2 import Fab

        request = wire.StartRunRequest(
            fab=Fab(hash_str=digest(bundle), content=bundle),
            override_config=user_config_to_proto(dict(run_config)),
        )
        answer = self._ask("start a run", lambda client: client.StartRun(request))
        if not answer.HasField("run_id"):
            raise FederationError(
                f"the SuperLink at {self._address} did not start the run; its own log says why"
            )
        return int(answer.run_id)

    def runs(self, run_id: int | None = None) -> list[RunInfo]:
        """Return all runs, or the one asked for; oldest first."""
        if run_id is not None:
            found = self._runs(wire.ListRunsRequest(run_id=run_id))
        else:
            found = all_pages(lambda limit, skip: self._runs(wire.ListRunsRequest(limit=limit, skip=skip)))
        return sorted(found, key=lambda run: (run.pending_at, run.run_id))

    def _runs(self, request: wire.ListRunsRequest) -> list[RunInfo]:
        answer = self._ask("list its runs", lambda client: client.ListRuns(request))
        return [_run_info(run) for run in answer.run_dict.values()]

    def stop_run(self, run_id: int) -> bool:
        """Stop a run; return whether the SuperLink did."""
        request = wire.StopRunRequest(run_id=run_id)
        return bool(self._ask(f"stop run {run_id}", lambda client: client.StopRun(request)).success)

    def logs(self, run_id: int, after: float = 0.0) -> Iterator[tuple[str, float]]:
        """Yield pieces of a run's log with their times, in seconds since 1970, until the run has ended.

        Parameters
        ----------
        after : what was logged up to then is left out.

        Raises
        ------
        FederationError
            If the SuperLink cannot be reached any more.
        """
        show = f"show the log of run {run_id}"
        while True:
            request = wire.StreamLogsRequest(run_id=run_id, after_timestamp=after)
            try:
                pieces = self._ask(show, lambda client, what=request: client.StreamLogs(what), stream=True)
            except _QuietError:
                continue
            while True:
                try:
                    piece = self._ask(show, lambda _, of=pieces: next(of, None), stream=True)
                except _QuietError:
                    break
                if piece is None:
                    return
                after = max(after, float(piece.latest_timestamp))
                yield str(piece.log_output), after

    @property
    def _address(self) -> str:
        return self._coordinator.superlink

    def _ask(self, what: str, call: Callable[..., Result], *, stream: bool = False) -> Result:
        """Ask the SuperLink; a ``stream`` that says nothing for a while is ``_QuietError``, no failure."""
        if self._client is None:
            raise RuntimeError("use Control in a with statement")
        where = f"the SuperLink at {self._address}"
        try:
            return call(self._client)
        except httpx.HTTPStatusError as error:
            raise FederationError(
                f"{where} refused to {what}: {_detail(error.response)} (HTTP {error.response.status_code})"
            ) from error
        except httpx.ReadTimeout as error:
            if stream:
                raise _QuietError(str(error)) from None
            raise FederationError(f"{where} took too long to {what}; look at its log") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise FederationError(f"{where} {_trouble(error)}; {self._advice(error)}") from error

    def _advice(self, error: Exception) -> str:
        home = self._coordinator.folder
        if _is_tls(error):
            return (
                f"it may be another program, or one started before 'pki renew': start "
                f"'fedkalemia-server superlink {home}' again"
            )
        return (
            f"start it with 'fedkalemia-server superlink {home}', or correct 'superlink' in "
            f"{self._coordinator.file}"
        )


class _QuietError(Exception):
    """Nothing was logged for a while."""


class _QuietStream:
    """Bound the time between two pieces of a stream, which the engine's client leaves open."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        response = call_next(context)
        timeout = context.request.extensions.get("timeout")
        if isinstance(timeout, dict) and timeout.get("read", 0) is None:
            timeout["read"] = QUIET_S
        return response


def all_pages(page: Callable[[int, int], list[RunInfo]], size: int = PAGE) -> list[RunInfo]:
    """Return the runs of all pages; one that moves to the next page meanwhile is returned once.

    Parameters
    ----------
    page : returns up to so many runs, newest first, after leaving out so many.
    size : of a page.
    """
    found: dict[int, RunInfo] = {}
    skip = 0
    while runs := page(size, skip):
        found |= {run.run_id: run for run in runs}
        skip += len(runs)
        if len(runs) < size:
            break
    return list(found.values())


def _run_info(run: Any) -> RunInfo:
    config = {key: getattr(value, value.WhichOneof("scalar")) for key, value in run.override_config.items()}
    return RunInfo(
        run_id=int(run.run_id),
        status=str(run.status.status),
        sub_status=str(run.status.sub_status),
        details=str(run.status.details),
        config=config,
        pending_at=str(run.pending_at),
    )


def _detail(response: httpx.Response) -> str:
    try:
        values = json.loads(response.text)
        parts: Sequence[str] = [str(values[key]) for key in ("detail", "extra") if values.get(key)]
        return " ".join(parts).rstrip(".") or "no reason given"
    except (ValueError, AttributeError, httpx.ResponseNotRead):
        return "no reason given"


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError) or "SSL" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _trouble(error: Exception) -> str:
    if _is_tls(error):
        return f"does not show a certificate that this federation's authority signed for it ({error})"
    return f"cannot be reached ({_reason(error)})"


def _reason(error: BaseException) -> str:
    """Return what the system says, without its number."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, OSError) and below.strerror:
            return below.strerror[:1].lower() + below.strerror[1:]
        below = below.__cause__ or below.__context__
    return str(error) or type(error).__name__

#!/opt/fedkalemia/bin/python
"""Exit 0 if a service answers that it is healthy. Used by the containers' health checks.

``fedkalemia-health https://superlink:8000/health --ca /coordinator/pki/ca.crt``
``fedkalemia-health grpc://127.0.0.1:9095``
``fedkalemia-health beat:///site/gate/heartbeat``  a file that its service touches as long as it is alive
"""

from __future__ import annotations

import argparse
import ssl
import sys
import time
import urllib.request
from pathlib import Path

TIMEOUT_S = 8.0
BEAT_MAX_AGE_S = 30.0


def https_healthy(url: str, authority: Path) -> bool:
    """Ask a TLS server signed by ``authority``; healthy is status 200."""
    context = ssl.create_default_context(cafile=str(authority))
    with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context) as reply:
        return bool(reply.status == 200)


def grpc_healthy(address: str) -> bool:
    """Ask the standard gRPC health service at ``host:port``."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S, wait_for_ready=True
        )
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def beats(path: Path) -> bool:
    """Look at a heartbeat file; healthy is touched a moment ago."""
    return time.time() - path.stat().st_mtime < BEAT_MAX_AGE_S


def main() -> None:
    """Read the arguments, ask, and say in one line what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", help="https://HOST:PORT/PATH, grpc://HOST:PORT or beat:///FILE")
    parser.add_argument("--ca", type=Path, help="https: certificate of the authority")
    arguments = parser.parse_args()
    scheme, _, rest = arguments.url.partition("://")
    try:
        if scheme == "grpc":
            healthy = grpc_healthy(rest)
        elif scheme == "beat":
            healthy = beats(Path(rest))
        elif scheme == "https" and arguments.ca is not None:
            healthy = https_healthy(arguments.url, arguments.ca)
        else:
            parser.error("needs grpc://HOST:PORT, beat:///FILE, or https://HOST:PORT/PATH with --ca FILE")
    except Exception as error:  # whatever it is, the answer is no
        sys.exit(f"{arguments.url}: {type(error).__name__}")
    sys.exit(0 if healthy else f"{arguments.url}: not serving")


if __name__ == "__main__":
    main()

"""A TCP hop that can be cut, slowed and listened to, between two processes that know nothing of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

CHUNK = 1 << 18
CALL_S = 10.0


class Wire:
    """Forward ``127.0.0.1:port`` to a target, until told otherwise.

    A cut wire answers nobody: what is under way stands still, as when a cable is pulled, and a new connection
    is refused, as by the last router that still stands. Joined again, old connections are gone.

    Parameters
    ----------
    target : host and port of the far side.
    record : file for every byte that passes, in both directions as they come; None keeps nothing.
    delay_s : how long each piece waits before it goes on.

    Attributes
    ----------
    sent, received : bytes that went to the target, and that came from it.
    """

    def __init__(self, target: tuple[str, int], *, record: Path | None = None, delay_s: float = 0.0) -> None:
        self.port = 0
        self.delay_s = delay_s
        self.sent = self.received = 0
        self._target, self._record = target, record
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self.join()

    @property
    def address(self) -> str:
        """Where this end listens, ``host:port``."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Let nothing pass any more."""
        self._call(self._cut())

    def join(self) -> None:
        """Let everything pass again, on new connections."""
        self._call(self._join())

    def close(self) -> None:
        """End the wire and its thread."""
        if self._thread.is_alive():
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CALL_S)
        self._loop.close()

    def _call(self, what: Coroutine[Any, Any, None]) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(what, self._loop)
        future.result(CALL_S)

    async def _cut(self) -> None:
        self._open.clear()
        await self._stop_listening()

    async def _join(self) -> None:
        await self._drop()
        self._open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        await self._stop_listening()
        await self._drop()

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()  # connections that exist stay
            self._server = None

    async def _drop(self) -> None:
        pumps = [task for task in self._pumps if task is not asyncio.current_task()]
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(*self._target)
            ways = [
                asyncio.ensure_future(self._pump(reader, far, outward=True)),
                asyncio.ensure_future(self._pump(far_reader, writer, outward=False)),
            ]
            try:
                await asyncio.gather(*ways)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # one of the two sides ended, or the wire did
        finally:
            self._pumps.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        while data := await reader.read(CHUNK):
            await self._open.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if outward:
                self.sent += len(data)
            else:
                self.received += len(data)
            if self._record is not None:
                with self._record.open("ab") as record:
                    record.write(data)
            writer.write(data)
            await writer.drain()
        await self._open.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()

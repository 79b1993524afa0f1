"""A TCP proxy that breaks connections in the middle, like a bad network."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK_BYTES = 64 << 10


class CuttingProxy:
    """Forwards to one server; the next `num_cuts` connections that have carried `after_bytes` in
    one direction are reset."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.num_cuts = 0
        self._flows = threading.Event()
        self._flows.set()
        self.after_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def stall(self) -> None:
        """From now on nothing is carried, and no connection is closed."""
        self._flows.clear()

    def cut_all(self) -> None:
        """From now on every connection is reset as soon as it carries anything."""
        self.num_cuts, self.after_bytes = 1 << 30, 1

    def heal(self) -> None:
        self.num_cuts = 0
        self._flows.set()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                for source, sink in ((client, server), (server, client)):
                    arguments = (source, sink)
                    threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        num_bytes = 0
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flows.wait()
                sink.sendall(data)
                num_bytes += len(data)
                if self._is_cut(num_bytes):
                    for each in (source, sink):
                        each.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                    break
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _is_cut(self, num_bytes: int) -> bool:
        with self._lock:
            if not self.num_cuts or num_bytes < self.after_bytes:
                return False
            self.num_cuts -= 1
            return True


@contextmanager
def cutting_proxy(port: int) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
